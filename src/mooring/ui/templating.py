"""Templates: what pages are made with."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import HTTPConnection

from mooring import __version__
from mooring.report import words
from mooring.report.explorer import embed
from mooring.report.page import timed
from mooring.status import OUTCOMES, STATUSES
from mooring.ui import assets

Link = Callable[..., str]


def render(connection: HTTPConnection, template: str, **values: Any) -> str:
    """Return a page's HTML. `link` makes addresses, `static` those of files that come with the dashboard."""
    app = connection.scope.get("app")
    return (
        _environment()
        .get_template(template)
        .render(
            who=connection.scope.get("who"),
            csrf=connection.session.get("csrf", "") if "session" in connection.scope else "",
            may_act=bool(app is not None and app.state.rules.token),
            path=connection.url.path,
            full_path=connection.url.path + (f"?{connection.url.query}" if connection.url.query else ""),
            link=app.state.link if app is not None else None,
            now=datetime.now(UTC),
            **values,
        )
    )


def prepare() -> None:
    """Read the templates, and the files that they name, so that nobody waits for that."""
    environment = _environment()
    for name in environment.list_templates():
        environment.get_template(name)
    assets.prepare()


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("mooring.ui"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "static": assets.named,
        "map_style": assets.map_style,
        "outcomes": OUTCOMES,
        "statuses": STATUSES,
        "version": __version__,
    }
    environment.filters |= {
        "moment": words.moment,
        "number": words.number,
        "percent": words.percent,
        "count": words.count,
        "p_value": words.p_value,
        "measure": words.measure,
        "plural": words.plural,
        "safe_name": words.name,
        "ago": ago,
        "seconds": seconds,
        "size": size,
        "embed": embed,
        "timed": timed,
    }
    return environment


def ago(time: datetime, now: datetime | None = None) -> str:
    """Return how long ago something was.

    >>> ago(datetime(2026, 3, 1, 12, tzinfo=UTC), datetime(2026, 3, 1, 14, 30, tzinfo=UTC))
    '2 hours ago'
    """
    passed = ((now or datetime.now(UTC)) - time).total_seconds()
    if passed < 0:
        return "soon"
    return f"{seconds(passed)} ago" if passed >= 1 else "just now"


def seconds(value: float) -> str:
    """Return a time in its largest unit.

    >>> seconds(0.0042), seconds(0.25), seconds(90), seconds(200_000)
    ('4.2 ms', '250 ms', '90 seconds', '2 days')
    """
    if value < 1:
        return f"{value * 1000:.2g} ms" if value < 0.1 else f"{value * 1000:.0f} ms"
    for unit, length in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if value >= 2 * length:
            return words.plural(int(value / length), unit)
    return words.plural(int(value), "second") if value >= 10 else f"{value:.2g} s"


def size(value: float) -> str:
    """Return a number of bytes.

    >>> size(999), size(2_500_000)
    ('999 B', '2.5 MB')
    """
    for unit, length in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if value >= length:
            return f"{value / length:.3g} {unit}"
    return f"{value:.0f} B"
