"""Distributions side by side, as small SVG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import pairwise

import numpy as np

from mooring.drift.baseline import Feature
from mooring.drift.distributions import Bars, ClockShares, Histogram, distribution
from mooring.drift.grid import Floats, TextGrid
from mooring.drift.profile import FeatureProfile

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
_LINE, _NAMES, _LETTERS = 13, 96.0, 15
_TAIL = 0.005


def draw(name: str, feature: Feature, window: FeatureProfile) -> str:
    """Return an SVG of a feature's values; nothing of what can't be drawn, or where either sample has none."""
    if not feature.profile.values.values or not window.values.values:
        return ""
    match distribution(feature.grid, feature.profile, window):
        case Histogram() as found:
            height, parts = _histogram(found, " characters" if isinstance(feature.grid, TextGrid) else "")
        case Bars() as found:
            height, parts = _categories(found)
        case ClockShares() as found:
            hours = [f"{hour}:00 UTC" for hour in range(24)]
            height, parts = _cells(*found.hours, hours, ("0:00", "24:00 UTC"))
        case None:
            return ""
    label = escape(f"{name}: reference and current sample")
    return f'<svg viewBox="0 0 {_WIDTH:.0f} {height:.0f}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _histogram(found: Histogram, unit: str) -> tuple[float, list[str]]:
    """Return the cells of numbers; what lies far outside of them is in a cell of its own at either end."""
    bounds = found.start + found.width * np.arange(len(found.reference) + 1)
    labels = [f"{low:.4g} to {high:.4g}{unit}" for low, high in pairwise(bounds)]
    reference, current = found.reference, found.current
    ends = f"{found.start:.4g}", f"{found.end:.4g}{unit}"
    if max(found.below) >= _TAIL:
        reference, current = (
            np.insert(one, 0, tail) for one, tail in zip((reference, current), found.below, strict=True)
        )
        labels, ends = [f"below {ends[0]}{unit}", *labels], (f"below {ends[0]}", ends[1])
    if max(found.above) >= _TAIL:
        reference, current = (
            np.append(one, tail) for one, tail in zip((reference, current), found.above, strict=True)
        )
        labels, ends = [*labels, f"above {ends[1]}"], (ends[0], f"above {ends[1]}")
    return _cells(reference, current, labels, ends)


def _cells(
    reference: Floats, current: Floats, labels: Sequence[str], ends: tuple[str, str]
) -> tuple[float, list[str]]:
    """Return the reference as bars and the current sample as a line of steps over them."""
    step, base = _WIDTH / len(reference), _HEIGHT - 14
    unit = (base - 2) / max(float(reference.max()), float(current.max()), 1e-12)
    parts = [
        f'<rect x="{at * step:.1f}" y="{base - share * unit:.1f}" width="{step + 0.3:.1f}"'
        f' height="{share * unit:.1f}" class="before"/>'
        for at, share in enumerate(reference)
    ]
    steps = "".join(f"V{base - share * unit:.1f}H{(at + 1) * step:.1f}" for at, share in enumerate(current))
    parts.append(f'<path d="M0 {base:.0f}{steps}V{base:.0f}" class="after"/>')
    for at, label in enumerate(labels):
        title = _title(label, reference[at], current[at])
        parts.append(
            f'<rect x="{at * step:.1f}" width="{step:.1f}" height="{base:.0f}" class="over">{title}</rect>'
        )
    for place, anchor, text in ((0, "start", ends[0]), (_WIDTH, "end", ends[1])):
        parts.append(f'<text x="{place:.0f}" y="{_HEIGHT - 2:.0f}" text-anchor="{anchor}">{escape(text)}</text>')
    return _HEIGHT, parts


def _categories(found: Bars) -> tuple[float, list[str]]:
    """Return a line for each category: the reference's share as a bar, the current one as a frame over it."""
    lines = [
        (f"{name} (new)" if new else name, float(reference), float(current))
        for name, reference, current, new in zip(
            found.names, found.reference, found.current, found.new, strict=True
        )
    ]
    if found.rest:
        lines.append((f"{found.rest:,} more", *found.rest_shares))
    unit = (_WIDTH - _NAMES - 2) / max(max(line[1:]) for line in lines)
    parts = []
    for at, (label, reference, current) in enumerate(lines):
        y = at * _LINE + 2
        short = label if len(label) <= _LETTERS else label[: _LETTERS - 1] + "…"
        parts.append(
            f'<g>{_title(label, reference, current)}<text x="{_NAMES - 6:.0f}" y="{y + 9}" text-anchor="end">'
            f'{escape(short)}</text><rect x="{_NAMES:.0f}" y="{y}" width="{reference * unit:.1f}" height="10"'
            f' class="before"/><rect x="{_NAMES:.0f}" y="{y}" width="{current * unit:.1f}" height="10"'
            ' class="after"/></g>'
        )
    return len(lines) * _LINE + 2, parts


def _title(label: str, reference: float, current: float) -> str:
    return f"<title>{escape(label)}: {reference:.1%} in the reference, {current:.1%} now</title>"
