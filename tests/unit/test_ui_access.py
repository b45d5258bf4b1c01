"""Who may look at the dashboard, and who may act: every route without and with a wrong token, and other names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from acted_on import something_to_do
from dashboard import TOKEN, Answer, ask, pages
from mooring.state.retrainings import Tickets
from mooring.state.rollouts import Rollouts
from mooring.state.state import State
from mooring.ui.pages import ACTIONS, PAGES

PARTS = {
    "model": "wine",
    "feature": "alcohol",
    "number": "1",
    "incident": "00000000-0000-5000-8000-000000000000",
    "request_id": "00000000-0000-7000-8000-000000000000",
}
LOOKS = [path.format(**PARTS) for page in PAGES for path in (page.path, page.api_path)] + [
    "/api/openapi.json",
    "/nowhere",
    "/api/nowhere",
]
ACTS = [path.format(**PARTS) for action in ACTIONS for path in (action.path, action.api_path)]
LOOKED = (200, 400, 404, 503)  # one page needs an id, and there is no log here
HTML = {"Accept": "text/html"}


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> str:
    return something_to_do(tmp_path_factory.mktemp("state"))


@pytest.fixture(scope="module")
def open_one(state: str) -> Iterator[str]:
    """A dashboard on loopback without a token."""
    with pages(state, token=None) as address:
        yield address


@pytest.fixture(scope="module")
def with_token(state: str) -> Iterator[str]:
    with pages(state) as address:
        yield address


@pytest.fixture(scope="module")
def besieged(state: str) -> Iterator[str]:
    """A dashboard for wrong tokens: after some of them it takes none for a while."""
    with pages(state) as address:
        yield address


@pytest.fixture(scope="module")
def elsewhere(state: str) -> Iterator[str]:
    """A dashboard that others reach by its name."""
    with pages(state, ui_allowed_host=("models.example",)) as address:
        yield address


def unchanged(state: str) -> bool:
    with State(state) as opened:
        rollout, ticket = Rollouts(opened).numbered("wine", 1), Tickets(opened).named("wine", "1")
        return rollout.wish is None and ticket.status == "approval"


def sign_in(address: str, token: str = TOKEN, **more: str) -> Answer:
    form = urlencode({"token": token, "who": "Ada", **more}).encode()
    return ask(address, "/login", "POST", form, headers={"Content-Type": "application/x-www-form-urlencoded"})


def cookie(answer: Answer) -> dict[str, str]:
    return {"Cookie": answer.headers["set-cookie"].split(";")[0]}


def test_there_is_something_to_try() -> None:
    assert len(LOOKS) > 15
    assert len(ACTS) >= 12


@pytest.mark.parametrize("path", LOOKS)
def test_on_this_machine_anybody_may_look(open_one: str, with_token: str, path: str) -> None:
    for one in (open_one, with_token):
        assert ask(one, path).status in LOOKED


@pytest.mark.parametrize("path", LOOKS)
def test_a_wrong_token_is_refused_even_where_none_is_needed(state: str, open_one: str, path: str) -> None:
    assert ask(open_one, path, bearer="wrong").status in (401, 429)


@pytest.mark.parametrize("path", LOOKS)
def test_from_elsewhere_nobody_looks_without_the_token(elsewhere: str, path: str) -> None:
    answer = ask(elsewhere, path)
    assert answer.status == 401
    assert b"wine" not in answer.body
    assert "www-authenticate" in answer.headers
    page = ask(elsewhere, path, headers={**HTML, "Host": "models.example"})
    assert (page.status, page.headers.get("location", "")[:12]) == (
        (401, "") if path.startswith("/api") else (303, "/login?next=")
    )
    assert ask(elsewhere, path, bearer=TOKEN).status in LOOKED


def test_on_this_machine_a_proxy_in_front_does_not_open_it(with_token: str) -> None:
    for name in ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "Via"):
        assert ask(with_token, "/api/models", headers={name: "for=192.0.2.1"}).status == 401


@pytest.mark.parametrize("path", ACTS)
def test_nothing_is_done_without_the_token(
    state: str, open_one: str, with_token: str, elsewhere: str, path: str
) -> None:
    for one in (open_one, with_token, elsewhere):
        for accept in ({}, HTML):
            assert ask(one, path, "POST", b"", headers=accept).status in (401, 403)
        assert ask(one, path, "GET", headers=HTML).status != 200
    assert unchanged(state)


@pytest.mark.parametrize("path", ACTS)
def test_nothing_is_done_with_a_wrong_token(state: str, path: str, besieged: str) -> None:
    assert ask(besieged, path, "POST", b"{}", bearer=f"{TOKEN}x").status in (401, 429)
    assert unchanged(state)


def test_after_ten_wrong_tokens_none_is_looked_at(state: str) -> None:
    with pages(state) as address:
        found = [ask(address, "/api/models", bearer="wrong").status for _ in range(12)]
        assert found == [401] * 10 + [429] * 2
        assert ask(address, "/api/models", bearer=TOKEN).status == 429
        assert sign_in(address).status == 429


@pytest.mark.parametrize("path", ACTS)
def test_a_session_does_nothing_without_its_secret(state: str, with_token: str, path: str) -> None:
    session = cookie(sign_in(with_token))
    for headers in ({}, {"X-CSRF-Token": "guessed"}, {"Origin": "http://evil.example"}):
        for body in (b"", b"csrf=guessed"):
            answer = ask(with_token, path, "POST", body, headers={**session, **headers})
            assert answer.status in (400, 403)
    assert unchanged(state)


@pytest.mark.parametrize("path", ["/", "/login", "/static/ui.css", "/healthz", "/api/models"])
def test_another_name_is_refused(with_token: str, path: str) -> None:
    port = with_token.rpartition(":")[2]
    for host in (f"evil.example:{port}", "", "localhost.evil.example", "127.0.0.1.evil.example", "a b"):
        assert ask(with_token, path, headers={"Host": host}).status in (400, 403)
    for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}"):
        assert ask(with_token, path, headers={"Host": host}).status == 200


def test_a_name_that_is_allowed_is_answered(elsewhere: str) -> None:
    assert ask(elsewhere, "/login", headers={"Host": "Models.Example"}).status == 200
    assert ask(elsewhere, "/api/models", headers={"Host": "models.example"}, bearer=TOKEN).status == 200


def test_who_signs_in_may_look_and_act_until_they_sign_out(state: str, elsewhere: str) -> None:
    wrong = sign_in(elsewhere, "wrong token")
    assert (wrong.status, "set-cookie" in wrong.headers) == (401, False)
    answer = sign_in(elsewhere, next="/history?model=wine")
    assert (answer.status, answer.headers["location"]) == (303, "/history?model=wine")
    assert {"httponly", "samesite=strict"} <= {
        part.strip().lower() for part in answer.headers["set-cookie"].split(";")
    }
    session = cookie(answer)
    page = ask(elsewhere, "/", headers={**HTML, **session})
    assert page.status == 200
    found = re.search(r'name="csrf" value="([^"]+)"', page.text)
    assert found is not None
    form = urlencode({"csrf": found[1], "reason": "I <say> so"}).encode()
    acted = ask(elsewhere, "/models/wine/rollouts/1/pause", "POST", form, headers=session)
    assert (acted.status, acted.headers["location"]) == (303, "/models/wine/rollouts/1")
    with State(state) as opened:
        rollout = Rollouts(opened).numbered("wine", 1)
        assert (rollout.wish, rollout.wish_by, rollout.wish_reason) == ("pause", "Ada (dashboard)", "I <say> so")
        Rollouts(opened).taken(rollout)
    out = ask(elsewhere, "/logout", "POST", urlencode({"csrf": found[1]}).encode(), headers=session)
    assert (out.status, "expires=" in out.headers["set-cookie"].lower()) == (303, True)


def test_a_session_ends_with_its_token(state: str, elsewhere: str) -> None:
    session = cookie(sign_in(elsewhere))
    with pages(state, token="another long token", ui_allowed_host=("models.example",)) as other:
        assert ask(other, "/api/models", headers=session).status == 401


@pytest.mark.parametrize("wanted", ["//evil.example/", "https://evil.example/", "/\\evil.example", "/\r\nX: y"])
def test_signing_in_leads_nowhere_else(with_token: str, wanted: str) -> None:
    assert sign_in(with_token, next=wanted).headers["location"] == "/"


@pytest.mark.parametrize("path", [*LOOKS, "/login", "/static/ui.js", "/healthz"])
def test_every_answer_says_what_a_page_may_load(with_token: str, path: str) -> None:
    headers = ask(with_token, path).headers
    policy = headers["content-security-policy"]
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert headers["x-frame-options"] == "DENY"


def test_an_empty_state_says_what_to_start(tmp_path: Path) -> None:
    with pages(f"sqlite:///{tmp_path / 'state.db'}", token=None) as address:
        page = ask(address, "/", headers=HTML)
        assert "mooring monitor" in page.text
        assert ask(address, "/api/models").json["models"] == []
