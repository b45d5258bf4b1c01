"""A PostgreSQL of the tests' own, in a temporary directory, reached over a socket there; never as root."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from waiting import PATIENCE, wait_for

_SETTINGS = {"listen_addresses": "", "fsync": "off", "shared_buffers": "16MB", "max_connections": "40"}


class Postgres:
    """A running server, with its data in a directory; `url()` is that of a new, empty database."""

    def __init__(self, directory: Path, bin: Path, who: dict[str, Any]) -> None:
        self._directory = directory
        self._bin = bin
        self._who = who
        self._names = (f"test{number}" for number in itertools.count())
        self.start()

    def start(self) -> None:
        """Start it, and return once it answers."""
        command = [self._bin / "postgres", "-D", self._directory / "data", "-k", self._directory]
        for name, value in _SETTINGS.items():
            command += ["-c", f"{name}={value}"]
        log = self._directory / "log"
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command, cwd=self._directory, stdout=output, stderr=output, **self._who
            )
        wait_for(lambda: self.is_up() or self.process.poll() is not None, "PostgreSQL does not start")
        assert self.process.poll() is None, log.read_text()

    def stop(self) -> None:
        """End it at once, whoever is connected."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(PATIENCE)

    def url(self) -> str:
        name = next(self._names)
        self.psql(f"CREATE DATABASE {name}", "postgres")
        return f"postgresql://mooring@/{name}?host={self._directory}"

    def psql(self, sql: str, database: str) -> str:
        command = [self._bin / "psql", "-h", self._directory, "-U", "mooring", "-d", database, "-qAtX", "-c", sql]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def is_up(self) -> bool:
        command = [self._bin / "pg_isready", "-q", "-h", self._directory]
        return subprocess.run(command, check=False).returncode == 0


def programs() -> Path | None:
    """Return where Debian has the newest PostgreSQL's programs, or where they are on the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[4]))
    if found:
        return found[-1].parent
    initdb = shutil.which("initdb")
    return Path(initdb).resolve().parent if initdb else None


@contextmanager
def postgres() -> Iterator[Postgres]:
    """Run a server, or skip where none is installed."""
    bin = programs()
    if bin is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    who: dict[str, Any] = {}
    if os.getuid() == 0:
        account = pwd.getpwnam("postgres")
        who = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    directory = Path(tempfile.mkdtemp(prefix="mooring-pg-"))
    try:
        if who:
            os.chown(directory, who["user"], who["group"])
        initdb = [
            bin / "initdb",
            "-D",
            directory / "data",
            "-U",
            "mooring",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C",
            "-N",
        ]
        made = subprocess.run(initdb, capture_output=True, text=True, cwd=directory, check=False, **who)
        assert made.returncode == 0, made.stdout + made.stderr
        server = Postgres(directory, bin, who)
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(directory)
