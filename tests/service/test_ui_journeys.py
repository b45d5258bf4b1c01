"""What people come to the dashboard for, in a real browser: each journey, with its pictures to be looked at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from playwright.sync_api import Browser, Page, expect

from browser import browser, opened, screenshot, violations
from dashboard import TOKEN, dashboard
from judged import Made, assess, baseline_of, columns
from mooring.rollout_plan import parse
from mooring.state.retrainings import Cause, Tickets
from mooring.state.rollouts import Rollouts, moved, new
from mooring.state.state import State
from moves import loaded

WAITING, CANARY = "wine", "beer"


class Site(NamedTuple):
    address: str
    state: str


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One model that drifts and whose retraining waits to be approved, one whose canary runs, one that is well."""
    place = tmp_path_factory.mktemp("site")
    name = f"sqlite:///{place / 'state.db'}"
    with State(name) as state:
        baseline = baseline_of(columns(3000))
        drifting = Made(state, WAITING, baseline)
        for at, shift in enumerate([0, 0, 0, 3, 3]):
            drifting.put(at, shift=shift)
        assess(state, WAITING)
        for model in (CANARY, "cider"):
            well = Made(state, model, baseline)
            for at in range(4):
                well.put(at)
        Tickets(state).open(
            WAITING, Cause(kind="drift"), "alcohol drifts", champion="1", directory=str(place), status="approval"
        )
        rollouts = Rollouts(state)
        begun = rollouts.open(new(CANARY, "2", "1", "challenger", parse(["shadow 20%", "canary 5% 10m 200"])))
        begun = loaded(rollouts, begun)
        rollouts.move(
            begun, moved(begun, "stepping", step=1, requests=40, seconds=60.0), "step", {"step": "canary"}
        )
    with dashboard(name) as address:
        yield Site(address, name)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as found:
        yield found


def looked_at(page: Page, name: str, folder: Path) -> None:
    """Take a picture, and have axe look, too."""
    screenshot(page, name, folder)
    assert violations(page) == []


def sign_in(page: Page) -> None:
    page.get_by_role("link", name="Sign in").first.click()
    page.get_by_label("Your name").fill("Ada")
    page.get_by_label("Token").fill(TOKEN)
    page.get_by_role("button", name="Sign in").click()


@pytest.mark.parametrize(("width", "dark"), [(1300, False), (1300, True), (360, False)])
def test_is_all_well(site: Site, chromium: Browser, tmp_path: Path, width: int, dark: bool) -> None:
    with opened(chromium, site.address, width=width, dark=dark) as page:
        expect(page.get_by_role("heading", level=1)).to_contain_text("need")
        rows = page.get_by_role("row").filter(has=page.get_by_role("rowheader"))
        assert rows.nth(0).get_by_role("rowheader").inner_text().startswith((WAITING, CANARY))
        waiting = rows.filter(has_text="waits to be approved")
        expect(waiting).to_contain_text("critical")
        expect(rows.filter(has_text="cider")).to_contain_text("ok")
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        looked_at(page, f"all-well-{width}{'-dark' if dark else ''}", tmp_path)


def test_what_drifted(site: Site, chromium: Browser, tmp_path: Path) -> None:
    with opened(chromium, site.address, width=1300) as page:
        page.get_by_role("link", name=WAITING, exact=True).click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("drifting")
        expect(page.locator("figure.chart .plot svg").first).to_be_visible()
        detail = page.locator("#detail")
        expect(detail).to_contain_text("alcohol")
        looked_at(page, "what-drifted", tmp_path)
        address = page.url
        page.goto(address)
        expect(page.locator("#detail")).to_contain_text("alcohol")


def test_approve_a_retraining(site: Site, chromium: Browser, tmp_path: Path) -> None:
    with opened(chromium, site.address, width=1300) as page:
        page.get_by_role("link", name="waits to be approved").click()
        expect(page.get_by_role("main")).to_contain_text("Sign in to act")
        sign_in(page)
        page.locator("summary", has_text="Approve").click()
        form = page.locator("form", has=page.get_by_role("button", name="Approve"))
        form.get_by_label("Why").fill("the harvest is new")
        looked_at(page, "approve", tmp_path)
        form.get_by_role("button", name="Approve").click()
        expect(page.get_by_role("main")).to_contain_text("the harvest is new")
        looked_at(page, "approved", tmp_path)
    with State(site.state) as state:
        tickets = Tickets(state)
        ticket = tickets.named(WAITING, "1")
        assert ticket.status == "dataset"
        step = tickets.steps(ticket.id)[-1]
        assert (step.what, step.who, step.detail["reason"]) == (
            "approved",
            "Ada (dashboard)",
            "the harvest is new",
        )


def test_watch_a_canary_and_abort_it(site: Site, chromium: Browser, tmp_path: Path) -> None:
    with opened(chromium, f"{site.address}/models/{CANARY}/rollouts/1", width=1300) as page:
        expect(page.get_by_role("main")).to_contain_text("40")
        with State(site.state) as state:
            rollouts = Rollouts(state)
            now = rollouts.numbered(CANARY, 1)
            rollouts.keep(moved(now, "stepping", requests=137))
        expect(page.get_by_role("main")).to_contain_text("137")  # it is live
        sign_in(page)
        page.locator("summary", has_text="Abort").click()
        form = page.locator("form", has=page.get_by_role("button", name="Abort"))
        form.get_by_label("Why").fill("errors in the shop")
        looked_at(page, "abort", tmp_path)
        form.get_by_role("button", name="Abort").click()
        expect(page.get_by_role("main")).to_contain_text("errors in the shop")
        looked_at(page, "aborted", tmp_path)
        page.goto(f"{site.address}/history?model={CANARY}")
        expect(page.get_by_role("main")).to_contain_text("Ada")
    with State(site.state) as state:
        rollout = Rollouts(state).numbered(CANARY, 1)
        assert (rollout.wish, rollout.wish_by) == ("abort", "Ada (dashboard)")
        asked = Rollouts(state).events(rollout.id)[-1]
        assert (asked.what, asked.who, asked.detail["reason"]) == (
            "asked",
            "Ada (dashboard)",
            "errors in the shop",
        )


@pytest.mark.parametrize(
    "path", ["/capture", "/history", "/login", "/nowhere", f"/models/{CANARY}/features/sugar"]
)
def test_every_other_page_can_be_read_by_all(site: Site, chromium: Browser, tmp_path: Path, path: str) -> None:
    troubles: list[str] = []
    with opened(chromium, f"{site.address}/{path}", troubles=troubles) as page:
        looked_at(page, path.replace("/", "-"), tmp_path)
    assert [one for one in troubles if "404" not in one and "503" not in one] == []
