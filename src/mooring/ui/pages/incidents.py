"""The incidents of a model, page by page: those that are open, and all."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from mooring.report.words import name
from mooring.state.incidents import Incident, Incidents
from mooring.state.windows import Windows
from mooring.ui import paths
from mooring.ui.incidents import IncidentLine, line
from mooring.ui.path_params import id_of, model_of, time_of
from mooring.ui.responses import NotFound
from mooring.ui.routing import Page, WindowRange, address, asked
from mooring.ui.sources import Sources


class IncidentsQuery(WindowRange, frozen=True, kw_only=True):
    """Which incidents: those that lasted at any time between `start` and `end`, the newest first."""

    newest: Annotated[int, Meta(ge=1, le=200, description="so many at most")] = 50
    which: Annotated[Literal["all", "open", "ended"], Meta(description="only those that are so")] = "all"
    after: Annotated[str, Meta(description="those that come after the incident with this id")] = ""


class IncidentsPage(msgspec.Struct, frozen=True, kw_only=True):
    """Incidents of a model, over all versions and variants, the newest first; `older` is the next page."""

    model: str
    model_page: str
    open_count: int
    incidents: tuple[IncidentLine, ...]
    older: str | None
    newest: str | None


def told(sources: Sources, query: IncidentsQuery, model: str) -> IncidentsPage:
    """Return incidents of a model. Raises NotFound for one that the state does not know."""
    model, known = model_of(model), Incidents(sources.state)
    after: Incident | None = None
    if query.after:
        after = known.named(id_of(query.after, "incident"))
        if after is None or after.model != model:
            raise NotFound(f"There is no such incident of {name(model, 80)}: {name(query.after, 80)}.")
    start, end = (time_of(time) for time in query.span)
    is_open = {"all": None, "open": True, "ended": False}[query.which]
    found = known.newest(model, query.newest + 1, start=start, end=end, is_open=is_open, before=after)
    if not found and not known.newest(model, 1) and not Windows(sources.state).watched(model):
        raise NotFound(f"The state {sources.state.name} has nothing of a model {name(model, 80)!r}.")
    here = {"model": model, **asked(query)}
    shown = found[: query.newest]
    return IncidentsPage(
        model=model,
        model_page=address(paths.MODEL, {"model": model}),
        open_count=known.open_counts(model).get(model, 0),
        incidents=tuple(line(one) for one in shown),
        older=address(paths.INCIDENTS, here | {"after": shown[-1].id}) if len(found) > len(shown) else None,
        newest=address(paths.INCIDENTS, here | {"after": None}) if after is not None else None,
    )


PAGE = Page(
    "incidents",
    paths.INCIDENTS,
    "The incidents of a model: what drifted, from when to when, how bad it was.",
    IncidentsQuery,
    IncidentsPage,
    told,
)
