"""Who may look, and who may act: the name under which the dashboard is reached, its token, sessions, forgery."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import time
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from mooring.ui.responses import problem

SESSION_SECONDS = 12 * 3600
CSRF_FIELD = "csrf"
CSRF_HEADER = "x-csrf-token"
USER_HEADER = "x-mooring-user"
LOGIN = "/login"
_OPEN = (LOGIN, "/healthz")
_LOCAL = ("localhost", "127.0.0.1", "::1")
_FORWARDED = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip")
_LONGEST_NAME = 60
_LONGEST_REASON = 500
_TRIES, _TRY_SECONDS = 10, 60.0


class AccessRules(NamedTuple):
    """Who may do what.

    `token` is that of those who may act. Whoever reaches a dashboard that is `local` from this machine may look.
    `names` are those, beside addresses and localhost, under which it may be reached.
    """

    token: str | None
    local: bool
    names: frozenset[str]


def rules_of(host: str, token: str | None, names: Iterable[str]) -> AccessRules:
    """Return the rules of a dashboard that listens on `host`. Raises ValueError where it would need a token.

    >>> rules_of("127.0.0.1", None, []).local, rules_of("0.0.0.0", "long enough", []).local
    (True, False)
    """
    known = frozenset(name.lower() for name in names)
    # A name of its own means that others come by it: then nobody can be told from somebody on this machine.
    local = host in _LOCAL and not known
    if not local and not token:
        what = f"--host {host}" if host not in _LOCAL else "--ui-allowed-host"
        raise ValueError(f"{what} lets others look: set MOORING_UI_TOKEN to a secret that they need for it")
    return AccessRules(token, local, known if host in _LOCAL else known | {host.lower()})


def secret_of(token: str | None) -> str:
    """Return the key that signs sessions: with another token they end. Without one there are none."""
    if token is None:
        return secrets.token_urlsafe(32)
    return hmac.new(token.encode(), b"mooring ui session", hashlib.sha256).hexdigest()


def host_of(header: str) -> str:
    """Return the name in a Host header, without its port; '' where there is none.

    >>> host_of("localhost:5050"), host_of("[::1]:5050"), host_of("Evil.example."), host_of("a b")
    ('localhost', '::1', 'evil.example.', '')
    """
    try:
        return urlsplit(f"//{header}").hostname or "" if header.isprintable() and " " not in header else ""
    except ValueError:
        return ""


def is_known(header: str, names: frozenset[str]) -> bool:
    """Whether a Host header is one that a browser sends which was not led here by somebody else's name.

    An address is: who asks for it means this machine. A name is only where it is known, since a page elsewhere may
    have its own name resolve to this machine.

    >>> is_known("127.0.0.1:5050", frozenset()), is_known("evil.example", frozenset())
    (True, False)
    """
    host = host_of(header)
    if host in names or host == "localhost":
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_token(given: str, token: str | None) -> bool:
    """Whether somebody has given the token; how long that takes does not tell how much of it was right."""
    return token is not None and hmac.compare_digest(given.encode("utf-8", "replace"), token.encode())


def signed_in(who: str) -> dict[str, str]:
    """Return what a session holds of somebody who has given the token: a name for the history, and a secret."""
    return {"who": plain_name(who), "csrf": secrets.token_urlsafe(16)}


def plain_name(who: str) -> str:
    """Return the name that somebody gave, as it fits into the history.

    >>> plain_name(" Ada" + chr(10)), plain_name("")
    ('Ada', 'somebody')
    """
    return "".join(sign for sign in who if sign.isprintable()).strip()[:_LONGEST_NAME] or "somebody"


def plain_reason(reason: str) -> str:
    """Return the reason that somebody gave, as it fits into the history."""
    return "".join(sign for sign in reason if sign.isprintable()).strip()[:_LONGEST_REASON]


class Tries:
    """How often a wrong token was given of late: after ten in a minute none is looked at until that is over."""

    def __init__(self) -> None:
        self._failed: list[float] = []

    def exhausted(self) -> bool:
        """Whether no further try is taken now."""
        since = time.monotonic() - _TRY_SECONDS
        self._failed = [moment for moment in self._failed if moment > since]
        return len(self._failed) >= _TRIES

    def failed(self) -> None:
        """Note a wrong token."""
        self._failed.append(time.monotonic())


class Access:
    """Lets through who may pass. Behind it `scope["who"]` is the name of somebody who may act, else None.

    It stands behind Starlette's SessionMiddleware.
    """

    def __init__(self, app: ASGIApp, rules: AccessRules, tries: Tries) -> None:
        self._app = app
        self._rules = rules
        self._tries = tries

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with why it is refused."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        await (self._app if refusal is None else refusal)(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        connection = HTTPConnection(scope)
        headers, path, method = connection.headers, scope["path"], scope["method"]
        scope["who"] = None
        if not is_known(headers.get("host", ""), self._rules.names):
            text = "This name is not one that the dashboard is reached by: allow it with --ui-allowed-host."
            return problem(connection, 403, text)
        bearer = headers.get("authorization", "")
        if bearer:
            refused = self._check_bearer(connection, bearer)
            if refused is not None:
                return refused
            scope["who"] = f"{plain_name(headers.get(USER_HEADER, 'api'))} (dashboard)"
        elif self._rules.token is not None and "who" in connection.session:
            scope["who"] = f"{connection.session['who']} (dashboard)"
        if path in _OPEN or path.startswith("/static/"):
            return None
        if method in ("GET", "HEAD"):
            if scope["who"] is not None or (self._rules.local and self._is_here(headers)):
                return None
            return _ask_for_token(connection)
        return self._refuse_to_act(connection, scope["who"], by_session=not bearer)

    def _check_bearer(self, connection: HTTPConnection, bearer: str) -> Response | None:
        if self._tries.exhausted():
            return problem(connection, 429, "Too many wrong tokens: try again in a minute.")
        scheme, _, given = bearer.partition(" ")
        if scheme.lower() == "bearer" and is_token(given.strip(), self._rules.token):
            return None
        self._tries.failed()
        return problem(connection, 401, "This token is not the one in MOORING_UI_TOKEN.")

    def _is_here(self, headers: Headers) -> bool:
        """Whether a request comes from this machine itself, as far as that can be told."""
        return host_of(headers["host"]) in _LOCAL and not any(name in headers for name in _FORWARDED)

    def _refuse_to_act(self, connection: HTTPConnection, who: str | None, *, by_session: bool) -> Response | None:
        if self._rules.token is None:
            text = "Nothing can be done from here: the dashboard was started without MOORING_UI_TOKEN."
            return problem(connection, 403, text)
        if who is None:
            return problem(connection, 401, "This takes the token: sign in, or send it as a bearer token.")
        if by_session and from_elsewhere(connection.headers):
            return problem(connection, 403, "This was sent by a page from elsewhere.")
        return None


def is_forged(connection: HTTPConnection, given: str) -> bool:
    """Whether a browser's request lacks the secret of its session, so that another page may have sent it."""
    if "authorization" in connection.headers:
        return False
    return not hmac.compare_digest(given.encode(), str(connection.session.get("csrf", "")).encode() or b"-")


def from_elsewhere(headers: Headers) -> bool:
    """Whether a browser says that a page of another origin has sent this."""
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return True
    origin = headers.get("origin")
    return origin is not None and urlsplit(origin).netloc != headers.get("host")


def _ask_for_token(connection: HTTPConnection) -> Response:
    path = connection.url.path
    if path.startswith("/api") or "text/html" not in connection.headers.get("accept", ""):
        return problem(connection, 401, "This takes the token: send it as a bearer token, or sign in.")
    wanted = path + (f"?{connection.url.query}" if connection.url.query else "")
    return RedirectResponse(f"{LOGIN}?next={quote(wanted, safe='')}", 303)
