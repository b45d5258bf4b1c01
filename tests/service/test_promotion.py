"""How the champion moves in MLflow's registry, and how that is recorded; proof/test_promotion.py kills it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import mlflow
import msgspec
import pytest
from mlflow import MlflowClient

from mooring import promotion
from mooring.promotion import promote
from mooring.registry.aliases import Moved, champion, move_champion, put_back, refuse, set_challenger
from mooring.registry.client import TrackingError
from mooring.registry.versions import Missing, candidates, tags_of
from mooring.retrain import manual
from mooring.serving import registry_watch
from mooring.state.promotions import Promotion, Promotions
from mooring.state.retrainings import Cause, Tickets
from mooring.state.rollouts import Rollout
from mooring.state.state import State
from ports import reserved_port
from registries import aliases, champion_and_challenger, new_version

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def client(tmp_path, monkeypatch) -> MlflowClient:
    return champion_and_challenger(tmp_path, monkeypatch)


def stages(client: MlflowClient) -> dict[str, str]:
    return {str(one.version): one.current_stage for one in client.search_model_versions("name='wine'")}


def test_the_champion_moves_and_the_old_one_is_previous(client):
    move_champion("wine", "2", expected="1", tags={"mooring.ticket": "t-1"}, at=NOON)
    assert aliases(client) == {"champion": "2", "previous": "1"}
    assert stages(client) == {"1": "Archived", "2": "Production"}
    found = client.get_model_version("wine", "2")
    told = {"mooring.promoted": "2026-03-01T12:00:00+00:00", "mooring.ticket": "t-1"}
    assert found.tags == told
    assert client.get_run(found.run_id).data.tags.items() >= told.items()
    assert (champion("wine"), champion("wine", "previous")) == ("2", "1")


def test_back_again(client):
    move_champion("wine", "2", expected="1")
    move_champion("wine", "1", expected="2")
    assert aliases(client) == {"champion": "1", "previous": "2"}
    assert stages(client) == {"1": "Production", "2": "Archived"}


def test_moved_twice_it_is_as_moved_once(client):
    for _ in range(2):
        move_champion("wine", "2", expected="1", at=NOON)
    assert aliases(client) == {"champion": "2", "previous": "1"}


def test_the_first_champion_has_no_previous_one(client):
    client.delete_registered_model_alias("wine", "champion")
    move_champion("wine", "2", expected=None)
    assert aliases(client) == {"champion": "2"}


def test_whom_somebody_else_made_champion_stays(client):
    third = new_version(client)
    client.set_registered_model_alias("wine", "champion", third)
    with pytest.raises(Moved, match="it was version 1, it is version 3 now") as raised:
        move_champion("wine", "2", expected="1")
    assert raised.value.version == third
    assert aliases(client) == {"champion": third, "challenger": "2"}
    client.delete_registered_model_alias("wine", "champion")
    with pytest.raises(Moved, match="there is none now"):
        move_champion("wine", "2", expected="1")


def test_whoever_made_itself_champion_is_put_back_without_a_trace(client):
    client.set_registered_model_alias("wine", "champion", "2")
    put_back("wine", "1", expected="2")
    assert aliases(client) == {"champion": "1", "challenger": "2"}
    assert stages(client)["1"] == "Production"
    assert client.get_model_version("wine", "1").tags == {}


def test_a_version_whose_run_is_gone_is_promoted_too(client):
    client.delete_run(client.get_model_version("wine", "2").run_id)
    move_champion("wine", "2", expected="1")
    assert aliases(client)["champion"] == "2"


def test_without_mlflow_nothing_happens_and_it_is_said(client, monkeypatch):
    port = reserved_port()
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        with pytest.raises(TrackingError, match="check that it runs"):
            move_champion("wine", "2", expected="1")
        with pytest.raises(TrackingError, match="the versions of wine"):
            candidates("wine", "t-1", NOON)
    assert aliases(client) == {"champion": "1", "challenger": "2"}


# The record of it


@pytest.fixture
def state(tmp_path):
    with State(f"sqlite:///{tmp_path}/state.db") as state:
        yield state


def begun(version: str = "2") -> Promotion:
    return msgspec.structs.replace(
        promotion.begun("wine", version, "1", reason="passed"), id=f"to-{version}", created=NOON
    )


def records(state: State) -> list[tuple[str, str, str]]:
    return [(one.id, one.status, one.reason) for one in Promotions(state).newest("wine")]


def test_a_promotion_is_recorded_and_made_once(client, state):
    done = promote(Promotions(state), begun(), tags={"mooring.ticket": "t-1"})
    assert (done.status, aliases(client)) == ("done", {"champion": "2", "previous": "1"})
    assert tags_of("wine", "2") == {"mooring.promoted": "2026-03-01T12:00:00+00:00", "mooring.ticket": "t-1"}
    client.set_registered_model_alias("wine", "champion", "1")  # somebody goes back
    assert promote(Promotions(state), begun()) == done
    assert aliases(client)["champion"] == "1"
    assert records(state) == [("to-2", "done", "passed")]


def test_where_there_is_no_champion_any_more_it_is_made_all_the_same(client, state):
    client.delete_registered_model_alias("wine", "champion")
    assert promote(Promotions(state), begun()).status == "done"
    assert aliases(client) == {"champion": "2"}


@pytest.mark.parametrize(("version", "error"), [("2", Moved), ("9", Missing)])
def test_one_that_can_not_be_made_is_recorded_as_failed(client, state, version, error):
    client.set_registered_model_alias("wine", "champion", new_version(client))
    with pytest.raises(error) as raised:
        promote(Promotions(state), begun(version))
    assert records(state) == [(f"to-{version}", "failed", str(raised.value))]
    assert aliases(client)["champion"] == "3"


def test_while_mlflow_is_away_it_stays_begun_but_a_persons_fails_and_may_be_made_again(client, state, monkeypatch):
    def away(*_: object) -> None:
        raise OSError("connection refused")

    for make, status in (
        (lambda: promote(Promotions(state), begun()), "begun"),
        (lambda: manual.promote(state, "wine", "2", "by hand"), "failed"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(mlflow.MlflowClient, "set_registered_model_alias", away)
            with pytest.raises(TrackingError, match="connection refused"):
                make()
        assert Promotions(state).newest("wine", 1)[0].status == status
    done = manual.promote(state, "wine", "2", "by hand, again")
    assert (done.status, aliases(client)["champion"]) == ("done", "2")
    assert records(state) == [("to-2", "done", "by hand, again")]  # the one that was begun, taken up


def test_a_version_that_is_rolled_out_again_is_promoted_again_and_each_rollout_once(client, state):
    ticket = Tickets(state).open("wine", Cause(kind="manual"), "asked for", champion="1", directory="d")
    for number in (1, 2):
        rollout = Rollout(
            id=f"r-{number}",
            model="wine",
            number=number,
            version="2",
            previous="1",
            cause="challenger",
            ticket_id=ticket.id,
            created=NOON,
            updated=NOON,
        )
        registry_watch.promote(state, None, rollout)
        assert aliases(client)["champion"] == "2"
        client.set_registered_model_alias("wine", "champion", "1")  # somebody goes back
        registry_watch.promote(state, None, rollout)  # as one that was killed before it could note that down
        assert aliases(client)["champion"] == "1"
    moves = Promotions(state).newest("wine")
    assert [(one.ticket_id, one.status) for one in moves] == [(ticket.id, "done")] * 2


def test_a_challenger_is_tagged_before_it_is_one(client):
    third = new_version(client)
    set_challenger("wine", third, {"mooring.ticket": "t-1", "mooring.verdict": "v-1"})
    assert aliases(client)["challenger"] == third
    told = {"mooring.gate": "passed", "mooring.ticket": "t-1", "mooring.verdict": "v-1"}
    assert tags_of("wine", third) == told
    assert client.get_run(client.get_model_version("wine", third).run_id).data.tags.items() >= told.items()


def test_a_refused_one_says_why_and_is_no_challenger(client):
    refuse("wine", "2", ["rmse is 3, the champion's 2", "it is slow"], {"mooring.ticket": "t-1"})
    assert aliases(client) == {"champion": "1"}
    assert tags_of("wine", "2") == {
        "mooring.gate": "refused",
        "mooring.gate.reasons": "rmse is 3, the champion's 2; it is slow",
        "mooring.ticket": "t-1",
    }


def test_reasons_of_any_length_are_taken(client):
    refuse("wine", "2", ["x" * 20_000])
    assert tags_of("wine", "2")["mooring.gate.reasons"].startswith("xxx")


def test_the_version_with_the_tickets_tag_is_its_candidate(client):
    since = datetime.now(UTC) - timedelta(minutes=1)
    own = new_version(client, tags={"mooring.ticket": "t-1"})
    new_version(client, tags={"mooring.ticket": "t-2"})
    of_run = new_version(client, run_tags={"mooring.ticket": "t-1"})
    assert candidates("wine", "t-1", since) == [own, of_run]


def test_without_tags_the_only_new_version_is_it(client):
    assert candidates("wine", "t-1", datetime.now(UTC) + timedelta(minutes=1)) == []
    client.delete_model_version("wine", "1")
    since = datetime.now(UTC) - timedelta(minutes=1)
    assert candidates("wine", "t-1", since) == ["2"]
    new_version(client, tags={"mooring.ticket": "t-2"})
    assert candidates("wine", "t-1", since) == ["2"]
    new_version(client)
    assert candidates("wine", "t-1", since) == []  # of two nobody can tell
    assert candidates("nobody", "t-1", since) == []


def test_history_reads_from_mlflow(client):
    set_challenger("wine", "2", {"mooring.ticket": "t-1"})
    runs = mlflow.search_runs(["0"], filter_string="tags.`mooring.ticket` = 't-1'", output_format="list")
    assert [run.info.run_id for run in runs] == [client.get_model_version("wine", "2").run_id]
