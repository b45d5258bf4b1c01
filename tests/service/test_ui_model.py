"""The dashboard's pages of a model in a browser, and names from outside in addresses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from browser import browser, opened, screenshot, violations
from dashboard import dashboard
from judged import HOSTILE, Made
from model_pages import charts, nine_hours, shown, told


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    return nine_hours(tmp_path_factory.mktemp("state"))


@pytest.fixture(scope="module")
def address(made) -> Iterator[str]:
    with dashboard(made.state.name, token=None) as found:
        yield found


@pytest.fixture(scope="module")
def chromium():
    with browser() as found:
        yield found


@pytest.mark.parametrize(
    ("width", "dark"),
    [
        (1300, False),
        pytest.param(1300, True, marks=pytest.mark.proof),
        pytest.param(360, False, marks=pytest.mark.proof),
    ],
)
def test_pages_are_usable_and_nothing_goes_wrong(chromium, address, made, tmp_path, width, dark):
    for name, path in (
        ("model", f"/models/wine?window={made.ids[3]}&feature=alcohol"),
        ("feature", f"/models/wine/features/alcohol?window={made.ids[3]}"),
        ("model-fresh", "/models/fresh"),
    ):
        with opened(chromium, address + path, width=width, dark=dark) as page:
            drawn = page.locator("figure.chart").count()
            page.wait_for_function(
                "count => document.querySelectorAll('.plot .main-svg').length >= count", arg=drawn
            )
            screenshot(page, f"{name}-{width}{'-dark' if dark else ''}", tmp_path)
            assert violations(page) == []
            assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_click_on_a_cell_shows_it_beneath_and_its_address_can_be_shared(chromium, address, made):
    with opened(chromium, f"{address}/models/wine") as page:
        heat = page.locator("figure.chart").nth(1)
        heat.locator(".heatmaplayer image").wait_for(state="attached")
        heat.scroll_into_view_if_needed()
        box = heat.locator(".nsewdrag").bounding_box()
        assert box is not None
        # The third row is sugar's, the fourth column the first window that drifted.
        where = (box["x"] + 3.5 * box["width"] / 9, box["y"] + 2.5 * box["height"] / 4)
        page.mouse.move(*where)
        page.mouse.click(*where)
        page.locator("#looked", has_text="sugar in this window").wait_for()
        assert made.ids[3] in page.url
        assert "feature=sugar" in page.url
        assert page.evaluate("document.activeElement.id") == "detail"
        page.reload()
        page.locator("#looked", has_text="sugar in this window").wait_for()


def test_what_is_chosen_of_the_timeline_becomes_the_range(chromium, address):
    with opened(chromium, f"{address}/models/wine") as page:
        timeline = page.locator("figure.chart").nth(0)
        timeline.locator(".main-svg").first.wait_for(state="attached")
        box = timeline.locator(".nsewdrag").bounding_box()
        assert box is not None
        middle = box["y"] + box["height"] * 0.45
        page.mouse.move(box["x"] + box["width"] * 0.3, middle)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.6, middle, steps=5)
        page.mouse.up()
        page.wait_for_url("**/models/wine?*start=*end=*")
        assert 0 < page.locator("section details table").first.locator("tbody tr").count() < 9


def test_names_from_outside_are_no_markup(address):
    model = quote(("a/b " + HOSTILE).replace("%", "%25").replace("/", "%2F"), safe="")
    name = quote(HOSTILE.replace("/", "%2F"), safe="")
    for path in (f"/models/{model}", f"/models/{model}/features/{name}", "/models/wine?measure=mae"):
        page = shown(address, path)
        assert "<script>alert" not in page
        assert '<a href="javascript' not in page
        for figure in charts(page):
            drawn = json.dumps([figure["data"], figure["layout"]])
            assert "<script" not in drawn
            assert "<a " not in drawn
    assert told(address, f"/models/{model}").heat[0].feature == HOSTILE
