"""A retraining: what called for it, what its job says, how the new version compares, and what came of it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
from markupsafe import Markup
from msgspec import Meta

from mooring.report import words
from mooring.retrain import manual
from mooring.retrain.dataset import gather
from mooring.retrain.evaluation.records import Evaluation
from mooring.retrain.job import jobs
from mooring.retrain.machine import RESULT, attempt_directory, gate_directory
from mooring.state.retrainings import Act, Ticket, TicketError, Tickets, TicketStep
from mooring.state.rollouts import Rollouts
from mooring.state.windows import Windows
from mooring.ui import output, paths
from mooring.ui.pages.rollout import Occurred, Watching
from mooring.ui.path_params import model_of, number_of
from mooring.ui.responses import NotFound
from mooring.ui.routing import Page, address
from mooring.ui.sources import Sources

GATE = "gate"
_ATTEMPTS = 20
TITLES: dict[str, str] = {
    "approval": "retraining {number} waits to be approved",
    "dataset": "retraining {number} gathers its training data",
    "training": "retraining {number} trains{attempt}",
    "gating": "the gate compares {version} with the champion",
    "promoting": "{version} becomes the champion",
    "promoted": "{version} came of it, and became the champion",
    "challenger": "{version} has passed the gate, and is rolled out",
    "rolled_back": "{version} came of it, and was taken out of service again",
    "refused": "the gate refused {version}",
    "failed": "retraining {number} failed",
    "cancelled": "retraining {number} was cancelled",
}
"""What is said of a retraining, by its status."""


class OfJob(Watching, frozen=True, kw_only=True):
    """Which output of a retraining is shown, and from where on."""

    output: Annotated[str, Meta(description="`gate`, or the number of an attempt; without, the newest")] = ""
    after: Annotated[
        Annotated[int, Meta(ge=0, le=2**53)] | None, Meta(description="only what was said after so many bytes")
    ] = None


class TrainedOn(msgspec.Struct, frozen=True, kw_only=True):
    """What was trained on. `start` and `end`, the range of the log, are known on the host that gathered it."""

    rows: int
    original_rows: int
    holdout_rows: int
    start: datetime | None = None
    end: datetime | None = None
    unlabelled: int | None = None
    versions: tuple[str, ...] = ()
    label: str | None = None
    notes: tuple[str, ...] = ()


class GateRule(msgspec.Struct, frozen=True):
    """A rule of the gate, whether it was kept, and that as a sentence."""

    name: str
    passed: bool
    message: str


class Compared(msgspec.Struct, frozen=True):
    """A measure of both versions on the holdout."""

    measure: str
    champion: float | None
    candidate: float | None


class GateSaid(msgspec.Struct, frozen=True, kw_only=True):
    """What the gate decided, and why. `improvement` is a share of the champion's value, at least `low`.

    `needed` is the share that `low` has to reach. `differing` says how far both versions' predictions lie apart.
    """

    passed: bool
    rows: int
    confidence: float
    metric: str | None = None
    champion_value: float | None = None
    candidate_value: float | None = None
    improvement: float | None = None
    low: float | None = None
    needed: float | None = None
    differing: str = ""
    measures: tuple[Compared, ...] = ()
    rules: tuple[GateRule, ...] = ()

    @property
    def interval(self) -> Markup:
        """The improvement, what it is at least, and what is needed, as a small figure."""
        return interval(self.improvement, self.low, self.needed)


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A job's output: the end of it, or what came after a place. `next` is where more will be."""

    name: str
    running: bool
    ending: str
    text: str
    next: int
    left_out: int


class JobChoice(msgspec.Struct, frozen=True):
    """A job whose output can be shown."""

    name: str
    text: str
    see: str


class PutInto(msgspec.Struct, frozen=True):
    """The rollout of the version that came of a retraining."""

    number: int
    status: str
    see: str


class RetrainingTold(msgspec.Struct, frozen=True, kw_only=True):
    """A retraining. `can` is what can be done with it now; `phase` changes with that and with its job.

    `drift` is the page of the window that called for it. `elsewhere` says that its files are on another host;
    `job` is left out for whoever has seen this phase already.
    """

    model: str
    number: int
    id: str
    status: str
    under_way: bool
    kind: str
    reason: str
    message: str
    phase: str
    can: tuple[Act, ...]
    attempt: int
    champion: str | None
    candidate: str | None
    run: str | None
    run_link: str | None
    champion_link: str | None
    candidate_link: str | None
    drift: str | None
    windows: tuple[tuple[datetime, datetime], ...]
    steps: tuple[Occurred, ...]
    trained_on: TrainedOn | None
    gate: GateSaid | None
    directory: str
    elsewhere: bool
    jobs: tuple[JobChoice, ...]
    job: Job | None
    rollout: PutInto | None
    created: datetime
    updated: datetime
    ended: datetime | None

    @property
    def title(self) -> str:
        """How it is, in a line."""
        return _title(self)


def told(sources: Sources, query: OfJob, model: str, number: str) -> RetrainingTold:
    """Return a retraining. Raises NotFound."""
    tickets = Tickets(sources.state)
    which = number_of(number, "retraining")
    try:
        ticket = tickets.named(model_of(model), f"{which}")
    except TicketError:
        raise NotFound(f"There is no retraining {which} of {model}.") from None
    steps = tickets.steps(ticket.id)
    details = {step.what: step.detail for step in steps}
    can = tickets.can(ticket)
    phase = f"{ticket.status}-{ticket.attempt}-{'-'.join(can)}"
    jobs = tuple(_jobs(ticket))
    shown = None
    if jobs and query.seen != phase:
        shown = _job(ticket, query.output or _newest(ticket, jobs), query.after)
    return RetrainingTold(
        model=ticket.model,
        number=ticket.number,
        id=ticket.id,
        status=ticket.status,
        under_way=ticket.ended is None,
        kind=ticket.cause.kind,
        reason=ticket.reason,
        message=ticket.message,
        phase=phase,
        can=can,
        attempt=ticket.attempt,
        champion=ticket.champion,
        candidate=ticket.candidate,
        run=ticket.run_id,
        run_link=sources.run_link(ticket.run_id),
        champion_link=sources.version_link(ticket.model, ticket.champion),
        candidate_link=sources.version_link(ticket.model, ticket.candidate),
        drift=_drift(sources, ticket),
        windows=ticket.cause.windows,
        steps=tuple(Occurred(step.what, _said(step), step.who, step.at) for step in steps),
        trained_on=_trained_on(ticket, details["dataset"]) if "dataset" in details else None,
        gate=_gate(ticket, details["gate"]) if "gate" in details else None,
        directory=ticket.directory,
        elsewhere=manual.is_elsewhere(ticket),
        jobs=jobs,
        job=shown,
        rollout=_rollout(sources, ticket),
        created=ticket.created,
        updated=ticket.updated,
        ended=ticket.ended,
    )


def _drift(sources: Sources, ticket: Ticket) -> str | None:
    judged = Windows(sources.state).judged(ticket.cause.verdict) if ticket.cause.verdict else None
    if judged is None:
        return None
    return address(paths.MODEL, {"model": ticket.model, "window": judged.window.id})


def _rollout(sources: Sources, ticket: Ticket) -> PutInto | None:
    """Return the newest rollout that a retraining led to."""
    found = Rollouts(sources.state).of_tickets([ticket.id]).get(ticket.id)
    if found is None:
        return None
    see = address(paths.ROLLOUT, {"model": ticket.model, "number": found.number})
    return PutInto(found.number, found.status, see)


def _said(step: TicketStep) -> str:
    detail = step.detail
    if step.what == "opened":
        return ""  # why stands above
    if step.what == "dataset":
        return f"{detail.get('training_rows', 0):,} rows to train on, {detail.get('holdout_rows', 0):,} kept back"
    if step.what == "trained":
        return f"version {detail.get('version')}, in {detail.get('seconds')} s"
    if step.what == "gate":
        return "passed" if detail.get("passed") else "refused"
    if step.what == "promoted":
        return (
            f"version {detail.get('version')} is the champion, in the place of {detail.get('previous') or 'none'}"
        )
    return "; ".join(
        f"attempt {value}" if name == "attempt" else f"{value}"
        for name, value in detail.items()
        if isinstance(value, str | int) and name != "rollout"
    )


def _trained_on(ticket: Ticket, detail: dict[str, Any]) -> TrainedOn:
    counts = TrainedOn(
        rows=detail.get("training_rows", 0),
        original_rows=detail.get("original_rows", 0),
        holdout_rows=detail.get("holdout_rows", 0),
    )
    try:
        made = gather.read(Path(ticket.directory))
    except (OSError, msgspec.MsgspecError):
        made = None
    if made is None or made.ticket != ticket.id:
        return counts
    return msgspec.structs.replace(
        counts,
        start=made.start,
        end=made.end,
        unlabelled=made.unlabelled,
        versions=tuple(made.versions),
        label=made.label,
        notes=tuple(made.notes),
    )


# The gate


def _gate(ticket: Ticket, detail: dict[str, Any]) -> GateSaid:
    checks = detail.get("checks", ())
    needed = next((one.get("threshold") for one in checks if one.get("name") == "better"), None)
    numbers = {
        name: detail.get(name) for name in ("champion_value", "candidate_value", "improvement", "low", "metric")
    }
    return GateSaid(
        passed=bool(detail.get("passed")),
        rows=detail.get("rows", 0),
        confidence=detail.get("confidence", 0.0),
        needed=needed,
        differing=_differing(detail.get("difference")),
        measures=_measures(ticket),
        rules=tuple(GateRule(one["name"], one["passed"], one["message"]) for one in checks),
        **numbers,
    )


def _differing(detail: dict[str, Any] | None) -> str:
    if not detail:
        return ""
    rows = words.plural(detail["rows"], "row")
    if detail["kind"] == "class":
        return f"{words.percent(detail['share'])} of the classes differ from the champion's, on {rows}"
    half, most = (words.number(detail[name] or 0.0) for name in ("d50", "d95"))
    return (
        f"half of the predictions differ from the champion's by at most {half}, 95 % by at most {most}, on {rows}"
    )


def _measures(ticket: Ticket) -> tuple[Compared, ...]:
    """Return all measures of both versions, where the gate's files are here."""
    try:
        found = msgspec.json.decode((gate_directory(ticket) / RESULT).read_bytes(), type=Evaluation)
    except (OSError, msgspec.MsgspecError):
        return ()
    if found.candidate != ticket.candidate:
        return ()
    champion, candidate = (found.measures.get(who, {}) for who in ("champion", "candidate"))
    return tuple(Compared(name, champion.get(name), candidate.get(name)) for name in {**candidate, **champion})


def interval(improvement: float | None, low: float | None, needed: float | None) -> Markup:
    """Return a line from what an improvement is at least to what it is, with 0 and what is needed marked on it."""
    if improvement is None or low is None:
        return Markup("")
    known = [0.0, improvement, low, needed or 0.0]
    left, right = min(known), max(known)
    room = (right - left) * 0.08 or 0.01
    left, right = left - room, right + room

    def at(value: float) -> str:
        return f"{400 * (value - left) / (right - left):.1f}"

    return Markup(
        '<svg class="interval" viewBox="0 0 400 44" aria-hidden="true"><path class="axis" d="M0 22H400"/>'
        '<path class="zero" d="M{} 8V36"/><path class="needed" d="M{} 4V40"/>'
        '<path class="range" d="M{} 22H{}"/><circle cx="{}" cy="22" r="7"/></svg>'
    ).format(at(0.0), at(needed or 0.0), at(low), at(improvement), at(improvement))


# The jobs


def _jobs(ticket: Ticket) -> Iterator[JobChoice]:
    """Yield the jobs that have said something here."""
    here = {"model": ticket.model, "number": ticket.number}
    for attempt in range(max(1, ticket.attempt - _ATTEMPTS), ticket.attempt + 1):
        if _file(ticket, f"{attempt}").exists():
            see = address(paths.RETRAINING, {**here, "output": attempt})
            yield JobChoice(f"{attempt}", f"training, attempt {attempt}", see)
    if _file(ticket, GATE).exists():
        yield JobChoice(GATE, "the gate's comparison", address(paths.RETRAINING, {**here, "output": GATE}))


def _newest(ticket: Ticket, jobs: tuple[JobChoice, ...]) -> str:
    """Return the job that is of interest: the gate's where it is at it, or has failed; else the last attempt."""
    last = jobs[-1].name
    if last == GATE and len(jobs) > 1 and not (ticket.status == "gating" or _failed_at_gate(ticket)):
        return jobs[-2].name
    return last


def _failed_at_gate(ticket: Ticket) -> bool:
    return ticket.status == "failed" and ticket.candidate is not None


def _directory(ticket: Ticket, name: str) -> Path:
    if name == GATE:
        return gate_directory(ticket)
    if not (name.isascii() and name.isdecimal() and len(name) < 7 and 1 <= int(name) <= max(ticket.attempt, 1)):
        raise NotFound(f"Retraining {ticket.number} has no such job: {words.name(name, 40)}.")
    return attempt_directory(msgspec.structs.replace(ticket, attempt=int(name)))


def _file(ticket: Ticket, name: str) -> Path:
    return _directory(ticket, name) / jobs.OUTPUT


def _job(ticket: Ticket, name: str, after: int | None) -> Job | None:
    directory = _directory(ticket, name)
    try:
        found = jobs.look(directory)
        said = output.read(directory / jobs.OUTPUT, after, ended=not isinstance(found, jobs.Running))
    except (OSError, msgspec.MsgspecError) as error:
        return Job(
            name=name, running=False, ending=f"it can't be read: {error}", text="", next=after or 0, left_out=0
        )
    if said is None:
        return None
    return Job(
        name=name,
        running=isinstance(found, jobs.Running),
        ending=_ending(found),
        text=said.text,
        next=said.next,
        left_out=said.left_out,
    )


def _ending(found: jobs.Running | jobs.Ended | jobs.Lost | None) -> str:
    if isinstance(found, jobs.Lost):
        return "it was killed, or its machine went down"
    if not isinstance(found, jobs.Ended):
        return ""
    took = f"after {found.seconds:.0f} seconds"
    if found.timed_out:
        return f"its time was over {took}"
    if found.stopped:
        return f"it was stopped {took}"
    return f"it ended well {took}" if found.code == 0 else f"it ended with code {found.code} {took}"


def _title(one: RetrainingTold) -> str:
    attempt = f", attempt {one.attempt}" if one.attempt > 1 else ""
    version = f"version {words.name(one.candidate or '', 40)}"
    told = TITLES.get(one.status, one.status).format(number=one.number, attempt=attempt, version=version)
    return told[0].upper() + told[1:]


PAGE = Page(
    "retraining",
    paths.RETRAINING,
    "A retraining: what called for it, its job's output, the gate's comparison, who did what and when.",
    OfJob,
    RetrainingTold,
    told,
)
