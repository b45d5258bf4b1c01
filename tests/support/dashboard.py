"""The dashboard as users start it, a process of its own; and its pages alone, in this process."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from starlette.testclient import TestClient

from mooring.settings import UiSettings
from mooring.ui import access
from mooring.ui.app import create
from mooring.ui.sources import sources_of
from waiting import PATIENCE

TOKEN = "a token that nobody guesses"


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@contextmanager
def dashboard(
    state: str,
    *,
    log: str = "no-log",
    spool: str | None = None,
    token: str | None = TOKEN,
    flags: tuple[str, ...] = (),
) -> Iterator[str]:
    """Start `mooring ui` on a free port and yield its address."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MOORING_")}
    if token is not None:
        environment["MOORING_UI_TOKEN"] = token
    command = [sys.executable, "-m", "mooring", "ui", "--port", "0", "--state", state, "--log", log, *flags]
    if spool is not None:
        command += ["--spool", spool]
    with tempfile.TemporaryDirectory() as directory, (Path(directory) / "stderr").open("w+b") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=environment, cwd=directory)
        try:
            assert process.stdout is not None
            address = process.stdout.readline().decode().strip()
            errors.seek(0)
            assert address.startswith("http://"), errors.read().decode()
            yield address
        finally:
            process.terminate()
            process.wait(PATIENCE)
            assert process.stdout is not None
            process.stdout.close()


@contextmanager
def pages(
    state: str, *, log: str = "no-log", spool: str | None = None, token: str | None = TOKEN, **settings: Any
) -> Iterator[str]:
    """The dashboard in this process and without a socket; yields an address that `ask` knows."""
    chosen = UiSettings(state=state, log=log, spool=spool, ui_token=token, **settings)
    rules = access.rules_of(chosen.ui_host, chosen.ui_token, chosen.ui_allowed_host)
    sources = sources_of(chosen)
    address = f"http://127.0.0.1:{next(_numbers)}"
    with (
        sources.state,
        TestClient(
            create(sources, rules), address, raise_server_exceptions=False, follow_redirects=False
        ) as client,
    ):
        _in_this_process[address] = client
        try:
            yield address
        finally:
            del _in_this_process[address]


_in_this_process: dict[str, TestClient] = {}
_numbers = itertools.count(1)


def ask(
    address: str,
    path: str,
    method: str = "GET",
    body: bytes | None = None,
    *,
    headers: Mapping[str, str] | None = None,
    bearer: str | None = None,
) -> Answer:
    """Ask as a program does; `headers` go as they are, Host too."""
    given = dict(headers or {})
    if bearer is not None:
        given["Authorization"] = f"Bearer {bearer}"
    if address in _in_this_process:
        client = _in_this_process[address]
        client.cookies.clear()
        told = client.request(method, path, content=body, headers=given)
        return Answer(told.status_code, dict(told.headers), told.content)
    place = urlsplit(address)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=PATIENCE)
    try:
        connection.request(method, path, body, given)
        answer = connection.getresponse()
        found = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, found, answer.read())
    finally:
        connection.close()
