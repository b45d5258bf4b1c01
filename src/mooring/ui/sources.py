"""What the dashboard reads: state, log and spool, and where MLflow's own pages are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from mooring.settings import UiSettings, false_alarm_seconds, window_budget
from mooring.state.state import State


class FalseAlarmBudget(NamedTuple):
    """How many false alarms there may be: one in so many seconds, or each window with a probability."""

    text: str
    seconds: float
    per_window: float | None = None


class Sources(NamedTuple):
    """What pages are made from. `mlflow` is the address of MLflow's UI, '' where none is known.

    `budget` is that of the monitors, as far as the settings here are theirs.
    """

    state: State
    log: str
    spool: Path
    mlflow: str
    budget: FalseAlarmBudget = FalseAlarmBudget("1 per 90d", 90 * 86_400.0)

    def run_link(self, run_id: str | None) -> str | None:
        """Return where MLflow's UI shows a run."""
        return f"{self.mlflow}/#/runs/{quote(run_id, safe='')}" if self.mlflow and run_id else None

    def version_link(self, model: str, version: str | None) -> str | None:
        """Return where MLflow's UI shows a model's version."""
        if not self.mlflow or not version:
            return None
        return f"{self.mlflow}/#/models/{quote(model, safe='')}/versions/{quote(version, safe='')}"


def sources_of(settings: UiSettings) -> Sources:
    """Return what settings name. Raises StateError where the state can't be opened, ValueError for no budget."""
    budget = _budget(settings)
    tracking = os.environ.get("MLFLOW_TRACKING_URI", "")
    mlflow = settings.ui_mlflow or (tracking if tracking.startswith(("http://", "https://")) else "")
    return Sources(State(settings.state), settings.log, settings.spool_path, mlflow.rstrip("/"), budget)


def _budget(settings: UiSettings) -> FalseAlarmBudget:
    if settings.budget is None:
        return FalseAlarmBudget(settings.false_alarms, false_alarm_seconds(settings.false_alarms, settings.budget))
    chance = window_budget(settings.budget)
    return FalseAlarmBudget(f"{chance:g} per window", 0.0, chance)
