"""Debian's Chromium, driven by Playwright: what a page does wrong, what axe finds on it, and how it looks."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
AXE = Path(sys.prefix) / "axe" / "node_modules" / "axe-core" / "axe.min.js"

# Its own services would call home, and no name leads anywhere.
_FLAGS = [
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
]


@contextmanager
def browser() -> Iterator[Browser]:
    """Start Chromium; skip without it.

    Until it ends, asyncio.run fails in this thread: so it is for the fixture of a module, not of a session.
    """
    if CHROMIUM is None:
        pytest.skip("NOT TESTED: what a browser shows. No chromium is installed")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=_FLAGS)
        yield found
        found.close()


@contextmanager
def opened(
    browser: Browser,
    address: str,
    *,
    width: int = 1200,
    height: int = 900,
    dark: bool = False,
    troubles: list[str] | None = None,
    **more: Any,
) -> Iterator[Page]:
    """Open an address in a session of its own, and fail at the end if anything there, or after it, went wrong.

    That is an error in the console, a breach of the Content Security Policy among them, an exception, a request
    that failed, and one to another host. A list given as `troubles` takes them instead, for the test to look at.
    `more` are options of Playwright's `new_context`.
    """
    context = browser.new_context(
        viewport={"width": width, "height": height},
        is_mobile=width < 600,
        color_scheme="dark" if dark else "light",
        reduced_motion="reduce",
        **more,
    )
    found: list[str] = [] if troubles is None else troubles
    watch(context, urlsplit(address).netloc, found)
    try:
        page = context.new_page()
        page.goto(address)
        yield page
    finally:
        context.close()
    assert troubles is not None or not found, "\n".join(found)


def watch(context: BrowserContext, host: str, troubles: list[str]) -> None:
    """Add to `troubles` whatever goes wrong in a session's pages; the host of a file is the empty one."""

    def asked(url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("data", "blob", "about") and parts.netloc != host:
            troubles.append(f"another host: {url}")

    def said(message: ConsoleMessage) -> None:
        if message.type in ("error", "assert"):
            troubles.append(f"console: {message.text} ({message.location['url']})")

    def failed(request: Request) -> None:
        # What a page still waits for when it is left is aborted.
        if request.failure != "net::ERR_ABORTED":
            troubles.append(f"failed: {request.url}: {request.failure}")

    context.on("request", lambda request: asked(request.url))
    context.on("console", said)
    context.on("requestfailed", failed)
    context.on("weberror", lambda event: troubles.append(f"exception: {event.error}"))
    context.on("page", lambda page: page.on("websocket", lambda socket: asked(socket.url)))


def violations(page: Page) -> list[str]:
    """Return what axe finds that is serious or critical, each with where it is; skip without axe."""
    if not AXE.exists():
        pytest.skip("NOT TESTED: what axe finds. `make dev` installs it where there is npm")
    source = AXE.read_text(encoding="utf-8")
    for frame in page.frames:
        frame.evaluate(source)  # not a script of the page's, so that its policy stays as it is
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    return [
        f"{rule['impact']} {rule['id']}: {rule['help']}: {' '.join(map(str, node['target']))}: {node['html']}"
        for rule in found
        if rule["impact"] in ("serious", "critical")
        for node in rule["nodes"]
    ]


def screenshot(page: Page, name: str, folder: Path, *, whole: bool = True) -> Path:
    """Write NAME.png into the directory that MOORING_SCREENSHOTS names, to be looked at, or into `folder`."""
    path = Path(os.environ.get("MOORING_SCREENSHOTS") or folder) / f"{name}.png"
    page.screenshot(path=path, full_page=whole, animations="disabled")
    return path
