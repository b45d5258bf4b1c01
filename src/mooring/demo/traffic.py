"""The traffic of the demonstration: requests of wines, and later what they turned out to be."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.client import HTTPConnection

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import track

from mooring.demo.processes import DemoError
from mooring.demo.train import TARGET

ROWS_PER_REQUEST = 4
_LABELS_AT_ONCE = 200


class Traffic:
    """Sends wines to the proxy, and their quality to its admin port, as whoever tastes them would."""

    def __init__(self, port: int, admin_port: int, token: str, console: Console) -> None:
        self._port = port
        self._admin_port = admin_port
        self._token = token
        self._console = console
        self._random = np.random.default_rng(1)
        self.requests = 0

    def send(self, wines: pd.DataFrame, requests: int, what: str) -> None:
        """Send requests of a few random wines each, then their labels. Raises DemoError where one is refused."""
        labels = list(self._predicted(wines, requests, what))
        self._console.print(f"Their labels arrive: {len(labels)}", highlight=False)
        connection = HTTPConnection("127.0.0.1", self._admin_port, timeout=60)
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._token}"}
        for start in range(0, len(labels), _LABELS_AT_ONCE):
            some = json.dumps(labels[start : start + _LABELS_AT_ONCE])
            connection.request("POST", "/labels", some, headers)
            answer = connection.getresponse()
            text = answer.read().decode()
            if answer.status != 202:
                raise DemoError(f"the proxy answered {answer.status} to labels: {text}")
        connection.close()

    def serves(self, version: str) -> None:
        """Tell the proxy which version the model server has from now on."""
        connection = HTTPConnection("127.0.0.1", self._admin_port, timeout=60)
        connection.request("PUT", f"/model-version/{version}")
        answer = connection.getresponse()
        if answer.status != 200:
            raise DemoError(f"the proxy answered {answer.status} to a version: {answer.read().decode()}")
        connection.close()

    def _predicted(self, wines: pd.DataFrame, requests: int, what: str) -> Iterator[dict[str, object]]:
        """Send requests, and yield the label of each row."""
        connection = HTTPConnection("127.0.0.1", self._port, timeout=60)
        inputs = wines.drop(columns=TARGET)
        for _ in track(range(requests), f"Sending {requests} requests {what}", console=self._console):
            places = self._random.integers(len(wines), size=ROWS_PER_REQUEST)
            rows = inputs.iloc[places]
            body = json.dumps({"dataframe_split": {"columns": list(rows), "data": rows.to_numpy().tolist()}})
            connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read().decode()
            if answer.status != 200:
                raise DemoError(f"the model server answered {answer.status}: {text}")
            self.requests += 1
            for row, quality in enumerate(wines[TARGET].iloc[places]):
                yield {"request_id": answer.headers["X-Request-Id"], "row": row, "label": float(quality)}
        connection.close()
