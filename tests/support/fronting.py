"""A front as its controller sees it: it runs no servers, but says of them whatever a test wants it to."""

from __future__ import annotations

import select
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from mooring.serving import protocol
from mooring.serving.protocol import Outcome, Outcomes, Replay, Replayed, Route, Server, Serving, Want
from mooring.serving.start import Start
from mooring.settings import ServeSettings
from mooring.state.rollouts import Rollout, Rollouts
from mooring.state.state import State
from waiting import PATIENCE, wait_for

STATE = "sqlite:///state.db"
ANSWER = b'{"predictions": [1.0]}'


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Have nobody else read or write an SQLite file: whoever needs it waits, and then fails."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=30)
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")
        yield
    finally:
        connection.close()


class Front:
    """The front of one supervisor of wine, in a directory; its controller is a real one."""

    def __init__(self, place: Path, *steps: str, holder: str | None = "front", **given) -> None:
        followed = {"alias": "champion"} if not given.keys() & {"alias", "version"} else {}
        followed |= {name: given.pop(name) for name in ("alias", "version") if name in given}
        settings = ServeSettings(model="wine", state=STATE, rollout_step=steps, **{"poll": 0.2, **given})
        self.start_with = Start(settings=settings, holder=holder, **followed)
        self.place = place
        self.log = place / "controller.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.wants: list[Want] = []
        self.replays: list[Replay] = []
        self.servers: dict[str, Server] = {}
        """What is said of a version's servers; of others, that one is ready."""
        self.replayed = Replayed("", 1, 0)
        self._socket: socket.socket | None = None
        self._data = bytearray()

    def start(self) -> None:
        """Start the controller."""
        ours, theirs = socket.socketpair()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-W", "ignore", "-m", "mooring.serving.controller", str(theirs.fileno())],
                cwd=self.place, stdin=subprocess.PIPE, stderr=log, pass_fds=[theirs.fileno()],
            )  # fmt: skip
        theirs.close()
        self.process.stdin.write(msgspec.json.encode(self.start_with))
        self.process.stdin.close()
        self._socket, self._data = ours, bytearray()

    def kill(self) -> None:
        """End the controller with SIGKILL."""
        self.process.kill()
        self.process.wait()
        self._socket.close()

    def close(self) -> None:
        """End the controller as the end of the front does: the other end of its socket goes away."""
        if self.process is not None and self.process.poll() is None:
            self._socket.close()
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise

    # What is said

    def send(self, message: protocol.FromFront) -> None:
        self.send_raw(protocol.pack(message))

    def send_raw(self, data: bytes) -> None:
        with suppress(OSError):  # it may have ended
            self._socket.sendall(data)

    def say_serving(self) -> None:
        versions = [model.version for model in self.want.models] if self.wants else []
        self.send(Serving({version: self.servers.get(version, Server(1, 1)) for version in versions}))

    def outcomes(self, *outcomes: Outcome) -> None:
        self.send(Outcomes(outcomes))

    def traffic(self, requests: int = 20, *, version: str = "2", ok: bool = True, answer: bytes = ANSWER) -> None:
        """Say that both versions answered so many requests, each variant that has a route."""
        variants = {route.variant for route in self.want.routes}
        body = answer if ok else None
        each = [Outcome(self.version, "champion", True, 0.01, ANSWER)]
        if "shadow" in variants:
            each.append(Outcome(version, "shadow", ok, 0.01, body, True, 0.01, ANSWER))
        if "canary" in variants:
            each.append(Outcome(version, "canary", ok, 0.01, body))
        self.outcomes(*each * requests)

    # What is heard

    def pump(self) -> None:
        """Take what the controller says, and say how the servers are."""
        while select.select([self._socket], [], [], 0)[0]:
            data = b""
            with suppress(ConnectionResetError):
                data = self._socket.recv(1 << 16)
            if not data:
                return
            self._data += data
            for body in protocol.unpack(self._data):
                message = protocol.from_controller(body)
                if isinstance(message, Want):
                    self.wants.append(message)
                else:
                    self.replays.append(message)
                    self.send(msgspec.structs.replace(self.replayed, version=message.version))
        self.say_serving()

    def until(self, condition: Callable[[], object]) -> None:
        """Go on as a front does until something holds."""

        def holds() -> bool:
            self.pump()
            return bool(condition())

        try:
            wait_for(holds, "")
        except AssertionError:
            rollout = self.rollout()
            raise AssertionError(
                f"it does not happen; wanted {self.wants[-3:]}; {rollout and rollout.status}; "
                f"{self.log.read_text()}"
            ) from None
        self.pump()  # what was wanted before it held

    @property
    def want(self) -> Want:
        return self.wants[-1]

    @property
    def version(self) -> str | None:
        """The version that answers."""
        routes = self.want.routes if self.wants else ()
        return next((route.version for route in routes if route.variant == "champion"), None)

    def routed(self, *routes: Route) -> bool:
        return bool(self.wants) and set(self.want.routes) == set(routes)

    @property
    def said(self) -> str:
        return self.log.read_text()

    # What is kept

    def rollout(self) -> Rollout | None:
        """The newest rollout in the state."""
        if not (self.place / "state.db").exists():
            return None
        with State(STATE) as state:
            return next(iter(Rollouts(state).newest("wine", 1)), None)

    def is_at(self, status: str, step: int | None = None) -> bool:
        rollout = self.rollout()
        return rollout is not None and rollout.status == status and step in (None, rollout.step)

    def events(self) -> list[str]:
        with State(STATE) as state:
            return [event.what for event in Rollouts(state).events(self.rollout().id)]

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(PATIENCE)
        self._socket.close()
        return code


@contextmanager
def fronts(directory: Path) -> Iterator[Callable[..., Front]]:
    """Return a function that starts a front in a directory; each is ended at the end."""
    started: list[Front] = []

    def start(*steps: str, **given) -> Front:
        one = Front(directory, *steps, **given)
        started.append(one)
        one.start()
        return one

    yield start
    for one in started:
        one.close()
