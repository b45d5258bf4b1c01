"""Baselines built after training, from data or from the log; and what is usual, taken from past windows."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import accumulate
from operator import add
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple, cast, get_args

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mooring.drift.baseline import Baseline, Feature, PastStatistics, make
from mooring.drift.dependence import Dependence, typical
from mooring.drift.grid import CategoricalGrid, NumericGrid
from mooring.drift.judge import SCALES, values_of
from mooring.drift.kinds import Kind, Role
from mooring.drift.measure_table import MEASURES
from mooring.drift.profile import FeatureProfile, NumericProfile, Profile, empty
from mooring.log import listing, reader
from mooring.log.listing import folder_name
from mooring.log.signature import integers_of
from mooring.monitor.ingest import Stream, chunks, of_stream, profile_of
from mooring.monitor.windows import cut, lengths_of, micros
from mooring.state.windows import Window, Windows

if TYPE_CHECKING:
    from mooring.settings import JudgeSettings
    from mooring.state.state import State

LEAST_WINDOWS = 30
_ANOTHER_SIZE = 2.0
_OWN = {f"\0{one}": (one,) for one in ("model_version", "variant", "unanswered")}


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
    path: str,
    predictions: Sequence[str] = (),
    label: str | None = None,
    kinds: dict[str, Kind] | None = None,
    *,
    held_out: bool = False,
) -> Baseline:
    """Return the baseline of a file or a directory of Parquet files, its columns named as the log names them.

    `held_out` says that the model was not trained on the rows that the predictions are of. Raises ValueError for
    columns that it lacks.
    """
    from mooring.comparison.evaluation import of_training_data
    from mooring.engine.sources import columns

    names = {one: one if one.startswith("prediction.") else f"prediction.{one}" for one in predictions}
    if len(predictions) == 1:
        names = {one: one if one.startswith("prediction.") else "prediction" for one in predictions}
    roles: dict[str, Role] = dict.fromkeys(names.values(), "output")
    if label is not None:
        names[label], roles["label"] = "label", "label"
    there: list[str] = []
    kept: dict[str, pa.ChunkedArray] = {}

    def named() -> Iterator[tuple[str, pa.ChunkedArray]]:
        for name, column in columns(path):
            there.append(name)
            if name in names:
                kept[names[name]] = column
            yield names.get(name, f"input.{name}" if name in roles else name), column

    kinds = kinds or {}
    made = make(
        named(),
        roles=roles,
        kinds={names.get(name, name): kind for name, kind in kinds.items()},
        about=_about(data=path),
        held_out=held_out,
    )
    for name in [*names, *kinds]:
        if name not in there:
            raise ValueError(f"{path} has no column {name}; it has: {', '.join(there)}")
    if label is not None and predictions:
        truth = kept.pop("label")
        made.performance, why_not = of_training_data(truth, kept, held_out=held_out)
        if why_not:
            made.about["performance"] = why_not
    return made


def from_log(
    uri: str, model: str, version: str | None, span: str, kinds: dict[str, Kind] | None = None
) -> Baseline:
    """Return the baseline of what the log holds of a model between two times, START..END.

    Of a version, or of the rows that name none; only what the champion was asked. Raises ValueError where there is
    nothing, LogError where there is no log.
    """
    start, end = between(span)
    found = reader.find(uri, model=model, start=start, end=end)
    stream = Stream(version, "champion")
    outputs = reader.choose(found.schema, None, flat=True)
    roles: dict[str, Role] = {name: "output" for name, path in outputs.items() if path[0] == "output"}

    def columns() -> Iterator[tuple[str, pa.ChunkedArray]]:
        for name, path in outputs.items():
            tables = [of_stream(table, stream) for _, table in reader.tables(found, {"values": path, **_OWN})]
            if path[0] == "output":  # a row that has none of its own lacks no prediction
                tables = [table.filter(pc.is_null(table["\0unanswered"])) for table in tables]
            kind = reader.type_at(found.schema, path)
            column = pa.chunked_array([one for table in tables for one in table["values"].chunks], kind)
            if path[0] == "input" or len(column):
                yield name, column

    made = make(
        columns(),
        roles=roles,
        kinds=kinds,
        integers=integers_of(model),
        about=_about(log=uri, start=start.isoformat(), end=end.isoformat()),
        weight=_weight(found, stream),
    )
    if not made.rows:
        named = f"of version {version}" if version else "that name no version"
        raise ValueError(f"the log {uri} has no rows of {model} {named} in {span}; it has: {_there(found)}")
    return made


def _weight(found: reader.LogObjects, stream: Stream) -> int:
    """Return the sum over a stream's rows of how many rows came in the same request."""
    tables = reader.tables(found, {"rows": ("request_rows",), **_OWN})
    return sum(int(pc.sum(pc.fill_null(of_stream(one, stream)["rows"], 1)).as_py() or 0) for _, one in tables)


def _there(found: reader.LogObjects) -> str:
    """Say which versions and variants objects have rows of."""
    names = {"version": ("model_version",), "variant": ("variant",)}
    rows = {tuple(one.values()) for _, table in reader.tables(found, names)
            for one in table.group_by(list(names)).aggregate([]).to_pylist()}  # fmt: skip
    said = [f"version {version or 'none'} as {variant}" for version, variant in sorted(rows, key=str)]
    return ", ".join(said) or "none at all"


def between(span: str) -> tuple[datetime, datetime]:
    """Return the times of START..END. Raises ValueError for something else.

    >>> between("2026-03-01..2026-03-02T12:00")[1]
    datetime.datetime(2026, 3, 2, 12, 0, tzinfo=datetime.timezone.utc)
    """
    first, dots, last = span.partition("..")
    start, end = (listing.instant(first, "START"), listing.instant(last, "END")) if dots else (None, None)
    if start is None or end is None or start >= end:
        raise ValueError(f"{span!r} is no time from START to END: give 2026-03-01..2026-03-08")
    return start, end


class Calibrated(NamedTuple):
    """A baseline that takes what is usual from past windows, and what those windows were.

    `rows` are those of each window that was used, `too_few` is how many more had fewer than `--min-rows`. Chances
    are by `windows`: those of them before which there are as many as are merged with them.
    """

    baseline: Baseline
    rows: list[int]
    too_few: int
    windows: int


def calibrated(
    baseline: Baseline, settings: JudgeSettings, version: str | None, variant: str, span: str
) -> Calibrated:
    """Return a baseline that takes what is usual from the past windows of a version between START..END.

    Raises ValueError where fewer than 30 of them have enough rows.
    """
    sizes: list[int] = []
    too_few = 0
    dependence = Dependence()
    newest: deque[Profile] = deque(maxlen=SCALES[-1])
    rows: dict[tuple[str, int], list[list[float]]] = {}
    measures: dict[str, list[str]] = {}
    for window in _past_windows(baseline, settings, Stream(version, variant), *between(span)):
        dependence = dependence.after(window.order, window.weight)
        effects = dependence.design_effects(baseline.grids)
        worth = window.rows / typical(effects, window.rows) if effects else window.effective_rows
        if worth < settings.min_rows:
            too_few += 1
            continue
        sizes.append(window.rows)
        newest.appendleft(window)
        for scale, merged in enumerate(accumulate(newest, add), 1):
            if scale not in SCALES:
                continue
            for name, feature in baseline.features.items():
                values = _statistics(name, feature, merged.features[name], scale)
                measures[name] = list(values)
                rows.setdefault((name, scale), []).append(list(values.values()))
    # Merged windows that overlap are not independent: of four together there are a fourth as many.
    scales = [scale for scale in SCALES if len(sizes) >= LEAST_WINDOWS * scale]
    if not scales:
        dropped = ""
        if too_few:
            dropped = (
                f"; {too_few} more have fewer than the {settings.min_rows:g} independent rows of --min-rows (rows "
                "of one request count for less): make them larger with --window-rows or --window"
            )
        raise ValueError(
            f"{span} has {len(sizes)} windows that could be judged, and it takes {LEAST_WINDOWS} to know what is "
            f"usual{dropped or ': take a longer time, or smaller windows'}"
        )
    past = {}
    for name, of_it in measures.items():
        names = [(measure, scale) for scale in scales for measure in of_it]
        # Those of each scale begin later; they are put beside each other from the last one on.
        past[name] = PastStatistics(
            names, np.hstack([np.array(rows[name, one][scales[-1] - one :]) for one in scales])
        )
    about = {**baseline.about, "usual": f"{settings.log} {span}"}
    return Calibrated(
        msgspec.structs.replace(baseline, past=past, about=about), sizes, too_few, len(sizes) - scales[-1] + 1
    )


def unlike_the_monitors(
    state: State, settings: JudgeSettings, version: str | None, variant: str, rows: Sequence[int]
) -> str:
    """Say that windows are of another size than those that the monitor has judged, by their rows; '' if not.

    What is usual depends on the size: small windows vary more by chance alone.
    """
    judged = Windows(state).history(
        settings.model or "", version=version, variant=variant, status="closed", newest=100
    )
    theirs = [one.window.rows for one in judged if one.verdict is not None and one.verdict.status != "too_few"]
    if not theirs or not rows:
        return ""
    here, there = median(rows), median(theirs)
    if there / _ANOTHER_SIZE <= here <= there * _ANOTHER_SIZE:
        return ""
    return (
        f"these windows have {here:,.0f} rows in the middle, those that the monitor judged {there:,.0f}: what is "
        "usual in windows of one size is not in those of another, so give both commands the same --window and "
        "--window-rows"
    )


def _statistics(name: str, feature: Feature, window: FeatureProfile, scale: int) -> dict[str, float]:
    """Return how far a window lies from the baseline by the measures that alarm, 0 of nothing."""
    return {
        one.measure: 0.0
        if math.isnan(one.value)
        else abs(one.value - ((one.reference or 0.0) if MEASURES[one.measure].from_reference else 0.0))
        for one in values_of(name, feature, window, scale)
        if MEASURES[one.measure].test is not None
    }


def _past_windows(
    baseline: Baseline, settings: JudgeSettings, stream: Stream, start: datetime, end: datetime
) -> Iterator[Profile]:
    """Yield the profiles of the windows between two times, about as the monitor would have cut them."""
    opened = listing.open_log(settings.log)
    model = listing.only_model(opened, settings.log, settings.model)
    objects = listing.list_objects(opened, settings.log, f"inferences/model={folder_name(model)}", start, end)
    lengths = lengths_of(settings)
    blank = Window(model=model, version=stream.version, variant=stream.variant, start=start, end=end)
    window, counted = blank, empty(baseline.grids)
    for chunk in chunks(opened, settings.log, model, objects):
        for rows in chunk.streams():
            if rows.stream != stream:
                continue
            first, last = (int(rows.times.searchsorted(micros(one))) for one in (start, end))
            known = [window] if counted.rows else []
            for piece in cut(rows.times[first:last], known, blank, lengths):
                if counted.rows and piece.window.start < window.start:
                    continue  # of another host's object that was read too late
                if piece.window.start != window.start:
                    if counted.rows:
                        yield counted
                    counted = empty(baseline.grids)
                window = piece.window
                part = rows.part(first + piece.first, first + piece.last)
                counted += profile_of([part], baseline)
    if counted.rows:
        yield counted


def described(baseline: Baseline) -> list[dict[str, Any]]:
    """Return a baseline's features as plain data."""
    rows = []
    for name, feature in baseline.features.items():
        values, grid = feature.profile.values, feature.grid
        row: dict[str, Any] = {
            "feature": name,
            "role": feature.role,
            "in_sample": feature.in_sample,
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
