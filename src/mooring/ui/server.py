"""The dashboard's process."""

from __future__ import annotations

import gc
import socket
import sys

import uvicorn

from mooring.settings import UiSettings
from mooring.state.database import StateError
from mooring.ui import access
from mooring.ui.app import create
from mooring.ui.sources import sources_of


class CantShow(Exception):
    """The dashboard can't be shown; the message says why, and what to do."""


def run(settings: UiSettings) -> None:
    """Show the dashboard until SIGTERM or Ctrl-C. The first line on stdout is its address.

    Raises ValueError where a token is missing, CantShow where the port is taken or the state can't be opened.
    """
    rules = access.rules_of(settings.ui_host, settings.ui_token, settings.ui_allowed_host)
    try:
        sources = sources_of(settings)
    except StateError as error:
        raise CantShow(str(error)) from None
    with sources.state, _listening(settings.ui_host, settings.ui_port) as listener:
        config = uvicorn.Config(
            create(sources, rules),
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=5,
        )
        gc.collect()
        gc.freeze()  # else each full collection goes over all that was imported, which takes longer than a page
        print(_address(settings.ui_host, listener.getsockname()[1]), flush=True)
        if rules.token is None:
            print("only to look at: set MOORING_UI_TOKEN to act from here, too", file=sys.stderr)
        uvicorn.Server(config).run(sockets=[listener])


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise CantShow(
            f"can't listen on {host} port {port}: {error.strerror}; choose another with --port"
        ) from None


def _address(host: str, port: int) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
