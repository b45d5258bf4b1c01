"""The controller of `mooring serve`, a real process with a real registry and state; the test plays its front."""

from __future__ import annotations

import json
import re
import signal
import socket
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from fronting import ANSWER, STATE, fronts, locked
from kinds import proofs
from mooring.retrain import manual, trigger
from mooring.retrain.history import history
from mooring.serving.protocol import Outcome, Outcomes, Replayed, ReplayedAnswer, Route, Server
from mooring.settings import RetrainSettings
from mooring.state.alerts import Alerts
from mooring.state.promotions import Promotions
from mooring.state.retrainings import Cause, Tickets
from mooring.state.rollouts import Rollouts
from mooring.state.state import State
from moves import trained
from played import CHAMPION, LONG, NEW, PLAN, mooring, serving, stepping
from registries import aliases, challenge, copied_registry, make_registry
from waiting import PATIENCE


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return make_registry(tmp_path_factory.mktemp("registry"))


@pytest.fixture
def client(template, tmp_path, monkeypatch):
    return copied_registry(template, tmp_path, monkeypatch)


@pytest.fixture
def front(client, tmp_path):
    with fronts(tmp_path) as start:
        yield start


def test_it_serves_the_champion_and_says_so_in_the_state(front, client):
    one = serving(front)
    assert [model.version for model in one.want.models] == ["1"]
    one.until(lambda: "mooring: version 1 of wine is served\n" in one.said)
    with State(STATE) as state:
        one.until(lambda: Rollouts(state).serving("wine"))
        [served] = Rollouts(state).serving("wine")
        assert (served.version, served.follows) == ("1", "@champion")
        assert state.holder("serve/wine").holder == "front"
        assert "version 1 is served" in mooring("rollout", "status", code=1)
        assert one.terminate() == 0
        assert state.holder("serve/wine") is None


def test_a_version_can_be_served_for_good(front, client):
    one = front(version="2")
    one.until(lambda: one.version == "2")
    challenge(client, "3")
    with State(STATE) as state:
        assert state.holder("serve/wine") is None


@pytest.mark.proof
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"alias": "chmpion"}, "MLflow knows no models:/wine@chmpion: check the name"),
        ({"version": "99"}, "there is no version 99 of wine in MLflow's registry"),
        ({"steps": ("canary 5",)}, "the step `canary 5`: 5 is no share: write 5% or 0.05"),
    ],
)
def test_what_can_not_be_served_ends_it_with_the_reason(front, client, given, said):
    one = front(*given.pop("steps", ()), **given)
    one.until(lambda: one.process.poll() is not None)
    assert one.process.returncode == 2
    assert said in one.said
    assert "Traceback" not in one.said


@pytest.mark.proof
def test_a_message_that_can_not_be_read_ends_it_with_a_traceback(front, client):
    one = serving(front)
    one.send_raw(b"\0\0\0\1\xc1")
    one.until(lambda: one.process.poll() is not None)
    assert one.process.returncode == 1
    assert "DecodeError" in one.said
    with State(STATE) as state:
        assert state.holder("serve/wine") is None


def test_without_a_plan_a_challenger_is_loaded_checked_and_becomes_the_champion(front, client):
    one = serving(front)
    one.servers["2"] = Server(1, 0)
    challenge(client, "2")
    one.until(lambda: [model.version for model in one.want.models] == ["1", "2"])
    assert one.routed(CHAMPION)
    del one.servers["2"]
    one.until(lambda: one.is_at("promoted"))
    assert [want.routes for want in one.wants][-1] == (NEW,)
    assert [model.version for model in one.want.models] == ["2"]
    assert [replay.version for replay in one.replays] == ["2"]
    assert aliases(client) == {"champion": "2", "previous": "1"}
    assert client.get_model_version("wine", "2").tags["mooring.rollout"] == "promoted"
    assert one.events() == ["begun", "loaded", "full", "promoted"]
    with State(STATE) as state:
        [promotion] = Tickets(state).promotions.newest("wine")
        assert (promotion.version, promotion.previous, promotion.status) == ("2", "1", "done")
        one.until(lambda: Rollouts(state).serving("wine")[0].version == "2")


def test_it_goes_through_the_plan_as_requests_come(front, client):
    one = stepping(front, client, *PLAN)
    assert one.routed(CHAMPION, Route("2", "shadow", 0.2))
    one.traffic(39)
    one.until(lambda: one.rollout().requests == 39)
    assert one.is_at("stepping", 0)
    one.traffic(1)
    one.until(lambda: one.is_at("stepping", 1))
    assert one.routed(CHAMPION, Route("2", "shadow", 0.2), Route("2", "canary", 0.05))
    assert aliases(client)["champion"] == "1"
    one.traffic(40)
    one.until(lambda: one.is_at("promoted"))
    rollout = one.rollout()
    assert rollout.counts == {"champion": 80, "shadow": 80, "canary": 40}
    assert {row["name"] for row in rollout.evidence["rows"]} == {
        "errors", "latency", "quality", "copies", "difference",
    }  # fmt: skip
    assert one.events() == ["begun", "loaded", "step", "step", "full", "promoted"]
    assert one.routed(NEW)


@pytest.mark.proof
def test_a_step_that_may_be_idle_is_skipped_where_no_request_comes(front, client):
    one = stepping(front, client, "shadow 20% 2s 50 unless idle")
    one.until(lambda: one.is_at("promoted"))
    assert one.events() == ["begun", "loaded", "step", "skipped", "full", "promoted"]
    assert aliases(client)["champion"] == "2"


@pytest.mark.proof
def test_a_step_that_may_be_idle_waits_for_its_requests_where_some_come(front, client):
    one = stepping(front, client, "shadow 20% 1s 50 unless idle")
    one.outcomes(Outcome("1", "champion", True, 0.01, ANSWER))
    one.until(lambda: one.rollout().seconds > 3)
    assert one.is_at("stepping", 0)
    one.traffic(50)
    one.until(lambda: one.is_at("promoted"))
    assert "skipped" not in one.events()


@pytest.mark.proof
def test_a_shadow_that_loses_its_copies_is_rolled_back(front, client):
    one = stepping(front, client, *LONG)

    def lost():
        one.send(Outcomes((Outcome("1", "champion", True, 0.01, ANSWER),), shadow_dropped=1))
        return one.is_at("rolled_back")

    one.until(lost)
    assert one.rollout().reason.startswith("copies: ")
    assert one.rollout().counts["shadow_dropped"] > 0
    assert one.routed(CHAMPION)


def test_status_says_how_large_a_fault_the_step_can_see(front, client):
    one = stepping(front, client, "shadow 20% 1h 500")
    one.traffic(5)
    one.until(lambda: one.rollout().requests == 5)
    said = "sees 6 % errors, 5 % answers without usable predictions with 90 %"
    assert f"a step of 500 requests {said}; what is less may pass" in mooring("rollout", "status")
    assert json.loads(mooring("rollout", "status", "--json"))["rollout"]["sees"] == said


def test_a_version_that_did_not_pass_the_gate_is_no_challenger(front, client):
    one = serving(front)
    client.set_registered_model_alias("wine", "challenger", "2")
    challenge(client, "3")
    one.until(lambda: one.is_at("promoted"))
    assert one.rollout().version == "3"
    assert one.rollout().number == 1


def failing(one):
    one.traffic(100, ok=False)
    one.until(lambda: one.is_at("rolled_back"))


def test_a_guard_that_fails_rolls_back_and_somebody_is_told(front, client, tmp_path):
    told = tmp_path / "told"
    (tmp_path / "mooring.yaml").write_text(json.dumps({"alert_command": f"tee {told}"}))
    one = stepping(front, client, *PLAN, step=1)
    failing(one)
    assert one.routed(CHAMPION)
    assert [model.version for model in one.want.models] == ["1"]
    assert one.rollout().reason.startswith("errors: ")
    assert aliases(client) == {"champion": "1"}
    tags = client.get_model_version("wine", "2").tags
    assert tags["mooring.rollout"] == "rolled back"
    assert tags["mooring.rollout.reason"] == one.rollout().reason
    assert one.events()[-2:] == ["failed", "rolled back"]
    one.until(lambda: told.exists() and told.read_text().endswith("}"))
    alert = json.loads(told.read_text())
    assert (alert["kind"], alert["version"], alert["previous"]) == ("rolled_back", "2", "1")
    assert alert["reason"] == one.rollout().reason
    assert "rolled back" in mooring("rollout", "status", code=4)
    # Somebody may try it again.
    challenge(client, "2")
    one.until(lambda: one.rollout().number == 2)


def test_a_crash_of_its_server_rolls_back(front, client):
    one = stepping(front, client, *LONG)
    one.servers["2"] = Server(1, 0, 1, "it was ended by signal 9")
    one.until(lambda: one.is_at("rolled_back"))
    assert one.rollout().reason == "its server has ended by itself: it was ended by signal 9"
    assert one.routed(CHAMPION)


def test_one_that_does_not_load_is_rolled_back(front, client):
    one = serving(front)
    one.servers["2"] = Server(1, 0, 1, "ImportError: no module named wine")
    challenge(client, "2")
    one.until(lambda: one.is_at("loading"))
    one.servers["2"] = Server(1, 0, 2, "ImportError: no module named wine")
    one.until(lambda: one.is_at("rolled_back"))
    assert one.rollout().reason == "it does not load: ImportError: no module named wine"
    assert all(want.routes == (CHAMPION,) for want in one.wants)
    assert aliases(client) == {"champion": "1"}


@pytest.mark.proof
def test_one_whose_files_are_gone_is_rolled_back(front, client, tmp_path):
    one = serving(front)
    version = client.create_model_version("wine", source=f"file://{tmp_path}/nowhere").version
    challenge(client, str(version))
    one.until(lambda: one.is_at("rolled_back"))
    assert one.rollout().reason.startswith("it does not load: wine version 5 is no model")
    assert one.version == "1"


def test_one_that_fails_the_check_gets_no_request_of_a_client(front, client):
    one = serving(front, *PLAN)
    one.replayed = Replayed("2", 20, 3, "status 500")
    challenge(client, "2")
    one.until(lambda: one.is_at("rolled_back"))
    assert "it failed 3 of 20 requests" in one.rollout().reason
    assert "status 500" in one.rollout().reason
    assert all(want.routes == (CHAMPION,) for want in one.wants)


ASKED = b'{"inputs": [[1.0]]}', "application/json"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"[]", "it has 0 predictions where the champion's has 1"),
        *proofs((b'{"predictions": ["five"]}', "prediction is text where the champion's is number")),
        *proofs((b'{"predictions": [{"a": 1.0, "b": 2.0}]}', "it has no prediction")),
        *proofs((b"{}", "it can't be read as predictions")),
    ],
)
def test_one_whose_answers_in_the_check_are_no_use_gets_no_request_of_a_client(front, client, answer, why):
    one = serving(front, *PLAN)
    good, bad = ReplayedAnswer(*ASKED, ANSWER, ANSWER), ReplayedAnswer(*ASKED, answer, ANSWER)
    one.replayed = Replayed("2", 3, 0, "", (good, bad, bad))
    challenge(client, "2")
    one.until(lambda: one.is_at("rolled_back"))
    assert one.rollout().reason == f"it failed 2 of 3 requests that were put to it as a check: {why}"
    assert all(want.routes == (CHAMPION,) for want in one.wants)


def test_a_champion_moved_by_hand_is_rolled_out_and_backwards_too(front, client):
    one = serving(front)
    with State(STATE) as state:
        manual.promote(state, "wine", "2", "by hand")
        one.until(lambda: one.is_at("promoted"))
        assert (one.rollout().cause, one.version) == ("moved", "2")
        manual.rollback(state, "wine", "it was better")
        one.until(lambda: one.rollout().number == 2 and one.is_at("promoted"))
        assert (one.version, one.rollout().previous) == ("1", "2")
        assert aliases(client) == {"champion": "1", "previous": "2"}
        assert "mooring serve rolls it out" in mooring("promote", "2", "--model", "wine")


def test_a_moved_champion_that_fails_is_moved_back(front, client):
    one = serving(front, "canary 50% 1h 1")
    with State(STATE) as state:
        manual.promote(state, "wine", "2", "by hand")
        one.until(lambda: one.is_at("stepping"))
        failing(one)
        assert aliases(client) == {"champion": "1", "previous": "1"}
        newest = Tickets(state).promotions.newest("wine")[0]
        assert (newest.kind, newest.version, newest.previous, newest.status) == ("restored", "1", "2", "done")
        assert [one.kind for one in history(state, "wine")] == ["promotion", "rollout", "restored"]
    assert one.version == "1"


@pytest.mark.parametrize("at", ["stepping", *proofs("loading", "rolled back")])
def test_an_alias_that_is_moved_back_and_again_to_the_same_version_is_followed_each_time(front, client, at):
    one = serving(front, "canary 5% 1h 1")
    if at == "loading":
        one.servers["2"] = Server(1, 0)
    for number in (1, 2, 3):
        client.set_registered_model_alias("wine", "champion", "2")
        one.until(lambda number=number: one.rollout() and one.rollout().number == number)
        if at == "rolled back":
            one.until(lambda: one.is_at("stepping"))
            failing(one)  # which moves the alias back; nobody waits here until that was seen
        else:
            one.until(lambda: one.is_at(at))
            client.set_registered_model_alias("wine", "champion", "1")
            one.until(lambda: one.is_at("superseded"))
        assert one.version == "1"


@pytest.mark.proof
def test_of_two_promoted_by_hand_at_once_the_later_is_rolled_out_and_both_are_recorded(front, client):
    one = serving(front, "canary 5% 0s 40")
    with ThreadPoolExecutor() as threads:
        asked = [threads.submit(promote_by_hand, version) for version in ("2", "3")]
        assert [one.result() for one in asked] == [None, None]
    last = aliases(client)["champion"]
    one.until(lambda: one.rollout() and one.rollout().version == last and one.is_at("stepping"))
    one.traffic(40, version=last)
    one.until(lambda: one.is_at("promoted"))
    assert one.version == aliases(client)["champion"] == last
    with State(STATE) as state:
        moves = [(move.version, move.status) for move in Tickets(state).promotions.newest("wine")]
        assert sorted(moves) == [("2", "done"), ("3", "done")]
        assert all(rollout.ended is not None for rollout in Rollouts(state).newest("wine"))


def promote_by_hand(version: str) -> None:
    with State(STATE) as state:
        manual.promote(state, "wine", version, "by hand")


@pytest.mark.proof
def test_a_challenger_that_was_overtaken_may_overtake(front, client):
    one = stepping(front, client, *LONG)
    for number, version in enumerate(["3", "2", "3"], 2):
        challenge(client, version)
        one.until(lambda number=number: one.rollout().number == number and one.is_at("stepping"))
        assert one.rollout().version == version


@pytest.mark.proof
def test_an_alias_that_can_not_be_followed_is_told_with_what_to_do(front, client):
    """The version that was rolled back keeps the alias, as there is nothing that it could be moved back to."""
    one = serving(front)
    one.replayed = Replayed("2", 1, 1, "status 500")
    client.delete_model_version("wine", "1")
    client.set_registered_model_alias("wine", "champion", "2")
    one.until(lambda: one.is_at("rolled_back"))
    told = "stays in service, although @champion names version 2, which was rolled back: it failed 1 of 1 requests"
    with State(STATE) as state:

        def held_back() -> str:
            return Rollouts(state).serving("wine")[0].held_back

        one.until(lambda: told in held_back())
        assert told in mooring("rollout", "status", code=4)
        assert told in json.loads(mooring("rollout", "status", "--json", code=4))["serving"][0]["held_back"]
        challenge(client, "3")
        one.until(lambda: "version 3, the challenger, waits for that" in held_back())
        one.replayed = Replayed("2", 1, 0)
        client.set_registered_model_alias("wine", "champion", "4")
        one.until(lambda: one.is_at("promoted"))
        one.until(lambda: held_back() == "")


def test_one_can_pause_look_resume_and_promote(front, client):
    one = stepping(front, client, "canary 5% 0s 20", "canary 50% 1h 1")
    assert "pause is asked for" in mooring("rollout", "pause", "--reason", "lunch")
    one.until(lambda: one.rollout().paused)
    one.traffic(30)
    one.until(lambda: one.rollout().requests == 30)
    assert one.is_at("stepping", 0)
    shown = mooring("rollout", "status")
    assert "stepping, paused" in shown
    assert re.search(r"step 1 of 2: canary with 5% of the requests; \d of 0 s, 30 of 20 requests\n", shown)
    status = json.loads(mooring("rollout", "status", "--json"))
    assert (status["rollout"]["at"], status["rollout"]["requests_left"]) == ("canary 5% 0s 20", 0)
    assert {row["name"] for row in status["rollout"]["guards"]} >= {"errors", "latency"}
    assert status["events"][-1]["detail"] == {"reason": "lunch"}
    mooring("rollout", "resume")
    one.until(lambda: one.is_at("stepping", 1))
    mooring("rollout", "promote")
    one.until(lambda: one.is_at("promoted"))
    assert aliases(client)["champion"] == "2"
    assert one.events() == [
        "begun", "loaded", "step", "asked", "paused", "asked", "resumed", "step", "asked", "promote", "full",
        "promoted",
    ]  # fmt: skip


@pytest.mark.proof
def test_a_pause_stops_the_clock_but_not_the_guards(front, client):
    one = stepping(front, client, *LONG)
    mooring("rollout", "pause")
    one.until(lambda: one.rollout().paused)
    before = one.rollout().seconds
    one.traffic(5)
    one.until(lambda: one.rollout().counts.get("shadow") == 5)
    assert one.rollout().seconds == before
    failing(one)
    assert one.routed(CHAMPION)


def test_one_can_abort(front, client):
    one = stepping(front, client, *LONG)
    mooring("rollout", "abort", "--reason", "not today")
    one.until(lambda: one.is_at("aborted"))
    assert one.rollout().reason.startswith("aborted by ")
    assert one.rollout().reason.endswith(": not today")
    assert one.routed(CHAMPION)
    assert aliases(client) == {"champion": "1"}
    assert client.get_model_version("wine", "2").tags["mooring.rollout"] == "aborted"
    assert "no rollout of wine is under way" in mooring("rollout", "abort", code=1)
    with State(STATE) as state:
        assert Alerts(state).newest("wine") == []


@pytest.mark.parametrize("how", ["challenger", "moved"])
def test_of_two_that_come_at_once_the_newest_wins(front, client, how):
    one = stepping(front, client, *LONG)
    if how == "challenger":
        challenge(client, "3")
    else:
        client.set_registered_model_alias("wine", "champion", "3")
    one.until(lambda: one.rollout().number == 2 and one.is_at("stepping"))
    assert (one.rollout().version, one.rollout().previous) == ("3", "1")
    assert one.routed(CHAMPION, Route("3", "shadow", 0.2))
    with State(STATE) as state:
        first = Rollouts(state).newest("wine")[1]
        assert (first.version, first.status) == ("2", "superseded")
        assert "version 3" in first.reason
    one.until(lambda: aliases(client).get("challenger") != "2")


@pytest.mark.proof
def test_a_champion_that_is_moved_while_a_rollout_promotes_stays(front, client, tmp_path):
    one = stepping(front, client, "canary 5% 1h 1")
    with locked(tmp_path / "mlflow.db"):
        mooring("rollout", "promote")
        one.until(lambda: one.is_at("promoting"))
        one.kill()
    client.set_registered_model_alias("wine", "champion", "3")
    one.start()
    one.until(lambda: one.rollout().number == 2)
    assert (one.rollout().version, aliases(client)["champion"]) == ("3", "3")
    with State(STATE) as state:
        first = Rollouts(state).newest("wine")[1]
        assert (first.version, first.status) == ("2", "superseded")
        assert "moved by somebody else" in first.reason
        assert [(one.version, one.status) for one in Promotions(state).newest("wine")] == [("2", "failed")]


@pytest.mark.parametrize("good", [True, False])
def test_the_retraining_behind_a_rollout_ends_with_it_and_no_other_begins_before(front, client, good):
    with State(STATE) as state:
        tickets = Tickets(state)
        ticket = tickets.open("wine", Cause(kind="manual"), "asked for", champion="1", directory="d")
        ticket = trained(tickets, ticket)
        ticket = tickets.move(ticket, "challenger", "gate", {"passed": True, "champion": "1", "candidate": "2"})
        client.set_model_version_tag("wine", "2", "mooring.ticket", ticket.id)
        one = stepping(front, client, "canary 5% 0s 40")
        answer = trigger.ask(state, "wine", RetrainSettings(), ticket.created)
        assert answer.reason == "retraining 1 is under way: challenger"
        one.traffic(100, ok=good)
        one.until(lambda: one.is_at("promoted" if good else "rolled_back"))
        [ended] = tickets.newest("wine")
        assert ended.status == ("promoted" if good else "rolled_back")
        assert ended.ended is not None
        last = tickets.steps(ticket.id)[-1]
        assert last.what == ("promoted" if good else "rolled back")
        [entry] = [one for one in history(state, "wine") if one.ticket]
        assert entry.rollout.status == ended.status
        assert (entry.promoted is not None) == good
        promotions = [(move.ticket_id, move.status) for move in tickets.promotions.newest("wine")]
        assert promotions == ([(ticket.id, "done")] if good else [])


@pytest.mark.parametrize("tagged", ["version", *proofs("run")])
@pytest.mark.parametrize("how", ["champion", *proofs("challenger")])
def test_a_version_of_a_retraining_that_is_under_way_is_served_only_by_the_gates_word(front, client, how, tagged):
    with State(STATE) as state:
        tickets = Tickets(state)
        ticket = tickets.open("wine", Cause(kind="manual"), "asked for", champion="1", directory="d")
        ticket = tickets.move(ticket, "training", "dataset", attempt=1)
        # As a job does that promotes by itself, and says that the gate has passed it.
        version = client.get_model_version("wine", "2")
        if tagged == "version":
            client.set_model_version_tag("wine", "2", "mooring.ticket", ticket.id)
        else:
            client.set_tag(version.run_id, "mooring.ticket", ticket.id)
        client.set_model_version_tag("wine", "2", "mooring.gate", "passed")
        if how == "champion":
            client.set_registered_model_alias("wine", "champion", "2")
            one = front()  # also one that is only just started
            said = "version 2 of wine is not served, though @champion names it: its retraining 1 has not passed"
        else:
            one = serving(front)
            client.set_registered_model_alias("wine", "challenger", "2")
            said = "version 2 is not rolled out: its retraining 1 has not passed the gate (training)"
        one.until(lambda: said in one.said)
        one.until(lambda: one.routed(CHAMPION))
        assert {model.version for want in one.wants for model in want.models} == {"1"}
        assert Rollouts(state).newest("wine") == []
        ticket = tickets.move(ticket, "gating", "trained", candidate="2")
        tickets.move(ticket, "challenger", "gate", {"passed": True, "champion": "1", "candidate": "2"})
        one.until(lambda: one.is_at("promoted"))
        assert tickets.newest("wine")[0].status == "promoted"


@pytest.mark.parametrize("whose", ["an ended one", *proofs("another model's")])
@pytest.mark.parametrize("how", ["champion", *proofs("challenger")])
def test_a_version_that_names_a_retraining_that_can_not_have_made_it_is_served_only_by_a_persons_word(
    front, client, how, whose
):
    with State(STATE) as state:
        tickets, other = Tickets(state), "wine" if whose == "an ended one" else "beer"
        ticket = tickets.open(other, Cause(kind="manual"), "asked for", champion="1", directory="d")
        if other == "wine":
            tickets.move(trained(tickets, ticket, candidate="1"), "promoted", "promoted")
        tags = {"mooring.ticket": ticket.id, "mooring.gate": "passed"}
        made = client.create_model_version("wine", client.get_model_version("wine", "2").source, tags=tags)
        one = serving(front)
        client.set_registered_model_alias("wine", how, made.version)
        said = f"its tag mooring.ticket names retraining 1 of {other}, which it can't have come of"
        one.until(lambda: said in one.said)
        one.until(lambda: one.routed(CHAMPION))
        assert {model.version for want in one.wants for model in want.models} == {"1"}
        assert Rollouts(state).newest("wine") == []
        if how == "champion":
            client.set_registered_model_alias("wine", "champion", "1")
        manual.promote(state, "wine", str(made.version), "agreed on Monday")
        one.until(lambda: one.is_at("promoted"))
        assert one.rollout().version == str(made.version)


def test_what_a_person_promotes_is_served_though_its_retraining_is_under_way(front, client):
    with State(STATE) as state:
        ticket = Tickets(state).open("wine", Cause(kind="manual"), "asked for", champion="1", directory="d")
        client.set_model_version_tag("wine", "2", "mooring.ticket", ticket.id)
        one = serving(front)
        manual.promote(state, "wine", "2", "agreed on Monday")
        one.until(lambda: one.is_at("promoted"))
        assert one.rollout().version == "2"


@pytest.mark.parametrize("step", [0, *proofs(1)])
def test_killed_in_a_step_it_goes_on_in_that_step_with_what_it_knew(front, client, step):
    one = stepping(front, client, "shadow 20% 0s 40", "canary 5% 1h 50", *["canary 50%"] * step, step=step)
    one.traffic(20)
    one.until(lambda: one.rollout().requests == 20)
    before = one.rollout()
    wanted = one.want
    one.kill()
    one.wants.clear()
    one.start()
    one.until(lambda: one.wants)
    one.until(lambda: one.want == wanted)
    assert all(want == wanted for want in one.wants)  # nobody was sent elsewhere meanwhile
    one.traffic(5)
    one.until(lambda: one.rollout().requests == 25)
    after = one.rollout()
    assert (after.id, after.step, after.status) == (before.id, step, "stepping")
    assert after.seconds >= before.seconds
    seen = {row["name"]: row["samples"] for row in after.evidence["rows"]}
    known = {row["name"]: row["samples"] for row in before.evidence["rows"]}
    assert seen["errors"] > known["errors"] > 0
    failing(one)


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Have nobody else write to an SQLite file."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
    finally:
        connection.close()


@pytest.mark.proof
def test_a_state_that_is_held_delays_no_rollback(front, client, tmp_path):
    one = stepping(front, client, *LONG)
    with held(tmp_path / "state.db"):
        one.traffic(100, ok=False)
        one.until(lambda: one.routed(CHAMPION))
        assert one.is_at("stepping")
    one.until(lambda: one.is_at("rolled_back"))


@pytest.mark.proof
def test_a_registry_that_hangs_delays_no_rollback(front, client, tmp_path):
    one = stepping(front, client, *LONG)
    with locked(tmp_path / "mlflow.db"):
        one.outcomes(*[Outcome("1", "champion", True, 0.01, ANSWER)] * 100)
        one.traffic(100, ok=False)
        one.until(lambda: one.routed(CHAMPION))
        one.until(lambda: one.is_at("rolling_back"))
    one.until(lambda: one.is_at("rolled_back"))


@contextmanager
def silent_server() -> Iterator[tuple[str, socket.socket]]:
    """Listen on a port and answer nothing: whoever asks there waits."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(PATIENCE)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", listening


def test_it_ends_though_the_registry_hangs(front, client, monkeypatch):
    with silent_server() as (url, listening), monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", url)
        one = front()
        with listening.accept()[0]:
            assert one.terminate() == 0
    with State(STATE) as state:
        assert state.holder("serve/wine") is None


@pytest.mark.proof
def test_a_download_that_hangs_keeps_it_neither_from_its_work_nor_from_its_end(front, client):
    one = serving(front, *PLAN)
    with silent_server() as (url, listening):
        challenge(
            client, str(client.create_model_version("wine", source=f"{url}/mlflow-artifacts/artifacts/1").version)
        )
        with listening.accept()[0]:
            challenge(client, "2")
            one.until(lambda: one.rollout() and one.rollout().number == 2)
            mooring("rollout", "abort")
            one.until(lambda: one.is_at("aborted"))
            assert one.terminate() == 0
    with State(STATE) as state:
        assert state.holder("serve/wine") is None


def test_it_ends_though_the_state_hangs(front, client, tmp_path):
    one = stepping(front, client, *LONG)
    with held(tmp_path / "state.db"):
        one.traffic(100, ok=False)
        one.until(lambda: one.routed(CHAMPION))  # which can't be written
        assert one.terminate() == 0


def test_ctrl_c_reaches_the_front_alone(front, client):
    one = serving(front)
    one.process.send_signal(signal.SIGINT)
    challenge(client, "2")
    one.until(lambda: one.is_at("promoted"))
    one.close()
    assert one.process.returncode == 0
