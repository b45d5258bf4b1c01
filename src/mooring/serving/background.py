"""Work that may take long, done in threads of its own; what came of it is handed back to the loop."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

Value = TypeVar("Value")


class Returned:
    """What threads hand back to the loop: calls to be made there. `fileno` is readable when there are some."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)

    def fileno(self) -> int:
        """The descriptor to wait for."""
        return self._read

    def put(self, call: Callable[[], None]) -> None:
        """Have a call made in the loop; from any thread."""
        self._calls.put(call)
        with suppress(BlockingIOError):  # a full pipe wakes the loop as well
            os.write(self._write, b"!")

    def make(self) -> None:
        """Make the calls that wait."""
        with suppress(BlockingIOError):
            os.read(self._read, 4096)
        while True:
            try:
                call = self._calls.get_nowait()
            except queue.Empty:
                return
            call()


class Worker:
    """A thread that does one thing after another, in the order in which they were handed to it."""

    def __init__(self, name: str, returned: Returned) -> None:
        self._returned = returned
        self._work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def do(
        self,
        work: Callable[[], Value],
        then: Callable[[Value], None],
        failed: Callable[[Exception], None],
    ) -> None:
        """Do `work`, and call `then` with its value in the loop, or `failed` with what it raised."""
        self._work.put(partial(self._do, work, then, failed))

    def _do(
        self,
        work: Callable[[], Value],
        then: Callable[[Value], None],
        failed: Callable[[Exception], None],
    ) -> None:
        try:
            value = work()
        except Exception as error:  # noqa: BLE001 - handed on: the loop raises what it does not know
            self._returned.put(partial(failed, error))
        else:
            self._returned.put(partial(then, value))

    def _run(self) -> None:
        while True:
            self._work.get()()


class Chores:
    """What the loop has others do: each thing not begun again while it is under way, nor before it is due.

    After whatever came of it, `after` is called in the loop.
    """

    def __init__(self, returned: Returned, workers: tuple[str, ...], after: Callable[[], None]) -> None:
        self._workers = {name: Worker(name, returned) for name in workers}
        self._after = after
        self._busy: set[str] = set()
        self._due: dict[str, float] = {}

    def do(
        self,
        what: str,
        worker: str,
        work: Callable[[], Value],
        then: Callable[[Value], None],
        failed: Callable[[Exception], None],
    ) -> None:
        """Have something done."""

        def returned(value: Value) -> None:
            self._busy.discard(what)
            then(value)
            self._after()

        def raised(error: Exception) -> None:
            self._busy.discard(what)
            failed(error)
            self._after()

        self._busy.add(what)
        self._workers[worker].do(work, returned, raised)

    def write(self, work: Callable[[], Value], failed: Callable[[Exception], None]) -> None:
        """Have something written to the state, after what was to be written before."""
        self._workers["state"].do(work, lambda _: None, failed)

    def is_free(self, *names: str) -> bool:
        """Whether none of these things is under way or to wait for its time."""
        now = time.monotonic()
        return not self._busy.intersection(names) and all(now >= self._due.get(name, 0.0) for name in names)

    def every(self, what: str, seconds: float, do: Callable[[], None]) -> None:
        """Run it now if it is due, and then every so many seconds."""
        if self.is_free(what):
            self.wait(what, seconds)
            do()

    def wait(self, what: str, seconds: float) -> None:
        """Have it wait so long from now."""
        self._due[what] = time.monotonic() + seconds
