"""Alerts: what is told, once, of a course of windows, and what is kept of it."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerting import SECRET, conclude, delivered
from mooring.monitor.alerting.channels import CommandChannel, Webhook
from mooring.monitor.alerting.queue import backoff
from mooring.monitor.alerting.rules import transition
from mooring.state.state import State
from mooring.status import JUDGED, severity_of

statuses = st.lists(st.sampled_from(["ok", "warning", "critical", "too_few", "no_baseline"]), max_size=40)


def told(seen: list[str]) -> list[str | None]:
    """Return what is told after each of these windows."""
    kinds, standing = [], "ok"
    for status in seen:
        kind, standing = transition(standing, severity_of(status))
        kinds.append(kind)
    return kinds


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ("ok warning warning critical critical warning ok ok", "- new - worsened - - ended -"),
        ("ok critical warning critical ok warning", "- new - - ended new"),
        ("warning critical warning critical ok", "new worsened - - ended"),
        ("critical too_few no_baseline ok", "new - - ended"),
        ("too_few no_baseline ok", "- - -"),
    ],
)
def test_what_is_told_of_a_course_of_windows(seen, expected):
    assert [kind or "-" for kind in told(seen.split())] == expected.split()


@given(statuses)
def test_a_drift_begins_once_worsens_at_most_once_and_ends_once(seen):
    course = " ".join(filter(None, told(seen)))
    assert re.fullmatch(r"((^| )new( worsened)? ended)*((^| )new( worsened)?)?", course)


@given(statuses)
def test_windows_that_can_not_be_judged_change_nothing(seen):
    judged = [status for status in seen if status in JUDGED]
    assert [kind for kind in told(seen) if kind] == [kind for kind in told(judged) if kind]


@pytest.fixture
def state(tmp_path):
    with State(str(tmp_path / "state.db")) as opened:
        yield opened


def test_each_wait_is_longer_than_the_last_up_to_an_hour_and_never_the_same_for_all():
    for attempts in range(1, 40):
        waits = {backoff(attempts) for _ in range(20)}
        longest = min(5.0 * 2 ** (attempts - 1), 3600)
        assert len(waits) > 1
        assert all(longest / 2 <= wait <= longest for wait in waits)


def test_an_alert_to_a_channel_that_is_configured_no_more_fails(state):
    conclude(state, "critical", channels=[Webhook("http://127.0.0.1:1/")])
    assert delivered(state) == [("failed", "this channel is no longer configured")]


def test_the_state_holds_no_secret(state, tmp_path):
    webhook = Webhook(f"https://user:{'p' * 12}@hooks.example.org:8443/T0/{'x' * 20}?key={'y' * 20}", SECRET)
    command = CommandChannel(["/bin/false", "--token", "z" * 20])
    conclude(state, "critical", channels=[webhook, command])
    assert re.fullmatch(r"https://hooks\.example\.org:8443#[0-9a-f]{8}", webhook.name)
    assert re.fullmatch(r"command:false#[0-9a-f]{8}", command.name)
    state.close()
    held = b"".join(path.read_bytes() for path in tmp_path.glob("state.db*"))
    assert b"hooks.example.org" in held
    for secret in (b"p" * 12, b"x" * 20, b"y" * 20, b"z" * 20, SECRET.encode()):
        assert secret not in held


@pytest.mark.parametrize(
    "url", ["example.org", "ftp://example.org/", "http://", "http://a b/", "http://h:x/", "http://é/"]
)
def test_what_is_no_webhook_is_refused(url):
    with pytest.raises(ValueError):
        Webhook(url)


@pytest.mark.parametrize("command", ["", []])
def test_no_command_is_refused(command):
    with pytest.raises(ValueError):
        CommandChannel(command)
