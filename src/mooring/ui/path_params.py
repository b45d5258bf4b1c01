"""Parts of an address that name something: a model, a number. What can't be a name is not there."""

from __future__ import annotations

from datetime import UTC, datetime

from mooring.ui.responses import Asked, NotFound

_LONGEST_NUMBER = 7
_LONGEST_ID = 64


def model_of(part: str) -> str:
    """Return a model's name. Raises NotFound for a text that no database takes.

    >>> model_of("wine")
    'wine'
    """
    if "\0" in part:
        raise NotFound("There is no such model.")
    return part


def number_of(part: str, what: str) -> int:
    """Return the number of a retraining or a rollout. Raises NotFound for what is none.

    >>> number_of("12", "rollout")
    12
    """
    if not (part.isascii() and part.isdecimal() and len(part) <= _LONGEST_NUMBER):
        raise NotFound(f"There is no such {what}: it has a number.")
    return int(part)


def id_of(part: str, what: str) -> str:
    """Return the id of something. Raises NotFound for a text that no database takes.

    >>> id_of("6f0e7c52-3d1b-5a0c-9a8e-0c7d0b1f6a11", "incident")
    '6f0e7c52-3d1b-5a0c-9a8e-0c7d0b1f6a11'
    """
    if not (part.isascii() and part.isprintable() and len(part) <= _LONGEST_ID):
        raise NotFound(f"There is no such {what}: it has an id.")
    return part


def time_of(time: datetime | None) -> datetime | None:
    """Return a time in UTC. Raises Asked for one so far away that it can't be."""
    try:
        return time.astimezone(UTC) if time is not None else None
    except OverflowError:
        raise Asked("The address asks for a time that no calendar has.") from None
