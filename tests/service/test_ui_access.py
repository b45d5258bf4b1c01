"""The dashboard's process: where it does not start, and a state that goes away."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from acted_on import something_to_do
from dashboard import ask, dashboard
from mooring.state.rollouts import Rollouts, new
from mooring.state.state import State
from waiting import PATIENCE

HTML = {"Accept": "text/html"}


@pytest.fixture(scope="module")
def with_token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with dashboard(something_to_do(tmp_path_factory.mktemp("state"))) as address:
        yield address


@pytest.mark.parametrize(
    ("flags", "code", "says"),
    [
        (("--host", "0.0.0.0"), 2, "MOORING_UI_TOKEN"),
        (("--ui-allowed-host", "models.example"), 2, "MOORING_UI_TOKEN"),
        (("--ui-token", "short"), 2, "--ui-token"),
        (("--state", "mysql://nowhere"), 1, "is no state"),
    ],
)
def test_it_does_not_start_where_others_could_look(
    tmp_path: Path, flags: tuple[str, ...], code: int, says: str
) -> None:
    command = [sys.executable, "-m", "mooring", "ui", "--port", "0", *flags]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, says in done.stderr, "Traceback" in done.stderr) == (code, True, False)


def test_a_taken_port_is_said(tmp_path: Path, with_token: str) -> None:
    port = with_token.rpartition(":")[2]
    command = [sys.executable, "-m", "mooring", "ui", "--port", port]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, "--port" in done.stderr) == (1, True)


def test_a_state_that_goes_away_is_said(tmp_path: Path) -> None:
    with State(str(tmp_path / "state.db")) as opened:
        Rollouts(opened).open(new("wine", "2", "1", "challenger"))
    with dashboard(f"sqlite:///{tmp_path / 'state.db'}", token=None) as address:
        assert ask(address, "/api/models").status == 200
        for path in tmp_path.glob("state.db*"):
            path.write_bytes(b"no database any more" * 100)
        answer = ask(address, "/", headers=HTML)
        assert answer.status == 503
        assert "Traceback" not in answer.text
        assert ask(address, "/api/models").json["status"] == 503
