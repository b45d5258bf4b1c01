"""The log for beginners: one CSV file a request, its predictions beside its inputs."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from mooring.exchange import Exchange
from mooring.files import make_directory, replace
from mooring.payload import ScoredExchange, Undecodable, decode


def write(directory: Path, exchange: Exchange) -> None:
    """Write what the log keeps of `exchange` into `directory`: its file appears whole or not at all.

    A prediction becomes `<request id>.csv`. A request that failed becomes `errors/<request id>.json`, one whose
    bodies are no table `payloads/<request id>.json`, with the reason. What a shadow answered becomes the same
    below `shadow/`: it has the id of the answer that the client got. A file that is already there is left alone.
    Raises OSError where the directory can't be written.
    """
    root = directory
    if exchange.variant == "shadow":
        directory = directory / "shadow"
    if not exchange.succeeded:
        _put(directory / "errors" / f"{exchange.request_id}.json", _as_json(exchange, ""), root)
        return
    try:
        text = to_csv(decode(exchange))
    except Undecodable as error:
        _put(
            directory / "payloads" / f"{exchange.request_id}.json",
            _as_json(exchange, f"{error.code}: {error}"),
            root,
        )
        return
    _put(directory / f"{exchange.request_id}.csv", text, root)


def to_csv(scored: ScoredExchange) -> str:
    """Return predictions and inputs as CSV: predictions first, then the inputs in the order of the request.

    >>> from mooring.exchange import Exchange
    >>> body = b'{"dataframe_split": {"columns": ["pH", "name"], "data": [[3, "a,b"]]}}'
    >>> print(to_csv(decode(Exchange(request_id="", time_ns=0, request=body, response=b'{"predictions": [6.0]}'))))
    prediction,pH,name
    6.0,3,"a,b"
    <BLANKLINE>
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*scored.outputs.columns, *scored.inputs.columns])
    for outputs, inputs in zip(scored.outputs.rows, scored.inputs.rows, strict=True):
        writer.writerow(_cells([*outputs, *inputs]))
    return out.getvalue()


def _cells(values: Sequence[Any]) -> list[Any]:
    """Return values as CSV holds them: nothing for null, JSON for what is nested, JSON's words for the rest."""
    return [value if type(value) in (int, str) else _cell(value) for value in values]


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else json.dumps(value)
    if isinstance(value, bool | list | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value


def _as_json(exchange: Exchange, reason: str) -> str:
    record = msgspec.structs.asdict(exchange)
    for name in ("request", "response"):
        body: bytes = record[name]
        try:
            record[name] = body.decode()
        except UnicodeDecodeError:
            record[name] = None
            record[f"{name}_base64"] = base64.b64encode(body).decode()
    return json.dumps({"reason": reason or f"status {exchange.status}", **record}, indent=1) + "\n"


def _put(path: Path, text: str, root: Path) -> None:
    if path.exists():
        return
    make_directory(path.parent, root)
    replace(path, text.encode("utf-8", "backslashreplace"), root=root)
