"""The dashboard's rollouts, retrainings and history: what they tell, what can be done there, and who did it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
import pytest

from acted_on import Shown, opened
from dashboard import TOKEN, ask, pages
from mooring.rollout_plan import parse
from mooring.serving.protocol import Outcome
from mooring.serving.rollout.guards import Guards, Limits
from mooring.state.alerts import Alert, Alerts
from mooring.state.promotions import Promotion
from mooring.state.retrainings import Cause, Tickets
from mooring.state.rollouts import Rollout, Rollouts, Served, moved, new
from mooring.state.state import State
from mooring.state.verdicts import Verdict, Verdicts
from mooring.state.windows import Window, Windows
from moves import loaded, promoted, rolled_back, trained

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
PLAN = parse(["shadow 50% 1m 100", "canary 5% 1m 100"])


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    place = tmp_path_factory.mktemp("shown")
    url = f"sqlite:///{place}/state.db"
    with State(url) as state, pages(url, ui_mlflow="https://mlflow.example/") as address:
        yield Shown(address, state, place)


def begun(shown: Shown, model: str, status: str = "stepping", **changes: Any) -> Rollout:
    found = Rollouts(shown.state)
    rollout = found.open(new(model, "2", "1", "challenger", PLAN))
    if status == "loading":
        return rollout
    checking = loaded(found, rollout)
    stepping = moved(checking, "stepping", **changes)
    return found.move(checking, stepping, "step", {"step": str(PLAN[stepping.step])})


def test_what_is_asked_of_a_rollout_is_written_with_who_and_why_and_shown_until_it_is_done(shown: Shown) -> None:
    rollout = begun(shown, "asked")
    done = shown.do("/models/asked/rollouts/1/pause", "the numbers look odd")
    assert (done.status, done.json) == (200, {"see": "/models/asked/rollouts/1"})
    told = shown.told("/models/asked/rollouts/1")
    assert told["asked"] == {"wish": "pause", "who": "ann (dashboard)", "reason": "the numbers look odd"}
    assert told["can"] == ["resume", "promote", "abort"]
    last = told["events"][-1]
    assert (last["what"], last["text"], last["who"]) == ("asked", "pause: the numbers look odd", "ann (dashboard)")
    page = shown.see("/models/asked/rollouts/1")
    assert "ann (dashboard) has asked to pause (the numbers look odd)" in page
    # The supervisor does it, and says by whom.
    found = Rollouts(shown.state)
    kept = found.keep(rollout)
    assert (kept.wish, kept.wish_by) == ("pause", "ann (dashboard)")
    found.move(kept, moved(kept, "stepping", paused=True), "paused", {}, who=kept.wish_by or "")
    found.taken(kept)
    told = shown.told("/models/asked/rollouts/1")
    assert (told["asked"], told["paused"]) == (None, True)
    [chain] = shown.told("/history?model=asked")["chains"]
    acts = [(act["what"], act["who"]) for act in chain["acts"]]
    assert acts[-2:] == [("rollout: asked", "ann (dashboard)"), ("rollout: paused", "ann (dashboard)")]
    assert shown.do("/models/asked/rollouts/1/resume").status == 200
    assert shown.do("/models/asked/rollouts/1/promote", "it is urgent", "bob").status == 200
    assert found.unended("asked").wish == "promote"
    assert shown.do("/models/asked/rollouts/1/abort").status == 200
    wishes = [event.detail["wish"] for event in found.events(rollout.id) if event.what == "asked"]
    assert wishes == ["pause", "resume", "promote", "abort"]


def test_only_the_rollout_that_is_under_way_can_be_asked_for_something(shown: Shown) -> None:
    first = begun(shown, "two")
    found = Rollouts(shown.state)
    found.move(first, moved(first, "superseded"), "superseded")
    second = begun(shown, "two")
    status, error = shown.refused("/models/two/rollouts/1/abort")
    assert (status, error) == (409, "Rollout 1 of two is not under way: rollout 2 is.")
    assert shown.refused("/models/two/rollouts/2/resume") == (409, "Rollout 2 of two is not paused.")
    assert shown.refused("/models/two/rollouts/3/abort") == (404, "There is no rollout 3 of two.")
    found.move(second, moved(second, "promoting"), "full")
    assert shown.refused("/models/two/rollouts/2/abort") == (409, "Rollout 2 of two is promoting: too late.")
    assert [event.what for event in found.events(first.id)] == ["begun", "loaded", "step", "superseded"]
    assert shown.told("/models/two/rollouts/1")["can"] == []
    assert "Step in" not in shown.see("/models/two/rollouts/1")


@pytest.mark.parametrize("number", ["0", "99999999999999999999", "0x1", "-1", "1.0", "١", "%00", "a", "1%252F2"])
@pytest.mark.parametrize("model", ["two", "nobody", "%00", "a%252Fb", "' OR 1=1", "x" * 3000])
def test_what_is_not_there_is_said_so(shown: Shown, model: str, number: str) -> None:
    for path in (f"/models/{model}/rollouts/{number}", f"/models/{model}/retrainings/{number}"):
        path = quote(path, safe="/%")
        assert ask(shown.address, path).status == 404
        assert ask(shown.address, f"/api{path}").status == 404
        action = f"/api{path}/{'abort' if 'rollouts' in path else 'approve'}"
        assert ask(shown.address, action, "POST", b"{}", bearer=TOKEN).status == 404


def test_a_rollout_says_where_it_stands_and_how_near_its_guards_are(shown: Shown) -> None:
    guards = Guards(Limits(), None)
    for request in range(60):
        guards.observe(Outcome("1", "champion", True, 0.01))
        guards.observe(Outcome("2", "canary", request % 6 != 0, 0.01))
    rows = msgspec.to_builtins(guards.rows())
    evidence = {"guards": guards.state(), "rows": rows}
    begun(shown, "guarded", step=1, seconds=12.0, requests=60, counts={"champion": 60, "canary": 60})
    rollout = Rollouts(shown.state).unended("guarded")
    Rollouts(shown.state).keep(msgspec.structs.replace(rollout, evidence=evidence, counts={"canary": 60}))
    Rollouts(shown.state).put_serving(
        Served(model="guarded", host="a", follows="@champion", version="1", since=NOW, held_back="it stays")
    )
    told = shown.told("/models/guarded/rollouts/1")
    assert told["serving"][0]["held_back"] == "it stays"
    [model] = [one for one in shown.told("/models")["models"] if one["model"] == "guarded"]
    assert "a: it stays" in [one["text"] for one in model["attention"]]
    assert [(one["name"], one["place"]) for one in told["stages"]] == [
        ("load", "done"), ("check", "done"), ("shadow 50% 1m 100", "done"), ("canary 5% 1m 100", "now"),
        ("full", "next"),
    ]  # fmt: skip
    assert told["weights"] == [
        {"version": "1", "variant": "champion", "share": 0.95},
        {"version": "2", "variant": "canary", "share": 0.05},
    ]
    by_name = {guard["name"]: guard for guard in told["guards"]}
    assert 0 < by_name["errors"]["evidence"] <= 1
    assert by_name["errors"]["failed"] == (by_name["errors"]["evidence"] == 1)
    assert by_name["difference"]["evidence"] == 0
    assert told["supervisor"] is None
    page = shown.see("/models/guarded/rollouts/1")
    assert "mooring serve is not running" in page
    assert "waits for answers of both versions" in page or by_name["latency"]["note"] == ""
    assert 'hx-trigger="every 2s"' in page
    with shown.state.lease("serve/guarded"):
        assert "mooring serve is not running" not in shown.see("/models/guarded/rollouts/1")
        assert shown.told("/models/guarded/rollouts/1")["supervisor"] is not None
    ended = Rollouts(shown.state).unended("guarded")
    rolled_back(Rollouts(shown.state), ended, "errors: many")
    told = shown.told("/models/guarded/rollouts/1")
    assert [one["place"] for one in told["stages"]] == ["done", "done", "done", "ended", "left out"]
    page = shown.see("/models/guarded/rollouts/1")
    assert "every 2s" not in page  # nothing changes any more
    assert "errors: many" in page
    assert "https://mlflow.example/#/models/guarded/versions/2" in page


def test_the_live_part_brings_other_buttons_once_other_things_can_be_done(shown: Shown) -> None:
    rollout = begun(shown, "live")
    phase = shown.told("/models/live/rollouts/1")["phase"]
    same = shown.see(f"/models/live/rollouts/1?{urlencode({'seen': phase})}")
    assert "hx-swap-oob" not in same  # a form that somebody fills in stays
    found = Rollouts(shown.state)
    found.move(rollout, moved(rollout, "stepping", paused=True), "paused")
    other = shown.see(f"/models/live/rollouts/1?{urlencode({'seen': phase})}")
    assert '<div id="acts" hx-swap-oob="true">' in other


def test_a_retraining_is_approved_once_with_who_and_why(shown: Shown) -> None:
    ticket = opened(shown, "approved", status="approval")
    assert shown.told("/models/approved/retrainings/1")["can"] == ["approve", "cancel"]
    assert "Retraining 1 waits to be approved" in shown.see("/models/approved/retrainings/1")
    done = shown.do("/models/approved/retrainings/1/approve", "the labels are in")
    assert (done.status, done.json) == (200, {"see": "/models/approved/retrainings/1"})
    step = Tickets(shown.state).steps(ticket.id)[-1]
    assert (step.what, step.who, step.detail) == ("approved", "ann (dashboard)", {"reason": "the labels are in"})
    status, error = shown.refused("/models/approved/retrainings/1/approve")
    assert (status, error) == (409, "Retraining 1 does not wait to be approved: it is dataset.")
    told = shown.told("/models/approved/retrainings/1")
    assert (told["status"], told["steps"][-1]["text"]) == ("dataset", "the labels are in")
    assert "the labels are in" in shown.see("/history?model=approved")


def test_one_that_waits_can_be_refused_and_what_is_over_can_not(shown: Shown) -> None:
    opened(shown, "refused", status="approval")
    assert "Refuse" not in shown.see("/models/refused/retrainings/1")  # nobody has signed in
    assert shown.do("/models/refused/retrainings/1/cancel", "not now", "bob").status == 200
    told = shown.told("/models/refused/retrainings/1")
    assert (told["status"], told["steps"][-1]["who"]) == ("cancelled", "bob (dashboard)")
    status, error = shown.refused("/models/refused/retrainings/1/cancel")
    assert (status, error) == (409, "Retraining 1 is cancelled: there is nothing to cancel.")
    tickets = Tickets(shown.state)
    ticket = opened(shown, "handed", status="approval")
    tickets.move(trained(tickets, ticket), "challenger", "gate", {"passed": True})
    told = shown.told("/models/handed/retrainings/1")
    assert told["can"] == ["cancel"]
    Rollouts(shown.state).open(new("handed", "2", "1", "challenger"))
    assert shown.told("/models/handed/retrainings/1")["can"] == []
    live = shown.see(f"/models/handed/retrainings/1?{urlencode({'seen': told['phase']})}")
    assert '<div id="acts" hx-swap-oob="true">' in live
    status, error = shown.refused("/models/handed/retrainings/1/cancel")
    assert status == 409
    assert "mooring rollout abort" in error


def test_a_browser_acts_by_a_form_and_its_name_is_in_the_history(shown: Shown) -> None:
    opened(shown, "form", status="approval")
    signed = ask(
        shown.address,
        "/login",
        "POST",
        urlencode({"token": TOKEN, "who": "Zoë", "next": "/models/form/retrainings/1"}).encode(),
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    )
    cookie = {"Cookie": signed.headers["set-cookie"].partition(";")[0], "Accept": "text/html"}
    page = ask(shown.address, signed.headers["location"], headers=cookie).text
    assert "<summary>Approve</summary>" in page
    assert "<summary>Refuse</summary>" in page
    csrf = re.search(
        r'action="/models/form/retrainings/1/approve">.*?name="csrf" value="([^"]+)"', page, re.DOTALL
    )
    assert csrf is not None
    form = urlencode({"csrf": csrf[1], "reason": "<b>go</b>"}).encode()
    done = ask(shown.address, "/models/form/retrainings/1/approve", "POST", form, headers=cookie)
    assert (done.status, done.headers["location"]) == (303, "/models/form/retrainings/1")
    history = shown.see("/history?model=form")
    assert "Zoë (dashboard)" in history
    assert "&lt;b&gt;go&lt;/b&gt;" in history


def test_a_retraining_of_another_host_says_where_its_files_are(shown: Shown) -> None:
    tickets = Tickets(shown.state)
    ticket = tickets.open(
        "far", Cause(kind="manual"), "asked for", champion="1", directory=str(shown.place / "not-here")
    )
    tickets.move(ticket, "training", "dataset", {"training_rows": 600}, attempt=1)
    page = shown.see("/models/far/retrainings/1")
    assert "Its files are not on this host" in page
    assert "not-here" in page
    assert shown.do("/models/far/retrainings/1/cancel").status == 200


def test_the_gate_is_told_rule_by_rule(shown: Shown) -> None:
    tickets = Tickets(shown.state)
    checks = [
        {"name": "better", "passed": False, "message": "rmse is 2, the champion's 1", "threshold": 0.02},
        {"name": "rows", "passed": True, "message": "the holdout has 200 labelled rows"},
    ]
    detail = {"passed": False, "checks": checks, "metric": "rmse", "champion_value": 1.0, "candidate_value": 2.0,
              "improvement": -1.0, "low": -1.4, "confidence": 0.95, "rows": 200, "difference": None}  # fmt: skip
    ticket = trained(tickets, opened(shown, "gated"), {"version": "2"}, run_id="a/b")
    tickets.move(ticket, "refused", "gate", detail, message="version 2: refused")
    told = shown.told("/models/gated/retrainings/1")
    assert (told["gate"]["passed"], told["gate"]["low"], told["gate"]["needed"]) == (False, -1.4, 0.02)
    page = shown.see("/models/gated/retrainings/1")
    assert "The gate refused version 2" in page
    assert page.index("rmse is 2") < page.index("the holdout has 200")  # what was broken first
    assert "https://mlflow.example/#/runs/a%2Fb" in page


def test_the_history_leads_from_the_drift_to_the_champion(shown: Shown) -> None:
    with shown.state.begin() as tx:
        window = Windows(tx).put(
            Window(model="chain", version="1", start=NOW, end=NOW + timedelta(hours=1), rows=100), b""
        )
        verdict = Verdict(window_id=window.id, status="critical", created=NOW)
        Verdicts(tx).put(verdict, b"")
        Alerts(tx).put(
            Alert(
                verdict_id=verdict.id,
                model="chain",
                kind="new",
                channel="webhook:x",
                payload='{"text": "drift!"}',
                status="failed",
                attempts=5,
                created=datetime.now(UTC),
                next_attempt=NOW,
                last_error="500 Server Error",
            )
        )
    cause = Cause(kind="drift", verdict=verdict.id, windows=((window.start, window.end),))
    tickets = Tickets(shown.state)
    ticket = trained(tickets, opened(shown, "chain", cause=cause), {"version": "2", "run": "abc"}, run_id="abc")
    ticket = tickets.move(ticket, "challenger", "gate", {"passed": True, "improvement": 0.2})
    found = Rollouts(shown.state)
    rollout = found.open(new("chain", "2", "1", "challenger", (), ticket_id=ticket.id))
    promoted(found, rollout)
    promotion = Promotion(id="p", model="chain", ticket_id=ticket.id, kind="promotion", version="2", previous="1",
                          status="done", reason="", who="mooring", created=NOW, ended=NOW)  # fmt: skip
    tickets.move(ticket, "promoted", "promoted", {"version": "2"}, promotion=promotion)
    told = shown.told("/history?model=chain")
    [chain] = told["chains"]
    assert [(link["name"], link["state"]) for link in chain["links"]] == [
        (name, "done") for name in ("drift", "retraining", "run", "version", "gate", "rollout", "champion")
    ]
    sees = {link["name"]: link["see"] or link["mlflow"] for link in chain["links"]}
    assert sees["drift"] == f"/models/chain?window={window.id}"
    assert sees["run"] == "https://mlflow.example/#/runs/abc"
    assert sees["version"] == "https://mlflow.example/#/models/chain/versions/2"
    assert sees["rollout"] == "/models/chain/rollouts/1"
    [alert] = told["alerts"]
    assert (alert["status"], alert["error"], alert["text"]) == ("failed", "500 Server Error", "drift!")
    page = shown.see("/history?model=chain")
    assert "not sent" in page
    assert "500 Server Error" in page


def test_the_history_goes_back_page_by_page_and_misses_nothing(shown: Shown) -> None:
    tickets = Tickets(shown.state)
    for number in range(5):
        kind = "rollback" if number % 2 else "promotion"
        tickets.promotions.put(
            Promotion(
                id=f"page{number}",
                model="pages",
                ticket_id=None,
                kind=kind,
                version=f"{number}",
                previous="9",
                status="done",
                reason="by hand",
                who="ann",
                created=NOW + timedelta(hours=number),
                ended=NOW,
            )
        )
    seen, path = [], "/history?model=pages&newest=2"
    while path:
        told = shown.told(path)
        seen += [chain["links"][1]["text"] for chain in told["chains"]]
        path = told["older"]
    assert seen == ["4", "3", "2", "1", "0"]
    assert "by ann" in shown.see("/history?model=pages")
    assert "Nothing began in this time" in shown.see("/history?model=pages&end=2020-01-01T00:00:00Z")
    assert "Nothing has happened to nobody" in shown.see("/history?model=nobody")
    everything = shown.told("/history?newest=100")
    assert len({chain["model"] for chain in everything["chains"]}) > 5


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("newest=0", 400),
        ("newest=x", 400),
        ("start=0001-01-01T00:00:00%2B14:00", 200),
        ("end=never", 400),
        ("model=%00", 404),
        ("model=%ff", 200),
    ],
)
def test_what_cannot_be_meant_is_refused(shown: Shown, query: str, status: int) -> None:
    assert ask(shown.address, f"/api/history?{query}").status == status
    assert ask(shown.address, f"/history?{query}", headers={"Accept": "text/html"}).status == status


def test_an_empty_history_says_so(tmp_path: Path) -> None:
    with pages(f"sqlite:///{tmp_path}/state.db") as address:
        page = ask(address, "/history", headers={"Accept": "text/html"}).text
        assert "Nothing has happened yet" in page
