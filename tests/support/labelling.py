"""A monitored log whose rows get labels, and the measures of both computed by hand."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from sklearn import metrics

from monitoring import START, Monitoring, Traffic, settings
from mooring.comparison import evaluated
from mooring.exchange import Exchange
from mooring.log.labels import labels_table, write_labels
from mooring.log.reader import read_log
from mooring.state.assessments import Assessment, Assessments

HOUR = timedelta(hours=1)


class Labelling:
    """Traffic whose labels are its predictions and an error, and a monitor of it."""

    def __init__(self, directory: Path, state: str = "", **changed) -> None:
        self.log = directory / "log"
        self.traffic = Traffic(self.log)
        self.rng = np.random.default_rng(7)
        chosen = settings(self.log, state or f"sqlite:///{directory}/state.db", settle=0.0, **changed)
        self.monitoring = Monitoring(chosen)
        predictions = self.rng.normal(5, 0.5, 3000)
        held_out = predictions + self.rng.normal(0, 0.5, 3000), predictions
        self.baseline = evaluated(self.traffic.baseline(), held_out)
        self.monitoring.keep(self.baseline)

    def ask(
        self, rows: int = 300, hour: int = 0, per_request: int = 1, variant: str = "champion"
    ) -> list[Exchange]:
        """Send rows within an hour, which is long over."""
        sent = self.traffic.exchanges(rows, START + hour * HOUR, 1.0, per_request=per_request, variant=variant)
        self.traffic.write(sent)
        return sent

    def rows(self) -> pd.DataFrame:
        table = read_log(self.log, columns=["request_id", "client_request_id", "row", "time", "output.prediction"])
        found = table.to_pandas().sort_values(["time", "request_id", "row"], ignore_index=True)
        return found.rename(columns={"output.prediction": "prediction"})

    def label(
        self, rows: pd.DataFrame, noise: float = 0.5, late: timedelta = HOUR, ids: str = "request_id"
    ) -> pd.DataFrame:
        """Write labels of rows, known some time after them, and return the rows with their labels."""
        rows = rows.assign(
            label=rows["prediction"] + self.rng.normal(0, noise, len(rows)), known=rows["time"] + late
        )
        return self.label_as(rows, ids)

    def label_as(self, rows: pd.DataFrame, ids: str = "request_id") -> pd.DataFrame:
        """Write the labels that rows have in a column, known at once if it is not said when, and their `sex`."""
        if "known" not in rows:
            rows = rows.assign(known=rows["time"])
        write_labels(
            str(self.log),
            "wine",
            labels_table(
                *(pa.chunked_array([pa.array(rows[name])]) for name in (ids, "label", "row")),
                pa.chunked_array([pa.array(rows["known"].dt.tz_convert(None))]),
                {"sex": pa.chunked_array([pa.array(rows["sex"], from_pandas=True)])} if "sex" in rows else None,
            ),
        )
        return rows

    def look(self, **how) -> list[Assessment]:
        self.monitoring.watch.look(**how)
        return self.found()

    def found(self) -> list[Assessment]:
        return Assessments(self.monitoring.state).history("wine")

    def again(self) -> Monitoring:
        """Return another monitor of the same state."""
        return Monitoring(self.monitoring.settings)


def by_hand(rows: pd.DataFrame) -> dict[str, float]:
    return {
        "rmse": metrics.root_mean_squared_error(rows["label"], rows["prediction"]),
        "mae": metrics.mean_absolute_error(rows["label"], rows["prediction"]),
        "r2": metrics.r2_score(rows["label"], rows["prediction"]),
        "bias": float((rows["prediction"] - rows["label"]).mean()),
    }


def values(one: Assessment) -> dict[str, float]:
    return {name: measure.value for name, measure in one.measures.items()}
