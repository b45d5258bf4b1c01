"""The dashboard as users start it: a process of its own."""

from __future__ import annotations

import http.client
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
    place = urlsplit(address)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=PATIENCE)
    try:
        connection.request(method, path, body, given)
        answer = connection.getresponse()
        found = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, found, answer.read())
    finally:
        connection.close()
