"""What MLflow's registry knows, asked in a process of its own: MLflow takes seconds and 200 MB to import.

    python -m mooring.registry.process MODULE FUNCTION [ARGUMENT …]

prints what a function of this package returns as JSON. Where it fails, the last line on stderr says why.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from mooring.registry import versions
from mooring.registry.client import NO_STORE, TrackingError, has_store

_SECONDS = 60.0


def ask(function: Callable[..., Any], *arguments: str) -> Any:
    """Return what a function of this package returns, called in a process of its own. Raises TrackingError."""
    if not has_store():
        raise TrackingError(NO_STORE)
    command = _command(function, *arguments)
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise TrackingError(f"MLflow does not answer within {_SECONDS:.0f} seconds") from None
    if asked.returncode != 0:
        raise TrackingError(asked.stderr.strip().rpartition("\n")[2] or "MLflow gave no reason")
    try:
        return json.loads(asked.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        raise TrackingError(f"MLflow answered {asked.stdout[-200:]!r}") from None


def question(uri: str) -> list[str]:
    """Return the command that prints the version of the model at `uri` as JSON, for those who can't wait for it.

    Raises ValueError for a URI that names no version.
    """
    return _command(versions.number, *split_uri(uri))


def split_uri(uri: str) -> tuple[str, str, str]:
    """Return the name, alias and version of a model's URI. Raises ValueError if it names no alias or version.

    >>> split_uri("models:/wine@champion"), split_uri("models:/wine/3")
    (('wine', 'champion', ''), ('wine', '', '3'))
    """
    name, at, alias = uri.removeprefix("models:/").partition("@")
    if at and name and alias:
        return name, alias, ""
    name, _, version = name.partition("/")
    if name and version.isdigit():
        return name, "", version
    raise ValueError(f"{uri} names no version: it looks like models:/NAME@ALIAS or models:/NAME/3")


def _command(function: Callable[..., Any], *arguments: str) -> list[str]:
    named = function.__module__, function.__qualname__
    return [sys.executable, "-P", "-W", "ignore", "-m", __name__, *named, *arguments]


def main() -> None:
    """Call a function of this package by its name, and print what it returns."""
    module, function, *arguments = sys.argv[1:]
    try:
        print(json.dumps(getattr(importlib.import_module(module), function)(*arguments)))
    except TrackingError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
