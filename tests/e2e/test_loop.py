"""The whole loop under traffic: a better version goes through shadow and canary to champion."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dashboard import ask
from demos import DEMO, fared, history_of, live, plain_environ, whats
from waiting import PATIENCE, wait_for


def test_a_better_version_goes_through_shadow_and_canary_to_champion_and_no_request_fails(tmp_path):
    place, output = demo_with_its_dashboard(tmp_path)
    entry = history_of(place)
    assert (entry["status"], entry["version"], entry["previous"]) == ("promoted", "2", "1")
    assert entry["rollout"]["status"] == "promoted"
    steps = [step["what"] for step in entry["steps"]]
    assert [what for what in steps if what in ("opened", "dataset", "trained", "gate", "promoted")] == steps
    assert whats(place) == ["begun", "loaded", "step", "step", "step", "full", "promoted"]

    requests, failed, answered = fared(output)
    assert failed == 0
    assert sum(answered.values()) == requests
    assert answered.keys() == {"1", "2"}
    assert live(place) == answered
    assert re.search(r"until version 2 answered all of them: \d+ seconds", output)
    order = ["Retraining 1", "opened", "dataset", "trained", "gate", "begun: shadow", "full:", "promoted "]
    told = output[output.index("What came of it") :]
    places = [told.index(word) for word in order]
    assert places == sorted(places)


def demo_with_its_dashboard(directory: Path) -> tuple[Path, str]:
    """Run the demonstration, look at the dashboard that it leaves open, and end it as with Ctrl-C."""
    place, printed, errors = directory / "d", directory / "stdout", directory / "stderr"
    command = [sys.executable, "-m", "mooring", "demo", "--dir", str(place), "--ui"]
    with printed.open("wb") as output, errors.open("wb") as error:
        process = subprocess.Popen(command, cwd=directory, env=plain_environ(), stdout=output, stderr=error)

    def told() -> re.Match[str] | None:
        assert process.poll() is None, errors.read_text() + printed.read_text()
        return re.search(r"until Ctrl-C: (http://127.0.0.1:\d+)", printed.read_text())

    try:
        wait_for(lambda: told() is not None, "the demonstration has not come to its end", 6 * PATIENCE)
        found = told()
        assert found is not None
        [line] = ask(found[1], "/api/models").json["models"]
        assert (line["model"], line["version"], line["rollout"]["status"]) == (DEMO, "2", "promoted")
        for path in ("/", line["see"], line["retraining"]["see"], line["rollout"]["see"], "/capture", "/history"):
            assert ask(found[1], path, headers={"Accept": "text/html"}).status == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0, errors.read_text()
        with pytest.raises(ConnectionError):
            ask(found[1], "/")
    finally:
        process.kill()
        process.wait()
    return place, printed.read_text()
