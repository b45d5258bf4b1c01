"""Pages as data: where each is found, what can be asked of it, and what it tells. Addresses are made from them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Annotated, Any, NamedTuple, TypeVar
from urllib.parse import quote, urlencode

import msgspec
from msgspec import Meta

_PART = re.compile(r"{(\w+)}")
_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$", re.IGNORECASE)


Moment = Annotated[datetime, Meta(extra_json_schema={"format": "date-time"})]
"""A time in an address, as ISO 8601 has it."""


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """What can be asked of a page in its address."""


class WindowRange(Query, frozen=True, kw_only=True):
    """Which windows a page is about: those that begin in a time, and the newest of them only."""

    start: Annotated[Moment | None, Meta(description="windows that begin from then on; UTC without a zone")] = None
    end: Annotated[Moment | None, Meta(description="and before then")] = None
    newest: Annotated[int, Meta(ge=1, le=1000, description="the newest of them, so many at most")] = 100

    @property
    def span(self) -> tuple[datetime | None, datetime | None]:
        """Its two ends, each with a zone."""
        return _aware(self.start), _aware(self.end)


Asked = TypeVar("Asked", bound=Query)


def query_of(kind: type[Asked], given: Sequence[tuple[str, str]], *, strict: bool = False) -> Asked:
    """Return what an address asks for; strictly, a time is whole and has a zone, else it may be of a form's field.

    Raises msgspec.ValidationError where that is invalid.

    >>> query_of(WindowRange, [("newest", "20"), ("start", "")]).newest
    20
    >>> query_of(WindowRange, [("start", "0.5")])
    Traceback (most recent call last):
    ...
    msgspec.ValidationError: start is no time: write it as 2026-03-01T12:00:00Z
    """
    values = {name: value for name, value in given if strict or value != ""}  # a form sends its empty fields too
    if len({name for name, _ in given}) < len(given):
        raise msgspec.ValidationError("something is asked twice")
    for name in ("start", "end"):  # a number would be taken for seconds since 1970
        if (
            name in values
            and name in kind.__struct_fields__
            and not (_TIME if strict else _DAY).match(values[name])
        ):
            raise msgspec.ValidationError(f"{name} is no time: write it as 2026-03-01T12:00:00Z")
    found = msgspec.convert(values, kind, strict=False)
    for name in set(values) & set(kind.__struct_fields__):
        if getattr(found, name) is None:  # the text "null" is taken for it
            raise msgspec.ValidationError(f"{name} can't be {values[name]}")
    return found


class Page(NamedTuple):
    """A page. Its name is that of its route and of its template.

    `told` is called with the sources, the query, and the parts of the path by name, and gives what is told: an
    instance of `returns`. It raises `Asked` where that is not there.
    """

    name: str
    path: str
    summary: str
    query: type[Query]
    returns: type[msgspec.Struct]
    told: Callable[..., Any]

    @property
    def api_path(self) -> str:
        """Where the same is found as JSON."""
        return f"/api{self.path if self.path != '/' else '/models'}"


class Action(NamedTuple):
    """Something that can be done: a POST.

    `done` is called with the sources, who does it, why, and the parts of the path by name. It returns the name of
    the page to see then, and its path's parts.
    """

    name: str
    path: str
    summary: str
    done: Callable[..., tuple[str, dict[str, str]]]

    @property
    def api_path(self) -> str:
        """Where it is asked for by programs."""
        return f"/api{self.path}"


def parts(path: str) -> list[str]:
    """Return the names of a path's parts.

    >>> parts("/models/{model}/features/{feature}")
    ['model', 'feature']
    """
    return _PART.findall(path)


def address(path: str, given: Mapping[str, Any]) -> str:
    """Return the address of a path with its parts filled in; what is no part of it follows as a query.

    >>> address("/models/{model}", {"model": "a/b c", "newest": 20, "start": None})
    '/models/a%252Fb%20c?newest=20'
    """
    names = parts(path)
    filled = _PART.sub(lambda found: quote(_escaped(str(given[found[1]])), safe=""), path)
    query = {
        name: written(value) for name, value in given.items() if name not in names and value not in (None, "")
    }
    return f"{filled}?{urlencode(query)}" if query else filled


def unescaped(part: str) -> str:
    """Return a part of a path as it was before `address`.

    >>> unescaped(_escaped("100%/day"))
    '100%/day'
    """
    return part.replace("%2F", "/").replace("%25", "%")


def asked(query: Query) -> dict[str, Any]:
    """Return what is asked, without what is so by default.

    >>> asked(WindowRange(newest=20))
    {'newest': 20}
    """
    usual = _usual(type(query))
    return {name: value for name in usual if (value := getattr(query, name)) != usual[name]}


@cache
def _usual(kind: type[Query]) -> dict[str, Any]:
    """Return what is asked by default, by name."""
    return {one.name: one.default for one in msgspec.structs.fields(kind)}


def _escaped(part: str) -> str:
    # A slash in a name would be taken for the path's own, since a server unquotes before it looks.
    return part.replace("%", "%25").replace("/", "%2F")


def written(value: Any) -> str:
    """Return a value as an address has it; a time in UTC."""
    return _aware(value).isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else str(value)


def _aware(time: Any) -> Any:
    """Return a time in UTC, which is meant where it has no zone.

    >>> _aware(datetime.fromisoformat("9999-12-31T23:59:59-01:00")).year
    9999
    """
    if time is None or time.tzinfo is None:
        return time and time.replace(tzinfo=UTC)
    try:
        return time.astimezone(UTC)
    except OverflowError:  # at either end of all times, in UTC there is none
        return (datetime.min if time.year == 1 else datetime.max).replace(tzinfo=UTC)
