"""Incidents in a real browser: from the first page to a window of one, by mouse and by keyboard."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from browser import browser, opened, screenshot, violations
from dashboard import dashboard
from incidents_shown import Shown, with_incidents


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    return with_incidents(tmp_path_factory.mktemp("state"))


@pytest.fixture(scope="module")
def address(made: Shown) -> Iterator[str]:
    with dashboard(made.state, token=None) as found:
        yield found


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as found:
        yield found


def drawn(page: Page) -> None:
    """Wait until every chart is there."""
    count = page.locator("figure.chart").count()
    page.wait_for_function("count => document.querySelectorAll('.plot .main-svg').length >= count", arg=count)


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (400, True)])
def test_all_that_tells_of_incidents_can_be_read_by_all(
    chromium: Browser, address: str, made: Shown, tmp_path: Path, width: int, dark: bool
) -> None:
    for name, path in (
        ("models", "/"),
        ("model", "/models/wine"),
        ("incidents", "/models/wine/incidents"),
        *((f"incident-{name}", made.see(name)) for name in made.incidents),
    ):
        with opened(chromium, address + path, width=width, dark=dark) as page:
            drawn(page)
            screenshot(page, f"{name}-{width}", tmp_path)
            assert violations(page) == []
            assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_from_the_first_page_to_a_window_of_an_incident_and_back(
    chromium: Browser, address: str, made: Shown
) -> None:
    with opened(chromium, address, width=1280) as page:
        page.get_by_role("link", name="4 open incidents").click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("4 open incidents")
        rows = page.get_by_role("row").filter(has=page.get_by_role("rowheader"))
        expect(rows).to_have_count(4)
        rows.filter(has_text="colour=red").get_by_role("rowheader").get_by_role("link").press("Enter")
        expect(page.get_by_role("heading", level=1)).to_contain_text("has been drifting")
        page.get_by_role("region", name="Windows of the incident").get_by_role("link").first.click()
        expect(page.locator("#looked")).to_contain_text("in this window")
        assert made.wine.ids[8] in page.url
        page.get_by_role("link", name="What it is").click()
        page.wait_for_url(f"**{made.see('lasting')}")


def test_a_click_on_what_joins_windows_above_the_heat_map_shows_their_incident(
    chromium: Browser, address: str, made: Shown
) -> None:
    with opened(chromium, f"{address}/models/wine", width=1280) as page:
        heat = page.locator("figure.chart").nth(1)
        heat.scroll_into_view_if_needed()
        heat.locator(".scatterlayer .points path").first.wait_for(state="attached")
        place = heat.evaluate(
            """(figure, see) => {
                const plot = figure.querySelector(".plot");
                const trace = plot._fullData.find((one) => (one.customdata || [])[0] === see);
                const { xaxis, yaxis2 } = plot._fullLayout;
                const box = plot.getBoundingClientRect();
                const [x, y] = [xaxis.d2p(trace.x[0]), yaxis2.d2p(trace.y[0])];
                return [box.x + xaxis._offset + x, box.y + yaxis2._offset + y];
            }""",
            made.see("passed"),
        )
        page.mouse.move(*place)
        page.mouse.click(*place)
        page.wait_for_url(f"**{made.see('passed')}")
