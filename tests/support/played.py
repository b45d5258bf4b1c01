"""A front that a test plays, in the steps of a rollout."""

from __future__ import annotations

from click.testing import CliRunner

from fronting import STATE
from mooring.cli import main
from mooring.serving.protocol import Route
from registries import challenge

CHAMPION = Route("1", "champion")
NEW = Route("2", "champion")
PLAN = ("shadow 20% 0s 40", "canary 5% 0s 40")
LONG = ("shadow 20% 1h 1", "canary 5% 1h 1")


def serving(front, *steps, **given):
    one = front(*steps, **given)
    one.until(lambda: one.version == "1")
    return one


def stepping(front, client, *steps, step=0):
    """A rollout of version 2 that has come to a step of its plan."""
    one = serving(front, *steps)
    challenge(client, "2")
    one.until(lambda: one.is_at("stepping", 0))
    for at in range(step):
        one.traffic(40)
        one.until(lambda at=at: one.is_at("stepping", at + 1))
    return one


def mooring(*arguments, code=0):
    done = CliRunner().invoke(main, [*arguments, "--state", STATE])
    assert done.exit_code == code, done.output
    return done.output
