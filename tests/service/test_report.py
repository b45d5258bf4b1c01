"""The report in a browser: it shows everything to whoever reads it, without a network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from playwright.sync_api import Page

from browser import browser, watch
from mooring.drift.baseline import make
from mooring.drift.judge import judge
from mooring.drift.profile import profile
from mooring.report import page
from mooring.report.model import Report
from reports import EVIL, Sample, drifted_report, judged_sample, report, window


@pytest.fixture(scope="module")
def sample() -> Sample:
    return judged_sample()


@pytest.fixture(scope="module")
def drifted(sample: Sample) -> Report:
    return drifted_report(sample)


@pytest.fixture(scope="module")
def visited() -> Iterator[tuple[Page, list[str]]]:
    """One page for all the tests: what it has compiled once, it keeps."""
    with browser() as chromium, chromium.new_context(reduced_motion="reduce") as context:
        troubles: list[str] = []
        watch(context, "", troubles)
        yield context.new_page(), troubles


@pytest.fixture
def tab(visited: tuple[Page, list[str]]) -> Iterator[Page]:
    page, troubles = visited
    troubles.clear()
    yield page
    page.evaluate("0")  # what came before its answer is in by then
    assert troubles == []


def show(tab: Page, path: Path, *, width: int = 1200, dark: bool = False) -> None:
    tab.set_viewport_size({"width": width, "height": 900})
    tab.emulate_media(media="screen", color_scheme="dark" if dark else "light")
    tab.goto(path.as_uri())


@pytest.fixture(scope="module")
def files(drifted: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reports")
    (folder / "whole.html").write_text(page.html(drifted), encoding="utf-8")
    (folder / "small.html").write_text(page.svg(drifted), encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", ["whole.html", "small.html"])
@pytest.mark.parametrize(("width", "dark"), [(1200, False), (1200, True), (360, False), (360, True)])
def test_a_browser_shows_it_without_network_errors_or_sideways_scrolling(
    tab: Page, files: Path, tmp_path: Path, name: str, width: int, dark: bool
) -> None:
    show(tab, files / name, width=width, dark=dark)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.inner_text("h1").startswith("wine is drifting")
    light = "rgb(252, 251, 248)"
    assert (tab.evaluate("getComputedStyle(document.body).backgroundColor") == light) is not dark
    assert tab.evaluate("window.hacked") is None
    assert EVIL in tab.inner_text("body") or name == "small.html"
    tab.screenshot(path=tmp_path / "shot.png", full_page=True)
    assert (tmp_path / "shot.png").stat().st_size > 20_000


def test_a_feature_is_explored_by_keyboard(tab: Page, files: Path) -> None:
    show(tab, files / "whole.html")
    tab.focus("figure[data-feature] button")
    first = tab.evaluate("document.activeElement.getAttribute('aria-label')").removeprefix("Explore ")
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.querySelector('dialog').open")
    assert tab.inner_text("#explored") == first
    assert tab.locator("dialog .main-svg").count() >= 2
    tab.keyboard.press("ArrowRight")
    assert tab.inner_text("#explored") != first
    tab.keyboard.press("Escape")
    assert not tab.evaluate("document.querySelector('dialog').open")


def test_what_lies_outside_is_marked_so_on_the_axis_of_the_explored_feature(tab: Page, tmp_path: Path) -> None:
    values = np.random.default_rng(0).uniform(0, 1, 3000)
    baseline = make({"x": pa.array(np.append(values, [1e6] * 30))})
    found = profile([pa.table({"x": np.append(values[:500], [1e6] * 30)})], baseline.grids)
    text = page.html(report(baseline, window(0, judgement=judge(baseline, [found]), found=found)))
    (tmp_path / "one.html").write_text(text, encoding="utf-8")
    show(tab, tmp_path / "one.html")
    tab.locator("figure[data-feature] button").first.click()
    labels = tab.locator("#shape .xtick text").all_text_contents()
    assert (labels[0][:2], labels[-1][:2]) == ("< ", "> ")
    numbers = [float(label) for label in labels[1:-1]]
    assert len(numbers) > 2
    assert numbers == sorted(numbers)
    assert numbers[0] > 0, "no value is below 0"


def test_all_features_can_be_explored(tab: Page, files: Path) -> None:
    show(tab, files / "whole.html")
    tab.locator("figure[data-feature] button").first.click()
    for _ in range(tab.evaluate("JSON.parse(document.getElementById('data').textContent).features.length")):
        tab.click("#next")


def test_alarms_are_told_by_more_than_colour(tab: Page, files: Path) -> None:
    show(tab, files / "small.html")
    rows = tab.evaluate(
        "[...document.querySelectorAll('.heat tbody tr')].map(row => [row.cells[0].textContent,"
        " row.cells[2].textContent, row.querySelectorAll('.ma, .mc').length])"
    )
    found = {name: (count, marks) for name, count, marks in rows}
    assert found["alcohol"] == ("2", 1)
    assert found["sulphates"] == ("", 0)


def test_the_heat_map_tells_what_is_under_the_pointer(tab: Page, files: Path) -> None:
    show(tab, files / "whole.html")
    strip = tab.locator(".heat tr", has_text="alcohol").first.locator("svg")
    strip.scroll_into_view_if_needed()
    box = strip.bounding_box()
    assert box is not None
    tab.mouse.move(box["x"] + box["width"] - 3, box["y"] + 5)
    said = tab.inner_text("#readout")
    assert said.startswith("alcohol, 2026-05-04 11:00 UTC, 600 rows: ")
    assert said.endswith(" × its threshold, critical")


def test_on_paper_everything_is_open_and_nothing_is_dark(tab: Page, files: Path, tmp_path: Path) -> None:
    show(tab, files / "whole.html", dark=True)
    tab.emulate_media(media="print")
    closed = tab.evaluate("[...document.querySelectorAll('details:not([open])')].map(one => one.offsetHeight)")
    assert closed
    assert tab.evaluate("document.querySelector('#distributions details .figures').offsetHeight") > 200
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    tab.pdf(path=tmp_path / "report.pdf", print_background=True)
    assert (tmp_path / "report.pdf").stat().st_size > 50_000


def test_parts_have_what_screen_readers_need(tab: Page, files: Path) -> None:
    show(tab, files / "whole.html")
    captioned = "one => one.caption && one.querySelector('th[scope=col]')"
    assert tab.evaluate(f"[...document.querySelectorAll('table')].every({captioned})")
    told = "one => one.ariaHidden || one.ariaLabel"
    assert tab.evaluate(f"[...document.querySelectorAll('main svg')].every({told})")
    assert tab.locator("h1").count() == 1
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.className") == "skip"
    assert tab.evaluate("document.querySelector('time').title") != ""
