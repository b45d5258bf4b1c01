"""How a report says things: numbers, times, names, measures, and what changed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np

from mooring.drift.baseline import Baseline, BaselineParts, Feature
from mooring.drift.common_cells import by_identity, numbers_of, rows_of
from mooring.drift.grid import CategoricalGrid, NumericGrid, TextGrid
from mooring.drift.judgement import Result
from mooring.drift.measure_table import MEASURES, min_effect
from mooring.drift.measures import shares
from mooring.drift.profile import (
    CategoricalProfile,
    FeatureProfile,
    NumericProfile,
    with_infinities,
)
from mooring.report.reading import FeatureReading

LONGEST_NAME = 120
_NBSP = "\u00a0"
_NEW = "new: "
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float, digits: int = 4) -> str:
    """Return a number with no more than so many digits.

    >>> number(1234.5678), number(0.012345), number(0.012345, 2), number(3.0), number(2500000).replace(_NBSP, " ")
    ('1235', '0.01235', '0.012', '3', '2.5 × 10⁶')
    """
    if not math.isfinite(value):
        return "–" if math.isnan(value) else "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    if 1e-4 <= abs(value) < 1e5:
        places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
        text = f"{value:.{places}f}"
        return (text.rstrip("0").rstrip(".") if "." in text else text).replace("-", "−")
    mantissa, exponent = f"{value:.2e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".").replace("-", "−")
    return f"{mantissa} × 10{str(int(exponent)).translate(_SUPERSCRIPTS)}".replace(" ", _NBSP)


def percent(share: float) -> str:
    """Return a share in percent.

    >>> [percent(share).replace(_NBSP, " ") for share in (0.0, 0.0001, 0.0312, 0.456, 0.9999, 1.0)]
    ['0 %', '<0.1 %', '3.1 %', '46 %', '>99.9 %', '100 %']
    """
    if math.isnan(share):
        return "–"
    if share <= 0:
        return f"0{_NBSP}%"
    if share < 0.0005:
        return f"<0.1{_NBSP}%"
    if 0.9995 < share < 1:
        return f">99.9{_NBSP}%"
    digits = 1 if share < 0.0995 or 0.99 <= share < 1 else 0
    text = f"{100 * share:.{digits}f}"
    return (text.removesuffix(".0") if share == 1 else text) + f"{_NBSP}%"


def count(value: float) -> str:
    """Return a whole number in groups of three.

    >>> count(1234567)
    '1,234,567'
    """
    return f"{value:,.0f}"


def p_value(p: float | None) -> str:
    """Return a p-value; a dash where none was needed.

    >>> p_value(None), p_value(0.034), p_value(3e-7).replace(_NBSP, " "), p_value(1e-40).replace(_NBSP, " ")
    ('–', '0.034', '3 × 10⁻⁷', '< 10⁻¹²')
    """
    if p is None:
        return "–"
    if p < 1e-12:
        return f"<{_NBSP}10⁻¹²"
    if p >= 0.001:
        return f"{p:.2g}"
    mantissa, exponent = f"{p:.0e}".split("e")
    return f"{mantissa}{_NBSP}×{_NBSP}10{str(int(exponent)).translate(_SUPERSCRIPTS)}"


def value_of(result: Result, value: float | None = None) -> str:
    """Return a result's value, or another of its measure, as a rate or a number."""
    value = result.value if value is None else value
    return percent(value) if is_rate(result.measure) else number(value, 3)


def at_min_effect(result: Result) -> bool:
    """Return whether a result's threshold is the minimum effect of its measure.

    >>> [at_min_effect(Result("x", "input", "numeric", "ks", 0.1, threshold=one)) for one in (0.05, 0.07)]
    [True, False]
    """
    least = min_effect(result.measure)
    if not least or result.threshold is None:
        return False
    usual = (result.reference or 0.0) if MEASURES[result.measure].from_reference else 0.0
    return math.isclose(result.threshold - usual, least, abs_tol=1e-9)


def from_log(baseline: Baseline | BaselineParts | None) -> bool:
    """Return whether a baseline was made of rows of the log, rather than of training data."""
    return baseline is not None and "log" in baseline.about


def measure(name: str) -> str:
    """Return what a measure is called."""
    return MEASURES[name].title if name in MEASURES else name.replace("_", " ")


def is_rate(measure: str) -> bool:
    """Return whether a measure is told in percent."""
    return measure in MEASURES and MEASURES[measure].rate


def moment(time: datetime) -> str:
    """Return a time in UTC, to the second, which is left out where it is 0: windows may last less than a minute.

    >>> [moment(datetime(2026, 5, 4, 14, 0, second, tzinfo=UTC)).replace(_NBSP, " ") for second in (0, 7)]
    ['2026-05-04 14:00 UTC', '2026-05-04 14:00:07 UTC']
    """
    time = time.astimezone(UTC)
    return time.strftime(f"%Y-%m-%d %H:%M{':%S' if time.second else ''} UTC").replace(" ", _NBSP)


def name(text: str, longest: int = LONGEST_NAME) -> str:
    """Return a name fit to be printed: of no more than `longest` characters, and without any that can't be.

    >>> name("a\\x00b"), name("abcdef", 4)
    ('a�b', 'abc…')
    """
    text = text if len(text) <= longest else text[: longest - 1] + "…"
    if text.isprintable():
        return text
    text = text.encode("utf-8", "replace").decode()
    return "".join(
        "\N{REPLACEMENT CHARACTER}" if ord(sign) < 32 or 127 <= ord(sign) < 160 else sign for sign in text
    )


def short(label: str, most: int) -> str:
    """Return a label without its middle where it is long: names often differ in their ends only.

    >>> short("a rather long name, 17", 12)
    'a rath…e, 17'
    """
    label = name(label, 1000)
    return label if len(label) <= most else f"{label[: most // 2]}…{label[-(most - most // 2 - 1) :]}"


def listed(names: Sequence[str], most: int = 3) -> str:
    """Return names as a list in a sentence.

    >>> listed(["a", "b"]), listed(["a", "b", "c", "d", "e"])
    ('a and b', 'a, b, c and 2 more')
    """
    if len(names) > most + 1:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""


def plural(amount: int, one: str, many: str | None = None) -> str:
    """Return an amount with its noun.

    >>> plural(1, "window"), plural(2400, "row")
    ('1 window', '2,400 rows')
    """
    return f"{count(amount)} {one if amount == 1 else many or one + 's'}"


def changes(feature: FeatureReading, missing: Sequence[str] = ()) -> str:
    """Return in words how a feature differs from the baseline, '' where there is nothing to say."""
    if feature.name in missing:
        return "no longer in the traffic: all rows are without it"
    if feature.baseline is None or feature.current is None:
        return ""
    alarming = {result.measure for result in feature.results if result.alarm}
    found = []
    if any(MEASURES[one].of_shares for one in alarming & MEASURES.keys()):
        shape = _shape(feature.baseline, feature.current)
        if not ("new_category_rate" in alarming and shape.startswith(_NEW)):
            found.append(shape.removeprefix(_NEW))
    values = feature.current.values
    if isinstance(values, CategoricalProfile) and (
        "new_category_rate" in alarming or (found and _new_share(values) > 0.05)
    ):
        found.append(_new_categories(values))
    if "out_of_range_rate" in alarming:
        found.append(_out_of_range(feature))
    if "null_rate" in alarming:
        reference, current = (unusable_share(one) for one in (feature.baseline.profile, feature.current))
        found.append(f"missing {percent(reference)} → {percent(current)}")
    return "; ".join(text for text in found if text) or _shape(feature.baseline, feature.current).removeprefix(
        _NEW
    )


def unusable_share(profile: FeatureProfile) -> float:
    """Return the share of rows without a usable value."""
    return profile.unusable / max(rows_of(profile), 1)


def new_names(values: CategoricalProfile) -> list[str]:
    """Return the categories that the baseline does not have, the most frequent first."""
    return sorted(values.new, key=lambda category: (-values.new[category], category))


def _shape(baseline: Feature, current: FeatureProfile) -> str:
    reference = baseline.profile
    grid = baseline.grid.lengths if isinstance(baseline.grid, TextGrid) else baseline.grid
    a, b = numbers_of(reference), numbers_of(current)
    if isinstance(grid, NumericGrid) and a and b:
        if not b.values and b.infinities:
            return "all values are infinite"
        if not a.values or not b.values:
            return "no values" if a.values else "had no values"
        return _moments(grid, a, b, "length" if isinstance(baseline.grid, TextGrid) else "mean")
    if isinstance(baseline.grid, CategoricalGrid):
        return _largest_category(baseline.grid, reference, current)
    return ""


def _moments(grid: NumericGrid, reference: NumericProfile, current: NumericProfile, what: str) -> str:
    means = reference.mean(grid), current.mean(grid)
    if not all(map(math.isfinite, means)):
        return ""
    text = f"{what} {number(means[0])} → {number(means[1])}"
    if grid.scale <= 0:
        return text
    shift = (current.offset() - reference.offset()) * (grid.unit / grid.scale)
    if abs(shift) >= 0.05:
        text += f" ({shift:+.1f}{_NBSP}sd)".replace("-", "−")
    spread = current.deviation(grid) / grid.scale
    if not 0.8 < spread < 1.25:
        text += f", spread {number(grid.scale)} → {number(current.deviation(grid))}"
    return text


def _largest_category(grid: CategoricalGrid, reference: FeatureProfile, current: FeatureProfile) -> str:
    a, b = reference.values, current.values
    if not isinstance(a, CategoricalProfile) or not isinstance(b, CategoricalProfile):
        return ""
    if not b.values:
        return "no values"
    p, q = (shares(counts) for counts in by_identity([a, b]))
    names = [*grid.categories, *sorted(b.new)]
    if not names:
        return ""
    place = int(np.argmax(np.abs(q - p)[: len(names)]))
    new = _NEW if place >= len(grid.categories) else ""
    return f"{new}“{name(names[place], 40)}” {percent(float(p[place]))} → {percent(float(q[place]))}"


def _new_share(values: CategoricalProfile) -> float:
    return (sum(values.new.values()) + values.more) / max(values.values, 1)


def _new_categories(values: CategoricalProfile) -> str:
    names = new_names(values)
    some = listed([f"“{name(one, 30)}”" for one in names], 2)
    return f"{percent(_new_share(values))} in new categories: {some}"


def _out_of_range(feature: FeatureReading) -> str:
    reference = numbers_of(feature.baseline.profile) if feature.baseline else None
    current = numbers_of(feature.current) if feature.current else None
    if reference is None or current is None or not reference.values:
        return ""
    below, above = int(current.counts[0]), int(current.counts[-1])
    total = max(current.values + current.infinities, 1)
    parts = [
        f"{percent(amount / total)} {word} {number(bound)}"
        for amount, word, bound in ((below, "below", reference.minimum), (above, "above", reference.maximum))
        if amount
    ]
    own, others = with_infinities([current, reference])
    if infinite := sum(int(own[at]) for at in (0, -1) if not others[at]):
        parts.append(f"{percent(infinite / total)} infinite")
    return f"{' and '.join(parts)}, the end of the baseline" if parts else ""
