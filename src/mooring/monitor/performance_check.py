"""The check of a window's labelled rows: how well the model did, and whether it does worse than in training."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mooring.drift.baseline import Baseline, HeldOut
from mooring.drift.segments import MOST, largest, segments_of
from mooring.monitor.joining import JoinedLabels, LoggedRows
from mooring.performance.bootstrap import intervals
from mooring.performance.fairness import Fairness, fairness
from mooring.performance.judge import (
    MIN_EFFECT,
    LossTest,
    UnknownClassTest,
    effective_rows,
    judge,
    judge_unknown_classes,
)
from mooring.performance.measures import LabelledRows, evaluate
from mooring.performance.scored import UnscorableError
from mooring.performance.selection import SelectionTest
from mooring.settings import MonitorSettings
from mooring.state.assessments import Assessment, Measured, Segment
from mooring.state.windows import Window
from mooring.status import Severity, worst

GROWN = 1.5
"""How many times as many labelled rows a window needs to be tested again."""
NOT_AT_RANDOM = 0.05
"""At which p-value labelled rows are taken to differ from a window's others, so that nothing is concluded."""
UNKNOWN_SHARE = 0.1
"""Which share of a window's budget is that of the test for classes that the baseline never had."""
_MANY_ROWS = 50_000


class _SegmentRows(NamedTuple):
    """A segment of a window: which rows are of it, their labels, and the baseline's held-out rows of it."""

    segment: Segment
    chosen: NDArray[np.bool_]
    labels: JoinedLabels
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
    budget: float,
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
        How many rows are enough, and whether small effects count.
    budget
        How probable an alarm may be where nothing has changed, over all looks at this window.
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
        if held_out is None:
            scored = rows.scored(labels)
        else:
            known_classes = None if held_out.classes is None else len(held_out.classes)
            scored = rows.scored(labels, held_out.task, held_out.classes, known_classes)
    except UnscorableError as error:
        return msgspec.structs.replace(found, status="no_baseline", message=str(error), tracked=found.created)
    seed = int(window.id[:8], 16) % 2**31
    segments = list(_segments(chosen, labels, rows, scored, baseline, settings.min_rows))
    found = msgspec.structs.replace(
        found,
        task=scored.task,
        measures=measured(scored, seed),
        segments=tuple(_as_known(one.segment, known) for one in segments),
        fairness=tuple(_fairness(labels, rows, scored, baseline, settings, seed)),
    )
    complete = known is not None and found.coverage == 1 and known.coverage < 1
    if known is not None and known.look and scored.rows < GROWN * known.judged and not complete:
        # Tested again with each label that comes, an unchanged window would alarm some time.
        kept = ("look", "status", "chance", "budget", "message", "judged", "created")
        tracked = known.tracked if known.labelled == found.labelled or found.coverage < 1 else None
        return msgspec.structs.replace(found, tracked=tracked, **{name: getattr(known, name) for name in kept})
    if effective_rows(scored) < settings.min_rows:
        message = _too_few(scored, found.labelled - scored.rows, settings.min_rows)
        return msgspec.structs.replace(found, message=message, tracked=found.created)
    if held_out is None or held_out.task != scored.task:
        return msgspec.structs.replace(found, status="no_baseline", message=_no_baseline(window, baseline))
    if (selected := _selected(chosen, labels, rows)) is not None:
        found = msgspec.structs.replace(found, segments=tuple(one.segment for one in segments))
        return _withheld(found, known, _in_words_of_selection(selected))
    number = known.look + 1 if known is not None else 1
    return _tested(
        msgspec.structs.replace(found, look=number),
        budget / 2**number,
        scored,
        held_out,
        segments,
        rows,
        settings,
        seed + number,
    )


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


def _selected(chosen: NDArray[np.bool_], labels: JoinedLabels, rows: LoggedRows) -> SelectionTest | None:
    """Return how labelled rows differ from the others that were chosen; None where chance explains it."""
    found = rows.selection(chosen, labels)
    return found if found.p_value <= NOT_AT_RANDOM else None


def _withheld(found: Assessment, known: Assessment | None, message: str) -> Assessment:
    """Return an assessment without a verdict: more labels are needed, as these do not stand for the window.

    Tests that were made before are spent: the next one counts on from them.
    """
    spent = {} if known is None else {"look": known.look, "judged": known.judged}
    return msgspec.structs.replace(found, status="too_few", message=message, tracked=found.created, **spent)


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
                scored = rows.scored(part, whole.task, whole.classes, whole.known)
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
            comparable = held_out is not None and held_out.task == scored.task and not scored.unknown.all()
            yield _SegmentRows(segment, chosen & (names == value), part, scored, held_out if comparable else None)


def _fairness(
    labels: JoinedLabels,
    rows: LoggedRows,
    scored: LabelledRows,
    baseline: Baseline | None,
    settings: MonitorSettings,
    seed: int,
) -> Iterator[Fairness]:
    """Yield rates and errors by each protected column: an input, and where that has no value what labels tell."""
    for column in settings.protected:
        values = labels.protected[column]
        if column in rows.protected:
            feature = baseline.features.get(column) if baseline is not None else None
            inputs = segments_of(rows.protected[column], feature)[labels.places]
            both = pc.coalesce(pa.array(inputs, pa.string()), pa.array(values, pa.string()))
            values = np.array(both.to_pylist(), object)
        draws = 1000 if scored.rows <= _MANY_ROWS else 200
        yield fairness(scored, values[scored.places], column, least=settings.min_rows, draws=draws, seed=seed)


def _tested(
    found: Assessment,
    budget: float,
    scored: LabelledRows,
    held_out: HeldOut,
    segments: list[_SegmentRows],
    rows: LoggedRows,
    settings: MonitorSettings,
    seed: int,
) -> Assessment:
    """Return an assessment with whether the model does worse, in all rows or a segment."""
    # Half of the budget is the segments', if there are any.
    tested = [one for one in segments if one.held_out is not None]
    share = budget / 2 if tested else budget
    part_share = share / max(len(tested), 1)
    statuses: list[Severity] = []
    words: list[str] = []
    if scored.known is not None:
        unknown = judge_unknown_classes(held_out, scored, UNKNOWN_SHARE * share, floors=settings.floors)
        share *= 1 - UNKNOWN_SHARE
        if unknown is not None:
            statuses.append(unknown.status)
            words.append(_in_words_of_unknown(unknown))
    test = judge(held_out, scored, share, seed, floors=settings.floors)
    statuses.append(test.status)
    words.insert(0, in_words(test, held_out))
    parts = []
    for segment, chosen, labels, its_rows, its_held_out in segments:
        if its_held_out is None:
            parts.append(segment)
            continue
        where = f"{segment.column}={segment.value}"
        if (selected := _selected(chosen, labels, rows)) is not None:
            parts.append(segment)
            words.append(f"{where}: {_in_words_of_selection(selected)}")
            continue
        its_test = judge(its_held_out, its_rows, part_share, seed, floors=settings.floors)
        parts.append(msgspec.structs.replace(segment, status=its_test.status, chance=its_test.p_value))
        statuses.append(its_test.status)
        if its_test.status != "ok":
            words.append(f"{where}: {in_words(its_test, its_held_out)}")
    return msgspec.structs.replace(
        found,
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


def _in_words_of_unknown(found: UnknownClassTest) -> str:
    names = ", ".join([*(one[:40] for one in found.classes[:3]), *(["…"] if len(found.classes) > 3 else [])])
    chance = ", which may be chance" if found.status == "ok" else ""
    return (
        f"{found.rate:.2%} of rows are of a class that the baseline never had ({names}){chance}: left out of "
        "log loss and ROC AUC"
    )


def _in_words_of_selection(found: SelectionTest) -> str:
    return (
        f"labelled so far, and not at random: {found.column} of rows with labels differs from that of others "
        f"by more than chance (p-value {found.p_value:.1g}), so too few have labels to stand for all"
    )


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
