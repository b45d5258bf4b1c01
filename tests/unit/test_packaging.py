"""What a newcomer installs is what is declared, and nothing committed points at one machine."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_conda_environment_has_the_dependencies_of_pyproject():
    environment = yaml.safe_load((ROOT / "conda.yaml").read_text())
    assert environment["name"] == "mooring"
    [pip] = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert pip == [*PROJECT["dependencies"], "-e ."]


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock"])
def test_the_lock_file_pins_every_direct_dependency_and_records_no_address(name):
    text = (ROOT / name).read_text()
    assert "://" not in text
    assert "--" not in text
    pinned = set(re.findall(r"^([a-z0-9-]+)==", text, re.MULTILINE))
    wanted = PROJECT["dependencies"] + (PROJECT["optional-dependencies"]["dev"] if "dev" in name else [])
    assert {re.match(r"[A-Za-z0-9-]+", one)[0].lower() for one in wanted} <= pinned
