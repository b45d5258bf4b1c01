"""The report as a page that stands by itself, and the small one: no network, style and script within."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from mooring import __version__
from mooring.drift.judge import SCALES
from mooring.drift.measure_table import MEASURES
from mooring.performance.fairness import measure_name
from mooring.report import estimated, evidence, explorer, figures, performance, view, words
from mooring.report.course import course
from mooring.report.model import Report
from mooring.report.reading import Reading, read
from mooring.report.verdict import verdict
from mooring.status import ALARMING, STATUSES

LARGEST = 6_000_000
MOST_FEATURES = (200, 150, 100, 50, 20)
MOST_WINDOWS = 100
SMALL_FIGURES = 8
SMALL_FEATURES = 24
SMALL_WINDOWS = 60
_MOST_SERIES = 40
_MOMENT = re.compile("([0-9]{4}-[0-9]{2}-[0-9]{2})\u00a0([0-9]{2}:[0-9]{2}(?::[0-9]{2})?)\u00a0UTC")


def html(report: Report) -> str:
    """Return the report as a page of HTML, under 6 MB, plotly's script within it.

    Of more than 200 features those that drifted most are shown, fewer where they would not fit, and of more than
    100 windows the newest; the page says so. It needs no network: its content security policy keeps it from any.
    """
    reading = read(report, MOST_WINDOWS)
    scripts = [_plotly(), _file("report.js")]
    for most in MOST_FEATURES:
        lines = view.lines(reading, view.chosen(reading, most), most)
        page = _page(report, reading, lines, scripts)
        if len(page.encode()) < LARGEST:
            break
    return page


def _page(report: Report, reading: Reading, lines: Sequence[view.FeatureLine], scripts: Sequence[str]) -> str:
    measured = {result.measure for line in lines for result in line.feature.results}
    return _render(
        "report.html",
        **_common(report, reading, lines, MOST_WINDOWS),
        quality=view.quality(lines),
        in_sample=[words.name(one, 60) for one in report.baseline.in_sample] if report.baseline else [],
        series=reading.series[:_MOST_SERIES],
        traffic=view.traffic(reading),
        measures=[one for name, one in MEASURES.items() if name in measured],
        tested=[one for one in MEASURES.values() if one.test is not None],
        scales=SCALES,
        past=bool(report.baseline and report.baseline.past),
        versions={"Mooring": __version__, "plotly": version("plotly")},
        data=explorer.embed(explorer.data(reading, lines)),
        scripts=scripts,
        policy=" ".join(f"'sha256-{_hash(script)}'" for script in scripts),
    )


def svg(report: Report) -> str:
    """Return a small report, under 300 KB and without any script: HTML, its figures SVG.

    It is what MLflow's page of a run shows of the artifact.
    """
    reading = read(report, SMALL_WINDOWS)
    lines = view.lines(reading, view.chosen(reading, SMALL_FEATURES), SMALL_FIGURES)
    return _render("small.html", **_common(report, reading, lines, SMALL_WINDOWS))


def _common(
    report: Report, reading: Reading, lines: Sequence[view.FeatureLine], most_windows: int
) -> dict[str, Any]:
    drifted = [line for line in lines if line.drifted]
    section = performance.section(report.performance)
    windows = course((window.summary for window in report.windows), most_windows)
    said = verdict(report.model, windows, log=report.log, of_log=words.from_log(report.baseline))
    return {
        "style": _file("common.css") + _file("style.css"),
        "report": report,
        "reading": reading,
        "verdict": performance.with_performance(said, section, report.model),
        "newest": reading.newest,
        "performance": section,
        "unmeasured": performance.unmeasured(report.performance),
        "estimated": estimated.section(
            report.estimated, report.performance, [one.start for one in report.windows if one.severity in ALARMING]
        ),
        "judgement": reading.newest.judgement if reading.newest else None,
        "timeline": figures.timeline([window.severity for window in reading.windows], reading.versions),
        "lines": lines,
        "evidence": evidence.read(report.stream, report.created) if report.stream is not None else None,
        "drifted": drifted,
        "steady": [line for line in lines if not line.drifted],
        "left_out": len(reading.features) - len(lines),
        "left_out_drifted": len(reading.drifted) - len(drifted),
        "important": any(line.feature.baseline and line.feature.baseline.importance is not None for line in lines),
    }


def _render(template: str, **values: Any) -> str:
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    found = Environment(
        loader=PackageLoader("mooring.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters.update(
        number=words.number,
        percent=words.percent,
        count=words.count,
        p_value=words.p_value,
        moment=words.moment,
        measure=words.measure,
        measure_name=measure_name,
        value=words.value_of,
        plural=words.plural,
        listed=words.listed,
        safe_name=words.name,
        timed=timed,
        at_min_effect=words.at_min_effect,
        from_log=words.from_log,
    )
    found.globals["STATUS"] = STATUSES
    return found


@cache
def _file(name: str) -> str:
    return files("mooring.report").joinpath("templates", name).read_text(encoding="utf-8")


@cache
def _plotly() -> str:
    from plotly.offline import get_plotlyjs  # it is large: only who asks for the whole page needs it

    return str(get_plotlyjs()).replace("\r\n", "\n").replace("</script", "<\\/script")


def timed(sentence: str) -> Markup:
    """Return a sentence in which each time is marked up as one."""
    time = Markup('<time datetime="{0}T{1}Z">{0}\u00a0{1}\u00a0UTC</time>')
    before, *pieces = _MOMENT.split(sentence)
    found = escape(before)
    for day, hour, after in zip(pieces[::3], pieces[1::3], pieces[2::3], strict=True):
        found += time.format(day, hour) + escape(after)
    return found


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
