"""A state that several processes use at once, of which some are killed, on SQLite and on PostgreSQL alike."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import states
from mooring.state.alerts import Alerts
from mooring.state.objects import Objects
from mooring.state.state import State
from mooring.state.windows import Windows
from states import LOG, NOON, put, window
from waiting import wait_for


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/made/state.db"
    return request.getfixturevalue("postgresql").url()


@pytest.fixture
def state(url):
    with State(url) as opened:
        yield opened


WORK = """
import sys
sys.path[:0] = [{tests!r}]
from states import DAY, LOG, alert, verdict, window
from mooring.state.alerts import Alerts
from mooring.state.objects import DoneObject, Objects
from mooring.state.state import State
from mooring.state.verdicts import Verdicts
from mooring.state.windows import Windows

state = State(sys.argv[1])
lease = state.lease("monitor/wine", 1.0)
assert lease.acquire()
with state.begin(lease) as tx:
    one = Windows(tx).put(window(), b"profile")
    drift = verdict(one, "critical")
    Verdicts(tx).put(drift, b"results")
    Alerts(tx).put(alert(drift))
    Windows(tx).set_standing("wine", "3", "champion", "critical")
    Objects(tx).mark_done("wine", LOG, [DoneObject("a", DAY, 10)])
    if "wait" in sys.argv:
        print("working", flush=True)
        sys.stdin.read()
print("done", flush=True)
"""


def run(code: str, *arguments: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-c",
        code.replace("{tests!r}", repr(str(Path(states.__file__).parent))),
        *arguments,
    ]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_killed_in_the_middle_of_a_transaction_nothing_is_there_and_the_next_one_does_it_all(state, url):
    with run(WORK, url, "wait") as killed:
        assert killed.stdout.readline() == "working\n"
        killed.kill()
    assert Windows(state).history("wine") == []
    assert Objects(state).seen("wine", LOG, ["a"]) == set()
    lease = state.lease("monitor/wine")
    wait_for(lease.acquire, "the dead process's lease does not expire")
    lease.release()
    with run(WORK, url) as worked:
        assert worked.stdout.readline() == "done\n"
    [judged] = Windows(state).history("wine")
    assert judged.verdict.status == "critical"
    assert Objects(state).seen("wine", LOG, ["a"]) == {"a"}
    assert [one.verdict_id for one in Alerts(state).due("wine", NOON)] == [judged.verdict.id]
    assert Windows(state).standing("wine", "3", "champion") == "critical"


def test_who_reads_sees_the_last_whole_transaction_while_another_writes(state, url):
    put(state, window())
    with run(WORK, url, "wait") as writing:
        assert writing.stdout.readline() == "working\n"
        assert [one.verdict.status for one in Windows(state).history("wine")] == ["ok"]
        writing.kill()


RACE = """
import sys
from mooring.state.state import State
state = State(sys.argv[1])
lease = state.lease("monitor/wine")
print("ready", flush=True)
sys.stdin.readline()
print(lease.acquire(), flush=True)
sys.stdin.read()
"""


def test_of_processes_that_race_for_a_new_state_and_its_lease_all_open_it_and_one_gets_it(url):
    racing = [run(RACE, url) for _ in range(4)]
    try:
        assert [one.stdout.readline() for one in racing] == ["ready\n"] * 4
        for one in racing:
            one.stdin.write("go\n")
            one.stdin.flush()
        assert sorted(one.stdout.readline() for one in racing) == ["False\n"] * 3 + ["True\n"]
    finally:
        for one in racing:
            one.communicate()
    assert [one.returncode for one in racing] == [0] * 4
