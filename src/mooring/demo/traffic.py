"""The traffic of the demonstration: clients that ask all the time, and later what the wines turned out to be."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from datetime import UTC, datetime
from http.client import HTTPConnection, HTTPException
from typing import NamedTuple, Self

import numpy as np
import pandas as pd

from mooring.demo.processes import DemoError
from mooring.demo.train import TARGET

ROWS_PER_REQUEST = 4
RATE = 25.0
"""Requests a second, of all clients together."""
CLIENTS = 4
_LABELS_AT_ONCE = 200
_LABELS_SECONDS = 1.0
_LET_GO_SECONDS = 5.0
_SHOWN = 200


class _Wines(NamedTuple):
    columns: list[str]
    inputs: np.ndarray
    labels: np.ndarray


class DemoTraffic:
    """Clients that send random wines at a steady rate, each on a connection that it keeps, from start to end.

    The labels of what was answered follow within seconds, on the admin port, or are kept in `labels`. A request
    that fails is counted and not sent again.

    Parameters
    ----------
    port, admin_port
        Of `mooring serve` or `mooring proxy`, on this machine.
    token
        That its admin port wants for labels; with None they are not sent.
    wines
        What is sent first; see `send`.
    """

    def __init__(self, port: int, admin_port: int, token: str | None, wines: pd.DataFrame) -> None:
        self._port = port
        self._admin_port = admin_port
        self._token = token
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._labels: list[dict[str, object]] = []
        self._refused: str | None = None
        self.answered: Counter[str] = Counter()
        """Requests answered with success, by the version that did."""
        self.failed: Counter[str] = Counter()
        """Requests that failed, by the version that answered them."""
        self.last_failure = ""
        self.send(wines)
        targets = [(self._client, (number,)) for number in range(CLIENTS)]
        self._threads = [threading.Thread(target=run, args=given, daemon=True) for run, given in targets]
        if token is not None:
            self._threads.append(threading.Thread(target=self._tell_labels, daemon=True))

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(_LET_GO_SECONDS)

    @property
    def requests(self) -> int:
        """How many requests have come to their end."""
        with self._lock:
            return self.answered.total() + self.failed.total()

    @property
    def labels(self) -> list[dict[str, object]]:
        """The labels of what was answered that were not sent."""
        with self._lock:
            return list(self._labels)

    def send(self, wines: pd.DataFrame) -> datetime:
        """Send these wines from now on; return when that is."""
        inputs = wines.drop(columns=TARGET)
        self._wines = _Wines(inputs.columns.tolist(), inputs.to_numpy(), wines[TARGET].to_numpy())
        return datetime.now(UTC)

    def check(self) -> None:
        """Raise DemoError where labels were refused."""
        if self._refused is not None:
            raise DemoError(self._refused)

    def finish(self) -> None:
        """Let the clients have their last answers, and send the last labels. Raises DemoError as `check` does."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self.check()

    def _client(self, number: int) -> None:
        random = np.random.default_rng(number)
        connection = HTTPConnection("127.0.0.1", self._port, timeout=60)
        due = time.monotonic() + number / RATE
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            due = max(due + CLIENTS / RATE, time.monotonic())
            self._ask(connection, random)
        connection.close()

    def _ask(self, connection: HTTPConnection, random: np.random.Generator) -> None:
        wines = self._wines
        places = random.integers(len(wines.labels), size=ROWS_PER_REQUEST)
        body = json.dumps({"dataframe_split": {"columns": wines.columns, "data": wines.inputs[places].tolist()}})
        try:
            connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read().decode()
        except (OSError, HTTPException) as error:
            connection.close()
            self._count_failed("none", f"{type(error).__name__}: {error}")
            return
        version = answer.headers.get("X-Model-Version", "unknown")
        if answer.status != 200:
            self._count_failed(version, f"status {answer.status}: {_last_line(text)}")
            return
        told = [
            {"request_id": answer.headers["X-Request-Id"], "row": row, "label": float(label)}
            for row, label in enumerate(wines.labels[places])
        ]
        with self._lock:
            self.answered[version] += 1
            self._labels += told

    def _count_failed(self, version: str, why: str) -> None:
        with self._lock:
            self.failed[version] += 1
            self.last_failure = why

    def _tell_labels(self) -> None:
        while not self._stop.wait(_LABELS_SECONDS):
            self._put_labels()
        for client in self._threads[:CLIENTS]:
            client.join()
        self._put_labels()

    def _put_labels(self) -> None:
        with self._lock:
            labels, self._labels = self._labels, []
        for start in range(0, len(labels), _LABELS_AT_ONCE):
            if self._refused is None:
                self._put(labels[start : start + _LABELS_AT_ONCE])

    def _put(self, labels: list[dict[str, object]]) -> None:
        connection = HTTPConnection("127.0.0.1", self._admin_port, timeout=60)
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._token}"}
        try:
            connection.request("POST", "/labels", json.dumps(labels), headers)
            answer = connection.getresponse()
            text = answer.read().decode()
            if answer.status != 202:
                self._refused = f"port {self._admin_port} answered {answer.status} to labels: {text}"
        except (OSError, HTTPException) as error:
            self._refused = f"port {self._admin_port} does not take labels: {error}"
        finally:
            connection.close()


def _last_line(text: str) -> str:
    """Return the last line of a model's traceback in an answer of MLflow's, else the answer's beginning.

    >>> _last_line('{"stack_trace": "Traceback:\\\\nRuntimeError: no feature store\\\\n"}'), _last_line("busy")
    ('RuntimeError: no feature store', 'busy')
    """
    try:
        return str(json.loads(text)["stack_trace"]).strip().splitlines()[-1]
    except (ValueError, TypeError, LookupError):
        return text[:_SHOWN]
