"""The controller of `mooring serve` through kills, outages and takeovers; the test plays its front."""

from __future__ import annotations

import pytest

from fronting import STATE, fronts, locked
from mooring.serving.protocol import Replayed, Route, Server
from mooring.state.state import State
from played import CHAMPION, LONG, NEW, PLAN, mooring, serving, stepping
from ports import reserved_port
from registries import aliases, challenge, copied_registry, make_registry


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


def test_with_the_registry_away_it_serves_what_it_served_before(front, client, monkeypatch):
    serving(front).terminate()
    port = reserved_port()
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        one = serving(front)
    assert "check that it runs" in one.said


def test_one_that_never_gets_ready_is_rolled_back(front, client):
    one = serving(front, start_timeout=1.0)
    one.servers["2"] = Server(1, 0)
    challenge(client, "2")
    one.until(lambda: one.is_at("rolled_back"))
    assert "not ready after 1 seconds" in one.rollout().reason


def test_a_champion_moved_while_another_is_made_it_is_followed(front, client, tmp_path):
    one = stepping(front, client, "canary 5% 1h 1")
    with locked(tmp_path / "mlflow.db"):
        mooring("rollout", "promote")
        one.until(lambda: one.is_at("promoting"))
        assert one.routed(NEW)
    client.set_registered_model_alias("wine", "champion", "3")
    one.until(lambda: (one.rollout().number == 2 and one.rollout().version == "3") or one.is_at("promoted"))
    one.until(lambda: aliases(client)["champion"] == "3" and one.rollout().version == "3")


def test_killed_while_it_loads_or_checks_it_goes_on(front, client):
    one = serving(front)
    one.servers["2"] = Server(1, 0)
    challenge(client, "2")
    one.until(lambda: one.is_at("loading") and len(one.want.models) == 2)
    one.kill()
    one.start()
    one.until(lambda: "goes on, where it was: loading" in one.said)
    del one.servers["2"]
    send, one.send = one.send, lambda message: None if isinstance(message, Replayed) else send(message)
    one.until(lambda: one.is_at("checking"))
    one.kill()
    one.send = send
    one.start()
    one.until(lambda: one.is_at("promoted"))
    assert one.events() == ["begun", "loaded", "full", "promoted"]
    assert aliases(client) == {"champion": "2", "previous": "1"}


@pytest.mark.parametrize("good", [True, False])
def test_killed_while_the_registry_is_away_it_finishes_when_that_is_back(front, client, tmp_path, good):
    one = stepping(front, client, "canary 5% 1h 1")
    with locked(tmp_path / "mlflow.db"):
        if good:
            mooring("rollout", "promote")
        else:
            one.traffic(100, ok=False)
        one.until(lambda: one.is_at("promoting" if good else "rolling_back"))
        assert one.routed(NEW if good else CHAMPION)
        one.kill()
        one.wants.clear()
        one.start()
        one.until(lambda: one.wants and one.routed(NEW if good else CHAMPION))
    one.until(lambda: one.is_at("promoted" if good else "rolled_back"))
    assert aliases(client).items() >= {"champion": "2" if good else "1"}.items()
    assert "challenger" not in aliases(client)


def test_the_whole_supervisor_killed_another_goes_on_when_the_lease_is_free(front, client):
    one = stepping(front, client, *LONG)
    one.kill()
    with State(STATE) as state:
        lease = state.lease("serve/wine", 600)  # however long this machine takes to start the other
        lease.me = "front"
        assert lease.acquire()
    other = front(*LONG, holder="another")
    other.until(lambda: other.version == "1")  # it answers at once
    assert other.routed(CHAMPION)
    with State(STATE) as state, state.database.writing() as connection:
        connection.exec_driver_sql("DELETE FROM mooring_leases")  # as it will have run out
    other.until(lambda: other.routed(CHAMPION, Route("2", "shadow", 0.2)))
    assert "this supervisor rolls out wine from now on" in other.said
    assert other.rollout().number == 1


def test_without_the_lease_it_follows_the_champion_and_moves_nothing(front, client, tmp_path):
    with State(STATE) as state, state.lease("serve/wine", 600):
        one = serving(front, *PLAN)
        challenge(client, "3")
        client.set_registered_model_alias("wine", "champion", "2")
        one.until(lambda: one.version == "2")
        assert {route.variant for want in one.wants for route in want.routes} == {"champion"}
        assert len(one.replays) == 1  # it was loaded and checked
        assert one.rollout() is None
        assert aliases(client) == {"champion": "2", "challenger": "3"}
        one.replayed = Replayed("4", 1, 1)
        client.set_registered_model_alias("wine", "champion", "4")
        one.until(lambda: "it failed 1 of 1 requests" in one.said)
        one.until(lambda: [model.version for model in one.want.models] == ["2"])
        assert aliases(client)["champion"] == "4"
        client.set_registered_model_alias("wine", "champion", "2")
    one.replayed = Replayed("3", 1, 0)
    one.until(lambda: one.is_at("stepping") and one.rollout().version == "3")
