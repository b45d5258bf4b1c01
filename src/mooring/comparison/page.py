"""A comparison as text, and as HTML for notebooks: self-contained, without scripts, in light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from mooring.comparison.figures import STYLE, draw
from mooring.drift.baseline import Baseline
from mooring.drift.judgement import Judgement, Result
from mooring.drift.measure_table import MEASURES
from mooring.drift.profile import Profile

_TOP = 8
_LINES = 20


def as_text(baseline: Baseline, profile: Profile, judgement: Judgement, min_rows: int) -> str:
    """Return a line with the verdict, then one for each alarm, the most drifted feature first."""
    lines = [headline(baseline, profile, judgement, min_rows)]
    alarms = [(one.feature, one.measure, _number(one.value), _number(one.threshold), _p_value(one.p_value))
              for one in _ordered(judgement)]  # fmt: skip
    if alarms:
        table = [("feature", "measure", "value", "threshold", "p"), *alarms[:_LINES]]
        widths = [max(len(row[at]) for row in table) for at in range(5)]
        for row in table:
            left = "  ".join(text.ljust(width) for text, width in zip(row[:2], widths[:2], strict=True))
            right = "  ".join(text.rjust(width) for text, width in zip(row[2:], widths[2:], strict=True))
            lines.append(f"  {left}  {right}")
        if len(alarms) > _LINES:
            lines.append(f"  and {len(alarms) - _LINES} more: .to_pandas() has all")
    return "\n".join([*lines, *_remarks(judgement)])


def headline(baseline: Baseline, profile: Profile, judgement: Judgement, min_rows: int) -> str:
    """Return the verdict in a sentence."""
    judged = {result.feature for result in judgement.results}
    rows = f"{profile.rows:,} rows against {baseline.rows:,}"
    count = f"{len(judged)} feature{'s' if len(judged) != 1 else ''}"
    if min(profile.rows, baseline.rows) < min_rows:
        return f"Too few rows to judge {count}: {rows}, and {min_rows} are wanted."
    if not judgement.features:
        return f"No drift in {count} ({rows})."
    return f"Drift ({judgement.severity}) in {len(judgement.features)} of {count} ({rows})."


def as_html(baseline: Baseline, profile: Profile, judgement: Judgement, min_rows: int) -> str:
    """Return the verdict, the most drifted features' distributions, and every value in a table to open."""
    parts = [
        f'<div class="mooring-compare"><style>{STYLE}</style>',
        f"<p class=verdict>{escape(headline(baseline, profile, judgement, min_rows))}</p>",
        *(f"<p class=remark>{escape(remark)}</p>" for remark in _remarks(judgement)),
        "<p class=legend><span class=before></span> reference <span class=after></span> current</p>",
        "<div class=features>",
    ]
    for name in _top(judgement):
        feature = baseline.features[name]
        figure = draw(name, feature, profile.features[name])
        if figure or name in judgement.features:
            parts.append(
                f"<figure><figcaption><b>{escape(name)}</b> {_sentence(name, judgement)}</figcaption>"
                f"{figure}</figure>"
            )
    parts += ["</div>", "<details><summary>every measure</summary>", _table(judgement.results), "</details></div>"]
    return "".join(parts)


def as_page(baseline: Baseline, profile: Profile, judgement: Judgement, min_rows: int) -> str:
    """Return the same as a document."""
    title = escape(headline(baseline, profile, judgement, min_rows))
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f'<meta name="color-scheme" content="light dark"><title>{title}'
        f"</title>{as_html(baseline, profile, judgement, min_rows)}</html>\n"
    )


def _sentence(name: str, judgement: Judgement) -> str:
    alarms = [one for one in judgement.alarms if one.feature == name]
    if not alarms:
        return "<span class=calm>no alarm</span>"
    return escape("; ".join(f"{MEASURES[one.measure].title} {_number(one.value)}" for one in alarms))


def _table(results: Sequence[Result]) -> str:
    heads = "".join(f"<th scope=col>{head}</th>" for head in ("feature", "measure", "value", "threshold", "p", ""))
    rows = "".join(
        f"<tr><th scope=row>{escape(one.feature)}</th><td>{MEASURES[one.measure].title}</td>"
        f"<td class=number>{_number(one.value)}</td><td class=number>{_number(one.threshold)}</td>"
        f"<td class=number>{_p_value(one.p_value)}</td><td>{'alarm' if one.alarm else ''}</td></tr>"
        for one in results
    )
    return f"<div class=scroll><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"


def _ordered(judgement: Judgement) -> list[Result]:
    order = {name: place for place, name in enumerate(judgement.features)}
    return sorted(judgement.alarms, key=lambda one: order[one.feature])


def _top(judgement: Judgement) -> list[str]:
    """Return the features to draw: those that alarm, then those with the largest effect."""
    others: dict[str, float] = {}
    for result in judgement.results:
        others[result.feature] = max(others.get(result.feature, 0.0), result.strength)
    rest = sorted(others.keys() - set(judgement.features), key=lambda name: (-others[name], name))
    return [*judgement.features, *rest][:_TOP]


def _remarks(judgement: Judgement) -> list[str]:
    parts = (
        ("Not in the current sample", judgement.missing),
        ("Not in the reference", judgement.unknown),
        ("Of another type than in the reference", [one.feature for one in judgement.results
                                                   if one.measure == "type_change_rate" and one.alarm]),
        ("Not judged, as the reference has in-sample predictions", judgement.unwatched),
    )  # fmt: skip
    return [f"{what}: {', '.join(names[:_LINES])}" for what, names in parts if names]


def _p_value(p: float | None) -> str:
    """Return a p-value; of one that no draw can tell from none, only that it is small.

    >>> _p_value(0.034), _p_value(7.9e-319)
    ('0.034', '<1e-12')
    """
    return "<1e-12" if p is not None and p < 1e-12 else _number(p)


def _number(value: float | None) -> str:
    return "" if value is None else "–" if math.isnan(value) else f"{value:.3g}"
