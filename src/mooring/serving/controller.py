"""The controller of `mooring serve`: python -m mooring.serving.controller DESCRIPTOR, with a Start on stdin.

It watches the registry, keeps the state, and tells the front over the socket what it wants. Its loop never waits
for MLflow, a download or the database: each has a thread. So a guard that fails takes effect at once, whatever
hangs.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

import click
import msgspec

from mooring.capture.say import Seldom, say
from mooring.config import MonitorSettings, load
from mooring.monitor.alerting.channels import Channel, channels_of
from mooring.serving import messages
from mooring.serving.background import Returned
from mooring.serving.deciding import CantServe, Deciding
from mooring.serving.records import Keeper
from mooring.serving.start import GAVE_UP, Start

_TICK_SECONDS = 0.2
_RECEIVE = 1 << 18
_SELDOM_SECONDS = 60.0
_RELEASE_SECONDS = 2.0


class Controller:
    """One controller, from its start until the front goes away or SIGTERM comes."""

    def __init__(self, start: Start, front: socket.socket) -> None:
        self._front = front
        self._received = bytearray()
        self._returned = Returned()
        self._stopping = False
        self.keeper = Keeper(start, _channels(start), Seldom(_SELDOM_SECONDS))
        self._deciding = Deciding(start, self.keeper, self._returned, self._send)

    def run(self) -> None:
        """Do what it is for; return once it is to end."""
        for number in (signal.SIGTERM, signal.SIGINT):
            # Ctrl-C reaches the whole group; the front ends this process when it is done.
            signal.signal(number, self._stop if number == signal.SIGTERM else signal.SIG_IGN)
        with selectors.DefaultSelector() as selector:
            selector.register(self._front, selectors.EVENT_READ, self._receive)
            selector.register(self._returned, selectors.EVENT_READ, self._returned.make)
            ticked = 0.0
            while not self._stopping:
                for key, _ in selector.select(_TICK_SECONDS):
                    call: Callable[[], None] = key.data
                    call()
                if time.monotonic() - ticked >= _TICK_SECONDS:
                    ticked = time.monotonic()
                    self._deciding.tick()

    def _stop(self, *_: Any) -> None:
        self._stopping = True

    def _receive(self) -> None:
        try:
            data = self._front.recv(_RECEIVE)
        except OSError:
            data = b""
        if not data:
            self._stopping = True
            return
        self._received += data
        for body in messages.unpack(self._received):
            self._deciding.told(messages.from_front(body))

    def _send(self, message: messages.FromController) -> None:
        try:
            self._front.sendall(messages.pack(message))
        except OSError:
            self._stopping = True


def _channels(start: Start) -> list[Channel]:
    """Return whom mooring.yaml or the variables tell of a rollback: those who are told of drift."""
    try:
        return channels_of(load(MonitorSettings, {"model": start.model, "log": start.settings.log}))
    except (click.ClickException, ValueError) as error:
        say(f"nobody is alerted of rollouts: {error}")
        return []


def main() -> None:
    """Run the controller of the front at the other end of the descriptor that is named."""
    front = socket.socket(fileno=int(sys.argv[1]))
    try:
        controller = Controller(msgspec.json.decode(sys.stdin.buffer.read(), type=Start), front)
        controller.run()
    except (CantServe, ValueError) as error:
        if isinstance(error, ValueError) and type(error) is not ValueError:
            raise
        say(f"{error}")
        os._exit(GAVE_UP)
    # Where the database hangs, the lease runs out by itself; and nothing of MLflow's is to be waited for.
    signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
    signal.setitimer(signal.ITIMER_REAL, _RELEASE_SECONDS)
    controller.keeper.lose()
    os._exit(0)


if __name__ == "__main__":
    main()
