"""Answers: pages of HTML, JSON, and what went wrong, as a page or as JSON."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import HTTPConnection
from starlette.responses import Response

from mooring.ui import templating

CHALLENGE = {"WWW-Authenticate": "Bearer"}


class Problem(msgspec.Struct, frozen=True):
    """What went wrong, and what to do about it."""

    status: int
    error: str


class Reason(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why something is done, for the history."""

    reason: str = ""


class ActDone(msgspec.Struct, frozen=True):
    """What was asked for is written down; `see` is the page that shows what comes of it."""

    see: str


class Asked(Exception):
    """Something is asked for that can't be given; the message says why."""

    status = 400


class NotFound(Asked):
    """It is not there."""

    status = 404


class TooLate(Asked):
    """It can't be done any more, or not now."""

    status = 409


def wants_json(connection: HTTPConnection) -> bool:
    """Whether somebody asks for JSON rather than for a page."""
    return connection.url.path.startswith("/api")


def as_json(value: Any, status: int = 200) -> Response:
    """Return a value as an answer in JSON."""
    return Response(msgspec.json.encode(value) + b"\n", status, media_type="application/json")


def page(connection: HTTPConnection, template: str, code: int = 200, **values: Any) -> Response:
    """Return a page of HTML."""
    text = templating.render(connection, template, **values)
    return Response(text, code, media_type="text/html")


def problem(connection: HTTPConnection, status: int, text: str) -> Response:
    """Return what went wrong, as whoever asked can read it."""
    headers = CHALLENGE if status == 401 else {}
    if wants_json(connection):
        answer = as_json(Problem(status, text), status)
    elif "text/html" in connection.headers.get("accept", ""):
        answer = page(connection, "problem.html", status, status=status, text=text)
    else:
        answer = Response(f"{text}\n", status, media_type="text/plain")
    answer.headers.update(headers)
    return answer
