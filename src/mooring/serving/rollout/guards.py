"""Guards of a rollout: rules that a new version must keep while it answers, looked at after every request.

Each guard tests that the new version is no worse than the champion by more than is let pass, with a test that may
be looked at as often as one likes (see `sequential`). All together they fail a version that keeps the rules with
at most the chance `false_alarms`, however long the rollout takes.

What hits both versions alike, such as a client's own mistakes or a busy machine, must not count: a shadow is
compared with the champion's answer of the same request, and a canary with the champion's answers of the same time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple, Self

import msgspec

from mooring.payload import Frame
from mooring.retrain.evaluation.difference import Difference
from mooring.serving.protocol import Outcome
from mooring.serving.rollout import answers
from mooring.serving.rollout.sequential import Bet
from mooring.settings import ServeSettings

GUARDS = 5
"""How many guards share the chance of a false alarm."""
SLOWER = 0.05
"""How much larger the share of slow answers may be than the champion's; a 95th percentile leaves 5 %."""
TYPICALLY_SLOWER = 0.5
"""Which share of answers may take over `latency` times as long as the champion's at the same moment: of a version
that is just so much slower, half do."""
LOST = 0.5
"""Which share of the copies for the shadow may be dropped or time out."""
SLACK_SECONDS = 0.002
"""So much longer an answer may take in any case: less is nothing that a client sees."""
LEAST_TIMES = 50
"""Answers of the champion that it takes to know its 95th percentile."""
_MOST_TIMES = 500
_MOST_ALONE = 8
"""Answers of one version that wait for one of the other to be compared with."""
_OF_TYPICAL = 0.8
"""Which part of the latency guard's chance of a false alarm the typical answer has; the tail has the rest."""
_LEAST_SHARE = {"number": 0.05, "class": 0.02}
"""So many predictions differ in any case, for the limit of how many may: few rows of a holdout say no better."""
_MOST_SHARE = 0.9
"""No limit lets pass more than this share, else nothing could exceed it."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a new version may do worse than the champion, as the settings `rollout_…` have it."""

    errors: float = 0.01
    latency: float = 2.0
    quality: float = 0.01
    difference: float = 3.0
    false_alarms: float = 0.01

    @classmethod
    def of(cls, settings: ServeSettings) -> Self:
        """Return those of the settings of `mooring serve`."""
        return cls(**{name: getattr(settings, f"rollout_{name}") for name in cls.__struct_fields__})


class GuardRow(msgspec.Struct, frozen=True):
    """A guard as people see it.

    `value` is a share of requests, of errors by how much it is larger than the champion's, and `limit` what is let
    pass. `chance` is at most the chance of such evidence where nothing is wrong; the guard
    fails below `fails_below`. `samples` counts what it has compared. `note` says what it waits for, or why it is
    not there.
    """

    name: str
    value: float | None
    limit: float | None
    chance: float
    fails_below: float
    samples: int
    failed: bool
    note: str = ""


class Share(msgspec.Struct):
    """How many of all."""

    hits: int = 0
    of: int = 0

    def add(self, hit: bool) -> None:
        """Count one."""
        self.hits += hit
        self.of += 1

    @property
    def value(self) -> float:
        """The share; 0 of none."""
        return self.hits / self.of if self.of else 0.0

    @property
    def in_words(self) -> str:
        """The share in percent."""
        return _percent(self.value)


class Together(msgspec.Struct):
    """Answers of the canary and of the champion from the same time, as short a time as has both.

    To compare each of the canary's with the champion's average of all times would take trouble that both have at
    once for a fault. Only where many of the canary's come without one of the champion's, that average has to do.
    """

    canary: Share = msgspec.field(default_factory=Share)
    champion: Share = msgspec.field(default_factory=Share)
    known: Share = msgspec.field(default_factory=Share)

    def add(self, outcome: Outcome, hit: bool) -> float | None:
        """Count an answer; return by how much the canary's share was larger, once there are both."""
        if outcome.variant == "champion":
            self.champion.add(hit)
            self.knew(hit)
        else:
            self.canary.add(hit)
        if not self.canary.of or not (self.champion.of or self.canary.of >= _MOST_ALONE):
            return None
        # Laplace's rule, so that few answers of the champion claim little.
        other = self.champion.value if self.champion.of else (self.known.hits + 1) / (self.known.of + 2)
        value = self.canary.value - other
        self.canary, self.champion = Share(), Share()
        return value

    def knew(self, hit: bool) -> None:
        """Count an answer of the champion for its average alone; old ones count less and less."""
        self.known.add(hit)
        if self.known.of >= 2000:
            self.known = Share(self.known.hits // 2, self.known.of // 2)


def _paired() -> Bet:
    return Bet(low=-1.0)


class ErrorGuard(msgspec.Struct):
    """The share of failed requests is larger than the champion's by `errors` at most."""

    bet: Bet = msgspec.field(default_factory=_paired)
    together: Together = msgspec.field(default_factory=Together)
    challenger: Share = msgspec.field(default_factory=Share)
    champion: Share = msgspec.field(default_factory=Share)

    def observe(self, outcome: Outcome, limits: Limits) -> None:
        """Take an answer of any version."""
        failed = not outcome.ok
        if outcome.variant == "shadow":
            if outcome.champion_ok is None:
                return
            self.challenger.add(failed)
            self.champion.add(not outcome.champion_ok)
            self.together.knew(not outcome.champion_ok)
            self.bet.update(failed - (not outcome.champion_ok), limits.errors)
            return
        (self.champion if outcome.variant == "champion" else self.challenger).add(failed)
        more = self.together.add(outcome, failed)
        if more is not None:
            self.bet.update(more, limits.errors)

    def describe(self, limits: Limits) -> str:
        """Return what was seen, as a sentence."""
        own, other = self.challenger, self.champion
        return (
            f"errors: {own.hits:,} of {own.of:,} requests failed ({own.in_words}), the champion's "
            f"{other.in_words}; at most {_percent(limits.errors)} more is let pass"
        )


class Moment(msgspec.Struct):
    """How long the canary's answers took, and the champion's, in as short a time as has both; the newest few."""

    canary: list[float] = []
    champion: list[float] = []

    def add(self, outcome: Outcome) -> tuple[list[float], list[float]] | None:
        """Take an answer; return the canary's times and the champion's, once there are both."""
        times = self.champion if outcome.variant == "champion" else self.canary
        times.append(outcome.seconds)
        del times[:-_MOST_ALONE]
        if not self.canary or not self.champion:
            return None
        found = self.canary, self.champion
        self.canary, self.champion = [], []
        return found


class Tail(msgspec.Struct):
    """The share of answers that take longer than `slow` seconds is larger than the champion's by 5 % at most.

    `slow` is `latency` times the champion's 95th percentile, estimated from those of its answers that were there
    before.
    """

    bet: Bet = msgspec.field(default_factory=_paired)
    together: Together = msgspec.field(default_factory=Together)
    challenger: Share = msgspec.field(default_factory=Share)
    champion: Share = msgspec.field(default_factory=Share)
    times: list[float] = []
    unread: int = 0
    p95: float | None = None

    def observe(self, outcome: Outcome, limits: Limits) -> None:
        """Take an answer of any version."""
        slow = self.slow(limits)
        if slow is not None:
            self._judge(outcome, slow)
        if outcome.variant == "champion":
            self._learn(outcome.seconds)
        elif outcome.champion_seconds is not None:
            self._learn(outcome.champion_seconds)

    def slow(self, limits: Limits) -> float | None:
        """Return how many seconds are slow; None before the champion's are known."""
        return None if self.p95 is None else _slow(self.p95, limits)

    def _judge(self, outcome: Outcome, slow: float) -> None:
        over = outcome.seconds > slow
        if outcome.variant == "shadow":
            if outcome.champion_seconds is None:
                return
            other = outcome.champion_seconds > slow
            self.champion.add(other)
            self.together.knew(other)
            more: float | None = over - other
        else:
            if outcome.variant == "champion":
                self.champion.add(over)
            more = self.together.add(outcome, over)
        if outcome.variant != "champion":
            self.challenger.add(over)
        if more is not None:
            self.bet.update(more, SLOWER)

    def _learn(self, seconds: float) -> None:
        self.times.append(seconds)
        if len(self.times) > _MOST_TIMES:
            self.times.pop(0)
        self.unread += 1
        if len(self.times) >= LEAST_TIMES and self.unread >= LEAST_TIMES:
            self.unread = 0
            self.p95 = sorted(self.times)[math.ceil(0.95 * len(self.times)) - 1]

    def describe(self, limits: Limits) -> str:
        """Return what was seen, as a sentence."""
        own, other, slow = self.challenger, self.champion, 1000 * (self.slow(limits) or math.nan)
        return (
            f"latency: {own.hits:,} of {own.of:,} answers were slow ({own.in_words}), the champion's "
            f"{other.in_words}; at most {_percent(SLOWER)} more is let pass. Slow is now over {slow:.3g} ms, "
            f"{limits.latency:g} times the champion's 95th percentile"
        )


class LatencyGuard(msgspec.Struct):
    """At most half of the answers take more than `latency` times as long as the champion's at the same moment.

    A shadow's is compared with the champion's of the same request, a canary's with those next to it in time. So a
    busy machine, which slows both, hides nothing and is held against nobody: of two versions that are equally fast
    either is the slower one half of the time, however their times are spread. What is slow only now and then is
    left to the `tail`. Failed requests say nothing here.
    """

    bet: Bet = msgspec.field(default_factory=Bet)
    moment: Moment = msgspec.field(default_factory=Moment)
    seen: float = 0.0
    tail: Tail = msgspec.field(default_factory=Tail)

    def observe(self, outcome: Outcome, limits: Limits) -> None:
        """Take an answer of any version."""
        if not outcome.ok or (outcome.variant == "shadow" and not outcome.champion_ok):
            return
        self.tail.observe(outcome, limits)
        if outcome.variant != "shadow":
            both = self.moment.add(outcome)
        elif outcome.champion_seconds is not None:
            both = [outcome.seconds], [outcome.champion_seconds]
        else:
            both = None
        if both is None:
            return
        own, other = both
        slower = sum(one > _slow(before, limits) for one in own for before in other) / (len(own) * len(other))
        self.seen += slower
        self.bet.update(slower, TYPICALLY_SLOWER)

    @property
    def chance(self) -> float:
        """The chance at most of evidence as strong as the stronger of the two comparisons has."""
        return min(1.0, self.bet.chance / _OF_TYPICAL, self.tail.bet.chance / (1 - _OF_TYPICAL))

    @property
    def is_tail(self) -> bool:
        """Whether it is the tail that there is more evidence of."""
        return self.tail.bet.chance / (1 - _OF_TYPICAL) < self.bet.chance / _OF_TYPICAL

    def exceeds(self, alpha: float) -> bool:
        """Return whether either comparison has failed, where both together may wrongly with the chance `alpha`."""
        return self.bet.exceeds(alpha * _OF_TYPICAL) or self.tail.bet.exceeds(alpha * (1 - _OF_TYPICAL))

    @property
    def share(self) -> float | None:
        """The share of comparisons in which the new version took too long."""
        return self.seen / self.bet.samples if self.bet.samples else None

    def describe(self, limits: Limits) -> str:
        """Return what was seen, as a sentence."""
        if self.is_tail:
            return self.tail.describe(limits)
        return (
            f"latency: {_percent(self.share or 0.0)} of {self.bet.samples:,} answers took more than "
            f"{limits.latency:g} times as long as the champion's at the same moment; at most "
            f"{_percent(TYPICALLY_SLOWER)} is let pass"
        )


class QualityGuard(msgspec.Struct):
    """The share of answers without usable predictions is `quality` at most.

    These are answers that can't be read, have another number of rows than the request, lack fields that all of the
    champion's have, have another kind of value there (text for a number, say), or none, or no finite number. What
    the champion's answer to the same request lacks too does not count; where its answer is not known, the share of
    its answers that lack something is let pass on top. Answers in a form that is not known to hold predictions,
    such as those of a chat, are not judged.
    """

    bet: Bet = msgspec.field(default_factory=Bet)
    challenger: Share = msgspec.field(default_factory=Share)
    champion: Share = msgspec.field(default_factory=Share)
    uncounted: Share = msgspec.field(default_factory=Share)
    form: answers.Form = msgspec.field(default_factory=answers.Form)
    last: str = ""

    def compare(self, own: Frame | None, other: Frame | None, limits: Limits) -> bool:
        """Take both versions' answers to a request; return whether the first is usable."""
        if other is None:
            return True
        self.champion.add(bool(answers.lacking(other)))
        unlike = "it can't be read" if own is None else answers.unlike(own, other, self.form)
        return self._take(unlike or (answers.missing(own, other) if own is not None else None), limits.quality)

    def observe(self, own: Frame | None, asked: frozenset[int], limits: Limits) -> bool:
        """Take an answer of the new version alone, to a request of so many rows; return whether it is usable."""
        if own is not None:
            # A model may answer other rows than it is asked, such as those of a forecast.
            counts = self.uncounted.of and self.uncounted.value < 0.5
            lack = answers.miscounted(own, asked) if counts else None
            lack = lack or self.form.lacks(own) or answers.missing(own)
        elif self.challenger.of + self.champion.of:
            lack = "it can't be read"
        else:
            return True  # whether this model's answers can be read at all is not known before one was
        return self._take(lack, limits.quality + self.champion.value)

    def observe_champion(self, answer: Frame | None, asked: frozenset[int]) -> None:
        """Take an answer of the champion to a request that the new version did not get."""
        if answer is not None:
            self.form.learn(answer)
            uncounted = answers.miscounted(answer, asked) is not None
            self.uncounted.add(uncounted)
            self.champion.add(uncounted or bool(answers.lacking(answer)))
        elif self.champion.of:
            self.champion.add(True)

    def _take(self, lack: str | None, limit: float) -> bool:
        self.challenger.add(lack is not None)
        self.last = lack or self.last
        self.bet.update(float(lack is not None), _allowed(limit))
        return lack is None

    def describe(self, limits: Limits) -> str:
        """Return what was seen, as a sentence."""
        own = self.challenger
        return (
            f"quality: {own.hits:,} of {own.of:,} answers have no usable predictions ({own.in_words}); at most "
            f"{_percent(limits.quality)} is let pass. The last one: {self.last}"
        )


class DifferenceGuard(msgspec.Struct):
    """Predictions differ from the champion's at most `difference` times as often as on the gate's holdout.

    Only a shadow's can be compared: one row of each request, as rows of one request are alike.
    """

    bet: Bet = msgspec.field(default_factory=Bet)
    challenger: Share = msgspec.field(default_factory=Share)

    def observe(self, own: Frame, other: Frame, holdout: Difference, limits: Limits) -> None:
        """Take the answers of both versions to a request."""
        if not own.rows or len(own.rows) != len(other.rows):
            return
        at = self.challenger.of % len(own.rows)
        differs = _differs(own, other, at, holdout)
        if differs is None:
            return
        self.challenger.add(differs)
        self.bet.update(float(differs), self.limit(holdout, limits))

    @staticmethod
    def limit(holdout: Difference, limits: Limits) -> float:
        """Return the share that may differ: more than the holdout's by `difference`, and by what chance gives."""
        share = max(holdout.share, _LEAST_SHARE[holdout.kind])
        return _allowed(max(limits.difference * share, _at_most(share, holdout.requests)))

    def describe(self, holdout: Difference, limits: Limits) -> str:
        """Return what was seen, as a sentence."""
        own = self.challenger
        how = f"by more than {holdout.d95:.4g}" if holdout.d95 is not None else "by class"
        return (
            f"difference: {own.hits:,} of {own.of:,} predictions differ {how} from the champion's "
            f"({own.in_words}), on the gate's holdout {_percent(holdout.share)}; at most "
            f"{_percent(self.limit(holdout, limits))} is let pass"
        )


class CopyGuard(msgspec.Struct):
    """At most half of the copies for the shadow are lost: dropped, as it has no room for them, or timed out.

    Those of a second count as one, since a moment's pause loses many at once.
    """

    bet: Bet = msgspec.field(default_factory=Bet)
    lost: Share = msgspec.field(default_factory=Share)

    def observe(self, lost: int, copies: int) -> None:
        """Take how many copies of a second were lost."""
        self.lost = Share(self.lost.hits + lost, self.lost.of + copies)
        self.bet.update(lost / copies, LOST)

    def describe(self) -> str:
        """Return what was seen, as a sentence."""
        return (
            f"copies: {self.lost.hits:,} of {self.lost.of:,} copies for the shadow were dropped or timed out "
            f"({self.lost.in_words}), as it does not keep up; at most {_percent(LOST)} is let pass"
        )


class _State(msgspec.Struct):
    errors: ErrorGuard = msgspec.field(default_factory=ErrorGuard)
    latency: LatencyGuard = msgspec.field(default_factory=LatencyGuard)
    quality: QualityGuard = msgspec.field(default_factory=QualityGuard)
    difference: DifferenceGuard = msgspec.field(default_factory=DifferenceGuard)
    copies: CopyGuard = msgspec.field(default_factory=CopyGuard)
    seen: int = 0


class _Found(NamedTuple):
    name: str
    evidence: Bet | LatencyGuard
    description: str
    value: float | None
    limit: float | None
    note: str = ""

    @property
    def samples(self) -> int:
        evidence = self.evidence
        if isinstance(evidence, Bet):
            return evidence.samples
        return (evidence.tail.bet if evidence.is_tail else evidence.bet).samples


class Guards:
    """The guards of one rollout.

    Take the outcomes of the champion, and of one challenger as canary or shadow, in the order in which they ended.
    `holdout` is how the two differed for the gate, None where it has not compared them: then the guard of
    differences is not there. `wealth` is what `state` gave before a restart.

    >>> guards = Guards(Limits(), None)
    >>> for request in range(40):
    ...     guards.observe(Outcome("3", "champion", True, 0.01))
    ...     guards.observe(Outcome("4", "canary", request < 10, 0.01))
    >>> guards.failed()
    "errors: 30 of 40 requests failed (75 %), the champion's 0 %; at most 1 % more is let pass"
    """

    def __init__(self, limits: Limits, holdout: Difference | None, wealth: dict[str, Any] | None = None) -> None:
        self._limits = limits
        self._holdout = holdout
        self._state = msgspec.convert(wealth or {}, _State)

    def observe(self, outcome: Outcome) -> None:
        """Take how a version answered a request."""
        state, limits = self._state, self._limits
        state.errors.observe(outcome, limits)
        if outcome.variant == "champion":
            if outcome.ok and outcome.answer is not None:
                state.quality.observe_champion(answers.predictions(outcome.answer), _rows_asked(outcome))
            state.latency.observe(outcome, limits)
            return
        state.seen += 1
        if self._is_usable(outcome):  # how soon others come says nothing
            state.latency.observe(outcome, limits)

    def _is_usable(self, outcome: Outcome) -> bool:
        """Judge what an answer of the challenger says; return whether it has predictions, as far as is known."""
        state, limits = self._state, self._limits
        if not outcome.ok or outcome.answer is None:
            return outcome.ok
        own = answers.predictions(outcome.answer)
        if not outcome.champion_ok or outcome.champion_answer is None:
            return state.quality.observe(own, _rows_asked(outcome), limits)
        other = answers.predictions(outcome.champion_answer)
        usable = state.quality.compare(own, other, limits)
        if own is not None and other is not None and self._holdout is not None:
            state.difference.observe(own, other, self._holdout, limits)
        return usable

    def observe_copies(self, lost: int, copies: int) -> None:
        """Take how many of a second's copies for the shadow were dropped or timed out."""
        self._state.copies.observe(lost, copies)

    def seen(self) -> int:
        """Return how many requests of the challenger were observed."""
        return self._state.seen

    def failed(self) -> str | None:
        """Return what the first guard that failed has seen, as a sentence; None where none has.

        What has failed stays so.
        """
        state = self._state
        bets = (state.errors.bet, state.latency, state.quality.bet, state.difference.bet, state.copies.bet)
        if not any(bet.exceeds(self._alpha) for bet in bets):  # it is asked after every request
            return None
        return next((found.description for found in self._found() if found.evidence.exceeds(self._alpha)), None)

    def rows(self) -> list[GuardRow]:
        """Return all guards as people see them."""
        return [
            GuardRow(
                name=found.name,
                value=found.value,
                limit=found.limit,
                chance=found.evidence.chance,
                fails_below=self._alpha,
                samples=found.samples,
                failed=found.evidence.exceeds(self._alpha),
                note=found.note,
            )
            for found in self._found()
        ]

    def state(self) -> dict[str, Any]:
        """Return what goes to JSON, so that a restarted controller goes on with the same evidence."""
        state: dict[str, Any] = msgspec.to_builtins(self._state)
        return state

    @property
    def _alpha(self) -> float:
        return self._limits.false_alarms / GUARDS

    def _found(self) -> Iterator[_Found]:
        state, limits, holdout = self._state, self._limits, self._holdout
        one = state.errors
        yield _Found("errors", one.bet, one.describe(limits), _more(one.challenger, one.champion), limits.errors)
        slow = state.latency
        note = "" if slow.bet.samples else "waits for answers of both versions"
        if slow.is_tail:
            value, limit = _more(slow.tail.challenger, slow.tail.champion), SLOWER
        else:
            value, limit = slow.share, TYPICALLY_SLOWER
        yield _Found("latency", slow, slow.describe(limits), value, limit, note)
        lacks = state.quality
        note = "" if lacks.challenger.of else "waits for answers whose predictions can be read"
        value = lacks.challenger.value if lacks.challenger.of else None
        yield _Found("quality", lacks.bet, lacks.describe(limits), value, limits.quality, note)
        lost = state.copies
        note = "" if lost.bet.samples else "waits for copies for the shadow"
        value = lost.lost.value if lost.bet.samples else None
        yield _Found("copies", lost.bet, lost.describe(), value, LOST, note)
        differs = state.difference
        if holdout is None:
            note = "is not there: the gate has not compared this version with this champion"
            yield _Found("difference", Bet(), "", None, None, note)
            return
        note = "" if differs.challenger.of else "waits for the shadow's answers"
        value = differs.challenger.value if differs.challenger.of else None
        description = differs.describe(holdout, limits)
        yield _Found("difference", differs.bet, description, value, differs.limit(holdout, limits), note)


def _more(challenger: Share, champion: Share) -> float | None:
    return challenger.value - champion.value if challenger.of else None


def _rows_asked(outcome: Outcome) -> frozenset[int]:
    return (
        answers.rows_asked(outcome.request, outcome.request_type) if outcome.request is not None else frozenset()
    )


def _slow(seconds: float, limits: Limits) -> float:
    """Return how long an answer may take where the champion's takes so long."""
    return max(limits.latency * seconds, seconds + SLACK_SECONDS)


def _allowed(share: float) -> float:
    """Return a limit that a share can exceed, and that can be exceeded."""
    return min(max(share, 1e-4), _MOST_SHARE)


def _at_most(share: float, of: int) -> float:
    """Return what a share that was counted may truly be (Wilson's interval; the chance of more is 1 in 1,000)."""
    z = 3.1
    middle = share + z * z / (2 * of)
    return (middle + z * math.sqrt(share * (1 - share) / of + (z / (2 * of)) ** 2)) / (1 + z * z / of)


def _percent(share: float) -> str:
    """Return a share in percent.

    >>> _percent(0.31), _percent(0.004), _percent(0.00012)
    ('31 %', '0.4 %', '0.012 %')
    """
    return f"{100 * share:.2g} %" if share < 0.995 else "100 %"


def _differs(own: Frame, other: Frame, row: int, holdout: Difference) -> bool | None:
    """Return whether the two differ in a row, None where that can't be told."""
    before, after = (_values(frame, row, holdout.columns) for frame in (other, own))
    if before is None or after is None or answers.instead([*before, *after]):
        return None
    if holdout.kind == "class":
        return before != after
    try:
        distance = max(abs(new - old) for old, new in zip(before, after, strict=True))
    except (TypeError, OverflowError):  # text, say
        return None
    return None if holdout.d95 is None else bool(distance > holdout.d95)


def _values(frame: Frame, row: int, columns: tuple[str, ...]) -> list[Any] | None:
    places = {name: at for at, name in enumerate(frame.columns)}
    if not places.keys() >= set(columns):
        return None
    return [frame.rows[row][places[name]] for name in columns]
