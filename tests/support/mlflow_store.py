"""MLflow's database, whose tables MLflow takes ten seconds to make: made once, and copied."""

from __future__ import annotations

import fcntl
import shutil
import sqlite3
from importlib.metadata import version
from pathlib import Path

_TEMPLATES = Path(__file__).parents[2] / ".pytest_cache" / "mlflow"


def new_store(directory: Path) -> str:
    """Put an empty database of MLflow's into a directory, as MLflow itself makes it there; return its URI."""
    place = directory / "mlflow.db"
    shutil.copy(_template(), place)
    connection = sqlite3.connect(place)
    with connection:
        connection.execute("UPDATE experiments SET artifact_location = ?", [f"{directory.resolve()}/mlruns/0"])
    connection.close()
    return f"sqlite:///{place}"


def _template() -> Path:
    template = _TEMPLATES / f"{version('mlflow')}.db"
    _TEMPLATES.mkdir(parents=True, exist_ok=True)
    with (_TEMPLATES / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not template.exists():
            from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

            unfinished = template.with_suffix(".unfinished")
            unfinished.unlink(missing_ok=True)
            store = SqlAlchemyStore(f"sqlite:///{unfinished}", "/artifacts")
            store.engine.dispose()
            unfinished.rename(template)
    return template
