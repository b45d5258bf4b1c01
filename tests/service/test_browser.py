"""What the tests in a browser would find: each of their checks can fail."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn
from playwright.sync_api import Browser
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route

from browser import browser, opened, screenshot, violations

HEAD = (
    "<!doctype html><html lang=en><title>A page</title>"
    "<link rel=stylesheet href=/style.css><link rel=icon href=/dot.svg>"
)
ELSEWHERE = "http://127.0.0.2:1/script.js"
PAGES = {
    "clean": "<script src=/script.js></script><img src=/dot.svg alt='A dot'>",
    "picture": "<img src=/dot.svg>",
    "pale": "<p class=pale>hard to read</p>",
    "frame": "<iframe src=/picture title='A page in a page'></iframe>",
    "elsewhere": f"<script src={ELSEWHERE}></script>",
    "inline": "<script>window.hacked = 1</script>",
    "styled": "<p style='color: red'>red</p>",
    "says": "<script src=/says.js></script>",
    "raises": "<script src=/raises.js></script>",
    "lacks": "<img src=/nothing.svg alt=''>",
    "breaks": "<img src=/broken.svg alt=''>",
    "socket": "<script src=/socket.js></script>",
}
FILES = {
    "style.css": "body { background: white; color: black } .pale { color: #ccc }",
    "script.js": "window.ran = true",
    "says.js": "console.error('It is said')",
    "raises.js": "throw new Error('It is raised')",
    "socket.js": "new WebSocket('ws://127.0.0.2:1/')",
    "dot.svg": "<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'><rect width='9' height='9'/></svg>",
}
KINDS = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
POLICY = "default-src 'self'"


async def page(request: Request) -> Response:
    if (part := PAGES.get(request.path_params["name"])) is None:
        return Response(status_code=404)
    body = f"<main><h1>A page</h1>{part}</main>"
    policy = {} if "lax" in request.query_params else {"Content-Security-Policy": POLICY}
    return HTMLResponse(f"{HEAD}{body}", headers=policy)


async def file(request: Request) -> Response:
    name = request.url.path.removeprefix("/")
    return Response(FILES[name], media_type=KINDS[name.partition(".")[2]])


async def broken(request: Request) -> Response:
    async def body() -> AsyncIterator[bytes]:
        yield b"<svg"

    return StreamingResponse(body(), media_type="image/svg+xml", headers={"Content-Length": "100"})


@contextmanager
def served(app: Starlette) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical"))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    files = [Route(f"/{name}", file) for name in FILES]
    with served(Starlette(routes=[*files, Route("/broken.svg", broken), Route("/{name:str}", page)])) as address:
        yield address


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as found:
        yield found


@pytest.mark.parametrize("dark", [False, True])
def test_nothing_is_found_on_a_clean_page(chromium: Browser, site: str, dark: bool) -> None:
    with opened(chromium, f"{site}/clean", dark=dark) as page:
        assert violations(page) == []
        assert page.evaluate("window.ran") is True
        assert page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") is dark


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("picture", "critical image-alt: .*: img: <img"),
        ("pale", "serious color-contrast: .*: p: <p"),
        ("frame", "critical image-alt: .*: iframe img: <img"),
    ],
)
def test_axe_finds_what_is_planted(chromium: Browser, site: str, name: str, where: str) -> None:
    with opened(chromium, f"{site}/{name}") as page:
        [found] = violations(page)
    assert re.search(where, found), found


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("elsewhere", "console: .*127.0.0.2:1/script.js.*Content Security Policy"),
        ("elsewhere?lax", f"another host: {ELSEWHERE}"),
        ("inline", "console: .*inline script.*Content Security Policy"),
        ("styled", "console: .*inline style.*Content Security Policy"),
        ("says", "console: It is said"),
        ("raises", "exception: .*It is raised"),
        ("lacks", "console: .*404"),
        ("breaks", "failed: .*/broken.svg"),
        ("socket", "console: .*ws://127.0.0.2:1/.*Content Security Policy"),
        ("socket?lax", "another host: ws://127.0.0.2:1/"),
    ],
)
def test_a_page_that_does_wrong_fails_its_test(chromium: Browser, site: str, name: str, what: str) -> None:
    with pytest.raises(AssertionError, match=what), opened(chromium, f"{site}/{name}") as page:
        assert page.evaluate("window.hacked") is None


def test_a_test_may_look_at_the_troubles_itself(chromium: Browser, site: str) -> None:
    troubles: list[str] = []
    with opened(chromium, f"{site}/clean", troubles=troubles) as page:
        assert troubles == []
        page.goto(f"{site}/says")
    assert troubles == [f"console: It is said ({site}/says.js)"]


def test_a_picture_is_taken(chromium: Browser, site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MOORING_SCREENSHOTS", raising=False)
    with opened(chromium, f"{site}/clean", width=400) as page:
        shot = screenshot(page, "clean", tmp_path)
        monkeypatch.setenv("MOORING_SCREENSHOTS", str(tmp_path / "kept"))
        kept = screenshot(page, "clean", tmp_path)
    assert shot.read_bytes().startswith(b"\x89PNG")
    assert kept == tmp_path / "kept" / "clean.png"
    assert kept.read_bytes().startswith(b"\x89PNG")
