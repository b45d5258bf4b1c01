"""What calls for a retraining, and what does not."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from mooring.cli import main
from mooring.retrain.trigger import ask
from mooring.state.promotions import Promotion
from mooring.state.retrainings import Cause, TicketError, Tickets
from mooring.state.state import State
from mooring.state.windows import Windows
from moves import trained
from retrain_places import configured, settings
from retraining import MODEL, assessed, estimated, judged

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with State(f"{tmp_path}/state.db") as opened:
        yield opened


@pytest.mark.parametrize(
    ("statuses", "changed", "due"),
    [
        (["ok"] * 5, {}, False),
        (["ok", "critical"], {}, True),
        (["ok", "critical", "warning"], {}, True),
        (["critical", "ok"], {}, False),
        (["critical", "critical", "ok", "warning"], {}, False),
        (["warning"] * 5, {}, False),
        (["warning"] * 5, {"retrain_level": "warning"}, True),
        (["critical", "too_few"], {}, True),
        (["critical"] * 5, {"retrain_when": ("performance",)}, False),
    ],
)
def test_an_open_incident_that_was_bad_enough_calls_for_it(state, statuses, changed, due):
    judged(state, statuses, end=NOW)
    answer = ask(state, MODEL, settings(**changed), NOW)
    assert (answer.cause is not None) == due, answer.reason
    if due:
        assert answer.cause.windows
        assert Windows(state).judged(answer.cause.verdict) is not None


@pytest.mark.parametrize(
    ("statuses", "when", "due"),
    [
        (["critical"] * 5, ("drift", "performance"), True),
        (["critical"] * 5, ("performance",), True),
        (["critical"] * 5, ("drift",), False),
        (["critical", "ok", "ok", "ok", "ok"], ("performance",), False),
        (["too_few", "critical", "critical", "ok", "too_few"], ("performance",), True),
        (["too_few", "critical", "critical", "critical", "too_few"], ("performance",), True),
        (["warning"] * 5, ("performance",), False),
    ],
)
def test_performance_calls_for_it_as_drift_does(state, statuses, when, due):
    judged(state, ["ok"] * 5, end=NOW)
    assessed(state, statuses)
    answer = ask(state, MODEL, settings(retrain_when=when), NOW)
    assert (answer.cause is not None) == due, answer.reason
    if due:
        assert answer.cause.kind == "performance"
        assert "critical on labels" in answer.reason


@pytest.mark.parametrize(
    ("statuses", "when", "due"),
    [
        (["critical"] * 5, ("drift", "estimated"), True),
        (["critical"] * 5, ("drift", "performance"), False),
        (["critical", "ok", "ok", "ok", "ok"], ("estimated",), False),
        (["too_few"] * 5, ("estimated",), False),
        (["warning"] * 5, ("estimated",), False),
    ],
)
def test_estimated_performance_calls_for_it_where_that_is_wanted(state, statuses, when, due):
    judged(state, ["ok"] * 5, end=NOW)
    estimated(state, statuses)
    answer = ask(state, MODEL, settings(retrain_when=when), NOW)
    assert (answer.cause is not None) == due, answer.reason
    if due:
        assert answer.cause.kind == "estimated"
        assert "critical without labels" in answer.reason


@pytest.mark.parametrize(
    ("measured", "guessed", "due"),
    [
        (None, None, True),
        (None, "too_few", True),
        (None, "critical", True),
        (None, "ok", False),
        ("ok", None, False),
        ("ok", "critical", False),
        ("warning", "ok", True),
        ("too_few", "ok", False),
    ],
)
def test_drift_that_is_known_to_do_no_harm_may_be_left_out(state, measured, guessed, due):
    judged(state, ["critical"] * 3, end=NOW)
    if measured:
        assessed(state, [measured] * 3)
    if guessed:
        estimated(state, [guessed] * 3)
    chosen = {"retrain_when": ("drift",), "retrain_drift": "only_harmful"}
    answer = ask(state, MODEL, settings(**chosen), NOW)
    assert (answer.cause is not None) == due, answer.reason
    if not due:
        assert "moved, harmless" in answer.reason
    assert ask(state, MODEL, settings(retrain_when=("drift",)), NOW).cause is not None


def test_what_is_long_past_calls_for_nothing(state):
    judged(state, ["critical"] * 5, end=NOW)
    answer = ask(state, MODEL, settings(), NOW + 2 * DAY)
    assert answer.cause is None
    assert "2026-03-01 12:00" in answer.reason


def test_the_windows_of_the_version_before_do_not_count(state):
    judged(state, ["critical"] * 5, end=NOW - timedelta(hours=1))
    judged(state, ["ok", "ok"], end=NOW, version="2")
    assert ask(state, MODEL, settings(), NOW).cause is None


def test_one_at_a_time_then_a_cooldown_then_so_many_a_week(state):
    judged(state, ["critical"] * 5, end=datetime.now(UTC))
    tickets = Tickets(state)
    now = datetime.now(UTC)
    first = tickets.open(MODEL, ask(state, MODEL, settings(), now).cause, "why", champion="1", directory="d")
    assert "is under way" in ask(state, MODEL, settings(), now).reason
    with pytest.raises(TicketError, match="under way already"):
        tickets.open(MODEL, Cause(kind="manual"), "why", champion="1", directory="d")
    tickets.move(trained(tickets, first), "refused", "gate")
    assert "cools down until" in ask(state, MODEL, settings(), now).reason
    without = settings(retrain_cooldown=0.0)
    assert ask(state, MODEL, without, datetime.now(UTC)).cause is not None
    seldom = settings(retrain_cooldown=0.0, retrain_max_per_week=1)
    assert "in the last 7 days" in ask(state, MODEL, seldom, datetime.now(UTC)).reason


def test_the_same_verdict_leads_to_one_ticket(state):
    judged(state, ["critical"] * 5)
    cause = ask(state, MODEL, settings(), datetime.now(UTC)).cause
    tickets = Tickets(state)
    first = tickets.open(MODEL, cause, "why", champion="1", directory="d")
    assert tickets.open(MODEL, cause, "why", champion="1", directory="d") == first
    ended = tickets.move(first, "failed", "failed")
    assert tickets.open(MODEL, cause, "why", champion="1", directory="d") == ended


def test_who_comes_second_changes_nothing(state):
    tickets = Tickets(state)
    first = tickets.open(MODEL, Cause(kind="manual"), "why", champion="1", directory="d")
    tickets.move(first, "training", "dataset", attempt=1)
    with pytest.raises(TicketError, match="gone on meanwhile"):
        tickets.move(first, "training", "dataset", attempt=1)
    assert [step.what for step in tickets.steps(first.id)] == ["opened", "dataset"]


@pytest.mark.parametrize(
    ("retrain", "words"),
    [
        ({"command": None}, "command"),
        ({"python": "a:b"}, "one of"),
        ({"command": "train {nothing}"}, "{nothing}"),
        ({"range": "often"}, "range"),
        ({"range": "1.2.3d"}, "1.2.3d"),
        ({"timeout": "inf"}, "timeout"),
        ({"cooldwn": "1d"}, "cooldwn"),
    ],
)
def test_settings_that_cannot_be_meant_are_a_sentence(tmp_path, monkeypatch, retrain, words):
    monkeypatch.chdir(tmp_path)
    configured(tmp_path, **{"command": ["train"], **retrain})
    with State("sqlite:///state.db") as state:
        judged(state, ["critical"] * 5)
    result = CliRunner().invoke(main, ["retrain", "--now"])
    assert result.exit_code == 2, result.output
    assert words in result.output


def test_a_tickets_directory_stays_where_all_are_and_is_its_own(state, tmp_path):
    tickets = Tickets(state)
    ticket = tickets.open("../../a b/c", Cause(kind="manual"), "why", champion=None, directory=f"{tmp_path}/all")
    assert Path(ticket.directory).parent == tmp_path / "all"
    with State(f"{tmp_path}/anew.db") as anew:
        other = Tickets(anew).open("../../a b/c", ticket.cause, "why", champion=None, directory=f"{tmp_path}/all")
    assert (other.number, other.directory == ticket.directory) == (1, False)


@pytest.mark.parametrize("name", ["", "\N{SUPERSCRIPT TWO}", "9"])
def test_a_name_that_is_no_tickets_names_none(state, name):
    Tickets(state).open(MODEL, Cause(kind="manual"), "why", champion="1", directory="d")
    with pytest.raises(TicketError, match="no ticket"):
        Tickets(state).named(MODEL, name)


def test_after_a_cancelled_one_there_is_a_cooldown_too(state):
    judged(state, ["critical"] * 5, end=datetime.now(UTC))
    now = datetime.now(UTC)
    ticket = Tickets(state).open(
        MODEL, ask(state, MODEL, settings(), now).cause, "why", champion="1", directory="d"
    )
    Tickets(state).move(ticket, "cancelled", "cancelled")
    assert "cools down until" in ask(state, MODEL, settings(), now).reason


def test_a_server_that_was_not_restarted_calls_for_nothing(state):
    judged(state, ["critical"] * 5, end=NOW)
    done = Promotion(
        id="p", model=MODEL, ticket_id=None, kind="promotion", version="2", previous="1", status="done",
        reason="", who="me", created=NOW,
    )  # fmt: skip
    Tickets(state).promotions.put(done)
    answer = ask(state, MODEL, settings(), NOW)
    assert answer.cause is None
    assert "restart the server" in answer.reason
