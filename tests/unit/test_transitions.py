"""A retraining and a rollout go from state to state by their tables, and docs and pages know all of these."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mooring.rollout_plan import parse
from mooring.serving.rollout.stages import Model, Replayed, Server, Stages
from mooring.settings import ServeSettings
from mooring.state import retrainings, rollouts
from mooring.state.retrainings import Cause, Tickets
from mooring.state.rollouts import Rollouts, moved, new
from mooring.state.state import State
from mooring.state.transitions import InvalidTransition, Move, Transitions
from mooring.ui.pages import retraining as retraining_page
from mooring.ui.pages import rollout as rollout_page
from moves import loaded, trained

DOCS = Path(__file__).parents[2] / "docs"
TABLES = [("retrain.md", retrainings), ("serve.md", rollouts)]
tables = pytest.mark.parametrize(("page", "module"), TABLES)


@pytest.fixture
def state(tmp_path):
    with State(f"{tmp_path}/state.db") as state:
        yield state


@tables
def test_the_documented_diagram_is_that_of_the_table_and_all_events_are_told(page, module):
    text = (DOCS / page).read_text()
    [diagram] = re.findall(r"```mermaid\n(.*?)\n```", text, re.DOTALL)
    assert diagram == module.TRANSITIONS.diagram()
    section = text[text.index("### From state to state") :]
    drawn = {event for line in diagram.splitlines() for event in line.partition(": ")[2].split(", ")}
    assert {event for event in module.TRANSITIONS.events - drawn if f"`{event}`" not in section} == set()


@tables
def test_the_table_has_every_status_and_event_and_each_can_be_reached(page, module):
    table = module.TRANSITIONS
    assert set(table.states) == set(get_args(module.Status))
    assert set(table.events) == set(get_args(module.EventName))
    for status in table.states - set(table.initial):
        assert any(status in move.after for move in table.moves)


@pytest.mark.parametrize(("page", "module"), [(retraining_page, retrainings), (rollout_page, rollouts)])
def test_the_dashboard_says_something_of_every_status(page, module):
    assert set(page.TITLES) == set(module.TRANSITIONS.states)


def test_a_retraining_takes_the_moves_of_its_table_and_no_other(state):
    """Of all events from all of some states, whatever is not in the table is refused and leaves no trace."""
    tickets = Tickets(state)
    table = retrainings.TRANSITIONS
    opened = tickets.open("wine", Cause(kind="manual"), "why", champion="1", directory="d")
    gating = trained(tickets, opened)
    refused = 0
    for event, after in product(sorted(table.events), sorted(table.states)):
        if not table.allows(gating.status, event, after):
            with pytest.raises(InvalidTransition, match=f"{event} does not lead from gating to {after}"):
                tickets.move(gating, after, event)
            refused += 1
    assert refused == len(table.events) * len(table.states) - 9
    assert [step.what for step in tickets.steps(opened.id)] == ["opened", "dataset", "trained"]
    assert tickets.unended("wine") == gating
    ended = tickets.move(gating, "refused", "gate")
    with pytest.raises(InvalidTransition):
        tickets.move(ended, "cancelled", "cancelled")


def test_a_rollout_takes_the_moves_of_its_table_and_no_other(state):
    found = Rollouts(state)
    checking = loaded(found, found.open(new("wine", "2", "1", "challenger")))
    table = rollouts.TRANSITIONS
    for event, after in product(sorted(table.events), sorted(table.states)):
        if not table.allows("checking", event, after):
            with pytest.raises(InvalidTransition):
                found.move(checking, moved(checking, after), event)
    assert [event.what for event in found.events(checking.id)] == ["begun", "loaded"]
    full = found.move(checking, moved(checking, "promoting"), "full")
    assert found.move(full, moved(full, "rolling_back"), "failed").status == "rolling_back"


def test_what_a_person_may_do_follows_from_the_table(state):
    tickets = Tickets(state)
    waits = tickets.open("wine", Cause(kind="manual"), "why", champion="1", directory="d", status="approval")
    assert tickets.can(waits) == ("approve", "cancel")
    approved = tickets.move(waits, "dataset", "approved")
    assert tickets.can(approved) == ("cancel",)
    handed = tickets.move(trained(tickets, approved), "challenger", "gate")
    assert tickets.can(handed) == ("cancel",)
    Rollouts(state).open(new("beer", "2", "1", "challenger"))
    assert tickets.can(handed) == ("cancel",)
    rollout = Rollouts(state).open(new("wine", "2", "1", "challenger"))
    assert tickets.can(handed) == ()
    assert rollout.can == ("pause", "promote", "abort")
    assert moved(rollout, "loading", paused=True).can == ("resume", "promote", "abort")
    assert all(moved(rollout, one).can == () for one in rollouts.TRANSITIONS.states - rollouts.TO_GO)


class Written:
    """What is around a rollout: it writes each move down as a state would, by the table alone."""

    def __init__(self) -> None:
        self.moves = []

    def want(self, models, routes) -> None:
        """Take what is wanted."""

    def replay(self, model) -> None:
        """Take what is put to a version."""

    def noted(self, before, after, what, detail, who) -> None:
        """Write a move."""
        rollouts.TRANSITIONS.check(before.status, what, after.status)
        self.moves.append(what)


HAPPENS = {
    "brought": lambda one: one.brought(Model("2", "path")),
    "ready": lambda one: one.serving({"2": Server(1, 1)}),
    "crashes": lambda one: one.serving({"2": Server(1, 0, crashed=9)}),
    "checked": lambda one: one.replayed(Replayed("2", 1, 0)),
    "check failed": lambda one: one.replayed(Replayed("2", 1, 1)),
    "time": lambda one: one.tick(),
    "does not load": lambda one: one.fail("it does not load"),
    "superseded": lambda one: one.end("superseded") if one.status in rollouts.TO_GO else None,
    "done": lambda one: one.end(DONE[one.status], reason="why") if one.status in DONE else None,
    **{wish: lambda one, wish=wish: one.wish(wish, "ann", "why") for wish in get_args(rollouts.Wish)},
}
DONE = {"promoting": "promoted", "rolling_back": "rolled_back", "aborting": "aborted"}


@given(st.lists(st.sampled_from(sorted(HAPPENS)), max_size=20))
@example(["brought", "ready", "checked", "time", "time", "done"])
@example(["abort", "does not load", "done"])
@example(["brought", "ready", "checked", "time", "time", "does not load", "done"])
def test_whatever_happens_a_rollout_makes_only_moves_of_its_table(happens):
    around = Written()
    plan = parse(["canary 5% 0s 0"])
    one = Stages(
        new("wine", "2", "1", "challenger", plan), Model("1", "path"), ServeSettings(model="wine"), around
    )
    for name in happens:
        HAPPENS[name](one)
    assert (one.rollout.ended is not None) == (one.status in rollouts.ENDED)
    assert set(around.moves) <= rollouts.TRANSITIONS.events


@pytest.mark.parametrize("status", sorted(rollouts.TRANSITIONS.states))
def test_what_is_on_its_way_out_of_service_does_not_fail_anew(status):
    around = Written()
    rollout = moved(new("wine", "2", "1", "challenger"), status)
    Stages(rollout, Model("1", "path"), ServeSettings(model="wine"), around).fail("it does not load")
    assert around.moves == (["failed"] if status in {*rollouts.TO_GO, "promoting"} else [])


def test_what_follows_from_a_table():
    table = Transitions(
        "opened",
        ("new",),
        [
            Move("trained", ("new",), ("good", "bad")),
            Move("again", ("bad",), ("new",)),
            Move("asked", ("new", "bad")),
            Move("shipped", ("good",), ("done",)),
        ],
    )
    assert table.states == {"new", "good", "bad", "done"}
    assert table.ended == {"done"}
    assert table.before("asked", "shipped") == {"new", "bad", "good"}
    assert table.after("trained", "shipped") == {"good", "bad", "done"}
    assert table.after("asked") == {"new", "bad"}
    assert table.leading_to("shipped") == {"new", "bad", "good"}
    assert table.leading_to("opened") == set()
    assert table.allows("bad", "asked", "bad")
    assert not table.allows("bad", "asked", "new")
    assert not table.allows("unheard of", "asked", "new")
