"""Figures as SVG. They stand still, so they print and show where no script runs; the page gives their colours.

What is told by colour is told by shape as well: the baseline is a filled area and the window a line, a warning is
a dot and what is critical a square.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from markupsafe import Markup, escape

from mooring.drift.distributions import Bars, ClockShares, Distribution, Histogram
from mooring.drift.grid import Floats
from mooring.report.words import number, percent, short
from mooring.state.cells import Cell
from mooring.status import ALARMING, STATUSES, Status

WIDTH = 640
_TOP, _BASE, _LEFT, _RIGHT = 14, 190, 10, 630
_TAIL = 0.005
_MOST_RATIO = 3.0
_SPARK = 240
_MIDDLES = {"t": 8.5, "l": 7.5, "h": 6.5, "a": 5, "c": 5, "n": 9.5}  # of cells 3, 5, 7 and 10 high
_WEEKDAYS = "MTWTFSS"


def draw(found: Distribution | None) -> Markup:
    """Return the figure of a distribution; nothing where there is none."""
    match found:
        case Histogram():
            return histogram(found)
        case Bars():
            return bars(found)
        case ClockShares():
            return clock(found)
        case None:
            return Markup("")


def histogram(found: Histogram) -> Markup:
    """Return the figure of a histogram: areas are shares, so the height is density. Tails stand apart, dashed."""
    tails = [found.below, found.above]
    sides = [max(tail) >= _TAIL for tail in tails]
    gap = 12.0
    slots = len(found.reference) + sum(sides)
    step = (_RIGHT - _LEFT - gap * sum(sides)) / slots
    left = _LEFT + (step + gap if sides[0] else 0)
    shown = [tail for tail, side in zip(tails, sides, strict=True) if side]
    top = max(
        [
            float(found.reference.max(initial=0)),
            float(found.current.max(initial=0)),
            *(max(tail) for tail in shown),
        ]
    )

    def height(share: float) -> int:
        return round(_BASE - (_BASE - _TOP) * share / top) if top > 0 else _BASE

    parts = [
        f'<path class="b" d="{_steps(found.reference, left, step, height, closed=True)}"/>',
        f'<path class="w" d="{_steps(found.current, left, step, height, closed=False)}"/>',
    ]
    for place, (tail, side) in enumerate(zip(tails, sides, strict=True)):
        if side:
            x = _LEFT if place == 0 else _RIGHT - step
            parts.append(_tail(tail, x, step, height))
    parts.append(f'<path class="axis" d="M{left:.0f} {_BASE}h{step * len(found.reference):.0f}"/>')
    for tick in ticks(found.start, found.end):
        x = left + (tick - found.start) / (found.end - found.start) * step * len(found.reference)
        parts.append(f'<text x="{x:.0f}" y="216" class="m">{number(tick)}</text>')
    bottom = 226
    for tail, side, word, bound, x, anchor in (
        (found.below, sides[0], "below", found.start, _LEFT, "s"),
        (found.above, sides[1], "above", found.end, _RIGHT, "e"),
    ):
        if side:
            text = f"{percent(tail[0])} → {percent(tail[1])} {word} {number(bound, 3)}"
            parts.append(f'<text x="{x}" y="{bottom + 20}" class="{anchor}">{text}</text>')
            bottom += 28
    return _svg(parts, bottom, "Distribution in the baseline (filled) and in the window (line)")


def bars(found: Bars) -> Markup:
    """Return the figure of categories: a filled bar of the baseline, and below it a thin one of the window."""
    left, right, line = 215, 460, 38
    top = max(float(found.reference.max(initial=0)), float(found.current.max(initial=0)), 1e-9)
    parts = []
    for place, (label, a, b, new) in enumerate(
        zip(found.names, found.reference, found.current, found.new, strict=True)
    ):
        y = 4 + place * line
        mark = '<tspan class="new"> new</tspan>' if new else ""
        parts.append(
            f'<text x="{left - 12}" y="{y + 24}" class="e">{escape(short(label, 11 if new else 15))}{mark}</text>'
        )
        for kind, share, above, high in (("b", a, 2, 15), ("wf", b, 20, 9)):
            if wide := round((right - left) * float(share) / top):
                parts.append(f'<path class="{kind}" d="M{left} {y + above}h{wide}v{high}h-{wide}z"/>')
        parts.append(f'<text x="{_RIGHT}" y="{y + 24}" class="e">{percent(a)} → {percent(b)}</text>')
    lines = len(found.names)
    if found.rest:
        y = 28 + lines * line
        reference, current = found.rest_shares
        parts.append(f'<text x="{left}" y="{y}">and {found.rest:,} more</text>')
        parts.append(f'<text x="{_RIGHT}" y="{y}" class="e">{percent(reference)} → {percent(current)}</text>')
        lines += 1
    return _svg(
        parts, 8 + lines * line, "Shares of categories in the baseline (upper bar) and in the window (lower)"
    )


def clock(found: ClockShares) -> Markup:
    """Return the figure of hours of the day and days of the week."""
    parts = []
    for (reference, current), left, right, labels in (
        (found.hours, _LEFT, 400, {0: "0 h", 6: "6", 12: "12", 18: "18"}),
        (found.weekdays, 430, _RIGHT, dict(enumerate(_WEEKDAYS))),
    ):
        step = (right - left) / len(reference)
        top = max(float(reference.max()), float(current.max()), 1e-9)

        def height(share: float, top: float = top) -> int:
            return round(_BASE - (_BASE - _TOP) * share / top)

        parts.append(f'<path class="b" d="{_steps(reference, left, step, height, closed=True)}"/>')
        parts.append(f'<path class="w" d="{_steps(current, left, step, height, closed=False)}"/>')
        parts.append(f'<path class="axis" d="M{left} {_BASE}H{right}"/>')
        parts += [
            f'<text x="{left + (at + 0.5) * step:.0f}" y="216" class="m">{text}</text>'
            for at, text in labels.items()
        ]
    return _svg(
        parts, 226, "Hours of the day and days of the week, UTC, in the baseline (filled) and in the window (line)"
    )


def sparkline(history: Sequence[Cell | None]) -> Markup:
    """Return the line of a feature's strongest value over the windows, relative to its threshold (dashed)."""
    top, base = 6, 50
    # About as wide as it is shown: what is stretched by much, some browsers blur.
    step = max(_SPARK // max(len(history) - 1, 1), 1)
    edge = round(base - (base - top) / _MOST_RATIO)
    line, marks = [], dict.fromkeys(ALARMING, "")
    last: int | None = None
    for place, cell in enumerate(history):
        if cell is None:
            last = None
            continue
        y = round(base - (base - top) * min(cell.ratio, _MOST_RATIO) / _MOST_RATIO)
        line.append(f"M{place * step} {y}h0" if last is None else f"l{step} {y - last}")
        last = y
        if cell.severity != "ok":
            marks[cell.severity] += f"M{place * step} {y}h0"
    width = max(len(history) - 1, 1) * step
    parts = [f'<path class="limit" d="M0 {edge}h{width}"/><path class="line" d="{"".join(line)}"/>']
    parts += [f'<path class="mark {kind}" d="{points}"/>' for kind, points in marks.items() if points]
    return _hidden("spark", width, 56, parts)


def strip(history: Sequence[Cell | None], versions: Sequence[int] = ()) -> Markup:
    """Return a line of the heat map: a cell for each window, warnings with a dot, what is critical with a square.

    At `versions` another version of the model begins, which a line says.
    """
    return _strip([_level(cell) for cell in history], "strip", versions)


def timeline(statuses: Sequence[Status], versions: Sequence[int] = ()) -> Markup:
    """Return what was said of each window, drawn as a line of the heat map is."""
    return _strip([STATUSES[status].cell for status in statuses], "strip timeline", versions)


def _strip(levels: Sequence[str], kind: str, versions: Sequence[int]) -> Markup:
    """Draw cells as thick strokes, two units wide, since no way to say it in SVG is shorter."""
    paths: dict[str, list[str]] = {}
    for level, first, length in _runs(levels):
        if level:
            paths.setdefault(level, []).append(f"M{2 * first} {_MIDDLES[level]}h{2 * length}")
    for level in (STATUSES[one].cell for one in ALARMING):
        points = [f"M{2 * place + 1} 5h0" for place, one in enumerate(levels) if one == level]
        if points:
            paths[f"m{level}"] = points
    if versions:
        paths["version"] = [f"M{2 * place} 0v10" for place in versions]
    drawn = [f'<path class="{level}" d="{"".join(parts)}"/>' for level, parts in paths.items()]
    return _hidden(kind, 2 * max(len(levels), 1), 10, drawn)


def gauge(share: float, marks: Sequence[float], kind: str, *, striped: bool) -> Markup:
    """Return how much there is of a whole, as a bar with marks, striped or plain.

    >>> "stripes" in gauge(0.5, [0.2], "x", striped=False), "stripes" in gauge(1.0, [], "x", striped=True)
    (False, True)
    """
    width = 90
    parts = [f'<path class="full" d="M0 0h{width * min(max(share, 0.0), 1.0):.1f}v10H0z"/>']
    if striped:
        stripes = "".join(f"M{at} 0l-6 10" for at in range(5, width + 7, 8))
        parts.append(f'<path class="stripes" d="{stripes}"/>')
    parts.append(f'<path class="tick" d="{"".join(f"M{width * mark:.1f} 0v10" for mark in marks)}"/>')
    return _hidden(kind, width, 10, parts)


def traffic(rows: Sequence[int], judged: Sequence[bool], versions: Sequence[int]) -> Markup:
    """Return bars of the rows of each window, hollow where that was not judged; at `versions` a new one begins."""
    top = max([*rows, 1])
    step = (_RIGHT - _LEFT) / max(len(rows), 1)
    wide = max(min(step * 0.8, 40), 1)
    paths: dict[str, list[str]] = {"wf": [], "hollow": []}
    for place, (amount, there) in enumerate(zip(rows, judged, strict=True)):
        height = (_BASE - _TOP) * amount / top
        x = _LEFT + (place + 0.5) * step - wide / 2
        paths["wf" if there else "hollow"].append(f"M{x:.1f} {_BASE}v-{height:.1f}h{wide:.1f}v{height:.1f}z")
    parts = [f'<path class="{kind}" d="{"".join(some)}"/>' for kind, some in paths.items() if some]
    parts += [f'<path class="limit" d="M{_LEFT + place * step:.1f} {_TOP - 8}V{_BASE}"/>' for place in versions]
    parts.append(f'<path class="axis" d="M{_LEFT} {_BASE}H{_RIGHT}"/>')
    return _svg(parts, 200, f"Rows of each window; the most are {top:,}", stretched=True)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Return round numbers between two.

    >>> ticks(0.0, 1.0), ticks(8.2, 14.1)
    ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [10.0, 12.0, 14.0])
    """
    raw = (high - low) / about
    if not (math.isfinite(raw) and raw > 0):
        return [low]
    power = 10.0 ** math.floor(math.log10(raw))
    step = next((factor * power for factor in (1, 2, 5) if factor * power >= raw * 0.85), 10 * power)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    digits = max(0, 2 - math.floor(math.log10(step)))
    return [round(place * step, digits) for place in range(first, min(last, first + 20) + 1)]


def _level(cell: Cell | None) -> str:
    """Return the class of a cell: not judged, hardly anything, far below its threshold, nearer, close, alarms."""
    if cell is None:
        return "n"
    if cell.severity != "ok":
        return STATUSES[cell.severity].cell
    return "" if cell.ratio < 0.1 else "t" if cell.ratio < 0.7 else "l" if cell.ratio < 0.9 else "h"


def _runs(levels: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    first = 0
    for place in range(1, len(levels) + 1):
        if place == len(levels) or levels[place] != levels[first]:
            yield levels[first], first, place - first
            first = place


def _steps(shares: Floats, left: float, step: float, height: Callable[[float], int], *, closed: bool) -> str:
    there = np.flatnonzero(shares > 0)
    if not len(there):
        return ""
    first, last = int(there[0]), int(there[-1])
    path = "".join(
        f"V{height(float(shares[place]))}H{left + (place + 1) * step:.0f}" for place in range(first, last + 1)
    )
    return f"M{left + first * step:.0f} {_BASE}{path}V{_BASE}{'z' if closed else ''}"


def _tail(tail: tuple[float, float], x: float, step: float, height: Callable[[float], int]) -> str:
    reference, current = height(tail[0]), height(tail[1])
    return (
        f'<path class="bt" d="M{x:.0f} {_BASE}V{reference}h{step:.0f}V{_BASE}z"/>'
        f'<path class="w wt" d="M{x:.0f} {_BASE}V{current}h{step:.0f}V{_BASE}"/>'
    )


def _svg(parts: Sequence[str], height: float, label: str, *, stretched: bool = False) -> Markup:
    fit = Markup(' preserveAspectRatio="none"') if stretched else ""
    return Markup('<svg viewBox="0 0 {} {:.0f}"{} role="img" aria-label="{}">{}</svg>').format(
        WIDTH, height, fit, label, _markup(parts)
    )


def _hidden(kind: str, width: int, height: int, parts: Sequence[str]) -> Markup:
    """Return a figure that fills the space it is given, and tells nothing that does not stand beside it."""
    return Markup(
        '<svg class="{}" viewBox="0 0 {} {}" preserveAspectRatio="none" aria-hidden="true">{}</svg>'
    ).format(kind, width, height, _markup(parts))


def _markup(parts: Sequence[str]) -> Markup:
    # Made of numbers, and of names that were escaped above.
    return Markup("".join(parts))  # noqa: S704  each part was escaped where it was made
