"""Call a function that trains: python -m mooring.retrain.job.call MODULE:FUNCTION NAME=VALUE …."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from inspect import Parameter, signature
from typing import Any


def main() -> None:
    """Call it with those of the values that it takes. Exits with a line where it can't be called."""
    name = sys.argv[1]
    given = {key: value for key, _, value in (argument.partition("=") for argument in sys.argv[2:])}
    if os.getcwd() not in sys.path and "" not in sys.path:  # PYTHONSAFEPATH
        sys.path.insert(0, os.getcwd())
    function = load(name)
    try:
        chosen = taken(function, given)
    except TypeError as error:
        sys.exit(f"{name} {error}")
    function(**chosen)


def load(name: str) -> Callable[..., Any]:
    """Return the function that MODULE:FUNCTION names. Exits with a line where it is not there."""
    module, _, attribute = name.partition(":")
    try:
        loaded = import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        sys.exit(f"there is no module {error.name}, looked for in {os.getcwd()} and where Python looks")
    function = getattr(loaded, attribute, None)
    if not callable(function):
        sys.exit(f"there is no function {attribute} in {loaded.__file__ or module}")
    return function  # type: ignore[no-any-return]  # whatever the user has named


def taken(function: Callable[..., Any], given: Mapping[str, str]) -> dict[str, str | None]:
    """Return those of the values that a function takes by name; an empty one is None.

    Raises TypeError where it needs others.

    >>> taken(lambda data, epochs=3: None, {"data": "training.parquet", "ticket": "1"})
    {'data': 'training.parquet'}
    """
    parameters = signature(function).parameters.values()
    everything = any(one.kind is Parameter.VAR_KEYWORD for one in parameters)
    named = {
        one.name for one in parameters if one.kind in (Parameter.KEYWORD_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    }
    needed = [
        one.name
        for one in parameters
        if one.default is Parameter.empty
        and one.kind not in (Parameter.VAR_KEYWORD, Parameter.VAR_POSITIONAL)
        and (one.name not in given or one.name not in named)
    ]
    if needed:
        raise TypeError(f"needs {', '.join(needed)}; what it is given by name is {', '.join(given)}")
    return {name: value or None for name, value in given.items() if everything or name in named}


if __name__ == "__main__":
    main()
