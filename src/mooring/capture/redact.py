"""Redaction: what must not be stored is taken out of a body before anything of it touches the disk."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from mooring.exchange import Exchange

MASK = "***"
EMPTIED = "unredactable"
"""The code of an exchange with a body that could not be redacted, and so was emptied."""
ACTIONS = ("drop", "hash", "mask")
_ROWS = ("dataframe_records", "inputs", "instances")
_TOLD_APART = frozenset({*_ROWS, "dataframe_split", "predictions"})
"""Keys whose values are looked at in a way of their own."""
_CONTAINERS = frozenset({list, dict})
_OUTPUT = "prediction."
_canonical = json.JSONEncoder(sort_keys=True).encode
_PATH = re.compile(r"""\.([^.\[\]]+)|\[(\*|\d+|'[^']*'|"[^"]*")\]""")

Change = Callable[[Any], Any]


class Rule(NamedTuple):
    """Redact what `path` names: one field, wherever a body has it, or, if `rooted`, the place of a JSON path."""

    path: tuple[str, ...]
    rooted: bool
    action: str


class Unredactable(Exception):
    """A body that can't be searched for what the rules name, so that none of it may be stored."""


def parse_rule(text: str) -> Rule:
    """Return the rule that `FIELD=ACTION` means. Raises ValueError if it means none.

    >>> parse_rule("pH=drop")
    Rule(path=('pH',), rooted=False, action='drop')
    >>> parse_rule("$.messages[*].content=mask")
    Rule(path=('messages', '*', 'content'), rooted=True, action='mask')
    """
    field, _, action = text.rpartition("=")
    if not field or action not in ACTIONS:
        raise ValueError(f"--redact {text!r}: it looks like FIELD=drop, FIELD=hash or FIELD=mask")
    if not field.startswith("$"):
        return Rule((field,), False, action)
    if not _PATH.sub("", field[1:]) == "" or len(field) == 1:
        raise ValueError(f"--redact {text!r}: a JSON path looks like $.messages[*].content")
    return Rule(tuple(name or place.strip("'\"") for name, place in _PATH.findall(field)), True, action)


class Redactor:
    """Applies rules to both bodies of an exchange.

    A field goes by the name that the log has for it: an output's is `prediction`, or `prediction.NAME` where an
    answer has several. A name redacts every column and every key that is called so.

    >>> redactor = Redactor([parse_rule("name=mask")], key=b"")
    >>> redactor.body(b'{"dataframe_records": [{"name": "Ada", "age": 36}]}', "application/json")
    b'{"dataframe_records": [{"name": "***", "age": 36}]}'
    """

    def __init__(self, rules: Iterable[Rule], key: bytes) -> None:
        rules = list(rules)
        changes: dict[str, Change] = {
            "drop": lambda value: None,
            "mask": lambda value: MASK,
            "hash": lambda value: _hashed(value, key),
        }
        self._fields = {rule.path[0]: changes[rule.action] for rule in rules if not rule.rooted}
        self._paths = [(rule.path, changes[rule.action]) for rule in rules if rule.rooted]
        self._outputs = {
            name.removeprefix(_OUTPUT): change for name, change in self._fields.items() if name.startswith(_OUTPUT)
        }
        inputs = (name for name in self._fields if name != "prediction" and not name.startswith(_OUTPUT))
        self._names_inputs = not all(name.isdigit() for name in inputs)

    def __call__(self, exchange: Exchange) -> None:
        """Redact `exchange` in place; a body that can't be redacted is emptied, and its errors say so."""
        if exchange.request and not self._redacted(exchange, "request", exchange.request_type):
            exchange.request = b""
        if exchange.response and not self._redacted(exchange, "response", exchange.response_type):
            exchange.response = b""

    def _redacted(self, exchange: Exchange, name: str, content_type: str) -> bool:
        try:
            # An error may echo any part of the input, in words of its own; a body cut short ends anywhere.
            if name == "response" and not exchange.succeeded:
                raise Unredactable
            if getattr(exchange, f"{name}_encoding") or "truncated" in exchange.errors:
                raise Unredactable
            body = self.body(getattr(exchange, name), content_type, answer=name == "response")
            setattr(exchange, name, body)
        except Exception:  # noqa: BLE001 - clients choose what stands here: it may cost the body, never the answer
            if EMPTIED not in exchange.errors:
                exchange.errors = [*exchange.errors, EMPTIED]
            return False
        return True

    def body(self, body: bytes, content_type: str, *, answer: bool = False) -> bytes:
        """Return `body` redacted. Raises Unredactable where it can't be searched."""
        mime = content_type.partition(";")[0].strip().lower()
        if mime == "text/csv":
            return self._csv(body)
        if mime and not mime.endswith("json"):
            raise Unredactable
        try:
            document = self._document(json.loads(body), answer)
            for path, change in self._paths:
                document = _at(document, path, change)
            return json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogatepass")
        except (ValueError, RecursionError) as error:
            raise Unredactable from error

    def _document(self, value: Any, answer: bool) -> Any:
        if not self._fields:
            return value
        if isinstance(value, dict):
            return self._walk(value)
        return self._predictions(value) if answer else self._rows(value)  # as MLflow 1 answered

    def _walk(self, value: Any) -> Any:
        """Return `value`, which may be changed itself, with the named fields changed, as keys and as columns."""
        if isinstance(value, list):
            if not _is_plain(value):
                value[:] = map(self._walk, value)  # in their place, since a list takes many times its bytes
            return value
        if not isinstance(value, dict):
            return value
        if "columns" in value and "data" in value:
            rows = self._table(value["columns"], value["data"])
            others = {name: self._field(name, item) for name, item in value.items() if name != "data"}
            changed = self._fields["data"](rows) if "data" in self._fields else rows
            return {name: changed if name == "data" else others[name] for name in value}
        if _is_plain(value.values()) and _TOLD_APART.isdisjoint(value):
            for name in self._fields.keys() & value.keys():
                value[name] = self._fields[name](value[name])
            return value
        return {name: self._field(name, item) for name, item in value.items()}

    def _field(self, name: str, value: Any) -> Any:
        if name in self._fields:
            return self._fields[name](value)
        if name == "predictions":
            return self._predictions(value)
        if name in _ROWS:
            return self._rows(value)
        if name == "dataframe_split" and not isinstance(value, dict):
            return self._rows(value)
        if name == "dataframe_split" and "data" in value and "columns" not in value:
            return {
                key: self._rows(item) if key == "data" else self._field(key, item) for key, item in value.items()
            }
        return self._walk(value)

    def _table(self, columns: Any, rows: Any) -> list[Any]:
        # pandas gives columns of other and of mixed types names that can't be foreseen here.
        if not isinstance(columns, list) or {type(name) for name in columns} not in ({str}, {int}):
            raise Unredactable
        if not isinstance(rows, list):
            raise Unredactable
        changes = self._changes([str(name) for name in columns])
        if not all(isinstance(row, list) and len(row) == len(columns) for row in rows):
            raise Unredactable
        places = _places(changes)
        return [
            _changed(row, places)
            if _is_plain(row)
            else [change(cell) if change else self._walk(cell) for cell, change in zip(row, changes, strict=True)]
            for row in rows
        ]

    def _changes(self, names: list[str]) -> list[Change | None]:
        """Return what is done to each column; in the log a second `x` is `x.1`, and here it is `x` too."""
        changes, met = [], Counter[str]()
        for name in names:
            again = f"{name}.{met[name]}" if name in met else name
            changes.append(self._fields.get(name) or self._fields.get(again))
            met[name] += 1
        return changes

    def _rows(self, value: Any) -> Any:
        """Inputs, as rows or as columns. Those without names have their places for names."""
        if isinstance(value, dict):
            return {name: self._column(name, item, self._fields.get(name)) for name, item in value.items()}
        if isinstance(value, list) and all(isinstance(item, dict) for item in value):
            return self._walk(value)
        if self._names_inputs:
            raise Unredactable  # which of them is meant?
        if not isinstance(value, list):
            return self._whole(value)
        if _is_matrix(value):
            return [self._places(row, self._fields) for row in value]
        return [self._whole(item) for item in value]

    def _whole(self, item: Any) -> Any:
        """A row that is one value, however deep: its name is `0`."""
        return self._fields["0"](item) if "0" in self._fields else self._places(item, self._fields)

    def _predictions(self, value: Any) -> Any:
        change = self._fields.get("prediction")
        if isinstance(value, dict):
            return {
                name: self._column(name, item, change or self._outputs.get(name) or self._fields.get(name))
                for name, item in value.items()
            }
        if not isinstance(value, list):
            return change(value) if change else value
        if change:
            return [change(item) for item in value]
        if _is_plain(value):
            return value
        return [self._prediction(item) for item in value]

    def _prediction(self, value: Any) -> Any:
        if isinstance(value, dict):
            changed = {name: self._outputs[name](item) for name, item in value.items() if name in self._outputs}
            return {**self._walk(value), **changed}
        return self._places(value, self._outputs)

    def _column(self, name: str, values: Any, change: Change | None) -> Any:
        if change is None:
            return self._field(name, values)
        return [change(value) for value in values] if isinstance(values, list) else change(values)

    def _places(self, row: Any, changes: dict[str, Change]) -> Any:
        if not isinstance(row, list):
            return self._walk(row)
        if not any(name.isdigit() for name in changes):
            return self._walk(row)
        return [changes[str(at)](cell) if str(at) in changes else self._walk(cell) for at, cell in enumerate(row)]

    def _csv(self, body: bytes) -> bytes:
        if self._paths:
            raise Unredactable
        try:
            rows = list(csv.reader(io.StringIO(body.decode("utf-8-sig"), newline=""), strict=True))
        except (csv.Error, UnicodeDecodeError) as error:
            raise Unredactable from error
        # A blank line is none to pandas, so that the names stand in the next.
        if not rows or not "".join(rows[0]).strip() or any(len(row) != len(rows[0]) for row in rows if row):
            raise Unredactable
        changes = self._changes([name or f"Unnamed: {at}" for at, name in enumerate(rows[0])])
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(rows[0])
        places = _places(changes)
        writer.writerows(_changed(row, places) for row in rows[1:] if row)
        return out.getvalue().encode()


def _at(value: Any, path: tuple[str, ...], change: Change) -> Any:
    """Return `value` changed at `path`; a `*` in it is every key or place."""
    if not path:
        return change(value)
    step, rest = path[0], path[1:]
    if isinstance(value, dict):
        return {key: _at(item, rest, change) if step in ("*", key) else item for key, item in value.items()}
    if isinstance(value, list):
        return [_at(item, rest, change) if step in ("*", str(at)) else item for at, item in enumerate(value)]
    return value


def _is_matrix(rows: list[Any]) -> bool:
    """Whether a list's items are rows of single values, and not each one value."""
    width = len(rows[0]) if isinstance(rows[0], list) else 0
    return width > 0 and all(isinstance(row, list) and len(row) == width and _is_plain(row) for row in rows)


def _is_plain(values: Iterable[Any]) -> bool:
    """Whether there is neither a list nor an object among values of JSON."""
    return _CONTAINERS.isdisjoint(map(type, values))


def _places(changes: list[Change | None]) -> list[tuple[int, Change]]:
    return [(at, change) for at, change in enumerate(changes) if change is not None]


def _changed(row: list[Any], places: list[tuple[int, Change]]) -> list[Any]:
    """Change a row of single values where it is to be; most of it stays, so that is not copied."""
    for at, change in places:
        row[at] = change(row[at])
    return row


def _hashed(value: Any, key: bytes) -> str | None:
    """Return a keyed hash (BLAKE2b, RFC 7693): equal values hash alike; without the key nobody can try some."""
    if value is None:
        return None
    text = value if isinstance(value, str) else _canonical(value)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), key=key[:64], digest_size=16).hexdigest()
