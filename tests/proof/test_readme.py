"""The README's demonstration."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from waiting import PATIENCE, wait_for


def test_make_demo_is_mooring_demo_and_leaves_nothing_behind(tmp_path):
    """What `make demo` runs, in an environment that is not activated: the loop closes, by itself."""
    command = [sys.executable, "-m", "mooring", "demo", "--dir", "d"]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW")}
    environ["PATH"] = "/usr/bin:/bin"
    first = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stderr + first.stdout
    assert "Training a model" in first.stdout
    windows = re.findall(r"│ \d\d:\d\d:\d\d +│ +(\d+) +│ (\w+) +│ ([0-9.]+) \(", first.stdout)
    versions = [version for version, _, _ in windows]
    assert versions == sorted(versions)
    assert versions.count("1") >= 5
    assert versions.count("2") >= 2
    assert [verdict for _, verdict, _ in windows[:5]] == ["ok"] * 2 + ["critical"] * 3
    drifted = versions.index("2")
    before, during, after = ([float(one[2]) for one in windows[of]]
                             for of in (slice(2), slice(2, 5), slice(drifted, drifted + 2)))  # fmt: skip
    assert max(before) < min(during) > max(after)
    assert "version 2 is the champion" in first.stdout
    assert "requests without a pause, 0 failed" in first.stdout
    assert "residual sugar" in (tmp_path / "d" / "report.html").read_text()
    commands = [sys.executable, "-m", "mooring", "history", "--json"]
    told = subprocess.run(commands, cwd=tmp_path / "d", env=environ, capture_output=True, text=True, check=True)
    [entry] = json.loads(told.stdout)
    assert (entry["status"], entry["version"], entry["previous"]) == ("promoted", "2", "1")
    assert [path.name for path in tmp_path.iterdir()] == ["d"]
    assert not processes_in(tmp_path)

    again = subprocess.Popen(command, cwd=tmp_path, env=environ, stdout=subprocess.PIPE, text=True)
    wait_for(lambda: "processes" if len(processes_in(tmp_path)) > 2 else "", "the demo starts nothing")
    again.send_signal(signal.SIGINT)
    output, _ = again.communicate(timeout=PATIENCE)
    assert "Starting over" in output
    assert again.returncode != 0
    assert not processes_in(tmp_path)


def processes_in(directory: Path) -> list[str]:
    """Return the processes of this machine that name `directory` or work in it."""
    listing = subprocess.run(["ps", "-eo", "pid=,args="], capture_output=True, text=True, check=True).stdout
    return [
        line for line in listing.splitlines() if str(directory) in line or works_in(line.split()[0], directory)
    ]


def works_in(pid: str, directory: Path) -> bool:
    try:
        return Path(os.readlink(f"/proc/{pid}/cwd")).is_relative_to(directory)
    except OSError:
        return False
