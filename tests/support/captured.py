"""Exchanges in a log, and what the dashboard's pages and API say of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from pathlib import Path

from dashboard import ask, pages
from monitoring import START
from mooring.exchange import Exchange
from mooring.ids import new_request_id
from mooring.log.parquet import ParquetLog
from mooring.state.state import State


def page(address: str, path: str) -> str:
    answer = ask(address, path, headers={"Accept": "text/html"})
    assert answer.status == 200, answer.text
    return answer.text


def told(address: str, path: str) -> dict:
    answer = ask(address, f"/api{path}")
    assert answer.status == 200, answer.text
    return answer.json


def write(log: Path | str, *exchanges: Exchange, name: str = "w-00000001") -> None:
    ParquetLog(str(log), lambda *_: None).write(name, exchanges)


def exchange(at: datetime = START, **changed) -> Exchange:
    time_ns = round(at.timestamp() * 1e6) * 1000
    given = {
        "request_id": new_request_id(time_ns),
        "time_ns": time_ns,
        "duration_ns": 5_000_000,
        "model": "wine",
        "version": "3",
        "request": b'{"dataframe_split": {"columns": ["pH"], "data": [[3.1]]}}',
        "response": b'{"predictions": [6.0]}',
    }
    return Exchange(**{**given, **changed})


@contextmanager
def over(
    directory: Path,
    *,
    log: Path | str | None = None,
    spool: Path | None = None,
    shown: Callable[..., AbstractContextManager[str]] = pages,
) -> Iterator[str]:
    """Show an empty state over a log, as `pages` or `dashboard` does, and yield the address."""
    state = f"sqlite:///{directory}/state.db"
    State(state).close()
    with shown(
        state, log=str(log or directory / "log"), spool=str(spool) if spool else None, token=None
    ) as address:
        yield address
