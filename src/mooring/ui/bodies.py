"""Bodies of requests and answers as people can read them: unpacked, laid out, cut, what was redacted marked."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
from markupsafe import Markup, escape

from mooring.exchange import Exchange
from mooring.payload import Undecodable, decompressed

SHOWN_BYTES = 64 * 1024
_LAID_OUT_BYTES = 256 * 1024
_TOKENS = re.compile(r'("(?:[^"\\]|\\.)*")(\s*:)?|\bnull\b')
_MASK = '"***"'
_HASH = re.compile('"[0-9a-f]{32}"')
_LINES = re.compile(r"[\t\r\n]")


class ShownBody(msgspec.Struct, frozen=True, kw_only=True):
    """A body as the log has it: what was to be redacted is redacted there already.

    `size` is that of all of it, `text` its beginning, unpacked and, where it is JSON, laid out; `cut` says that
    there is more. `note` says what else is to be known.
    """

    media: str
    encoding: str = ""
    size: int
    text: str = ""
    cut: bool = False
    note: str = ""

    @property
    def shown(self) -> Markup:
        """The text with its redacted places marked."""
        return marked(self.text) if "json" in self.media.lower() or not self.media else escape(self.text)


def as_body(content: bytes, media: str, encoding: str, errors: list[str]) -> ShownBody:
    """Return a body that can be read.

    >>> as_body(b'{"a": "***"}', "application/json", "", []).text
    '{\\n "a": "***"\\n}'
    """
    about = ShownBody(media=media, encoding=encoding, size=len(content))
    if not content:
        return msgspec.structs.replace(about, note=_why_empty(errors))
    try:
        unpacked = decompressed(
            Exchange(request_id="", time_ns=0, request=content, request_encoding=encoding)
        ).request
    except Undecodable as error:
        return msgspec.structs.replace(about, note=str(error))
    note = "Only its beginning may be here: a body was longer than --max-payload." if "truncated" in errors else ""
    if encoding:
        note = f"Unpacked from {encoding}. {note}".strip()
    text = _text(unpacked, media)
    if text is None:
        kind = media.partition(";")[0].strip() or "of an unknown type"
        return msgspec.structs.replace(about, note=f"It is binary ({kind}), and not shown. {note}".strip())
    return msgspec.structs.replace(about, text=text[:SHOWN_BYTES], cut=len(text) > SHOWN_BYTES, note=note)


def marked(text: str) -> Markup:
    """Return JSON with what redaction leaves behind marked: masks, what looks like a hash, and null.

    >>> print(marked('{"<b>": "***"}'))
    {&#34;&lt;b&gt;&#34;: <mark title="masked">&#34;***&#34;</mark>}
    """
    parts, at = [], 0
    for token in _TOKENS.finditer(text):
        title = _title(token)
        if title:
            parts += [
                escape(text[at : token.start()]),
                Markup('<mark title="{}">{}</mark>').format(title, token[0]),
            ]
            at = token.end()
    return Markup("").join([*parts, escape(text[at:])])


def laid_out(value: Any, margin: str = "") -> str:
    """Return JSON as text whose lists and objects have a line for each item, but for lists of plain values.

    >>> print(laid_out({"data": [[1, 2], [3, None]]}))
    {
     "data": [
      [1, 2],
      [3, null]
     ]
    }
    """
    nested = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if not nested or (isinstance(value, list) and not any(isinstance(one, list | dict) for one in nested)):
        return json.dumps(value, ensure_ascii=False)
    inner = f"{margin} "
    if isinstance(value, dict):
        items = [f"{json.dumps(name, ensure_ascii=False)}: {laid_out(one, inner)}" for name, one in value.items()]
    else:
        items = [laid_out(one, inner) for one in nested]
    begin, end = "{}" if isinstance(value, dict) else "[]"
    body = f",\n{inner}".join(items)
    return f"{begin}\n{inner}{body}\n{margin}{end}"


def _title(token: re.Match[str]) -> str:
    if token[0] == "null":
        return "null: empty, or dropped"
    if token[2] is not None:
        return ""  # a key
    if token[0] == _MASK:
        return "masked"
    return "looks hashed" if _HASH.fullmatch(token[0]) else ""


def _why_empty(errors: list[str]) -> str:
    if "unredactable" in errors:
        return "Not stored: it could not be searched for what must be redacted."
    return "It is empty."


def _text(content: bytes, media: str) -> str | None:
    """Return the beginning of a body as text, None where it is none."""
    if "parquet" in media.lower():
        return None
    if len(content) <= _LAID_OUT_BYTES and ("json" in media.lower() or not media):
        try:
            return laid_out(json.loads(content)).encode("utf-8", "backslashreplace").decode()
        except (ValueError, RecursionError):
            pass  # then as it came
    begin = content[: 4 * SHOWN_BYTES + 4]
    try:
        text = begin.decode()
    except UnicodeDecodeError as error:
        if error.start < len(begin) - 4 or len(begin) == len(content):
            return None
        text = begin[: error.start].decode()
    return text if _LINES.sub("", text[:1000]).isprintable() else None
