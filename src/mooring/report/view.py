"""What a page shows of a reading: lines of features, their data quality, the traffic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from mooring.drift.distributions import Distribution, distribution
from mooring.drift.judgement import Result
from mooring.drift.profile import CategoricalProfile
from mooring.report import figures, words
from mooring.report.reading import FeatureReading, Reading
from mooring.report.words import name


class FeatureLine(NamedTuple):
    """A feature as it is shown: a line of the ranking, a figure, a line of the heat map."""

    place: int
    feature: FeatureReading
    name: str
    changes: str
    shown: Distribution | None
    figure: Markup
    spark: Markup
    strip: Markup

    @property
    def top(self) -> Result | None:
        """Its strongest result."""
        return self.feature.top.result if self.feature.top else None

    @property
    def others(self) -> list[Result]:
        """All results of the newest window by itself."""
        return [result for result in self.feature.results if result.scale == 1]

    @property
    def drifted(self) -> bool:
        """Whether it alarms in the newest judged window."""
        return self.feature.severity != "ok"


class QualityLine(NamedTuple):
    """A feature's missing, odd and unseen values: the results by measure, and names of new categories."""

    line: FeatureLine
    results: dict[str, Result]
    new: str


def chosen(reading: Reading, most: int) -> list[FeatureReading]:
    """Return the features to show: the most drifted first, and predictions in any case."""
    outputs = [feature for feature in reading.features[most:] if feature.role == "output"][:10]
    return [*reading.features[: most - len(outputs)], *outputs]


def lines(reading: Reading, features: Sequence[FeatureReading], most_figures: int) -> list[FeatureLine]:
    """Return features as they are shown, of which the first `most_figures` and all predictions get a figure."""
    missing = reading.newest.judgement.missing if reading.newest and reading.newest.judgement else []
    versions = reading.versions
    found = []
    for place, feature in enumerate(features):
        shown = None
        wanted = place < most_figures or feature.role == "output"
        if wanted and feature.baseline is not None and feature.current is not None and feature.name not in missing:
            shown = distribution(feature.baseline.grid, feature.baseline.profile, feature.current)
        found.append(
            FeatureLine(
                place,
                feature,
                name(feature.name),
                words.changes(feature, missing),
                shown,
                figures.draw(shown),
                figures.sparkline(feature.history),
                figures.strip(feature.history, versions),
            )
        )
    return found


def quality(shown: Sequence[FeatureLine]) -> list[QualityLine]:
    """Return the features with missing, odd or unseen values, those that alarm first."""
    found = []
    for line in shown:
        results = {result.measure: result for result in line.others if words.is_rate(result.measure)}
        if not any(result.value or result.reference for result in results.values()):
            continue
        values = line.feature.current.values if line.feature.current else None
        names = words.new_names(values)[:3] if isinstance(values, CategoricalProfile) else []
        found.append(QualityLine(line, results, ", ".join(f"“{name(one, 30)}”" for one in names)))
    return sorted(found, key=lambda one: not any(result.alarm for result in one.results.values()))


def traffic(reading: Reading) -> Markup:
    """Return the figure of the rows of each window; a dashed line where another version begins."""
    windows = reading.windows
    judged = [window.judgement is not None for window in windows]
    return figures.traffic([window.rows for window in windows], judged, reading.versions)
