"""Windows of a model, judged as the monitor judges them, put into a state one after the other."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa

from mooring.drift.baseline import Baseline, make, profile_to_bytes
from mooring.drift.profile import Profile
from mooring.engine.local import profile_of
from mooring.monitor.drift_check import check_window
from mooring.settings import JudgeSettings
from mooring.state.assessments import Assessment, Assessments, Measured, Segment
from mooring.state.baselines import StoredBaselines
from mooring.state.state import State
from mooring.state.verdicts import Verdicts
from mooring.state.windows import Window, Windows

HOUR = timedelta(hours=1)
HOSTILE = '<script>alert(1)</script><a href="javascript:1">x</a>'
START = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - 10 * HOUR


def columns(rows: int, shift: float = 0.0, seed: int = 1) -> dict[str, pa.Array]:
    random = np.random.default_rng(seed)
    alcohol = random.normal(10 + shift, 1, rows)
    return {
        "alcohol": pa.array(alcohol),
        "sugar": pa.array(random.exponential(5, rows)),
        "colour": pa.array(random.choice(["red", "white", "rosé"], rows, p=[0.5, 0.4, 0.1])),
        "prediction": pa.array(alcohol / 2),
    }


def baseline_of(named: dict[str, pa.Array]) -> Baseline:
    importance = {name: float(place) for place, name in enumerate(named)}
    return make(named, roles={"prediction": "output"}, importance=importance)


class Made:
    """A model whose windows are put into a state one after the other."""

    def __init__(self, state: State, model: str, baseline: Baseline | None) -> None:
        self.state, self.model, self.baseline = state, model, baseline
        self.past: list[Profile] = []
        self.ids: list[str] = []

    def put(self, at: int, rows: int = 1000, shift: float = 0.0, version: str | None = "1", **more) -> str:
        """Put the window of the hour `at`."""
        rename = more.pop("rename", None)
        data = columns(rows, shift, seed=abs(at + 2))
        table = pa.table({rename: data["alcohol"]} if rename else data)
        start = START + at * HOUR
        given = {"variant": "champion", "status": "closed", **more}
        window = Window(
            model=self.model,
            version=version,
            start=start,
            end=start + HOUR,
            rows=rows,
            requests=rows,
            weight=rows,
            **given,
        )
        profile, segments, digest = None, {}, None
        if self.baseline is not None:
            profile = profile_of(table, self.baseline)
            self.past.insert(0, profile)
            with self.state.begin() as tx:
                digest = StoredBaselines(tx).put(self.model, version, self.baseline.to_bytes(), "test").digest
            if not rename:
                red = baseline_of(columns(3000))
                segments = {"colour=red": (red, profile_of(table, red))}
        concluded = check_window(
            window,
            self.past[:1],
            self.baseline,
            JudgeSettings(),
            provisional=given["status"] == "open",
            digest=digest,
            why_not="It was trained without one: run mooring baseline build.",
            segments=segments,
        )
        with self.state.begin() as tx:
            Windows(tx).put(window, profile_to_bytes(profile) if profile else b"")
            Verdicts(tx).put(concluded.verdict, concluded.results, concluded.cells)
        self.ids.append(window.id)
        return window.id


def assess(state: State, model: str) -> None:
    judged = Windows(state).history(model, variant="champion")
    with state.begin() as tx:
        for at, (window, _) in enumerate(judged):
            value = 0.7 if at < 3 else 1.2
            measures = {"rmse": Measured(value, value - 0.1, value + 0.1), "mae": Measured(value / 2)}
            Assessments(tx).put(
                Assessment(
                    window=window,
                    look=1,
                    status="ok" if at < 3 else "critical",
                    task="regression",
                    rows=window.rows,
                    labelled=window.rows // 4,
                    delay=7200.0,
                    message=f"rmse {value}",
                    created=window.end,
                    measures=measures if at != 1 else {},
                    before={"rmse": 0.69},
                    segments=(
                        Segment(
                            column="colour",
                            value=HOSTILE,
                            rows=100,
                            labelled=50,
                            measures=measures,
                            status="warning",
                        ),
                    ),
                )
            )
