"""The gate: whether a new version is proven better than the champion. Rules alone, on what `evaluation` found."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mooring.drift.segments import largest
from mooring.performance.fairness import Fairness, Growth, fairness
from mooring.performance.scored import LabelledRows
from mooring.retrain.evaluation.difference import Difference
from mooring.retrain.evaluation.proof import Better, better, grown, requests
from mooring.retrain.evaluation.records import Evaluated, Evaluation
from mooring.settings import GateSettings

_MANY_ROWS = 50_000
LEAST_REQUESTS = 20
"""Independent requests that the holdout needs, so that drawing them anew says anything."""
SLACK_SECONDS = 0.001
"""So much longer a prediction may take in any case: less is nothing that a client sees."""
SLACK_BYTES = 2**20
"""So large a model may be in any case."""


class Check(msgspec.Struct, frozen=True):
    """One rule: what was measured, what it had to be, and that as a sentence."""

    name: str
    passed: bool
    message: str
    value: float | None = None
    threshold: float | None = None


class GateVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """What the gate decided of a candidate, and why.

    `improvement` is by what share of the champion's value the candidate is better by `metric`, and `low` what that
    is at least with the confidence asked for. `difference` is how far both's predictions lie apart, for whoever
    rolls the candidate out; `fairness` has, by "champion" and "candidate", rates and errors by the protected
    columns. It goes to JSON and back with msgspec.
    """

    model: str
    champion: str | None
    candidate: str
    passed: bool
    checks: tuple[Check, ...]
    metric: str | None = None
    champion_value: float | None = None
    candidate_value: float | None = None
    improvement: float | None = None
    low: float | None = None
    confidence: float
    rows: int
    difference: Difference | None = None
    fairness: dict[str, tuple[Fairness, ...]] = {}

    @property
    def reasons(self) -> list[str]:
        """Why it was refused, a sentence for each rule that it broke."""
        return [check.message for check in self.checks if not check.passed]

    @property
    def in_words(self) -> str:
        """The verdict in a sentence."""
        if not self.passed:
            broken = [check for check in self.checks if not check.passed]
            if any(check.name == "better" for check in broken):
                # MLflow's own word on the same, and longer.
                broken = [check for check in broken if check.name != "threshold"]
            return f"refused: {'; '.join(check.message for check in broken)}"
        better = next((check.message for check in self.checks if check.name == "better"), None)
        return f"passed: {better}" if better else "passed: there is no champion to compare it with"


def decide(evaluated: Evaluated, settings: GateSettings) -> GateVerdict:
    """Decide on a candidate. All rules are looked at, so that whoever trains reads everything that is wrong.

    Without a champion only its predictions are: there is nothing that it could be better than.
    """
    found = evaluated.found
    if found.failure is not None:
        told = f"it can't predict the holdout: {found.failure}"
        checks = [*_schema(found), Check("predictions", passed=False, message=told)]
        return _verdict(evaluated, settings, checks, None)
    if found.champion is None:
        note = Check("champion", passed=True, message="there is no champion: it is the first version")
        return _verdict(evaluated, settings, [note, *_predictions(found, settings)], None)
    better = _better(evaluated, settings)
    checks = [
        *_schema(found),
        *_predictions(found, settings),
        *_enough(evaluated, settings),
        *_is_better(evaluated, settings, better),
        *_segments(evaluated, settings),
        *_fair(evaluated, settings),
        *_latency(found, settings),
        *_size(found, settings),
    ]
    return _verdict(evaluated, settings, checks, better)


def _verdict(
    evaluated: Evaluated, settings: GateSettings, checks: list[Check], better: Better | None
) -> GateVerdict:
    found = evaluated.found
    values = {who: measures.get(found.metric or "") for who, measures in found.measures.items()}
    return GateVerdict(
        model=found.model,
        champion=found.champion,
        candidate=found.candidate,
        passed=all(check.passed for check in checks),
        checks=tuple(checks),
        metric=found.metric,
        champion_value=values.get("champion"),
        candidate_value=values.get("candidate"),
        improvement=_number(better.improvement) if better else None,
        low=_number(better.low) if better else None,
        confidence=settings.gate_confidence,
        rows=found.rows,
        difference=found.difference,
        fairness=dict(_fairness(evaluated, settings)),
    )


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


# Better by so much, with confidence


def _better(evaluated: Evaluated, settings: GateSettings) -> Better | None:
    found, champion, candidate = evaluated.found, evaluated.champion, evaluated.candidate
    if champion is None or candidate is None or found.metric not in found.measures.get("candidate", {}):
        return None
    assert found.metric is not None
    return better(champion, candidate, found.metric, settings.gate_confidence)


def _is_better(evaluated: Evaluated, settings: GateSettings, known: Better | None) -> Iterator[Check]:
    found, share = evaluated.found, settings.gate_better_by
    if known is None:
        told = f"by {found.metric} it can't be compared with the champion, as it lacks predictions"
        yield Check("better", passed=False, message=told, threshold=share)
        return
    before, after = (found.measures[who][found.metric or ""] for who in ("champion", "candidate"))
    sure = f"with {_percent(settings.gate_confidence)} confidence {_at_least(known.low)}"
    told = (
        f"{found.metric} is {after:.4g}, the champion's {before:.4g}: {_moved(known.improvement)}, {sure}; "
        f"{_percent(share)} {'is' if known.by(share) else 'would be'} needed"
    )
    yield Check("better", known.by(share), told, _number(known.low), share)
    told = found.threshold or f"{found.metric} of the whole holdout is better by {_percent(share)} or more"
    yield Check("threshold", found.threshold is None, told, _number(known.improvement), share)


def _moved(share: float) -> str:
    if share == 0:
        return "no difference"
    return f"{_percent(abs(share))} {'better' if share > 0 else 'worse'}"


def _at_least(share: float) -> str:
    if share > 0:
        return f"by at least {_percent(share)}"
    return f"no more than {_percent(-share)} worse" if share else "not worse"


def _percent(share: float) -> str:
    """Return a share in percent.

    >>> _percent(0.0213), _percent(-0.5)
    ('2.1 %', '-50 %')
    """
    return f"{100 * share:.1f}".removesuffix(".0") + " %" if math.isfinite(share) else f"{share}"


def _enough(evaluated: Evaluated, settings: GateSettings) -> Iterator[Check]:
    rows, least = evaluated.found.rows, settings.gate_min_rows
    told = f"the holdout has {rows:,} labelled rows; {least:,} are needed"
    yield Check("rows", rows >= least, told, rows, least)
    if evaluated.champion is not None:
        count = requests(evaluated.champion)
        told = (
            f"they came in requests worth {count:,.0f} independent ones; {LEAST_REQUESTS} are needed, as rows of "
            "one request are alike"
        )
        yield Check("requests", count >= LEAST_REQUESTS, told, count, LEAST_REQUESTS)


# Segments


def _segments(evaluated: Evaluated, settings: GateSettings) -> Iterator[Check]:
    """Refuse where a segment is worse by more than is let pass, and surely worse at all.

    Of a small segment the difference is mostly chance, so neither would do alone: to ask for proof that none is
    much worse would refuse most good candidates, and to go by the difference as it is would, too. All segments
    share the confidence.
    """
    if not settings.gate_segment or evaluated.champion is None or evaluated.candidate is None:
        return
    metric, worse = evaluated.found.metric or "", settings.gate_segment_worse
    parts = {
        name: list(_parts(evaluated.segments[name], settings.gate_segment_rows))
        for name in settings.gate_segment
        if name in evaluated.segments
    }
    count = max(sum(map(len, parts.values())), 1)
    confidence = 1 - (1 - settings.gate_confidence) / count
    for name, chosen in parts.items():
        found = [
            _Segment(
                better(evaluated.champion.only(rows), evaluated.candidate.only(rows), metric, confidence),
                value,
                int(rows.sum()),
            )
            for value, rows in chosen
        ]
        yield _segment(name, found, metric, worse, settings.gate_segment_rows)


class _Segment(NamedTuple):
    better: Better
    value: str
    rows: int


def _segment(name: str, found: list[_Segment], metric: str, worse: float, least: int) -> Check:
    told = [one for one in found if not math.isnan(one.better.improvement)]
    if not told:
        message = f"no segment of {name} has the {least} rows that it takes to be looked at"
        return Check(f"segment {name}", passed=True, message=message, threshold=-worse)
    refused = [one for one in told if one.better.worse_by(worse)]
    worst = min(refused or told, key=lambda one: one.better.improvement)
    if refused:
        listed = ", ".join(
            f"{one.value} ({_moved(one.better.improvement)} in {one.rows:,} rows)"
            for one in sorted(refused, key=lambda one: one.better.improvement)[:5]
        )
        message = f"{metric} is worse by more than {_percent(worse)} where {name} is {listed}"
    else:
        message = (
            f"{metric} is not worse by more than {_percent(worse)} for sure in any of {len(told)} segments of "
            f"{name}; where it is {worst.value}: {_moved(worst.better.improvement)}"
        )
    return Check(f"segment {name}", not refused, message, _number(worst.better.improvement), -worse)


def _parts(segments: pa.Array, least: int) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Yield each segment that has enough rows, and which they are."""
    names = np.array(segments.to_pylist(), object)
    for value in largest(names, least):
        yield value, names == value


# Groups of protected columns


def _fairness(evaluated: Evaluated, settings: GateSettings) -> Iterator[tuple[str, tuple[Fairness, ...]]]:
    """Yield by version its rates and errors by the protected columns."""
    for who, scored in (("champion", evaluated.champion), ("candidate", evaluated.candidate)):
        if scored is not None and evaluated.protected:
            draws = 1000 if scored.rows <= _MANY_ROWS else 200
            yield (
                who,
                tuple(
                    fairness(scored, _values(scored, column), name, least=settings.gate_segment_rows, draws=draws)
                    for name, column in evaluated.protected.items()
                ),
            )


def _values(scored: LabelledRows, column: pa.Array) -> NDArray[np.object_]:
    return np.array(column.to_pylist(), object)[scored.places]


def _fair(evaluated: Evaluated, settings: GateSettings) -> Iterator[Check]:
    """Refuse where groups are further apart than by the champion, or one has more errors, and surely so."""
    champion, candidate, most = evaluated.champion, evaluated.candidate, settings.gate_fairness
    if champion is None or candidate is None or not evaluated.protected:
        return
    confidence = 1 - (1 - settings.gate_confidence) / len(evaluated.protected)
    for name, column in evaluated.protected.items():
        values = _values(champion, column)
        found = grown(champion, candidate, values, confidence, least=settings.gate_segment_rows)
        if not found:
            told = f"no group of {name} has the {settings.gate_segment_rows} rows that it takes to be looked at"
            yield Check(f"fairness {name}", passed=True, message=told, threshold=most)
            continue
        refused = [one for one in found if one.by(most)]
        worst = max(refused or found, key=lambda one: one.growth.growth)
        if refused:
            listed = sorted(refused, key=lambda one: -one.growth.growth)[:5]
            told = f"{'; '.join(_in_words(one.growth, name) for one in listed)}: {most:g} more is let pass"
        else:
            told = (
                f"none of {len(found)} figures of {name} is worse by more than {most:g} for sure; the most, "
                f"{_in_words(worst.growth, name)}"
            )
        yield Check(f"fairness {name}", not refused, told, _number(worst.growth.growth), most)


def _in_words(one: Growth, column: str) -> str:
    what = one.measure.replace("_", " ") + (f" ({one.of})" if one.of is not None else "")
    where = f"where {column} is {one.group}" if one.group is not None else f"by {column}"
    return f"{what} {where} is {one.after:.4g}, the champion's {one.before:.4g}"


# The others


def _schema(found: Evaluation) -> Iterator[Check]:
    if found.champion is None:
        return
    told = "; ".join(found.schema) or "it takes what the champion takes, and answers alike"
    yield Check("schema", not found.schema, told if not found.schema else f"its signature does not fit: {told}")


def _predictions(found: Evaluation, settings: GateSettings) -> Iterator[Check]:
    sample = found.sample
    if sample is None:
        return
    of = f"{sample.rows:,} rows, {sample.logged:,} of them logged traffic"
    if sample.failure is not None:
        told = f"it can't predict logged traffic, which the champion can: {sample.failure}"
        yield Check("predictions", passed=False, message=told)
    told = f"{sample.missing:,} of its predictions are missing or no finite number ({of})"
    yield Check("finite", sample.missing == 0, told, sample.missing, 0)
    if sample.unknown:
        told = f"it predicts classes that no label has: {', '.join(sample.unknown)}"
        yield Check("range", passed=False, message=told)
    if sample.low is None or sample.high is None or sample.label_low is None or sample.label_high is None:
        return
    room = settings.gate_range * (sample.label_high - sample.label_low)
    low, high = sample.label_low - room, sample.label_high + room
    told = (
        f"its predictions are from {sample.low:.4g} to {sample.high:.4g}; labels are from {sample.label_low:.4g} "
        f"to {sample.label_high:.4g}, so {low:.4g} to {high:.4g} is let pass"
    )
    passed = low <= sample.low and sample.high <= high
    yield Check("range", passed, told, max(low - sample.low, sample.high - high), 0)


def _latency(found: Evaluation, settings: GateSettings) -> Iterator[Check]:
    if set(found.latency) != {"champion", "candidate"}:
        return
    old, new = found.latency["champion"], found.latency["candidate"]
    told, ratios, passed = [], [], True
    for what, before, after in (
        ("a row", old.single, new.single),
        (f"{old.batch_rows} rows", old.batch, new.batch),
    ):
        passed &= after <= settings.gate_latency * before or after - before <= SLACK_SECONDS
        told.append(
            f"{what} take{'s' if what == 'a row' else ''} {1000 * after:.3g} ms, the champion {1000 * before:.3g}"
        )
        ratios.append(after / before)
    message = f"{'; '.join(told)}; {settings.gate_latency:g} times as long is let pass"
    yield Check("latency", passed, message, max(ratios), settings.gate_latency)


def _size(found: Evaluation, settings: GateSettings) -> Iterator[Check]:
    sizes: Mapping[str, int] = found.size
    if set(sizes) != {"champion", "candidate"}:
        return
    before, after = sizes["champion"], sizes["candidate"]
    passed = after <= settings.gate_size * before or after <= SLACK_BYTES
    told = (
        f"it has {after / 1e6:.3g} MB on disk, the champion {before / 1e6:.3g}; {settings.gate_size:g} times as "
        "much is let pass"
    )
    yield Check("size", passed, told, after / max(before, 1), settings.gate_size)
