"""The proxy compiled and interpreted: the same files, and it says which of them runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mooring.capture import compiled, form
from peers import OK, answering, proxy, upstream

ROOT = Path(__file__).parents[2]


def test_the_proxy_says_in_which_form_it_runs(tmp_path):
    # `make test-compiled` sets this, so that what it tests is known to be compiled.
    assert compiled() == (os.environ.get("MOORING_COMPILE") == "1")
    with upstream(answering(OK)) as server, proxy(tmp_path, server.url) as running:
        first = running.stderr.partition("\n")[0]
        assert first.startswith("mooring: listening on ")
        assert first.endswith(f", {form()}")
        assert running.stats()["compiled"] is compiled()
        maps = Path(f"/proc/{running.process.pid}/maps")
        if maps.exists():
            assert ("mooring__mypyc" in maps.read_text()) is compiled()


def test_the_version_says_it_too():
    said = subprocess.check_output([sys.executable, "-m", "mooring", "--version"], text=True)
    assert re.fullmatch(rf".* \d+\.\d+\.\d+ \({form()}\)\n", said)


@pytest.mark.parametrize(
    ("wish", "compiler", "said"),
    [("0", "cc", "NOT COMPILED: MOORING_COMPILE=0"), ("", "no-such-compiler", "there is no C compiler")],
)
def test_without_a_compiler_or_a_wish_for_it_a_wheel_is_interpreted(tmp_path, wish, compiler, said):
    """It says so, and holds no compiled code."""
    built = build(tmp_path, MOORING_COMPILE=wish, CC=compiler)
    assert built.returncode == 0, built.stderr
    assert said in built.stderr
    [wheel] = tmp_path.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")


def test_where_it_must_be_compiled_a_build_without_a_compiler_fails(tmp_path):
    built = build(tmp_path, MOORING_COMPILE="1", CC="no-such-compiler")
    assert built.returncode != 0
    assert "MOORING_COMPILE=1, but there is no C compiler" in built.stderr


def build(directory: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Build a wheel of a copy of the sources."""
    sources = directory / "sources"
    sources.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    shutil.copytree(ROOT / "src", sources / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    return subprocess.run(
        [sys.executable, "setup.py", "-q", "bdist_wheel", "--dist-dir", str(directory)],
        cwd=sources,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
