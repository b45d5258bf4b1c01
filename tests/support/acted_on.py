"""What the tests of the dashboard's actions act on: rollouts and retrainings, and who asks for what."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from dashboard import TOKEN, Answer, ask
from mooring.retrain.job import jobs
from mooring.retrain.machine import attempt_directory
from mooring.state.retrainings import Cause, Ticket, Tickets
from mooring.state.rollouts import Rollouts, new
from mooring.state.state import State


class Shown(NamedTuple):
    """A dashboard and the state that it shows."""

    address: str
    state: State
    place: Path

    def see(self, path: str) -> str:
        answer = ask(self.address, path, headers={"Accept": "text/html"})
        assert answer.status == 200, (path, answer)
        return answer.text

    def told(self, path: str) -> Any:
        answer = ask(self.address, f"/api{path}")
        assert answer.status == 200, (path, answer)
        return answer.json

    def do(self, path: str, reason: str = "", who: str = "ann") -> Answer:
        body = msgspec.json.encode({"reason": reason})
        return ask(self.address, f"/api{path}", "POST", body, headers={"X-Mooring-User": who}, bearer=TOKEN)

    def refused(self, path: str) -> tuple[int, str]:
        answer = self.do(path)
        return answer.status, answer.json["error"]


def opened(shown: Shown, model: str, **given: Any) -> Ticket:
    cause = given.pop("cause", Cause(kind="manual"))
    directory = str(shown.place / "retrain")
    return Tickets(shown.state).open(model, cause, "it drifts", champion="1", directory=directory, **given)


def training(shown: Shown, model: str, code: str) -> Ticket:
    """Return a retraining whose job runs this code."""
    tickets = Tickets(shown.state)
    ticket = tickets.move(opened(shown, model), "training", "dataset", {"training_rows": 600}, attempt=1)
    jobs.start(attempt_directory(ticket), [sys.executable, "-u", "-c", code], env={}, timeout=600)
    return ticket


def something_to_do(directory: Path) -> str:
    """Make a state with a rollout under way and a retraining that waits to be approved, and return its URL."""
    state = f"sqlite:///{directory}/state.db"
    with State(state) as made:
        Rollouts(made).open(new("wine", "2", "1", "challenger"))
        Tickets(made).open(
            "wine", Cause(kind="manual"), "asked for", champion="1", directory="retrain", status="approval"
        )
    return state
