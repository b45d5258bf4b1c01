"""The dashboard as an application: every page as HTML and as JSON, what can be done, signing in and out."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs

import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mooring.log.listing import LogError
from mooring.log.store import StoreError
from mooring.state.database import StateError
from mooring.ui import access, assets, openapi, responses, routing, templating
from mooring.ui.pages import ACTIONS, PAGES
from mooring.ui.routing import Action, Page
from mooring.ui.sources import Sources

_LONGEST_FORM = 16 * 1024
# The one style within a page is an empty element: plotly's script puts its rules there.
_NO_STYLE = "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"
_POLICY = (
    f"default-src 'none'; script-src 'self'; style-src 'self' {_NO_STYLE}; "
    "img-src 'self' data: blob:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # with none at all, browsers send our own forms as from nowhere
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def create(sources: Sources, rules: access.AccessRules) -> Starlette:
    """Return the application. Its requests are answered in threads, since state and log may take their time."""
    templating.prepare()
    tries = access.Tries()
    routes: list[Route] = []
    for page in PAGES:
        routes += [Route(page.path, _as_page(page, sources)), Route(page.api_path, _as_json(page, sources))]
    for action in ACTIONS:
        routes += [
            Route(path, _as_action(action, sources), methods=["POST"]) for path in (action.path, action.api_path)
        ]
    routes += [
        Route("/api/openapi.json", lambda _: responses.as_json(openapi.document(PAGES, ACTIONS))),
        Route("/healthz", lambda _: PlainTextResponse("ok\n")),
        Route("/static/{name}", assets.serve),
        Route(access.LOGIN, _login_page, methods=["GET"]),
        Route(access.LOGIN, _login(rules, tries), methods=["POST"]),
        Route("/logout", _logout, methods=["POST"]),
    ]
    middleware = [
        Middleware(_Told),
        Middleware(
            SessionMiddleware,
            secret_key=access.secret_of(rules.token),
            session_cookie="mooring_ui",
            max_age=access.SESSION_SECONDS,
            same_site="strict",
        ),
        Middleware(access.Access, rules=rules, tries=tries),
    ]
    app = Starlette(
        routes=routes,
        middleware=middleware,
        exception_handlers={HTTPException: _not_there, Exception: _failed},
    )
    paths = {page.name: page.path for page in PAGES} | {action.name: action.path for action in ACTIONS}
    app.state.rules = rules
    app.state.link = lambda name, /, **given: routing.address(paths[name], given)
    return app


class _Told:
    """Gives every answer the headers that keep a page from others, and the time that it took."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                took = (time.perf_counter() - began) * 1000
                there = {name.lower() for name, _ in message["headers"]}
                headers = {**_HEADERS, "Server-Timing": f"total;dur={took:.1f}", "Cache-Control": "no-store"}
                message["headers"] = [
                    *message["headers"],
                    *(
                        (name.encode(), value.encode())
                        for name, value in headers.items()
                        if name.lower().encode() not in there
                    ),
                ]
            await send(message)

        await self._app(scope, receive, told)


def _as_page(page: Page, sources: Sources) -> Callable[[Request], Awaitable[Response]]:
    def show(request: Request) -> Response:
        query, told = _told(page, sources, request)
        here = routing.asked(query) | _path(request)

        def changed(**changes: Any) -> str:
            """Return this page's address with something else asked."""
            return routing.address(page.path, here | changes)

        return responses.page(
            request,
            f"{page.name}.html",
            told=told,
            query=query,
            here=changed,
            api=routing.address(page.api_path, here),
        )

    return _answering(show)


def _as_json(page: Page, sources: Sources) -> Callable[[Request], Awaitable[Response]]:
    return _answering(lambda request: responses.as_json(_told(page, sources, request)[1]))


def _told(page: Page, sources: Sources, request: Request) -> tuple[routing.Query, Any]:
    query = routing.query_of(page.query, request.query_params.multi_items(), strict=responses.wants_json(request))
    return query, page.told(sources, query, **_path(request))


def _path(request: Request) -> dict[str, str]:
    return {name: routing.unescaped(part) for name, part in request.path_params.items()}


def _answering(answer: Callable[[Request], Response]) -> Callable[[Request], Awaitable[Response]]:
    """Return what answers in a thread, and tells what can't be given as what it is."""

    def explained(request: Request) -> Response:
        try:
            return answer(request)
        except responses.Asked as error:
            return responses.problem(request, error.status, str(error))
        except msgspec.ValidationError as error:
            return responses.problem(request, 400, f"The address asks for something invalid: {error}.")
        except (StateError, StoreError, LogError) as error:
            return responses.problem(request, 503, str(error))

    async def answered(request: Request) -> Response:
        return await run_in_threadpool(explained, request)

    return answered


def _as_action(action: Action, sources: Sources) -> Callable[[Request], Awaitable[Response]]:
    async def act(request: Request) -> Response:
        programs = responses.wants_json(request)
        try:
            body = await _body(request)
            if programs:
                reason = msgspec.json.decode(body or b"{}", type=responses.Reason).reason
                given = request.headers.get(access.CSRF_HEADER, "")
            else:
                form = _form(body)
                reason, given = form.get("reason", ""), form.get(access.CSRF_FIELD, "")
        except msgspec.MsgspecError as error:
            return responses.problem(request, 400, f"The body can't be read: {error}.")
        if access.is_forged(request, given):
            return responses.problem(
                request, 403, "This form is too old, or was not made here: load the page again."
            )

        def done(request: Request) -> Response:
            name, where = action.done(sources, request.scope["who"], access.plain_reason(reason), **_path(request))
            see = request.app.state.link(name, **where)
            return responses.as_json(responses.ActDone(see)) if programs else RedirectResponse(see, 303)

        return await _answering(done)(request)

    return act


async def _body(request: Request) -> bytes:
    """Return a body. Raises DecodeError for one that is longer than a form is."""
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > _LONGEST_FORM:
            raise msgspec.DecodeError("it is too long")
    return body


def _form(body: bytes) -> dict[str, str]:
    return {name: values[-1] for name, values in parse_qs(body.decode("utf-8", "replace")).items()}


async def _login_page(request: Request) -> Response:
    return responses.page(
        request, "login.html", next=_own(request.query_params.get("next", "/")), wrong="", name=""
    )


def _login(rules: access.AccessRules, tries: access.Tries) -> Callable[[Request], Awaitable[Response]]:
    async def login(request: Request) -> Response:
        try:
            form = _form(await _body(request))
        except msgspec.DecodeError as error:
            return responses.problem(request, 400, f"The form can't be read: {error}.")
        wanted, who = _own(form.get("next", "/")), form.get("who", "")

        def again(wrong: str, status: int) -> Response:
            return responses.page(request, "login.html", status, next=wanted, wrong=wrong, name=who)

        if access.from_elsewhere(request.headers):
            return responses.problem(request, 403, "This was sent by a page from elsewhere.")
        if tries.exhausted():
            return again("Too many wrong tokens: try again in a minute.", 429)
        if not access.is_token(form.get("token", ""), rules.token):
            tries.failed()
            return again("This token is not the one in MOORING_UI_TOKEN.", 401)
        request.session.clear()
        request.session.update(access.signed_in(who))
        return RedirectResponse(wanted, 303)

    return login


async def _logout(request: Request) -> Response:
    if access.is_forged(request, _form(await _body(request)).get(access.CSRF_FIELD, "")):
        return responses.problem(request, 403, "This form is too old, or was not made here: load the page again.")
    request.session.clear()
    return RedirectResponse("/", 303)


def _own(path: str) -> str:
    """Return a path of the dashboard's own, whatever is given: nobody is led elsewhere from here."""
    safe = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return path if safe else "/"


async def _not_there(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    text = "There is no such page." if error.status_code == 404 else f"{error.detail}."
    answer = responses.problem(request, error.status_code, text)
    answer.headers.update(error.headers or {})
    return answer


async def _failed(request: Request, _: Exception) -> Response:
    return responses.problem(request, 500, "Something went wrong here. The dashboard's own output says what.")
