"""Files that pages are shown with: Mooring's own, htmx, and plotly's script from its Python package."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

from starlette.requests import Request
from starlette.responses import Response

_TYPES = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
_YEAR = "public, max-age=31536000, immutable"


def named(name: str) -> str:
    """Return the address of a file, which changes with what is in it.

    >>> named("ui.css").startswith("/static/ui.css?")
    True
    """
    return f"/static/{name}?{_digest(name)}"


def serve(request: Request) -> Response:
    """Answer with a file."""
    name = request.path_params["name"]
    if name not in _known():
        return Response("there is no such file\n", 404, media_type="text/plain")
    kind = _TYPES[name.rpartition(".")[2]]
    return Response(_content(name), media_type=kind, headers={"Cache-Control": _YEAR})


def prepare() -> None:
    """Read all files."""
    for name in _known():
        _digest(name)
    map_style()


@cache
def map_style() -> str:
    """Return the id of the style of plotly's maps, '' where it has none: it is left out where the id is there.

    Nothing here draws maps, and the security policy refuses it.
    """
    found = re.search(rb'getElementById\("([0-9a-f]{64})"\)', _content("plotly.min.js"))
    return found[1].decode() if found else ""


@cache
def _known() -> dict[str, Traversable]:
    own = {one.name: one for one in files("mooring.ui").joinpath("static").iterdir()}
    found = {name: one for name, one in own.items() if name.rpartition(".")[2] in _TYPES}
    common = files("mooring.report").joinpath("templates").joinpath("common.css")
    return found | {"common.css": common, "plotly.min.js": files("plotly") / "package_data" / "plotly.min.js"}


@cache
def _content(name: str) -> bytes:
    return _known()[name].read_bytes()


@cache
def _digest(name: str) -> str:
    return hashlib.sha256(_content(name)).hexdigest()[:12]
