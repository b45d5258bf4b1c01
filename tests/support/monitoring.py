"""A log with rows at given times, and a monitor of it, for tests."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mooring.drift.baseline import Baseline, make
from mooring.exchange import Exchange
from mooring.ids import new_request_id
from mooring.log.parquet import ParquetLog
from mooring.monitor.alerting.channels import Channel
from mooring.monitor.baselines import Baselines
from mooring.monitor.loop import ModelMonitor
from mooring.monitor.metrics import Metrics
from mooring.settings import MonitorSettings
from mooring.state.baselines import StoredBaselines
from mooring.state.judgements import judgement_of
from mooring.state.leases import Lease
from mooring.state.state import State
from mooring.state.verdicts import Verdicts
from mooring.state.windows import Windows

START = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Traffic:
    """Rows of two numbers and a category, as a model server would have been asked them, in a log."""

    def __init__(self, log: Path, model: str = "wine", seed: int = 0) -> None:
        self.log = log
        self.model = model
        self.rng = np.random.default_rng(seed)
        self._objects = 0

    def columns(self, rows: int, shift: float = 0.0) -> dict[str, Any]:
        return {
            "alcohol": self.rng.normal(10 + shift, 1, rows).round(3),
            "sugar": self.rng.exponential(5, rows).round(3),
            "colour": self.rng.choice(["red", "white", "rosé"], rows, p=[0.5, 0.4, 0.1]),
        }

    def baseline(self, rows: int = 5000) -> Baseline:
        columns = self.columns(rows)
        prediction = pa.array(columns["alcohol"] / 2)
        return make(
            {name: pa.array(values) for name, values in columns.items()} | {"prediction": prediction},
            roles={"prediction": "output"},
        )

    def exchanges(
        self,
        rows: int,
        start: datetime = START,
        seconds: float = 1.0,
        *,
        shift: float = 0.0,
        version: str | None = None,
        variant: str = "champion",
        per_request: int = 10,
    ) -> list[Exchange]:
        """Return requests of a few rows each, `seconds` apart from `start` on."""
        columns = self.columns(rows, shift)
        found = []
        for number, first in enumerate(range(0, rows, per_request)):
            part = {name: values[first : first + per_request].tolist() for name, values in columns.items()}
            at = start + timedelta(seconds=number * seconds)
            time_ns = round(at.timestamp() * 1e6) * 1000
            data = [list(row) for row in zip(*part.values(), strict=True)]
            found.append(
                Exchange(
                    request_id=new_request_id(time_ns),
                    time_ns=time_ns,
                    model=self.model,
                    version=version,
                    variant=variant,
                    request=json.dumps({"dataframe_split": {"columns": list(part), "data": data}}).encode(),
                    response=json.dumps({"predictions": [value / 2 for value in part["alcohol"]]}).encode(),
                )
            )
        return found

    def write(self, exchanges: list[Exchange], name: str | None = None) -> str:
        """Write exchanges as one object, and return its name."""
        self._objects += 1
        name = name or f"writer-{self._objects:08d}"
        ParquetLog(str(self.log), lambda *_: None).write(name, exchanges)
        return name


def without_mlflow(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a directory where there is no MLflow."""
    monkeypatch.chdir(directory)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def settings(log: Path, state: str, **changed: Any) -> MonitorSettings:
    return MonitorSettings(log=str(log), state=state, **{"model": "wine", **changed})


class Heard(logging.Handler):
    """Keeps what Mooring says while it listens, in a list; of what is repeated the first."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.said: list[str] = []
        self._repeated: set[tuple[str, object]] = set()

    def emit(self, record: logging.LogRecord) -> None:
        if hasattr(record, "every"):
            key = str(record.msg), getattr(record, "about", None)
            if key in self._repeated:
                return
            self._repeated.add(key)
        self.said.append(record.getMessage())

    @contextmanager
    def listening(self) -> Iterator[None]:
        logger = logging.getLogger("mooring")
        level = logger.level
        logger.setLevel(logging.INFO)
        logger.addHandler(self)
        try:
            yield
        finally:
            logger.removeHandler(self)
            logger.setLevel(level)


class HeardWatch:
    """A watch whose words are kept."""

    def __init__(self, watch: ModelMonitor, heard: Heard) -> None:
        self.watch = watch
        self.heard = heard

    def look(
        self,
        lease: Lease | None = None,
        *,
        provisional: bool = False,
        stopping: Callable[[], bool] = lambda: False,
    ) -> int:
        with self.heard.listening():
            return self.watch.look(lease, provisional=provisional, stopping=stopping)


class Monitoring:
    """A monitor whose state and words can be looked at."""

    def __init__(self, chosen: MonitorSettings, channels: Sequence[Channel] = ()) -> None:
        heard = Heard()
        self.said = heard.said
        self.settings = chosen
        self.state = State(chosen.state)
        self.metrics = Metrics()
        baselines = Baselines(StoredBaselines(self.state))
        watch = ModelMonitor(chosen, self.state, baselines, list(channels), self.metrics)
        self.watch = HeardWatch(watch, heard)

    def keep(self, baseline: Baseline, version: str | None = None) -> None:
        with self.state.begin() as tx:
            StoredBaselines(tx).put(self.settings.model or "", version, baseline.to_bytes(), "test")

    def verdicts(self, **which: Any) -> list[tuple[int, str]]:
        """Return rows and verdict of each window, by their time."""
        found = Windows(self.state).history("wine", newest=10_000, **which)
        return [(window.rows, verdict.status if verdict else "-") for window, verdict in found]


def results(monitoring: Monitoring) -> dict[str, object]:
    """Return what was found of each window; moments may differ in their last bits with the order of the rows."""
    found = {}
    for _, verdict in Windows(monitoring.state).history("wine", newest=1000):
        if verdict is not None and (judgement := judgement_of(Verdicts(monitoring.state).results(verdict.id))):
            values = [(one.feature, one.measure, round(one.value, 9), one.p_value) for one in judgement.results]
            found[verdict.id] = (verdict.status, verdict.seed, values)
    return found
