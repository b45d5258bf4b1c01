"""How well the model did, window by window, as a section of the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from mooring.performance.fairness import Fairness, GroupRate, measure_name
from mooring.performance.measures import first_of
from mooring.report.verdict import Headline
from mooring.report.words import name
from mooring.state.assessments import Assessment, Measured, Segment
from mooring.status import ALARMING, JUDGED, STATUSES, Status

_WIDE, _TOP, _LEVEL, _BASE = 640, 14, 150, 190
_LEFT, _RIGHT = 10, 630
_SHOWN = 12


class Groups(NamedTuple):
    """Rates and errors by a protected column: what they are called, and of each group its rows and its rates."""

    found: Fairness
    measures: list[str]
    rows: list[tuple[str, int, list[GroupRate | None]]]


class Section(NamedTuple):
    """What the section shows: a measure over time, the newest windows in words, and parts of the newest one."""

    measure: str
    figure: Markup
    least: float
    most: float
    reference: float | None
    shown: list[Assessment]
    newest: Assessment
    segments: list[tuple[Segment, Measured]]
    fairness: list[Groups]


def section(found: Sequence[Assessment]) -> Section | None:
    """Return the section on windows, the oldest first; None where none of them has labelled rows."""
    labelled = [one for one in found if one.measures]
    if not labelled:
        return None
    newest = labelled[-1]
    measure = first_of(newest.measures)
    drawn = [one.measures.get(measure) for one in found]
    values = [
        value for one in drawn if one is not None for value in (one.value, one.low, one.high) if value is not None
    ]
    reference = newest.before.get(measure)
    values += [reference] if reference is not None else []
    least, most = min(values), max(values)
    return Section(
        measure,
        _figure(found, drawn, reference, least, most),
        least,
        most,
        reference,
        labelled[-_SHOWN:][::-1],
        newest,
        [(one, one.measures[measure]) for one in newest.segments if measure in one.measures],
        [_groups(one) for one in newest.fairness],
    )


def _groups(found: Fairness) -> Groups:
    rates = {(one.group, measure_name(one)): one for one in found.rates}
    names = list(dict.fromkeys(name for _, name in rates))
    rows = [(group, count, [rates.get((group, name)) for name in names]) for group, count in found.groups.items()]
    return Groups(found, names, rows)


def unmeasured(found: Sequence[Assessment]) -> str:
    """Return why nothing could be measured in the newest window with labels; nothing where something was."""
    newest = next((one for one in reversed(found) if one.labelled), None)
    return newest.message if newest is not None and not newest.measures else ""


def with_performance(said: Headline, found: Section | None, model: str) -> Headline:
    """Return what is said first, with what labels say where the model does worse in its newest judged window."""
    judged = [one for one in found.shown if one.status in JUDGED] if found is not None else []
    if not judged or judged[0].status not in ALARMING:
        return said
    worse = f"{name(model)} does worse on labelled rows: {name(judged[0].message, 200)}."
    if said.status == "critical" or (said.status == "warning" and judged[0].status == "warning"):
        return said._replace(notes=[worse, *said.notes])
    status = judged[0].status
    return Headline(status, STATUSES[status].word, worse, [said.sentence, *said.notes])


def _figure(
    found: Sequence[Assessment],
    drawn: Sequence[Measured | None],
    reference: float | None,
    least: float,
    most: float,
) -> Markup:
    """Return a measure of each window with its interval, and below it the share of rows that have a label."""
    step = (_RIGHT - _LEFT) / len(found)
    wide = max(min(step * 0.8, 40), 1)

    def height(value: float) -> float:
        return _LEVEL - (_LEVEL - _TOP) * ((value - least) / (most - least) if most > least else 0.5)

    bars, whiskers = [], []
    points: dict[Status, str] = dict.fromkeys(JUDGED, "")
    for place, (one, measured) in enumerate(zip(found, drawn, strict=True)):
        x = _LEFT + (place + 0.5) * step
        tall = (_BASE - _LEVEL - 8) * one.coverage
        bars.append(f"M{x - wide / 2:.1f} {_BASE}v-{tall:.1f}h{wide:.1f}v{tall:.1f}z")
        if measured is None:
            continue
        if measured.low is not None and measured.high is not None:
            whiskers.append(f"M{x:.1f} {height(measured.low):.1f}V{height(measured.high):.1f}")
        points[one.status if one.status in JUDGED else "ok"] += f"M{x:.1f} {height(measured.value):.1f}h0"
    parts = [f'<path class="b" d="{"".join(bars)}"/>', f'<path class="axis" d="M{_LEFT} {_BASE}H{_RIGHT}"/>']
    if reference is not None:
        parts.append(f'<path class="limit" d="M{_LEFT} {height(reference):.1f}H{_RIGHT}"/>')
    parts.append(f'<path class="line" d="{"".join(whiskers)}"/>')
    for kind, path in points.items():
        style = ' style="stroke:var(--now)"' if kind == "ok" else ""
        parts += [f'<path class="mark {kind}"{style} d="{path}"/>'] if path else []
    return Markup(
        '<svg viewBox="0 0 {} 200" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>'
    ).format(
        _WIDE,
        "The measure of each window with its interval, and below the share of rows with a label",
        Markup("".join(parts)),  # noqa: S704  made of numbers
    )
