"""The plan of a rollout, as people write it."""

from __future__ import annotations

import pytest

from mooring.rollout_plan import REQUESTS, SECONDS, Step, parse
from mooring.settings import ServeSettings


@pytest.mark.parametrize(
    ("text", "step"),
    [
        ("shadow 20% 10m 500", Step("shadow", 0.2, 600.0, 500)),
        ("canary 5%", Step("canary", 0.05, SECONDS, REQUESTS)),
        ("canary 0.05 1.5h", Step("canary", 0.05, 5400.0, REQUESTS)),
        ("canary 50% 200", Step("canary", 0.5, SECONDS, 200)),
        ("  shadow   100%  0s  0 ", Step("shadow", 1.0, 0.0, 0)),
        ("shadow 20% 1m 50 unless idle", Step("shadow", 0.2, 60.0, 50, unless_idle=True)),
        ("canary 5%  unless  idle", Step("canary", 0.05, SECONDS, REQUESTS, unless_idle=True)),
        ("canary 1 1d", Step("canary", 1.0, 86_400.0, REQUESTS)),
    ],
)
def test_a_step_is_read_and_written_back_as_the_same(text, step):
    assert parse([text]) == (step,)
    assert parse([str(step)]) == (step,)


def test_steps_keep_their_order_and_none_is_no_plan():
    assert [step.kind for step in parse(["shadow 1%", "canary 1%", "canary 50%"])] == [
        "shadow",
        "canary",
        "canary",
    ]
    assert parse([]) == ()
    assert parse(["full"]) == ()


def test_the_default_is_a_shadow_that_is_skipped_without_traffic():
    assert parse(ServeSettings().rollout_step) == (Step("shadow", 0.2, 60.0, 50, unless_idle=True),)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it is shadow or canary"),
        ("blue 5%", "it is shadow or canary; a step looks like"),
        ("full", "full comes last by itself"),
        ("canary", "its share is missing"),
        ("canary 5", "5 is no share: write 5% or 0.05"),
        ("canary 0%", "more than 0% and at most 100%"),
        ("canary 101%", "more than 0% and at most 100%"),
        ("canary nan%", "is no share"),
        ("canary many", "many is no share"),
        ("canary 5% soon", "soon is no time"),
        ("canary 5% 1.2.3m", "is no time"),
        ("canary 5% 10m many", "many is no number of requests"),
        ("canary 5% 10m -1", "-1 is no number of requests"),
        ("canary 5% 500 10m", "10m is too much"),
        ("canary 5% unless", "unless is no time"),
        ("unless idle", "it is shadow or canary"),
        ("canary unless idle", "its share is missing"),
        ("canary 5% 10m 500 more", "more is too much"),
    ],
)
def test_what_is_no_step_is_named_with_what_is_wrong(text, why):
    with pytest.raises(ValueError) as raised:
        parse(["shadow 5%", text])
    assert f"the step `{text}`: " in str(raised.value)
    assert why in str(raised.value)
