"""What a job has said so far, fit to be shown: its end, without colours and without secrets that can be told."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

MOST_BYTES = 64 * 1024
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_OVERWRITTEN = re.compile(r"[^\n\r]*\r(?!\n)")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_PASSWORD = re.compile(r"(?<=://)[^/@\s]*@")
_SECRET = re.compile(
    r"\b([A-Z0-9_]*(?:SECRET|TOKEN|PASSWORD|PASSWD|API_KEY|ACCESS_KEY)[A-Z0-9_]*)(['\"]?\s*[=:]\s*['\"]?)[^\s'\",;]+"
)


class OutputPiece(msgspec.Struct, frozen=True):
    """A piece of a job's output. `next` is where the piece after it begins; `left_out` bytes came before it."""

    text: str
    next: int
    left_out: int


def read(path: Path, after: int | None = None, *, ended: bool = True) -> OutputPiece | None:
    """Return the end of a job's output, or what came after a place in it; None where there is none.

    At most 64 KB of it. Where the job has not ended, an unfinished line comes with the next piece. Raises OSError.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            # The file is cut where it grows too long: then what was said after that place can't be told.
            known = after if after is not None and 0 <= after <= size else 0
            begin = max(known, size - MOST_BYTES)
            file.seek(begin)
            data = file.read(size - begin)
    except FileNotFoundError:
        return None
    if begin > known:
        skipped = data.find(b"\n") + 1
        data, begin = data[skipped:], begin + skipped
    if not ended:
        whole = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
        data = data[:whole] if whole or len(data) < MOST_BYTES // 2 else data
    return OutputPiece(cleaned(data.decode("utf-8", "replace")), begin + len(data), begin - known)


def cleaned(text: str) -> str:
    r"""Return what a terminal would show at the end, in plain letters, without passwords that can be told.

    >>> cleaned("\x1b[32m10 %\r100 %\x1b[0m\nat postgresql://me:hush@host/db with API_TOKEN=hush\n")
    '100 %\nat postgresql://…@host/db with API_TOKEN=…\n'
    """
    text = _ANSI.sub("", text).replace("\r\n", "\n")
    text = f"{text[:-1]}\n" if text.endswith("\r") else text
    text = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", _OVERWRITTEN.sub("", text))
    return _SECRET.sub(r"\1\2…", _PASSWORD.sub("…@", text))
