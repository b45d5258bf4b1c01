"""Rollouts in a state: each change once, by whoever was first."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec
import pytest

from mooring.retrain.history import history
from mooring.rollout_plan import parse
from mooring.state.leases import LeaseLost
from mooring.state.retrainings import Cause, Tickets
from mooring.state.rollouts import Rollout, RolloutError, Rollouts, Served, moved, new
from mooring.state.state import State
from moves import loaded, rolled_back


def begun(state: State, version: str = "2", **given) -> Rollout:
    return Rollouts(state).open(new("wine", version, "1", "challenger", parse(["canary 5% 1m 100"]), **given))


class RolloutsContract:
    """What a state promises of rollouts, whatever database it is in. A subclass has the state."""

    @pytest.fixture
    def state(self) -> Iterator[State]:
        raise NotImplementedError

    def test_a_rollout_is_as_it_was_written_and_says_what_happened(self, state):
        found = Rollouts(state)
        rollout = begun(state, who="ann")
        assert rollout.number == 1
        assert found.unended("wine") == rollout
        checking = loaded(found, rollout)
        stepping = moved(
            checking, "stepping", step=0, evidence={"guards": {"wealth": [1.5]}}, counts={"canary": 3}
        )
        assert stepping.at == rollout.plan[0]
        found.move(checking, stepping, "step", {"step": "canary 5%"})
        full = found.move(stepping, moved(stepping, "promoting"), "full", who="ann")
        ended = moved(full, "promoted")
        found.move(full, ended, "promoted", who="mooring")
        assert found.newest("wine") == [ended]
        assert found.unended("wine") is None
        events = [(one.number, one.what, one.who, one.detail) for one in found.events(rollout.id)]
        assert events[0] == (1, "begun", "ann", {"cause": "challenger", "plan": ["canary 5% 1m 100"]})
        assert events[1:] == [
            (2, "loaded", "mooring", {"servers": 1}),
            (3, "step", "mooring", {"step": "canary 5%"}),
            (4, "full", "ann", {}),
            (5, "promoted", "mooring", {}),
        ]

    def test_there_are_never_two_at_once_of_one_model(self, state):
        first = begun(state)
        with pytest.raises(RolloutError, match="under way already"):
            begun(state, "3")
        other = Rollouts(state).open(new("beer", "3", None, "moved"))
        assert (other.number, other.previous) == (1, None)
        Rollouts(state).move(first, moved(first, "superseded"), "superseded")
        assert begun(state, "3").number == 2

    def test_written_again_after_a_lost_answer_it_is_written_once(self, state):
        found = Rollouts(state)
        rollout = new("wine", "2", "1", "challenger")
        assert found.open(rollout) == found.open(rollout)
        before = found.unended("wine")
        after = moved(before, "checking")
        assert found.move(before, after, "loaded") == found.move(before, after, "loaded") == after
        assert [event.what for event in found.events(rollout.id)] == ["begun", "loaded"]

    def test_whoever_comes_second_changes_nothing(self, state):
        found = Rollouts(state)
        rollout = begun(state)
        found.move(rollout, moved(rollout, "checking"), "loaded")
        with pytest.raises(RolloutError, match="gone on meanwhile"):
            found.move(rollout, moved(rollout, "rolling_back"), "failed")
        with pytest.raises(RolloutError, match="gone on meanwhile"):
            found.keep(rollout)
        assert found.unended("wine").status == "checking"

    def test_without_the_lease_nothing_is_written(self, state):
        rollout = begun(state)
        with state.lease("serve/wine") as lease:
            other = state.lease("serve/wine")
            lease.release()
            with other, pytest.raises(LeaseLost):
                Rollouts(state, lease).move(rollout, moved(rollout, "checking"), "loaded")
        assert Rollouts(state).unended("wine").status == "loading"

    def test_what_is_asked_for_comes_with_what_is_kept_and_stays_until_it_is_taken(self, state):
        found = Rollouts(state)
        rollout = begun(state)
        with pytest.raises(RolloutError, match="not paused"):
            found.ask("wine", "resume", who="ann")
        found.ask("wine", "pause", who="ann", reason="look first")
        kept = found.keep(moved(rollout, "loading", seconds=12.5, requests=7, evidence={"a": 1}))
        assert (kept.seconds, kept.requests, kept.evidence) == (12.5, 7, {"a": 1})
        assert (kept.wish, kept.wish_by, kept.wish_reason) == ("pause", "ann", "look first")
        found.ask("wine", "abort", who="bob")
        found.taken(kept)  # what was asked meanwhile stays
        assert found.unended("wine").wish == "abort"
        paused = moved(kept, "loading", paused=True)
        found.move(kept, paused, "paused", who="ann")
        assert found.unended("wine").wish == "abort"
        found.taken(found.unended("wine"))
        assert found.unended("wine").wish is None

    def test_whoever_asks_is_in_the_events_at_once_and_once_for_each_time(self, state):
        found = Rollouts(state)
        rollout = begun(state)
        before = datetime.now(UTC)
        found.ask("wine", "pause", who="ann", reason="look first")
        found.ask("wine", "abort", who="bob", number=1)
        with pytest.raises(RolloutError, match="rollout 2 of wine is not under way: rollout 1 is"):
            found.ask("wine", "promote", who="eve", number=2)
        asked = [(one.number, one.who, one.detail) for one in found.events(rollout.id) if one.what == "asked"]
        assert asked == [(2, "ann", {"wish": "pause", "reason": "look first"}), (3, "bob", {"wish": "abort"})]
        assert before <= found.events(rollout.id)[-1].at <= datetime.now(UTC)
        found.move(rollout, moved(rollout, "aborting"), "aborted", {"why": "aborted by bob"}, who="bob")
        [alone] = history(state, "wine")
        assert [(one.what, one.who) for one in alone.rollout.events] == [
            ("begun", "mooring"), ("asked", "ann"), ("asked", "bob"), ("aborted", "bob"),
        ]  # fmt: skip

    def test_the_history_of_all_models_is_by_range_and_names_what_it_shows_once(self, state):
        tickets = Tickets(state)
        for model in ("beer", "wine"):
            ticket = tickets.open(model, Cause(kind="manual"), "asked for", champion="1", directory="d")
            tickets.move(ticket, "cancelled", "cancelled", {"reason": "not now"}, who="ann")
            Rollouts(state).open(new(model, "3", "1", "moved"))
        everything = history(state, None)
        told = [(one.model, one.kind) for one in everything]
        assert told == [("beer", "manual"), ("beer", "rollout"), ("wine", "manual"), ("wine", "rollout")]
        assert [step.what for step in everything[0].steps] == ["opened", "cancelled"]
        assert history(state, None, 2) == everything[2:]
        assert history(state, None, 2, end=everything[2].created) == everything[:2]
        assert history(state, None, start=everything[1].created, end=everything[3].created) == everything[1:3]
        assert history(state, "wine", 1) == everything[3:]

    def test_nothing_can_be_asked_of_what_is_over(self, state):
        found = Rollouts(state)
        with pytest.raises(RolloutError, match="no rollout of wine is under way"):
            found.ask("wine", "abort", who="ann")
        rollout = loaded(found, begun(state))
        found.move(rollout, moved(rollout, "promoting"), "full")
        with pytest.raises(RolloutError, match="rollout 1 of wine is promoting: too late"):
            found.ask("wine", "abort", who="ann")

    def test_what_is_served_is_known_by_host_and_by_what_it_follows(self, state):
        found = Rollouts(state)
        noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
        one = Served(model="wine", host="a", follows="@champion", version="1", since=noon)
        later = Served(model="wine", host="a", follows="@champion", version="1", since=noon.replace(hour=13))
        fixed = Served(model="wine", host="a", follows="1", version="1", since=noon)
        for served in (one, later, fixed):
            found.put_serving(served)
        assert found.serving("wine", "a") == [fixed, one]  # since when it is that version
        two = Served(model="wine", host="a", follows="@champion", version="2", since=noon.replace(hour=14))
        found.put_serving(two)
        assert found.serving("wine") == [fixed, two]
        held = msgspec.structs.replace(two, since=noon.replace(hour=15), held_back="it was rolled back")
        found.put_serving(held)
        assert found.serving("wine")[1] == msgspec.structs.replace(two, held_back="it was rolled back")
        assert found.models() == ["wine"]

    def test_the_history_shows_a_rollout_with_its_retraining_or_alone(self, state):
        tickets = Tickets(state)
        ticket = tickets.open("wine", Cause(kind="manual"), "asked for", champion="1", directory="d")
        rollout = begun(state, ticket_id=ticket.id)
        rolled_back(Rollouts(state), rollout, "slow")
        Rollouts(state).open(new("wine", "3", "1", "moved"))
        retraining, alone = history(state, "wine")
        assert (retraining.kind, retraining.rollout.status, retraining.rollout.reason) == (
            "manual",
            "rolled_back",
            "slow",
        )
        assert (alone.kind, alone.version, alone.previous, alone.status) == ("rollout", "3", "1", "loading")
        tickets.move(ticket, "cancelled", "cancelled")
        other = tickets.open("wine", Cause(kind="manual"), "asked for", champion="1", directory="d")
        assert Rollouts(state).of_tickets([ticket.id, other.id]) == {
            ticket.id: Rollouts(state).numbered("wine", 1)
        }
        assert [one.number for one in Rollouts(state).without_ticket(None)] == [2]
        assert Rollouts(state).without_ticket("beer") == []

    def test_what_was_under_way_in_a_time_is_found(self, state):
        tickets, found = Tickets(state), Rollouts(state)
        first = tickets.open("wine", Cause(kind="manual"), "asked for", champion="1", directory="d")
        one = rolled_back(found, begun(state), "slow")
        tickets.move(first, "cancelled", "cancelled")
        between = datetime.now(UTC)
        second = tickets.open("wine", Cause(kind="manual"), "asked for", champion="1", directory="d")
        two = begun(state, "3")
        for repository, ended, open_one in ((tickets, first, second), (found, one, two)):
            numbers = [
                [each.number for each in repository.under_way("wine", start, end)]
                for start, end in (
                    (ended.created, ended.created),
                    (between, between),
                    (between, datetime.now(UTC)),
                    (ended.created, datetime.now(UTC)),
                )
            ]
            assert numbers == [[1], [], [2], [2, 1]]
            assert [each.number for each in repository.under_way("wine", between, datetime.now(UTC), 0)] == []
            assert repository.under_way("beer", ended.created, open_one.created) == []
