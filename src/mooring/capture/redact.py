"""Redaction: what must not be stored is taken out of a body before anything of it touches the disk."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from mooring.exchange import Exchange

MASK = "***"
ACTIONS = ("drop", "hash", "mask")
_UNNAMED = ("inputs", "instances", "predictions")
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
            setattr(exchange, name, self.body(getattr(exchange, name), content_type))
        except Unredactable:
            if "unredactable" not in exchange.errors:
                exchange.errors = [*exchange.errors, "unredactable"]
            return False
        return True

    def body(self, body: bytes, content_type: str) -> bytes:
        """Return `body` redacted. Raises Unredactable where it can't be searched."""
        mime = content_type.partition(";")[0].strip().lower()
        if mime == "text/csv":
            return self._csv(body)
        if mime and not mime.endswith("json"):
            raise Unredactable
        try:
            document = json.loads(body)
            # One output has no name of its own in an answer: it is the prediction.
            document = self._walk(document)
            for path, change in self._paths:
                document = _at(document, path, change)
            return json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogatepass")
        except (ValueError, RecursionError) as error:
            raise Unredactable from error

    def _walk(self, value: Any) -> Any:
        """Return `value` with the named fields changed, as keys and as columns of tables."""
        if isinstance(value, list):
            return [self._walk(item) for item in value]
        if not isinstance(value, dict) or not self._fields:
            return value
        if "columns" in value and "data" in value:
            value = {**value, "data": self._table(value["columns"], value["data"])}
        return {name: self._field(name, item) for name, item in value.items()}

    def _field(self, name: str, value: Any) -> Any:
        if name in self._fields:
            return self._fields[name](value)
        if name == "predictions" and "prediction" in self._fields:
            change = self._fields["prediction"]
            return [change(item) for item in value] if isinstance(value, list) else change(value)
        if name in _UNNAMED and not _has_names(value):
            return self._by_place(name, value)
        return self._walk(value)

    def _table(self, columns: Any, rows: Any) -> list[Any]:
        if not isinstance(columns, list) or not isinstance(rows, list):
            raise Unredactable
        changes = [self._fields.get(str(name)) for name in columns]
        if not all(isinstance(row, list) and len(row) == len(columns) for row in rows):
            raise Unredactable
        return [
            [change(cell) if change else self._walk(cell) for cell, change in zip(row, changes, strict=True)]
            for row in rows
        ]

    def _by_place(self, key: str, values: Any) -> Any:
        """Values without names: only rules that name places say what they are."""
        named = {name for name in self._fields if not name.isdigit()}
        if key == "predictions":
            return values if not named - {"prediction"} or not isinstance(values, list) else self._outputs(values)
        if named:
            raise Unredactable
        if not isinstance(values, list):
            raise Unredactable
        return [self._row(row) for row in values]

    def _outputs(self, values: list[Any]) -> list[Any]:
        # Inputs that the rules name are not among unnamed outputs.
        return [self._row(row) if isinstance(row, list) else row for row in values]

    def _row(self, row: Any) -> Any:
        cells = row if isinstance(row, list) else [row]
        changed = [
            self._fields[str(at)](cell) if str(at) in self._fields else cell for at, cell in enumerate(cells)
        ]
        return changed if isinstance(row, list) else changed[0]

    def _csv(self, body: bytes) -> bytes:
        if self._paths:
            raise Unredactable
        try:
            rows = list(csv.reader(io.StringIO(body.decode(), newline=""), strict=True))
        except (csv.Error, UnicodeDecodeError) as error:
            raise Unredactable from error
        if not rows or any(len(row) != len(rows[0]) for row in rows if row):
            raise Unredactable
        changes = [self._fields.get(name) for name in rows[0]]
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(rows[0])
        for row in filter(None, rows[1:]):
            writer.writerow(change(cell) if change else cell for cell, change in zip(row, changes, strict=True))
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


def _has_names(value: Any) -> bool:
    """Whether the values of an input or an answer stand under names."""
    if isinstance(value, dict):
        return True
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _hashed(value: Any, key: bytes) -> str | None:
    """Return a keyed hash (BLAKE2b, RFC 7693): equal values hash alike; without the key nobody can try some."""
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), key=key[:64], digest_size=16).hexdigest()
