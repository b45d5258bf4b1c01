"""A unit test that goes beyond this process fails, and directories say which tests are unit tests."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]
TESTS = Path(__file__).parents[1]

BEYOND = """
import contextlib, multiprocessing, os, pytest, socket, subprocess, sys

def start():
    subprocess.run([sys.executable, "-c", ""])

def test_a_process():
    start()

def test_a_process_whatever_is_caught():
    with contextlib.suppress(BaseException):
        start()

def test_a_fork():
    os.fork() or os._exit(0)

def test_a_shell():
    os.system("true")

def test_a_process_of_multiprocessing():
    multiprocessing.get_context("spawn").Process(target=print).start()

def test_a_socket_that_listens():
    socket.create_server(("127.0.0.1", 0))

def test_a_connection():
    socket.socket().connect_ex(("127.0.0.1", 9))

@pytest.fixture(scope="module")
def started():
    start()

def test_a_process_of_a_fixture(started):
    pass
"""
WITHIN = """
import asyncio, socket, subprocess, sys

def test_what_stays_within():
    socket.socketpair()
    asyncio.run(asyncio.sleep(0))
"""
STARTS = """
import subprocess, sys

def test_starts():
    subprocess.run([sys.executable, "-c", ""])
"""
SEARCHES = """
from hypothesis import settings

def test_settings():
    print("TAKES", settings.default.derandomize, settings.default.max_examples)
"""


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    """Directories of each kind beside a copy of this conftest.py."""
    kinds = ("unit", "service", "e2e", "proof")
    pytester.makeini(
        "[pytest]\npythonpath = {}\nmarkers =\n    {}\n".format(TESTS / "support", "\n    ".join(kinds))
    )
    pytester.makeconftest((TESTS / "conftest.py").read_text())
    for kind in kinds:
        pytester.mkdir(kind)
    return pytester


def ran(project: pytest.Pytester, *options: str) -> pytest.RunResult:
    plain = ("-p", "no:xdist", "-p", "no:schemathesis", "--import-mode=importlib", "--strict-markers")
    return project.runpytest_subprocess(*plain, *options)


def test_a_unit_test_does_not_go_beyond_its_process_and_others_start_what_they_need(project):
    (project.path / "unit" / "test_beyond.py").write_text(BEYOND)
    (project.path / "unit" / "test_within.py").write_text(WITHIN)
    for kind in ("service", "e2e", "proof"):
        (project.path / kind / "test_starts.py").write_text(STARTS)
    assert ran(project).parseoutcomes() == {"failed": 7, "errors": 1, "passed": 4}
    assert ran(project, "-m", "service or proof").parseoutcomes() == {"passed": 2, "deselected": 10}


def test_searches_take_the_same_examples_every_time_unless_asked_for_others(project):
    (project.path / "unit" / "test_searches.py").write_text(SEARCHES)
    ran(project, "-s").stdout.fnmatch_lines(["*TAKES True 25*"])
    ran(project, "-s", "--hypothesis-profile=proof").stdout.fnmatch_lines(["*TAKES False 1000*"])
