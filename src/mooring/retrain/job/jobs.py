"""Jobs: a program that trains, in a process that outlives whoever started it.

A job has a directory of its own: there the lock tells that it runs, `output.log` what it said, `result.json` how
it ended. What a program starts ends with it; only what leaves its process group, a daemon, goes its own way.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from mooring.files import replace, try_lock
from mooring.monitor.alerting.channels import NotSent, Webhook
from mooring.retrain import trigger
from mooring.retrain.job.wrapper import KEEP_BYTES, LOCK, ORDER, OUTPUT, RESULT, Ended, Order

if TYPE_CHECKING:
    from mooring.settings import RetrainSettings

__all__ = [
    "KEEP_BYTES",
    "OUTPUT",
    "Ended",
    "Lost",
    "NotFired",
    "Running",
    "argv_of",
    "check",
    "fire",
    "last_lines",
    "look",
    "start",
    "stop",
]

GRACE = 10.0
"""How many seconds a job has to end by itself once its time is over."""
_UNENDABLE = 30.0
_LONGEST_LINE = 2000
_PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_FUNCTION = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


class NotFired(ConnectionError):
    """A webhook that did not take what it was sent.

    `final`: another attempt would not help; `wait`: it wants none for so many seconds.
    """

    def __init__(self, message: str, *, final: bool, wait: float) -> None:
        super().__init__(message)
        self.final = final
        self.wait = wait


class Running(msgspec.Struct, frozen=True):
    """A job that runs."""

    started: datetime


class Lost(msgspec.Struct, frozen=True):
    """A job that was begun, runs no longer, and has no result: it was killed, or its machine went down."""

    started: datetime


def start(
    directory: Path, argv: Sequence[str], *, env: Mapping[str, str], timeout: float, grace: float = GRACE
) -> None:
    """Begin a job, unless one has begun in this directory before: so of several calls one begins it.

    Parameters
    ----------
    directory
        The job's own. To try again, take another one.
    argv
        Program and arguments; no shell is involved. It runs in the current directory, its standard input empty.
    env
        The variables of its environment, all of them.
    timeout, grace
        Seconds that it may take, and those between asking it to end then (SIGTERM) and ending it (SIGKILL).

    Raises OSError where the directory can't be written or no process can be started.
    """
    directory.mkdir(parents=True, exist_ok=True)
    # Whoever has the lock has written the order: a look takes it only then.
    if (lock := try_lock(directory / LOCK)) is None:
        return
    try:
        if (directory / ORDER).exists():
            return
        order = Order(argv=list(argv), timeout=timeout, grace=grace, started=datetime.now(UTC))
        replace(directory / ORDER, msgspec.json.encode(order), durable=True)
        try:
            _detach(directory.resolve(), lock.fileno(), env)
        except OSError:
            (directory / ORDER).unlink()
            raise
    finally:
        lock.release()


def look(directory: Path) -> Running | Ended | Lost | None:
    """Return what became of the job in a directory; None where none was begun."""
    if ended := _result(directory):
        return ended
    try:
        order = msgspec.json.decode((directory / ORDER).read_bytes(), type=Order)
    except FileNotFoundError:
        return None
    if (lock := try_lock(directory / LOCK, shared=True)) is None:
        return Running(order.started)
    lock.release()
    return _result(directory) or Lost(order.started)


def last_lines(directory: Path, count: int) -> list[str]:
    """Return the last lines that a job printed, each shortened; none where it printed nothing."""
    try:
        lines = (directory / OUTPUT).read_text(errors="replace").rstrip().splitlines()[-count:]
    except FileNotFoundError:
        return []
    return [line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]} …" for line in lines]


def stop(directory: Path) -> None:
    """End the job that runs in a directory, if one does, and return once it has ended.

    It is asked to end first, and ended after its grace. Raises OSError where it can't be ended.
    """
    if not isinstance(look(directory), Running):
        return
    order = msgspec.json.decode((directory / ORDER).read_bytes(), type=Order)
    last = time.monotonic() + order.grace + 5.0
    asked = False
    while isinstance(look(directory), Running):
        late = time.monotonic() > last
        pid = (directory / LOCK).read_bytes().strip()
        if time.monotonic() > last + _UNENDABLE:
            raise TimeoutError(f"the job in {directory}, process {pid.decode()}, can't be ended")
        if pid and (late or not asked):
            asked = True
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL if late else signal.SIGTERM)
        time.sleep(0.05)


def check(settings: RetrainSettings) -> None:
    """Raise ValueError unless the settings say in one way how to train, and one that can be meant."""
    ways = {
        "command": settings.retrain_command,
        "python": settings.retrain_python,
        "webhook": settings.retrain_webhook,
    }
    named = [name for name, value in ways.items() if value]
    if len(named) != 1:
        given = f"; there are {' and '.join(named)}" if named else ""
        raise ValueError(f"retrain: in mooring.yaml needs one of command, python and webhook to train{given}")
    trigger.check(settings)
    if settings.retrain_webhook:
        try:
            Webhook(settings.retrain_webhook, settings.retrain_secret)
        except ValueError as error:
            raise ValueError(f"retrain webhook: {error}") from None
        return
    argv_of(settings, data=Path(), ticket="", model="", version=None, directory=Path())


def argv_of(
    settings: RetrainSettings, *, data: Path, ticket: str, model: str, version: str | None, directory: Path
) -> list[str]:
    """Return the program that trains and its arguments.

    In `retrain_command` {data}, {ticket}, {model}, {version} (empty where there is none) and {directory} are
    replaced; {{ and }} stand for braces. The function that `retrain_python` names is called with what it takes of
    `data`, `ticket`, `model`, `version` and `directory`, all of them texts.

    Raises ValueError for an invalid command or function.
    """
    values = {
        "data": str(data),
        "directory": str(directory),
        "model": model,
        "ticket": ticket,
        "version": version or "",
    }
    if settings.retrain_python:
        if not _FUNCTION.fullmatch(settings.retrain_python):
            raise ValueError(
                f"retrain python is {settings.retrain_python!r}: give module:function, such as training:train"
            )
        given = [f"{name}={value}" for name, value in values.items()]
        return [sys.executable, "-m", "mooring.retrain.job.call", settings.retrain_python, *given]
    try:
        command = shlex.split(settings.retrain_command or "")
    except ValueError as error:
        raise ValueError(
            f"retrain command {settings.retrain_command!r} is no program and arguments: {error}"
        ) from None
    if not command:
        raise ValueError("retrain command is empty: give a program and its arguments")
    return [_filled(argument, values) for argument in command]


def fire(url: str, secret: str | None, payload: dict[str, Any]) -> None:
    """POST a payload, which names its `ticket`, as JSON; signed and refused as alerts are.

    `X-Mooring-Alert` is the ticket, by which a receiver knows what it has got already. Raises NotFired unless the
    answer's status is 2xx, ValueError for what is no URL.
    """
    try:
        Webhook(url, secret).send(str(payload["ticket"]), msgspec.json.encode(payload))
    except NotSent as error:
        raise NotFired(f"{error}", final=error.final, wait=error.wait) from None


def _detach(directory: Path, lock: int, env: Mapping[str, str]) -> None:
    """Start the job's process, which has part in the lock. What keeps it from beginning is in its output."""
    with (directory / OUTPUT).open("ab") as output:
        subprocess.run(
            [sys.executable, "-P", "-m", "mooring.retrain.job.wrapper", str(directory), str(lock)],
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=output,
            pass_fds=(lock,),
            start_new_session=True,
            check=False,
        )


def _result(directory: Path) -> Ended | None:
    try:
        return msgspec.json.decode((directory / RESULT).read_bytes(), type=Ended)
    except FileNotFoundError:
        return None


def _filled(argument: str, values: Mapping[str, str]) -> str:
    def fill(found: re.Match[str]) -> str:
        if found[0] in ("{{", "}}"):
            return found[0][0]
        if found[1] not in values:
            known = ", ".join(f"{{{name}}}" for name in values)
            raise ValueError(
                f"retrain command: {found[0]} in {argument!r} is no placeholder; there are {known}; "
                "{{ and }} stand for braces"
            )
        return values[found[1]]

    return _PLACEHOLDER.sub(fill, argument)
