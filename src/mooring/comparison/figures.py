"""Distributions side by side, as small SVG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from mooring.drift.baseline import Feature
from mooring.drift.grid import CategoricalGrid, Floats, Integers, NumericGrid, TextGrid
from mooring.drift.measures import shares
from mooring.drift.profile import (
    CategoricalProfile,
    FeatureProfile,
    NumericProfile,
    TextProfile,
    TimestampProfile,
    Values,
)
from mooring.drift.statistics import by_identity

STYLE = """
.mooring-compare{--ink:#1c2733;--faint:#6b7785;--rule:#d9dee4;--before:#8a97a6;--after:#0072b2;
font:14px/1.45 system-ui,sans-serif;color:var(--ink);max-width:64em}
@media (prefers-color-scheme:dark){.mooring-compare{--ink:#e4e9ee;--faint:#9aa7b4;--rule:#3a4550;
--before:#7d8b99;--after:#56b4e9}}
.mooring-compare p{margin:.3em 0}.mooring-compare .verdict{font-size:1.15em;font-weight:600}
.mooring-compare .remark,.mooring-compare .legend,.mooring-compare .calm{color:var(--faint)}
.mooring-compare .legend span{display:inline-block;width:1.6em;height:.7em;margin:0 .2em 0 .8em}
.mooring-compare span.before{background:var(--before);opacity:.55;margin-left:0}
.mooring-compare span.after{border:2px solid var(--after);height:.45em}
.mooring-compare .features{display:grid;grid-template-columns:repeat(auto-fill,minmax(17em,1fr));gap:1em 1.5em}
.mooring-compare figure{margin:0}.mooring-compare figcaption{overflow-wrap:anywhere}
.mooring-compare svg{width:100%;height:auto;display:block}
.mooring-compare rect.before{fill:var(--before);opacity:.5}
.mooring-compare .after{fill:none;stroke:var(--after);stroke-width:1.5}.mooring-compare rect.over{fill:transparent}
.mooring-compare svg text{font-size:10px;fill:var(--faint)}
.mooring-compare .scroll{overflow-x:auto}
.mooring-compare table{border-collapse:collapse;font-variant-numeric:tabular-nums}
.mooring-compare th,.mooring-compare td{padding:.15em .7em .15em 0;text-align:left;font-weight:400;
border-bottom:1px solid var(--rule);background:none}
.mooring-compare .number{text-align:right}
.mooring-compare thead th{color:var(--faint)}
""".replace("\n", "")

_WIDTH, _HEIGHT = 280.0, 90.0
_BARS = 32
_CATEGORIES = 8
_LINE, _NAMES, _LETTERS = 13, 96.0, 18
_TAIL = 0.005


class Bars(NamedTuple):
    """Shares of both samples in the same bars, and what each bar is.

    Bars of numbers lie along an axis that goes from one end to the other; those of categories have no order.
    """

    before: Floats
    after: Floats
    labels: Sequence[str]
    ends: tuple[str, str] | None = None


def draw(name: str, feature: Feature, window: FeatureProfile) -> str:
    """Return an SVG of a feature's values in the reference and in the current sample; none of what has no bars."""
    found = bars_of(feature, window.values)
    if found is None:
        return ""
    height, parts = _histogram(found, found.ends) if found.ends is not None else _categories(found)
    label = escape(f"{name}: reference and current sample")
    return f'<svg viewBox="0 0 {_WIDTH:.0f} {height:.0f}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _histogram(found: Bars, ends: tuple[str, str]) -> tuple[float, list[str]]:
    """Return the reference as bars and the current sample as a line of steps over them."""
    step, base = _WIDTH / len(found.before), _HEIGHT - 14
    unit = (base - 2) / max(float(found.before.max()), float(found.after.max()), 1e-12)
    parts = [
        f'<rect x="{at * step:.1f}" y="{base - share * unit:.1f}" width="{step + 0.3:.1f}"'
        f' height="{share * unit:.1f}" class="before"/>'
        for at, share in enumerate(found.before)
    ]
    steps = "".join(f"V{base - share * unit:.1f}H{(at + 1) * step:.1f}" for at, share in enumerate(found.after))
    parts.append(f'<path d="M0 {base:.0f}{steps}V{base:.0f}" class="after"/>')
    for at, label in enumerate(found.labels):
        title = _title(label, found.before[at], found.after[at])
        parts.append(
            f'<rect x="{at * step:.1f}" width="{step:.1f}" height="{base:.0f}" class="over">{title}</rect>'
        )
    for place, anchor, text in ((0, "start", ends[0]), (_WIDTH, "end", ends[1])):
        parts.append(f'<text x="{place:.0f}" y="{_HEIGHT - 2:.0f}" text-anchor="{anchor}">{escape(text)}</text>')
    return _HEIGHT, parts


def _categories(found: Bars) -> tuple[float, list[str]]:
    """Return a line for each category: the reference's share as a bar, the current one as a frame over it."""
    unit = (_WIDTH - _NAMES - 2) / max(float(found.before.max()), float(found.after.max()), 1e-12)
    parts = []
    for at, label in enumerate(found.labels):
        y, before, after = at * _LINE + 2, found.before[at], found.after[at]
        short = label if len(label) <= _LETTERS else label[: _LETTERS - 1] + "…"
        parts.append(
            f'<g>{_title(label, before, after)}<text x="{_NAMES - 6:.0f}" y="{y + 9}" text-anchor="end">'
            f'{escape(short)}</text><rect x="{_NAMES:.0f}" y="{y}" width="{before * unit:.1f}" height="10"'
            f' class="before"/><rect x="{_NAMES:.0f}" y="{y}" width="{after * unit:.1f}" height="10"'
            ' class="after"/></g>'
        )
    return len(found.labels) * _LINE + 2, parts


def _title(label: str, before: float, after: float) -> str:
    return f"<title>{escape(label)}: {before:.1%} in the reference, {after:.1%} now</title>"


def bars_of(feature: Feature, after: Values) -> Bars | None:
    """Return the bars to draw of a feature; None where there are no values in one of the samples."""
    before, grid = feature.profile.values, feature.grid
    if not before.values or not after.values:
        return None
    match before, after:
        case NumericProfile(), NumericProfile():
            assert isinstance(grid, NumericGrid)
            return _numeric(grid, before, after)
        case TextProfile(), TextProfile():
            assert isinstance(grid, TextGrid)
            return _numeric(grid.lengths, before.lengths, after.lengths, " characters")
        case CategoricalProfile(), CategoricalProfile():
            assert isinstance(grid, CategoricalGrid)
            return _categorical(grid, before, after)
        case TimestampProfile(), TimestampProfile():
            hours = [f"{hour}:00 UTC" for hour in range(24)]
            return Bars(shares(before.hours), shares(after.hours), hours, ("0:00", "24:00 UTC"))
    return None


def _numeric(grid: NumericGrid, before: NumericProfile, after: NumericProfile, unit: str = "") -> Bars:
    """Return bars of one width over all but the extremes of both; beyond it, the first and last bar hold them."""
    ends = [_quantiles(grid, one) for one in (before, after)]
    low, high = min(one[0] for one in ends), max(one[1] for one in ends)
    if not high > low:
        low, high = low - 0.5, low + 0.5
    bounds = np.linspace(low, high, _BARS + 1)
    parts = [_in_bars(one.counts, grid.edges, bounds) for one in (before, after)]
    labels = [f"{left:.4g} to {right:.4g}{unit}" for left, right in pairwise(bounds)]
    return Bars(parts[0], parts[1], labels, (f"{low:.4g}", f"{high:.4g}{unit}"))


def _quantiles(grid: NumericGrid, one: NumericProfile) -> tuple[float, float]:
    below = np.cumsum(shares(one.counts))[:-1]
    inside = np.flatnonzero((below > _TAIL) & (below < 1 - _TAIL))
    if not len(inside):
        return max(one.minimum, float(grid.edges[0])), min(one.maximum, float(grid.edges[-1]))
    low = float(grid.edges[max(int(inside[0]) - 1, 0)])
    high = float(grid.edges[min(int(inside[-1]) + 1, len(grid.edges) - 1)])
    return max(low, one.minimum), min(high, one.maximum)


def _in_bars(counts: Integers, edges: Floats, bounds: Floats) -> Floats:
    """Return shares between bounds, as if the values of a cell were spread evenly over it."""
    below = np.interp(bounds, edges, np.cumsum(shares(counts))[:-1])
    below[0], below[-1] = 0.0, 1.0
    return np.asarray(np.maximum(np.diff(below), 0.0), np.float64)


def _categorical(grid: CategoricalGrid, before: CategoricalProfile, after: CategoricalProfile) -> Bars:
    new = sorted(after.new.keys() | before.new.keys())
    names = [*grid.categories, *(f"{name} (new)" for name in new), "others"]
    first, second = (shares(one) for one in by_identity([before, after]))
    names, first, second = names[:-1], first[:-1], second[:-1]
    largest = np.argsort(-np.maximum(first, second), kind="stable")
    changed = np.argsort(-np.abs(first - second), kind="stable")
    chosen = set(largest[: _CATEGORIES // 2]) | set(changed[: _CATEGORIES // 2])
    order = [at for at in largest if at in chosen]
    labels = [names[at] for at in order]
    rest = 1 - first[order].sum(), 1 - second[order].sum()
    if max(rest) < 1e-9:
        return Bars(first[order], second[order], labels)
    both = [np.append(shown[order], max(left, 0.0)) for shown, left in zip((first, second), rest, strict=True)]
    return Bars(both[0], both[1], [*labels, "all others"])
