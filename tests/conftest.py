"""What a test may do is said by the directory that it lies in.

- `unit`: this process alone. A unit test that starts a process, or binds or connects a socket, fails.
- `service`: one real process or service, such as a proxy, a dashboard or a database.
- `e2e`: several of them, as users run them.
- `proof`: what takes long: statistics, kills at every step, bulk, and random searches. A case of another kind that
  takes long, where its neighbours show the most of it, is marked `proof` by itself.

Each test is marked with its directory's name. The searches of Hypothesis take the same few examples every time,
except where `--hypothesis-profile=proof` asks for many random ones; tests/proof/test_searches.py does.
"""

from __future__ import annotations

import multiprocessing.util
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import urllib3  # noqa: F401 - as it is imported it binds a socket, to see whether there is IPv6
from hypothesis import HealthCheck, settings

from overheard import HeardPopen, overheard
from postgres import Postgres, postgres

pytest.register_assert_rewrite("rollouts_contract", "state_contract")
TESTS = Path(__file__).parent
platform.processor()  # asks a process, the first time: MLflow does as it is imported, in whatever test that is
# MLflow's servers begin with seven processes more, for jobs that no test has.
os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
# Each worker has a processor, and scikit-learn would ask a process how many there are.
os.environ.setdefault("OMP_NUM_THREADS", "1")
collect_ignore = ["support"]
subprocess.Popen = HeardPopen  # type: ignore[misc]
KINDS = ("unit", "proof", "e2e", "service")
"""In the order in which they run: what is fast first, and last what is short by itself, so that all workers end
at about the same time."""

_COMMON = {"deadline": None, "print_blob": True, "suppress_health_check": list(HealthCheck)}
settings.register_profile("same", derandomize=True, max_examples=25, **_COMMON)
settings.register_profile("proof", derandomize=False, max_examples=1000, **_COMMON)

# Audit events (docs.python.org/3/library/audit_events.html). A socket pair raises none of these.
_BEYOND_THIS_PROCESS = {
    "os.exec",
    "os.fork",
    "os.forkpty",
    "os.posix_spawn",
    "os.spawn",
    "os.system",
    "socket.bind",
    "socket.connect",
    "subprocess.Popen",
}


class BeyondThisProcess(BaseException):
    """A unit test started a process or opened a connection. No `except Exception` is to swallow it."""


class _Guard:
    """Refuses what a unit test must not do while one runs, and remembers it in case that was swallowed."""

    def __init__(self) -> None:
        self.on = False
        self.seen: list[str] = []
        sys.addaudithook(self._look)  # for ever: an audit hook cannot be removed
        # How multiprocessing starts its processes, of which Python tells no audit hook.
        start = multiprocessing.util.spawnv_passfds
        multiprocessing.util.spawnv_passfds = lambda *args: (sys.audit("os.spawn", *args), start(*args))[1]

    def _look(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.on and event in _BEYOND_THIS_PROCESS:
            self.seen.append(f"{event} {arguments!r}"[:200])
            raise BeyondThisProcess(self.seen[-1])

    def watch(self, item: pytest.Item) -> Iterator[None]:
        self.on, self.seen = kind_of(item.path) == "unit", []
        try:
            result = yield
        finally:
            self.on = False
        if self.seen:
            raise BeyondThisProcess(self.seen[0])
        return result


_guard = _Guard()


def kind_of(path: Path) -> str | None:
    """Return the kind of a test in this file; None if it is none of tests/."""
    parts = path.relative_to(TESTS).parts if path.is_relative_to(TESTS) else ()
    return parts[0] if parts and parts[0] in KINDS else None


def pytest_configure(config: pytest.Config) -> None:
    """Take the same examples every time unless somebody asked for another profile."""
    if not config.getoption("--hypothesis-profile", None):
        settings.load_profile("same")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with its kind, and order them by it; examples in docstrings of src/ are unit tests too."""
    for item in items:
        item.add_marker(kind_of(item.path) or "unit")
    items.sort(key=lambda item: KINDS.index(kind_of(item.path) or "unit"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """Guard the fixtures that a unit test needs."""
    return (yield from _guard.watch(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Guard a unit test."""
    return (yield from _guard.watch(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    """Fail a test of whose processes one has written a key or token that it was given; see overheard.py."""
    report = yield
    if secrets := overheard.told(report.sections, report.when):
        report.outcome, report.longrepr = "failed", f"a process wrote what is secret: {', '.join(secrets)}"
    return report


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Postgres]:
    """A server of this session's; each `url()` of it is a database of its own."""
    with postgres() as server:
        yield server


@pytest.fixture(scope="session", autouse=True)
def _copied_states(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Make a new state in SQLite, in this process, a copy of one: its migrations take longer than most tests."""
    from mooring.state import database

    template = tmp_path_factory.mktemp("template") / "state.db"
    database.Database(str(template)).close()
    open_ = database._open

    def opened(url: Any) -> Any:
        engine = open_(url)
        path = Path(url.database or "")
        if engine.dialect.name == "sqlite" and not path.exists():
            copy = path.with_name(f"{path.name}.{time.monotonic_ns()}")
            with suppress(OSError):
                shutil.copy(template, copy)
                copy.rename(path)
        return engine

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "_open", opened)
        yield


@pytest.fixture(scope="module", autouse=True)
def _own_tracking_uri() -> Iterator[None]:
    """Have MLflow forget, after each file, which store its tests have named: it keeps that in two places."""
    before = {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")}
    yield
    if "mlflow" in sys.modules:
        sys.modules["mlflow"].set_tracking_uri(None)
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        del os.environ[name]
    os.environ.update(before)
