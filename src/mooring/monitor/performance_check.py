"""The check of a window's labelled rows: how well the model did, and whether it does worse than in training."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from mooring.drift.baseline import Baseline, HeldOut
from mooring.drift.segments import MOST, largest, segments_of
from mooring.monitor.joining import JoinedLabels, LoggedRows
from mooring.performance.bootstrap import intervals
from mooring.performance.judge import MIN_EFFECT, LossTest, effective_rows, judge
from mooring.performance.measures import LabelledRows, evaluate
from mooring.performance.scored import UnscorableError
from mooring.settings import MonitorSettings
from mooring.state.assessments import Assessment, Measured, Segment
from mooring.state.windows import Window
from mooring.status import worst

GROWN = 1.5
"""How many times as many labelled rows a window needs to be tested again."""
_MANY_ROWS = 50_000


class _SegmentRows(NamedTuple):
    """A segment of a window, its labelled rows, and the baseline's held-out rows of it, where it has any."""

    segment: Segment
    scored: LabelledRows
    held_out: HeldOut | None


def assess(
    window: Window,
    chosen: NDArray[np.bool_],
    labels: JoinedLabels,
    rows: LoggedRows,
    baseline: Baseline | None,
    known: Assessment | None,
    settings: MonitorSettings,
) -> Assessment:
    """Return how well a model did in a window.

    Parameters
    ----------
    window
        The window as it is now.
    chosen, labels, rows
        Which of the rows are the window's, and their labels.
    baseline
        Whose held-out rows it is compared with.
    known
        The last assessment of the window.
    settings
        The budget, how many rows are enough, and whether small effects count.
    """
    if not len(labels.places):
        return unlabelled(window, baseline)
    held_out = baseline.performance if baseline is not None else None
    found = msgspec.structs.replace(
        unlabelled(window, baseline),
        labelled=len(labels.places),
        delay=labels.delay(rows.times),
        message="",
        tracked=None,
    )
    try:
        scored = rows.scored(labels, held_out.task, held_out.classes) if held_out else rows.scored(labels)
    except UnscorableError as error:
        return msgspec.structs.replace(found, status="no_baseline", message=str(error), tracked=found.created)
    seed = int(window.id[:8], 16) % 2**31
    segments = list(_segments(chosen, labels, rows, scored, baseline, settings.min_rows))
    found = msgspec.structs.replace(
        found,
        task=scored.task,
        measures=measured(scored, seed),
        segments=tuple(_as_known(one.segment, known) for one in segments),
    )
    if known is not None and known.look and scored.rows < GROWN * known.judged:
        # Tested again with each label that comes, an unchanged window would alarm some time.
        kept = ("look", "status", "chance", "budget", "message", "judged", "created")
        tracked = known.tracked if known.labelled == found.labelled or found.coverage < 1 else None
        return msgspec.structs.replace(found, tracked=tracked, **{name: getattr(known, name) for name in kept})
    if effective_rows(scored) < settings.min_rows:
        message = _too_few(scored, found.labelled - scored.rows, settings.min_rows)
        return msgspec.structs.replace(found, message=message, tracked=found.created)
    if held_out is None or held_out.task != scored.task:
        return msgspec.structs.replace(found, status="no_baseline", message=_no_baseline(window, baseline))
    number = known.look + 1 if known is not None else 1
    return _tested(found, number, scored, held_out, segments, settings, seed + number)


def unlabelled(window: Window, baseline: Baseline | None = None) -> Assessment:
    """Return the assessment of a window that has no labels."""
    held_out = baseline.performance if baseline is not None else None
    now = datetime.now(UTC)
    return Assessment(
        window=window,
        status="too_few",
        rows=window.rows,
        labelled=0,
        message="no labels yet",
        created=now,
        tracked=now,
        before=held_out.measures if held_out is not None else {},
    )


def _segments(
    chosen: NDArray[np.bool_],
    labels: JoinedLabels,
    rows: LoggedRows,
    whole: LabelledRows,
    baseline: Baseline | None,
    min_rows: float,
) -> Iterator[_SegmentRows]:
    """Yield how the model did in each segment that has enough rows with labels."""
    for column, values in rows.segments.items():
        known = baseline.segments.get(column, {}) if baseline is not None else {}
        feature = baseline.features.get(column) if baseline is not None else None
        names = segments_of(values, feature)
        counted, labelled = names[chosen], names[labels.places]
        for value in largest(labelled, min_rows, MOST):
            part = labels.only(labelled == value)
            try:
                scored = rows.scored(part, whole.task, whole.classes)
            except UnscorableError:
                continue  # said of the window, if it is all of it
            if effective_rows(scored) < min_rows:
                continue
            segment = Segment(
                column=column,
                value=value,
                rows=int(np.count_nonzero(counted == value)),
                labelled=len(part.places),
                measures=measured(scored, 0),
            )
            held_out = known[value].performance if value in known else None
            comparable = held_out is not None and held_out.task == scored.task
            yield _SegmentRows(segment, scored, held_out if comparable else None)


def _tested(
    found: Assessment,
    number: int,
    scored: LabelledRows,
    held_out: HeldOut,
    segments: list[_SegmentRows],
    settings: MonitorSettings,
    seed: int,
) -> Assessment:
    """Return an assessment with whether the model does worse, in all rows or a segment; `number` counts tests."""
    # All tests of a window keep to the budget: 1/2 + 1/4 + 1/8 + … Half of it is the segments', if there are any.
    budget = settings.budget / 2**number
    tested = [one for one in segments if one.held_out is not None]
    share = budget / 2 if tested else budget
    test = judge(held_out, scored, share, seed, floors=settings.floors)
    statuses, words = [test.status], [in_words(test, held_out)]
    parts = []
    for segment, its_rows, its_held_out in segments:
        if its_held_out is None:
            parts.append(segment)
            continue
        its_test = judge(its_held_out, its_rows, share / len(tested), seed, floors=settings.floors)
        parts.append(msgspec.structs.replace(segment, status=its_test.status, chance=its_test.p_value))
        statuses.append(its_test.status)
        if its_test.status != "ok":
            words.append(f"{segment.column}={segment.value}: {in_words(its_test, its_held_out)}")
    return msgspec.structs.replace(
        found,
        look=number,
        status=worst(statuses),
        chance=test.p_value,
        budget=share,
        judged=scored.rows,
        message="; ".join(words),
        segments=tuple(parts),
    )


def _as_known(segment: Segment, known: Assessment | None) -> Segment:
    """Return a segment as it stood at the last test."""
    for one in known.segments if known is not None else ():
        if (one.column, one.value) == (segment.column, segment.value):
            return msgspec.structs.replace(segment, status=one.status, chance=one.chance)
    return segment


def measured(scored: LabelledRows, seed: int) -> dict[str, Measured]:
    """Return all measures with their intervals."""
    around = intervals(scored, draws=1000 if scored.rows <= _MANY_ROWS else 200, seed=seed)
    return {name: Measured(value, *around.get(name, (None, None))) for name, value in evaluate(scored).items()}


def in_words(found: LossTest, before: HeldOut) -> str:
    """Say in a line how the measure that is tested stands to what it was."""
    where = before.about.partition(":")[0] or "held-out rows"
    if found.status == "ok" and found.change < MIN_EFFECT:
        return f"{found.measure} {found.value:.4g}, {found.reference:.4g} on {where}"
    what = "more errors" if found.measure == "accuracy" else "worse"
    share = f"{found.change:.0%} {what}" if np.isfinite(found.change) else what
    chance = ", which may be chance" if found.status == "ok" else ""
    return f"{found.measure} {found.value:.4g}, {share} than {found.reference:.4g} on {where}{chance}"


def _too_few(scored: LabelledRows, unusable: int, min_rows: float) -> str:
    return (
        f"{scored.rows} rows with labels, worth {effective_rows(scored):.0f} independent ones: fewer than the "
        f"{min_rows:g} wanted"
        f"{f'; {unusable} others have no usable prediction or label' if unusable else ''}"
    )


def _no_baseline(window: Window, baseline: Baseline | None) -> str:
    version = f"version {window.version} of {window.model}" if window.version else window.model
    if baseline is None:
        return f"{version} has no baseline that its performance could be compared with"
    if baseline.performance is not None:
        return (
            f"the baseline of {version} is of a {baseline.performance.task}, and these labels are not: add them "
            "as the training data has them"
        )
    why_not = baseline.about.get("performance")
    return (
        f"the baseline of {version} does not say how well it did{f' ({why_not})' if why_not else ''}: log it with "
        "mooring.log_baseline(…, evaluation=(labels, predictions)) of held-out rows"
    )
