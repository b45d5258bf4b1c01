"""What a retraining's job says, as the dashboard shows it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from acted_on import Shown, training
from dashboard import ask, dashboard
from mooring.retrain.job import jobs
from mooring.retrain.machine import attempt_directory
from mooring.state.retrainings import Ticket
from mooring.state.state import State
from waiting import wait_for


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    place = tmp_path_factory.mktemp("shown")
    url = f"sqlite:///{place}/state.db"
    with pytest.MonkeyPatch.context() as patch:
        # Who cancels asks the registry what the job has registered.
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{place}/mlflow.db")
        with State(url) as state, dashboard(url, flags=("--ui-mlflow", "https://mlflow.example/")) as address:
            yield Shown(address, state, place)


def test_what_a_job_says_is_shown_as_it_says_it_without_colours_and_secrets(shown: Shown) -> None:
    code = (
        "import sys\n"
        "print('\\x1b[31mepoch 1\\x1b[0m <script>')\n"
        "print('store postgresql://me:hush@db/x', 'MLFLOW_TRACKING_TOKEN=hush')\n"
        "while not __import__('os').path.exists('GO'): __import__('time').sleep(0.05)\n"
        "print('epoch 2'); print('half a', end='')\n"
        "while True: __import__('time').sleep(1)\n"
    ).replace("GO", str(shown.place / "go"))
    ticket = training(shown, "said", code)
    path = "/models/said/retrainings/1"
    try:
        wait_for(lambda: "hush" in _output(ticket), "the job says nothing")
        told = shown.told(path)
        assert told["job"]["running"]
        assert told["job"]["text"].startswith("epoch 1 <script>\nstore postgresql://…@db/x")
        assert "hush" not in shown.see(path)
        assert "&lt;script&gt;" in shown.see(path)
        (shown.place / "go").touch()
        wait_for(lambda: "half" in _output(ticket), "the job does not go on")
        after = told["job"]["next"]
        assert shown.told(f"{path}?after={after}")["job"]["text"] == "epoch 2\n"  # half a line comes later
        assert shown.told(f"{path}?seen={told['phase']}")["job"] is None
        assert shown.do(f"{path}/cancel", "wrong data").status == 200
    finally:
        jobs.stop(attempt_directory(ticket))
    assert isinstance(jobs.look(attempt_directory(ticket)), jobs.Ended)
    told = shown.told(path)
    assert (told["status"], told["job"]["running"]) == ("cancelled", False)
    assert told["job"]["text"].endswith("epoch 2\nhalf a")
    assert "it was stopped" in shown.see(path)
    assert "every 2s" not in shown.see(path)
    assert ask(shown.address, f"{path}?output=2").status == 404
    assert ask(shown.address, f"{path}?output=../../x").status == 404


def _output(ticket: Ticket) -> str:
    path = attempt_directory(ticket) / jobs.OUTPUT
    return path.read_text() if path.exists() else ""


def test_of_long_output_the_end_is_shown(shown: Shown) -> None:
    ticket = training(shown, "long", "for at in range(100_000): print('line', at)")
    wait_for(lambda: isinstance(jobs.look(attempt_directory(ticket)), jobs.Ended), "the job does not end")
    told = shown.told("/models/long/retrainings/1")["job"]
    assert len(told["text"]) <= 64 * 1024
    assert told["text"].startswith("line ")
    assert told["text"].endswith("line 99999\n")
    assert told["left_out"] + len(told["text"]) == told["next"] == len(_output(ticket))
    assert "are left out" in shown.see("/models/long/retrainings/1")
