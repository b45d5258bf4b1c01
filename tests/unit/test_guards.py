"""The guards of a rollout: what they see, what they let pass, and what they say."""

from __future__ import annotations

import json
import math
import random

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from mooring.retrain.evaluation.difference import Difference, difference
from mooring.serving.protocol import Outcome
from mooring.serving.rollout.guards import Guards, Limits

NUMBERS = Difference(kind="number", columns=("prediction",), share=0.05, rows=300, requests=300, d50=0.1, d95=0.5)
CLASSES = Difference(kind="class", columns=("prediction",), share=0.04, rows=300, requests=300)


def said(*values: object) -> bytes:
    return json.dumps({"predictions": list(values)}).encode()


def champion(ok: bool = True, seconds: float = 0.01, answer: bytes | None = None) -> Outcome:
    return Outcome("1", "champion", ok, seconds, answer)


def canary(ok: bool = True, seconds: float = 0.01, answer: bytes | None = None) -> Outcome:
    return Outcome("2", "canary", ok, seconds, answer)


def shadow(
    answer: bytes | None = None,
    before: bytes | None = None,
    *,
    ok: bool = True,
    champion_ok: bool = True,
    seconds: float = 0.01,
    champion_seconds: float = 0.01,
) -> Outcome:
    return Outcome("2", "shadow", ok, seconds, answer, champion_ok, champion_seconds, before)


def until_failed(guards: Guards, outcome: Outcome, most: int = 400) -> int:
    """Return how many times an outcome is seen until a guard fails."""
    for count in range(1, most + 1):
        guards.observe(outcome)
        if guards.failed():
            return count
    raise AssertionError(f"none failed: {guards.rows()}")


def after(guards: Guards, outcome: Outcome, count: int = 1000) -> str | None:
    for _ in range(count):
        guards.observe(outcome)
    return guards.failed()


def row(guards: Guards, name: str):
    [found] = [one for one in guards.rows() if one.name == name]
    return found


@pytest.fixture
def guards() -> Guards:
    return Guards(Limits(), NUMBERS)


# Errors


def test_a_canary_that_fails_all_is_seen_within_some_requests(guards):
    count = 0
    while not guards.failed():
        for outcome in [champion()] * 9 + [canary(ok=False)]:
            guards.observe(outcome)
        count += 1
    assert count <= 20
    assert guards.failed() == (
        f"errors: {count} of {count} requests failed (100 %), the champion's 0 %; at most 1 % more is let pass"
    )
    assert row(guards, "errors").failed
    assert not row(guards, "quality").failed


def test_a_canary_that_gets_nearly_all_requests_and_fails_is_seen_too(guards):
    for _ in range(200):
        guards.observe(champion())
    assert until_failed(guards, canary(ok=False)) <= 400


def test_a_shadow_that_fails_all_is_seen_within_some_requests(guards):
    assert until_failed(guards, shadow(ok=False)) <= 20


def test_mistakes_of_clients_fail_at_both_and_count_at_neither(guards):
    assert after(guards, shadow(ok=False, champion_ok=False)) is None
    drawn = random.Random(0)
    for _ in range(4000):
        wrong = drawn.random() < 0.2
        guards.observe(canary(ok=not wrong) if drawn.random() < 0.5 else champion(ok=not wrong))
    assert guards.failed() is None


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_times_in_which_both_fail_are_not_held_against_the_canary(guards, share):
    drawn = random.Random(2)
    for at in range(6000):
        down = at % 600 >= 500
        guards.observe(canary(ok=not down) if drawn.random() < share else champion(ok=not down))
    assert guards.failed() is None


def test_a_fault_that_begins_late_is_seen_soon(guards):
    after(guards, shadow(), 5000)
    assert until_failed(guards, shadow(ok=False)) <= 40


# Latency


def test_a_slow_version_is_seen(guards):
    drawn = random.Random(0)
    for _ in range(200):
        guards.observe(champion(seconds=drawn.uniform(0.01, 0.02)))
    assert until_failed(guards, shadow(seconds=0.1, champion_seconds=0.015)) <= 30
    told = guards.failed()
    assert told is not None
    assert told.startswith("latency: 100 % of ")
    assert told.endswith(
        "answers took more than 2 times as long as the champion's at the same moment; at most 50 % is let pass"
    )


def test_a_slow_canary_is_seen(guards):
    after(guards, champion(), 200)
    for _ in range(200):
        guards.observe(champion())
        guards.observe(canary(seconds=0.1))
    assert (guards.failed() or "").startswith("latency: ")


def test_a_version_that_is_slow_only_now_and_then_is_seen_by_its_tail(guards):
    drawn = random.Random(3)
    after(guards, champion(), 200)
    for at in range(400):
        guards.observe(shadow(seconds=0.1 if at % 4 == 0 else 0.01, champion_seconds=drawn.uniform(0.009, 0.011)))
    told = guards.failed()
    assert told is not None
    assert "the champion's 0 %; at most 5 % more is let pass. Slow is now over" in told
    assert "2 times the champion's 95th percentile" in told
    assert row(guards, "latency").limit == 0.05


def test_latency_waits_until_there_are_answers_of_both(guards):
    assert row(guards, "latency").note == "waits for answers of both versions"
    assert after(guards, canary(seconds=10)) is None
    after(guards, champion(), 100)
    assert row(guards, "latency").note == ""


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("variant", ["shadow", "canary"])
def test_a_slow_version_is_seen_on_a_busy_machine(variant, seed):
    """Half of all times both are 10 times as slow, so that the champion's 95th percentile says nothing."""
    drawn, guards, seen = random.Random(seed), Guards(Limits(), NUMBERS), 0
    busy = False
    while not guards.failed():
        busy ^= drawn.random() < 0.05
        old, new = (0.02 * (10 if busy else 1) * drawn.lognormvariate(0, 0.5) for _ in range(2))
        guards.observe(champion(seconds=old))
        if variant == "shadow":
            guards.observe(shadow(seconds=5 * new, champion_seconds=old))
        else:
            guards.observe(canary(seconds=5 * new))
        seen += 1
        assert seen <= 100
    assert (guards.failed() or "").startswith("latency: ")


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
@pytest.mark.parametrize("factor", [1.0, 1.9])
def test_what_is_let_pass_is_not_seen_on_a_busy_machine(share, factor):
    drawn, guards, busy = random.Random(9), Guards(Limits(), NUMBERS), False
    for _ in range(4000):
        busy ^= drawn.random() < 0.05
        seconds = 0.02 * (10 if busy else 1) * drawn.lognormvariate(0, 0.3)
        guards.observe(canary(seconds=factor * seconds) if drawn.random() < share else champion(seconds=seconds))
    assert not row(guards, "latency").failed or factor > 1  # a tail of its own may be more
    assert guards._state.latency.bet.chance > 0.1


def test_what_slows_both_is_not_held_against_the_new_one(guards):
    drawn = random.Random(1)
    for at in range(6000):
        seconds = drawn.uniform(0.01, 0.02) * (20 if at % 500 >= 450 else 1)
        if at % 3:
            guards.observe(champion(seconds=seconds))
        else:
            guards.observe(
                canary(seconds=seconds) if at % 2 else shadow(seconds=seconds, champion_seconds=seconds)
            )
    assert guards.failed() is None


def test_a_difference_that_no_client_sees_is_let_pass(guards):
    after(guards, champion(seconds=0.0005), 200)
    assert after(guards, shadow(seconds=0.0020, champion_seconds=0.0005)) is None
    assert (after(guards, shadow(seconds=0.0030, champion_seconds=0.0005)) or "").startswith("latency: ")


def test_failed_requests_say_nothing_of_latency(guards):
    after(guards, champion(), 200)
    after(guards, shadow(ok=False, champion_ok=False, seconds=9), 500)
    assert row(guards, "latency").samples == 0


# Quality


@pytest.mark.parametrize(
    ("answer", "last"),
    [
        (b'{"predictions": [NaN]}', "prediction is nan"),
        (b'{"predictions": [null]}', "prediction is null"),
        (b'{"predictions": [Infinity]}', "prediction is inf"),
        (b'{"predictions": [[1.0, NaN]]}', "it has no prediction"),
        (said(), "it has 0 predictions where the champion's has 1"),
        (b"[]", "it has 0 predictions where the champion's has 1"),
        (b"{}", "it can't be read"),
        (said("five"), "prediction is text where the champion's is number"),
        (said(True), "prediction is boolean where the champion's is number"),
        (said({"quality": 5.0, "why": "sweet"}), "it has no prediction"),
        (b'{"predictions": [[[5.0]]]}', "prediction is list of list of number where the champion's is number"),
        (b"<html>", "it can't be read"),
        (said(1.0, 2.0), "it has 2 predictions where the champion's has 1"),
    ],
)
def test_answers_that_lack_predictions_are_seen(guards, answer, last):
    assert until_failed(guards, shadow(answer, said(5.0))) <= 5
    told = guards.failed()
    assert told is not None
    assert told.startswith("quality: ")
    assert told.endswith(
        f"answers have no usable predictions (100 %); at most 1 % is let pass. The last one: {last}"
    )


@pytest.mark.parametrize(
    ("old", "new", "lacks"),
    [
        (said({"label": "a", "score": 0.5}), said({"label": "b", "score": None}), True),
        (said({"label": "a", "why": None}), said({"label": "b", "why": None}), False),
        (said([0.5, 0.5]), b'{"predictions": [[0.5, NaN]]}', True),
        (said("a", "b"), said("b", None), True),
        (said("a"), said("nan"), False),
        (b"[1, 2]", b"[1, null]", True),
        (b'{"predictions": {"a": [1, 2], "b": [3, 4]}}', b'{"predictions": {"a": [1, 2], "b": [3, NaN]}}', True),
        (said(None), said(None), False),
        (said(True), said(False), False),
        (said(1), said(1.5), False),
        (said("a"), said(1), True),
        (said(True), said(1), True),
        (said([0.5, 0.5]), said([0.5, 0.3, 0.2]), True),
        (said([0.5, 0.5]), said([1.0]), True),
        (said({"label": "a", "score": 1}), said({"label": "b", "score": 0.5, "why": "x"}), False),
        (said({"label": "a", "score": 1}), said({"Label": "b", "score": 1}), True),
        (said([[1.0], [2.0]]), said([["a"], ["b"]]), True),
        (said(None), said(3.0), False),
        (said(), said(), False),
        (said([[1.0], [2.0]]), said([[1.0], [None]]), True),
    ],
)
def test_answers_in_the_shapes_that_mlflow_has(old, new, lacks):
    guards = Guards(Limits(), None)
    assert bool(after(guards, shadow(new, old), 100)) == lacks


def test_answers_that_are_no_predictions_are_not_judged(guards):
    chat = b'{"choices": [{"message": {"content": null}}]}'
    assert after(guards, shadow(chat, chat)) is None
    assert after(guards, canary(answer=chat)) is None
    assert row(guards, "quality").note == "waits for answers whose predictions can be read"


def test_answers_of_a_canary_are_judged_alone(guards):
    after(guards, canary(answer=said(5.0)), 50)
    assert until_failed(guards, canary(answer=said(None))) <= 10


ONE, TWO = b'{"inputs": [[1.0]]}', b'{"dataframe_split": {"columns": ["a"], "data": [[1], [2]]}}'


def asked(outcome: Outcome, request: bytes, kind: str = "application/json") -> Outcome:
    return msgspec.structs.replace(outcome, request=request, request_type=kind)


@pytest.mark.parametrize(
    ("request_", "kind", "answer", "last"),
    [
        (ONE, "application/json", b"[]", "it has 0 predictions where the request has 1 rows"),
        (ONE, "application/json", said(), "it has 0 predictions where the request has 1 rows"),
        (TWO, "application/json", said(1.0), "it has 1 predictions where the request has 2 rows"),
        (b"a,b\n1,2\n3,4\n", "text/csv", said(1.0, 2.0, 3.0), "it has 3 predictions where the request has 2 rows"),
        (ONE, "application/json", said("five"), "prediction is text where the champion's is number"),
        (ONE, "application/json", said({"a": 1, "b": 2}), "it has no prediction"),
        (ONE, "application/json", b"<html>", "it can't be read"),
        (ONE, "application/json", said(None), "prediction is null"),
    ],
)
def test_an_answer_of_a_canary_that_is_no_use_is_seen_by_its_request_and_by_the_champions_others(
    guards, request_, kind, answer, last
):
    after(guards, asked(champion(answer=said(5.0)), ONE), 30)
    assert until_failed(guards, asked(canary(answer=answer), request_, kind)) <= 5
    assert (guards.failed() or "").endswith(f"The last one: {last}")


def test_a_model_that_answers_other_rows_than_it_is_asked_may_go_on_so():
    guards = Guards(Limits(), None)
    for _ in range(300):
        guards.observe(asked(champion(answer=said(1.0, 2.0, 3.0)), ONE))
        guards.observe(asked(canary(answer=said(1.0, 2.0, 3.0, 4.0)), ONE))
    assert guards.failed() is None


def test_fields_and_kinds_that_only_some_answers_of_the_champion_have_are_not_asked_for():
    guards = Guards(Limits(), None)
    for at in range(300):
        guards.observe(champion(answer=said({"a": 1, "b": "x"} if at % 2 else {"a": "none", "c": 1})))
        guards.observe(canary(answer=said({"a": "none" if at % 3 else 1, "d": at})))
    assert guards.failed() is None


def test_how_soon_an_answer_without_predictions_comes_says_nothing(guards):
    after(guards, champion(answer=said(5.0)), 100)
    after(guards, asked(canary(answer=said(), seconds=9), ONE), 100)
    assert row(guards, "latency").samples == 0
    assert (guards.failed() or "").startswith("quality: ")


def test_a_canary_may_lack_what_the_champion_lacks(guards):
    drawn = random.Random(4)
    for _ in range(500):
        guards.observe(champion(answer=said(None if drawn.random() < 0.2 else 5.0)))
    for _ in range(2000):
        guards.observe(canary(answer=said(None if drawn.random() < 0.2 else 5.0)))
    assert guards.failed() is None


# Difference


def test_predictions_far_from_the_champions_are_seen(guards):
    assert until_failed(guards, shadow(said(6.0), said(5.0))) <= 10
    told = guards.failed()
    assert told is not None
    assert "predictions differ by more than 0.5 from the champion's (100 %)" in told
    assert told.endswith("on the gate's holdout 5 %; at most 15 % is let pass")


def test_a_retrained_model_may_differ_as_on_the_holdout(guards):
    drawn = random.Random(5)
    for _ in range(5000):
        guards.observe(shadow(said(5.0 + drawn.gauss(0, 0.26)), said(5.0)))
    assert guards.failed() is None
    assert 0.03 < row(guards, "difference").value < 0.08


def test_classes_differ_or_do_not():
    guards = Guards(Limits(), CLASSES)
    assert after(guards, shadow(said("good"), said("good"))) is None
    assert until_failed(guards, shadow(said("bad"), said("good"))) <= 60
    assert "predictions differ by class from the champion's" in (guards.failed() or "")
    # The same class, as JSON may have it.
    assert after(Guards(Limits(), CLASSES), shadow(said(1.0), said(1))) is None


def test_of_each_request_one_row_counts_now_this_now_that(guards):
    old, new = said(*[5.0] * 10), said(*[5.0] * 9, 9.0)
    after(guards, shadow(new, old), 100)
    found = row(guards, "difference")
    assert found.samples == 100
    assert found.value == pytest.approx(0.1)


def test_without_what_the_gate_saw_there_is_no_such_guard():
    guards = Guards(Limits(), None)
    assert after(guards, shadow(said(6.0), said(5.0))) is None
    found = row(guards, "difference")
    assert (found.value, found.limit) == (None, None)
    assert "the gate has not compared" in found.note


def test_a_canary_has_nothing_to_differ_from(guards):
    after(guards, canary(answer=said(9.0)))
    assert row(guards, "difference").samples == 0
    assert guards.failed() is None


def test_a_holdout_of_few_rows_allows_for_chance():
    few = msgspec.structs.replace(NUMBERS, rows=30, requests=30)
    limits = Limits(difference=1.0)
    assert row(Guards(limits, few), "difference").limit > 0.15
    assert row(Guards(limits, NUMBERS), "difference").limit < 0.12
    unlike = msgspec.structs.replace(CLASSES, share=0.6)
    assert row(Guards(Limits(), unlike), "difference").limit == 0.9


def test_what_the_gate_records_is_what_the_guard_compares():
    drawn = np.random.default_rng(0)
    old = drawn.normal(5, 1, (2, 400))
    new = old + drawn.normal(0, 0.2, (2, 400))
    tables = [pa.table({"low": one[0], "high": one[1]}) for one in (old, new)]
    holdout = difference(*tables, np.arange(400), classes=False)
    assert holdout is not None
    guards = Guards(Limits(), holdout)
    for at in range(400):
        answers = [said(dict(zip(("low", "high"), one[:, at].tolist(), strict=True))) for one in (new, old)]
        guards.observe(shadow(*answers))
    assert row(guards, "difference").value == pytest.approx(holdout.share)


# Copies


def test_a_shadow_that_loses_its_copies_is_seen_within_some_seconds(guards):
    seconds = 0
    while not guards.failed():
        guards.observe_copies(20, 20)
        seconds += 1
    assert seconds <= 15
    assert guards.failed() == (
        f"copies: {20 * seconds} of {20 * seconds} copies for the shadow were dropped or timed out (100 %), as it "
        "does not keep up; at most 50 % is let pass"
    )


@pytest.mark.parametrize("lost", [0, 5, 10])
def test_a_shadow_that_loses_some_copies_or_all_of_a_moment_goes_on(guards, lost):
    for second in range(600):
        guards.observe_copies(20 if second % 60 < 3 else lost if second % 2 else 0, 20)
    assert guards.failed() is None
    assert row(guards, "copies").samples == 600


# All of them


def test_they_go_on_after_a_restart_as_if_there_had_been_none():
    drawn = random.Random(8)
    whole, part = Guards(Limits(), NUMBERS), Guards(Limits(), NUMBERS)
    for at in range(3000):
        value, seconds = said(5.0 + drawn.gauss(0, 0.3)), drawn.expovariate(50)
        kinds = [
            champion(ok=drawn.random() > 0.1, seconds=seconds),
            canary(answer=value, seconds=seconds),
            shadow(value, said(5.0), seconds=seconds),
        ]
        outcome = drawn.choice(kinds)
        whole.observe(outcome)
        part.observe(outcome)
        if at % 500 == 0:
            part = Guards(Limits(), NUMBERS, json.loads(json.dumps(part.state())))
    assert part.rows() == whole.rows()
    assert part.seen() == whole.seen()


def test_what_failed_stays_failed_after_a_restart(guards):
    after(guards, shadow(ok=False), 50)
    again = Guards(Limits(), NUMBERS, guards.state())
    after(again, shadow(), 2000)
    assert (again.failed() or "").startswith("errors: ")


def test_memory_is_bounded(guards):
    for at in range(5000):
        guards.observe(champion(seconds=0.01 + at / 1e6))
        guards.observe(shadow(said(5.0), said(5.0)))
    assert len(json.dumps(guards.state())) < 30_000


def test_only_requests_of_the_challenger_are_counted(guards):
    for outcome in (champion(), canary(), shadow(), champion()):
        guards.observe(outcome)
    assert guards.seen() == 2
    assert guards.failed() is None


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\xff\xfe",
        b"{}",
        b"[[1], [2, 3]]",
        b"[" * 5000,
        b'{"predictions": 1e400}',
        b'{"predictions": {"a": [1], "b": [1, 2]}}',
        b'{"predictions": [{}]}',
        b'{"predictions": [' + b"9" * 400 + b"]}",
    ],
)
def test_no_answer_whatever_breaks_them(guards, answer):
    for own, other in ((answer, said(5.0)), (said(5.0), answer), (answer, answer)):
        guards.observe(shadow(own, other))
        guards.observe(canary(answer=own))
        guards.observe(champion(answer=other))
    assert all(math.isfinite(one.chance) for one in guards.rows())
