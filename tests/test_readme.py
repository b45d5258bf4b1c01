"""The README's commands, in its order, do what it says they do."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest

from mooring.demo.processes import free_ports, pings, running, wait_for
from mooring.demo.train import SAMPLE

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f-]{21}")

pytestmark = pytest.mark.e2e


class Block(NamedTuple):
    commands: str
    prints: str | None


def blocks(text: str) -> list[Block]:
    """Return the shell blocks, each with the output that follows it, if one does."""
    found = re.findall(r"```(sh)?\n(.*?)```", text, re.DOTALL)
    result = []
    for place, (language, content) in enumerate(found):
        if language == "sh":
            following = found[place + 1] if place + 1 < len(found) else ("sh", "")
            result.append(Block(content, None if following[0] else following[1]))
    return result


@pytest.fixture
def directory(tmp_path) -> Path:
    for name in ("custom_model_train.py", "proxy_server.py"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def test_the_commands_print_what_the_readme_says(directory, monkeypatch):
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_MONITORING_DIR"):
        monkeypatch.delenv(name, raising=False)
    ports = dict(zip(("5001", "5002"), map(str, free_ports(2)), strict=True))
    ran: list[str] = []
    with ExitStack() as servers:
        for block in blocks(README):
            commands = re.sub("|".join(ports), lambda port: ports[port[0]], block.commands)
            if commands.startswith("make "):
                # The Makefile's targets are run by whoever runs this; the rest of such a block is run here.
                commands = "\n".join(line for line in commands.splitlines() if not line.startswith("make "))
                if not commands:
                    continue
            ran.append(commands)
            if "train.parquet" in commands:
                for name in ("train", "today"):
                    pd.read_csv(SAMPLE).to_parquet(directory / f"{name}.parquet")
            if "models serve" in commands or commands.startswith("python proxy_server.py"):
                if commands.startswith("export"):
                    servers.close()  # "Stop both"
                *exports, command = commands.strip().split("\n")
                for export in exports:
                    monkeypatch.setenv(*export.removeprefix("export ").split("="))
                log = directory / f"{len(ran)}.log"
                servers.enter_context(running(["bash", "-c", f"exec {command}"], directory, log))
                port = int(re.search(r"--port (\d+)", command)[1])
                wait_for(lambda port=port: pings(port), 90, f"no answer: see {log}")
                continue
            if "*.csv" in commands:
                folder = directory / re.search(r"(\w+)/\*\.csv", commands)[1]
                wait_for(lambda folder=folder: list(folder.glob("*.csv")), 20, f"no file in {folder}")
            done = subprocess.run(
                ["bash", "-ec", commands], cwd=directory, capture_output=True, text=True, check=True
            )
            if block.prints is not None:
                assert UUID.sub("ID", done.stdout).strip() == UUID.sub("ID", block.prints).strip()
    assert len(ran) == 10, "the README has other blocks than this test knows"


@pytest.mark.slow  # the demonstration itself is tests/test_loop.py
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
    wait_for(lambda: "processes" if len(processes_in(tmp_path)) > 2 else "", 60, "the demo starts nothing")
    again.send_signal(signal.SIGINT)
    output, _ = again.communicate(timeout=60)
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
