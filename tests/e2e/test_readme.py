"""The README's commands, in its order, do what it says they do."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from mooring.demo.processes import pings, running
from ports import reserved_port
from waiting import wait_for

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f-]{21}")


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


def verdicts(directory: Path) -> list[str]:
    """Return what the monitor says of the windows that have ended."""
    found = subprocess.run(
        ["mooring", "drift", "--json"], cwd=directory, capture_output=True, text=True, check=False
    ).stdout
    return [one["status"] for one in json.loads(found or "[]") if not one.get("provisional")]


@pytest.fixture
def directory(tmp_path) -> Path:
    for name in ("custom_model_train.py", "proxy_server.py"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    return tmp_path


def test_the_commands_print_what_the_readme_says(directory, monkeypatch):
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_MONITORING_DIR"):
        monkeypatch.delenv(name, raising=False)
    ports = dict(zip(("5001", "5002"), (str(reserved_port()) for _ in range(2)), strict=True))
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
            if commands.startswith("mooring init"):
                monkeypatch.delenv("MLFLOW_MONITORING_DIR")  # "in a terminal of its own"
            if "--low --write" in commands:
                servers.close()  # "Stop that server too"
            if "--requests" in commands:
                commands = commands.replace("--labels", f"--port {ports['5001']} --labels")
            if "mooring drift" in commands:
                wait_for(lambda: verdicts(directory)[-1:] == ["critical"], "no drift")
            if "models serve" in commands or commands.startswith("python proxy_server.py"):
                if commands.startswith("export"):
                    servers.close()  # "Stop both"
                *exports, command = commands.strip().split("\n")
                for export in exports:
                    monkeypatch.setenv(*export.removeprefix("export ").split("="))
                log = directory / f"{len(ran)}.log"
                servers.enter_context(running(["bash", "-c", f"exec {command}"], directory, log))
                port = int(re.search(r"--port (\d+)", command)[1])
                wait_for(lambda port=port: pings(port), f"no answer: see {log}")
                continue
            if "*.csv" in commands:
                folder = directory / re.search(r"(\w+)/\*\.csv", commands)[1]
                wait_for(lambda folder=folder: list(folder.glob("*.csv")), f"no file in {folder}")
            done = subprocess.run(
                ["bash", "-ec", commands], cwd=directory, capture_output=True, text=True, check=False
            )
            drifted = {2} if re.search("mooring (drift|compare)", commands) else {0}
            assert done.returncode in drifted, (commands, done.stdout, done.stderr)
            if commands.startswith("mooring init"):
                monkeypatch.setenv("MOORING_SEGMENT_SECONDS", "1")  # "within a minute"
                monkeypatch.setenv("MOORING_EVERY", "1s")
                for command in re.findall("^    (m.*)$", done.stdout, re.MULTILINE)[:3]:
                    command = re.sub("|".join(ports), lambda port: ports[port[0]], command)
                    log = directory / f"{command.split()[1]}.log"
                    servers.enter_context(running(["bash", "-c", f"exec {command}"], directory, log))
                    if found := re.search(r"--port (\d+)", command):
                        wait_for(lambda port=int(found[1]): pings(port), f"no answer: see {log}")
            if "mooring drift" in commands:
                assert verdicts(directory)[:2] == ["ok", "ok"]
            if "mooring history" in commands:
                assert "promoted: " in done.stdout
            if block.prints is not None:
                assert UUID.sub("ID", done.stdout).strip() == UUID.sub("ID", block.prints).strip()
    assert len(ran) == 14, "the README has other blocks than this test knows"
