"""Baselines built after training, from data or from the log; and what is usual, taken from past windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import accumulate
from operator import add
from typing import TYPE_CHECKING, Any, cast, get_args

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mooring.drift.baseline import Baseline, Past, make
from mooring.drift.grid import CategoricalGrid, Kind, NumericGrid
from mooring.drift.judge import FLOORS, SCALES, values_of
from mooring.drift.profile import NumericProfile, Profile, profile
from mooring.log import reader
from mooring.log.signature import integers_of
from mooring.monitor.schema import Window
from mooring.monitor.windows import Lengths, cut

if TYPE_CHECKING:
    from mooring.config import JudgeSettings

LEAST_WINDOWS = 30


def kinds_of(given: Sequence[str]) -> dict[str, Kind]:
    """Return what columns are, from COLUMN=KIND. Raises ValueError for another kind.

    >>> kinds_of(["store=categorical"])
    {'store': 'categorical'}
    """
    kinds: dict[str, Kind] = {}
    for text in given:
        name, _, kind = text.rpartition("=")
        if not name or kind not in get_args(Kind):
            raise ValueError(f"--kind {text}: give COLUMN=KIND, and a kind of: {', '.join(get_args(Kind))}")
        kinds[name] = cast(Kind, kind)
    return kinds


def from_data(
    path: str, predictions: Sequence[str] = (), label: str | None = None, kinds: dict[str, Kind] | None = None
) -> Baseline:
    """Return the baseline of a file or a directory of Parquet files. Raises ValueError for columns it lacks."""
    from mooring.engine.sources import columns

    roles = {**dict.fromkeys(predictions, "output"), **({label: "label"} if label else {})}
    made = make(columns(path), roles=roles, kinds=kinds, about=_about(data=path))  # type: ignore[arg-type]
    for name in [*roles, *(kinds or {})]:
        if name not in made.features:
            raise ValueError(f"{path} has no column {name}; it has: {', '.join(made.features)}")
    return made


def from_log(
    uri: str, model: str, version: str | None, span: str, kinds: dict[str, Kind] | None = None
) -> Baseline:
    """Return the baseline of what the log holds of a model between two times, START..END.

    Of a version, or of the rows that name none; only what the champion was asked. Raises ValueError where there is
    nothing, LogError where there is no log.
    """
    start, end = between(span)
    found = reader.find(uri, model=model, start=start, end=end, version=version)
    outputs = reader.choose(found.schema, None, flat=True)
    roles = {name: "output" for name, path in outputs.items() if path[0] == "output"}

    def columns() -> Iterator[tuple[str, pa.ChunkedArray]]:
        for name, path in outputs.items():
            chosen = {"values": path, "variant": ("variant",)}
            parts = [
                table.filter(pc.equal(table["variant"], "champion")) for _, table in reader.tables(found, chosen)
            ]
            yield name, pa.concat_tables(parts)["values"] if parts else pa.chunked_array([], pa.null())

    made = make(
        columns(),
        roles=roles,  # type: ignore[arg-type]
        kinds=kinds,
        integers=integers_of(model),
        about=_about(log=uri, start=start.isoformat(), end=end.isoformat()),
    )
    if not made.rows:
        raise ValueError(f"the log {uri} has no rows of {model} in {span}")
    return made


def between(span: str) -> tuple[datetime, datetime]:
    """Return the times of START..END. Raises ValueError for something else.

    >>> between("2026-03-01..2026-03-02T12:00")[1]
    datetime.datetime(2026, 3, 2, 12, 0, tzinfo=datetime.timezone.utc)
    """
    first, dots, last = span.partition("..")
    start, end = (reader.instant(first, "START"), reader.instant(last, "END")) if dots else (None, None)
    if start is None or end is None or start >= end:
        raise ValueError(f"{span!r} is no time from START to END: give 2026-03-01..2026-03-08")
    return start, end


def calibrated(
    baseline: Baseline, settings: JudgeSettings, version: str | None, variant: str, span: str
) -> tuple[Baseline, int]:
    """Return a baseline that takes what is usual from past windows, and how many those were.

    Raises ValueError where there are fewer than 30 of them.
    """
    start, end = between(span)
    windows = list(_past_windows(baseline, settings, version, variant, start, end))
    scales = [scale for scale in SCALES if len(windows) - scale + 1 >= LEAST_WINDOWS]
    if not scales:
        raise ValueError(f"{span} has {len(windows)} windows, and it takes {LEAST_WINDOWS} to know what is usual")
    found: dict[str, list[list[float]]] = {name: [] for name in baseline.features}
    names: dict[str, list[tuple[str, int]]] = {}
    for last in range(scales[-1], len(windows) + 1):
        merged = list(accumulate(reversed(windows[last - scales[-1] : last]), add))
        for name, feature in baseline.features.items():
            row: list[float] = []
            names[name] = []
            for scale in scales:
                for one in values_of(name, feature, merged[scale - 1].features[name], scale):
                    if one.measure in FLOORS:
                        difference = one.measure == "null_rate"
                        row.append(abs(one.value - (one.reference or 0.0)) if difference else one.value)
                        names[name].append((one.measure, scale))
            found[name].append(row)
    past = {name: Past(names[name], np.array(rows)) for name, rows in found.items()}
    about = {**baseline.about, "usual": f"{settings.log} {span}"}
    return msgspec.structs.replace(baseline, past=past, about=about), len(windows)


def _past_windows(
    baseline: Baseline, settings: JudgeSettings, version: str | None, variant: str, start: datetime, end: datetime
) -> Iterator[Profile]:
    """Yield the profiles of the windows between two times, as the monitor would have cut them."""
    found = reader.find(settings.log, model=settings.model, start=start, end=end, version=version)
    own = {f"\0{name}": (name,) for name in ("time", "variant", "request_rows", "misfits")}
    parts = [table for _, table in reader.tables(found, own | reader.choose(found.schema, None, flat=True))]
    if not parts:
        return
    table = pa.concat_tables(parts)
    table = table.filter(pc.equal(table["\0variant"], variant))
    table = table.take(pc.sort_indices(table["\0time"]))
    times = table["\0time"].cast(pa.int64()).to_numpy()
    lengths = Lengths(int(settings.window * 1e6), settings.window_rows, 0)
    blank = Window(model=settings.model or "", version=version, variant=variant, start=start, end=end)
    table = table.drop_columns(["\0time", "\0variant"])
    for piece in cut(times, [], blank, lengths):
        rows = table.slice(piece.first, piece.last - piece.first)
        one = profile([rows], baseline.grids, request_rows="\0request_rows", misfits="\0misfits")
        if one.effective_rows >= settings.min_rows:
            yield one


def described(baseline: Baseline) -> list[dict[str, Any]]:
    """Return a baseline's features as plain data."""
    rows = []
    for name, feature in baseline.features.items():
        values, grid = feature.profile.values, feature.grid
        row: dict[str, Any] = {
            "feature": name,
            "role": feature.role,
            "kind": feature.kind,
            "nulls": feature.profile.unusable,
            "least": None,
            "mean": None,
            "greatest": None,
            "categories": len(grid.categories) if isinstance(grid, CategoricalGrid) else None,
            "importance": feature.importance,
        }
        if isinstance(grid, NumericGrid) and isinstance(values, NumericProfile) and values.values:
            row |= {"least": values.minimum, "mean": float(f"{values.mean(grid):.6g}"), "greatest": values.maximum}
        rows.append(row)
    return rows


def _about(**where: str) -> dict[str, str]:
    return {**where, "created": datetime.now(UTC).isoformat(timespec="seconds")}
