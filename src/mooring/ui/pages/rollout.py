"""A rollout: where it stands, which share of the requests goes where, how near the guards are to failing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from markupsafe import Markup
from msgspec import Meta

from mooring.report import words
from mooring.serving.rollout import power
from mooring.state.leases import Holder
from mooring.state.retrainings import TicketError, Tickets
from mooring.state.rollouts import TO_GO, Event, Rollout, RolloutError, Rollouts, Served, Wish, in_words
from mooring.ui import paths
from mooring.ui.path_params import model_of, number_of
from mooring.ui.responses import NotFound
from mooring.ui.routing import Page, Query, address
from mooring.ui.sources import Sources

_OTHERS = 20
_HUNDRED = 0.999
TITLES: dict[str, str] = {
    "loading": "Version {version} is being loaded",
    "checking": "Version {version} is being checked",
    "stepping": "Version {version} goes through its steps",
    "promoting": "Version {version} answers everything, and becomes the champion",
    "promoted": "Version {version} was put into service",
    "rolling_back": "Version {version} is being rolled back",
    "rolled_back": "Version {version} was rolled back",
    "aborting": "Version {version} is being taken out of service",
    "aborted": "Version {version} was taken out of service",
    "superseded": "Another version came before version {version} was done",
}
"""What is said of a rollout, by its status."""
Place = Literal["done", "now", "next", "ended", "left out"]
"""Where a stage stands: behind it, in it, before it, where it ended, or what was never reached."""


class Watching(Query, frozen=True, kw_only=True):
    """What somebody who looks on has seen already."""

    seen: Annotated[str, Meta(description="the page's own, for its live part: the `phase` that it shows")] = ""


class Stage(msgspec.Struct, frozen=True):
    """A stage of a rollout: that it is loaded, checked, a step of the plan, or that it answers everything."""

    name: str
    place: Place


class StepClock(msgspec.Struct, frozen=True):
    """How far a step is: seconds and requests that have passed, and those that it takes at least."""

    seconds: float
    of_seconds: float
    requests: int
    of_requests: int


class Weight(msgspec.Struct, frozen=True):
    """Which share of the requests a version gets now: a shadow gets copies, whose answers nobody sees."""

    version: str
    variant: Literal["champion", "canary", "shadow"]
    share: float


class Guard(msgspec.Struct, frozen=True, kw_only=True):
    """A guard. It fails once `p_value` is below `fails_below`; `evidence` is how much of that there is, 0 to 1."""

    name: str
    value: float | None
    limit: float | None
    p_value: float = msgspec.field(name="chance")
    fails_below: float
    evidence: float
    samples: int
    failed: bool
    note: str = ""

    @property
    def bar(self) -> Markup:
        """Its evidence as a small figure, which tells nothing that does not stand beside it."""
        return bar(self.evidence, failed=self.failed)


class Occurred(msgspec.Struct, frozen=True):
    """Something that happened to a rollout or a retraining, in words, who did it, and when."""

    what: str
    text: str
    who: str
    at: datetime


class OtherRollout(msgspec.Struct, frozen=True):
    """Another rollout of the same model."""

    number: int
    version: str
    status: str
    created: datetime
    see: str


class Asking(msgspec.Struct, frozen=True):
    """What somebody has asked for and the supervisor has not done yet."""

    wish: Wish
    who: str
    reason: str


class RolloutTold(msgspec.Struct, frozen=True, kw_only=True):
    """A rollout. `can` is what can be asked of it now, `phase` changes with that.

    `supervisor` is who rolls out, None where nobody does now. `retraining` is where the retraining is told that
    the version came of, `sees` is how large a fault its step finds, `version_link` and `previous_link` where
    MLflow's UI shows the versions.
    """

    model: str
    number: int
    version: str
    previous: str | None
    cause: str
    status: str
    paused: bool
    under_way: bool
    reason: str
    phase: str
    can: tuple[Wish, ...]
    asked: Asking | None
    supervisor: str | None
    stages: tuple[Stage, ...]
    step: int | None
    steps: int
    clock: StepClock | None
    sees: str
    weights: tuple[Weight, ...]
    counts: dict[str, int]
    guards: tuple[Guard, ...]
    events: tuple[Occurred, ...]
    serving: tuple[Served, ...]
    others: tuple[OtherRollout, ...]
    retraining: str | None
    retraining_number: int | None
    version_link: str | None
    previous_link: str | None
    who: str
    created: datetime
    updated: datetime
    ended: datetime | None

    @property
    def title(self) -> str:
        """How it is, in a line."""
        return _title(self)

    @property
    def shares(self) -> Markup:
        """Which version answers which share of the requests, as a bar."""
        return shares_bar(self.weights)


def told(sources: Sources, _: Watching, model: str, number: str) -> RolloutTold:
    """Return a rollout. Raises NotFound."""
    model, which, found = model_of(model), number_of(number, "rollout"), Rollouts(sources.state)
    try:
        rollout = found.numbered(model, which)
    except RolloutError:
        raise NotFound(f"There is no rollout {which} of {model}.") from None
    events = found.events(rollout.id)
    holder: Holder | None = sources.state.holder(f"serve/{model}")
    retraining = _retraining(sources, rollout)
    at = rollout.at
    return RolloutTold(
        model=model,
        number=rollout.number,
        version=rollout.version,
        previous=rollout.previous,
        cause="it passed the gate" if rollout.cause == "challenger" else "the alias was moved to it",
        status=rollout.status,
        paused=rollout.paused,
        under_way=rollout.ended is None,
        reason=rollout.reason,
        phase=f"{rollout.ended is None}-{'-'.join(rollout.can)}",
        can=rollout.can,
        asked=Asking(rollout.wish, rollout.wish_by or "somebody", rollout.wish_reason or "")
        if rollout.wish and rollout.ended is None
        else None,
        supervisor=holder.holder if holder is not None else None,
        stages=stages_of(rollout, events),
        step=rollout.step + 1 if at is not None else None,
        steps=len(rollout.plan),
        clock=StepClock(rollout.seconds, at.seconds, rollout.requests, at.requests) if at is not None else None,
        sees=power.in_words(at.requests, rollout.evidence.get("rows", [])) if at is not None else "",
        weights=weights_of(rollout),
        counts=rollout.counts,
        guards=tuple(_guard(row) for row in rollout.evidence.get("rows", ())),
        events=tuple(Occurred(one.what, said(one.what, one.detail), one.who, one.at) for one in events),
        serving=tuple(found.serving(model)),
        others=tuple(_other(one) for one in found.newest(model, _OTHERS) if one.id != rollout.id),
        retraining=address(paths.RETRAINING, {"model": model, "number": retraining}) if retraining else None,
        retraining_number=retraining,
        version_link=sources.version_link(model, rollout.version),
        previous_link=sources.version_link(model, rollout.previous),
        who=rollout.who,
        created=rollout.created,
        updated=rollout.updated,
        ended=rollout.ended,
    )


def stages_of(rollout: Rollout, events: Sequence[Event]) -> tuple[Stage, ...]:
    """Return the stages that a rollout goes through, and where each stands."""
    names = ["load", "check", *map(str, rollout.plan), "full"]
    happened = {event.what for event in events}
    reached = 2 + rollout.step if "step" in happened else 1 if "loaded" in happened else 0
    full = "full" in happened
    return tuple(
        Stage(name, _place(rollout, at, reached, full=full, last=at == len(names) - 1))
        for at, name in enumerate(names)
    )


def _place(rollout: Rollout, at: int, reached: int, *, full: bool, last: bool) -> Place:
    under_way = rollout.status in TO_GO
    if last and full:
        return "now" if rollout.status == "promoting" else "done" if rollout.status == "promoted" else "ended"
    if at < reached or (at == reached and full):
        return "done"
    if at == reached and not full:
        return "now" if under_way else "ended"
    return "next" if under_way else "left out"


def weights_of(rollout: Rollout) -> tuple[Weight, ...]:
    """Return which share of the requests goes where as long as a rollout is under way; nothing once it has ended.

    >>> from mooring.rollout_plan import parse
    >>> from mooring.state.rollouts import moved, new
    >>> stepping = moved(new("wine", "2", "1", "challenger", parse(["canary 5%"])), "stepping")
    >>> [(one.version, one.variant, one.share) for one in weights_of(stepping)]
    [('1', 'champion', 0.95), ('2', 'canary', 0.05)]
    """
    if rollout.ended is not None:
        return ()
    if rollout.status == "promoting":
        return (Weight(rollout.version, "champion", 1.0),)
    at = rollout.at
    rest = 1.0 - at.share if at is not None and at.kind == "canary" else 1.0
    champion = (Weight(rollout.previous, "champion", rest),) if rollout.previous is not None else ()
    return (*champion, Weight(rollout.version, at.kind, at.share)) if at is not None else champion


def said(what: str, detail: dict[str, Any]) -> str:
    """Return what is to be known of something that happened to a rollout, in a line.

    >>> said("asked", {"wish": "abort", "reason": "it is slow"}), said("step", {"step": "canary 5% 1m 100"})
    ('abort: it is slow', 'canary 5% 1m 100')
    """
    if what == "begun":
        return ", ".join([*map(str, detail.get("plan", ())), "full"])
    if what == "loaded":
        return "its server answers; requests that the champion has answered are put to it"
    if what == "full":
        return "it answers all requests"
    joined = ": ".join if what == "asked" else "; ".join
    return joined(f"{value}" for value in detail.values() if value not in (None, "", [], {}))


def evidence_of(p_value: float, fails_below: float) -> float:
    """Return how much of the evidence that a guard takes to fail there is, 0 to 1.

    >>> evidence_of(1.0, 0.01), evidence_of(0.1, 0.01), evidence_of(1e-9, 0.01)
    (0.0, 0.5, 1.0)
    """
    if not 0 < fails_below < 1 or p_value >= 1:
        return 0.0
    return min(math.log(max(p_value, 1e-300)) / math.log(fails_below), 1.0)


def bar(share: float, *, failed: bool = False) -> Markup:
    """Return how much there is of a whole, as a bar; what has failed is striped as well as coloured."""
    width = max(100 * share, 0.5 if share > 0 else 0)
    stripes = "".join(f"M{at} 0l-6 10" for at in range(6, 106, 8)) if failed else ""
    return Markup(
        '<svg class="near{}" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        '<path class="full" d="M0 0h{:.1f}v10H0z"/><path class="stripes" d="{}"/></svg>'
    ).format(" failed" if failed else " close" if share >= 0.5 else "", width, stripes)


def shares_bar(weights: Sequence[Weight]) -> Markup:
    """Return which version answers which share, as a bar; copies for a shadow lie beneath it."""
    answering = [one for one in weights if one.variant != "shadow"]
    shadows = [one for one in weights if one.variant == "shadow"]
    parts, at = [], 0.0
    for one in answering:
        parts.append(Markup('<path class="{}" d="M{:.2f} 0h{:.2f}v10h-{:.2f}z"/>').format(
            one.variant, at, 100 * one.share, 100 * one.share))  # fmt: skip
        at += 100 * one.share
    parts += [Markup('<path class="shadow" d="M0 13h{:.2f}v5H0z"/>').format(100 * one.share) for one in shadows]
    return Markup('<svg class="shares" viewBox="0 0 100 {}" preserveAspectRatio="none" aria-hidden="true">{}</svg>'
                  ).format(18 if shadows else 10, Markup("").join(parts))  # fmt: skip


def _guard(row: dict[str, Any]) -> Guard:
    p_value, below = row["chance"], row["fails_below"]
    return Guard(
        name=row["name"],
        value=row["value"],
        limit=row["limit"],
        p_value=p_value,
        fails_below=below,
        evidence=1.0 if row["failed"] else evidence_of(p_value, below),
        samples=row["samples"],
        failed=row["failed"],
        note=row.get("note", ""),
    )


def _other(one: Rollout) -> OtherRollout:
    see = address(paths.ROLLOUT, {"model": one.model, "number": one.number})
    return OtherRollout(one.number, one.version, in_words(one.status), one.created, see)


def _retraining(sources: Sources, rollout: Rollout) -> int | None:
    if rollout.ticket_id is None:
        return None
    try:
        return Tickets(sources.state).named(rollout.model, rollout.ticket_id).number
    except TicketError:  # it is of another state
        return None


def _title(one: RolloutTold) -> str:
    if one.under_way and one.paused:
        return f"The rollout of version {words.name(one.version, 40)} is paused"
    if one.status == "stepping":
        return words.name(_share_in_words(one), 160)
    return words.name(TITLES.get(one.status, one.status).format(version=one.version), 160)


def _share_in_words(one: RolloutTold) -> str:
    new = next((weight for weight in one.weights if weight.variant != "champion"), None)
    if new is None:
        return TITLES["stepping"].format(version=one.version)
    share = "all" if new.share > _HUNDRED else words.percent(new.share)
    if new.variant == "shadow":
        return f"Version {one.version} gets a copy of {share} of the requests"
    return f"Version {one.version} answers {share} of the requests"


PAGE = Page(
    "rollout",
    paths.ROLLOUT,
    "A rollout: where it stands, its guards, what was asked of it, by whom and when.",
    Watching,
    RolloutTold,
    told,
)
