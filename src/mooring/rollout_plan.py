"""The plan of a rollout: the steps that a new version goes through before it answers everything."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

import msgspec

from mooring.settings import duration_text, seconds_of

Kind = Literal["shadow", "canary"]
SECONDS = 60.0
"""How long a step lasts at least, where it does not say."""
REQUESTS = 100
"""How many requests the new version must have answered in a step at least, where it does not say."""
_FORM = "a step looks like `shadow 20% 10m 500` or `canary 5%`: KIND SHARE [TIME] [REQUESTS] [unless idle]"
_UNLESS_IDLE = " unless idle"


class Step(msgspec.Struct, frozen=True):
    """A step: which share of the requests the new version gets, a copy of them (shadow) or they themselves.

    It lasts `seconds` at least, and until the new version has answered `requests` of them. One that is
    `unless_idle` ends after that time where no request came at all.
    """

    kind: Kind
    share: float
    seconds: float = SECONDS
    requests: int = REQUESTS
    unless_idle: bool = False

    def __str__(self) -> str:
        idle = _UNLESS_IDLE if self.unless_idle else ""
        return f"{self.kind} {self.share * 100:.6g}% {duration_text(self.seconds)} {self.requests}{idle}"


Plan = tuple[Step, ...]


def parse(steps: Iterable[str]) -> Plan:
    """Return the plan of these steps; `full` follows the last by itself, and is written only where it is alone.

    The share is in percent or from 0 to 1, the time has a unit (s, m, h, d), and what has none is the number of
    requests. Raises ValueError with the step that can't be read, and why.

    >>> [str(step) for step in parse(["shadow 20% 10m 500", "canary 0.05", "canary 50% 200"])]
    ['shadow 20% 10m 500', 'canary 5% 1m 100', 'canary 50% 1m 200']
    >>> parse(["full"])
    ()
    >>> parse(["canary 5"])
    Traceback (most recent call last):
    ...
    ValueError: the step `canary 5`: 5 is no share: write 5% or 0.05
    """
    given = tuple(steps)
    return () if given == ("full",) else tuple(map(_step, given))


def _step(text: str) -> Step:
    def wrong(why: str) -> ValueError:
        return ValueError(f"the step `{text}`: {why}")

    told = " ".join(text.split())
    kind, *given = told.removesuffix(_UNLESS_IDLE).split() or [""]
    if kind not in ("shadow", "canary"):
        full = (
            "full comes last by itself: leave it out, or give it alone for no other step"
            if kind == "full"
            else f"it is shadow or canary; {_FORM}"
        )
        raise wrong(full)
    if not given:
        raise wrong(f"its share is missing; {_FORM}")
    try:
        share = _share(given.pop(0))
        seconds, requests = SECONDS, REQUESTS
        if given and not given[0].isdecimal():
            seconds = _time(given.pop(0))
        if given:
            requests = _requests(given.pop(0))
    except ValueError as error:
        raise wrong(str(error)) from None
    if given:
        raise wrong(f"{' '.join(given)} is too much; {_FORM}")
    return Step("shadow" if kind == "shadow" else "canary", share, seconds, requests, told.endswith(_UNLESS_IDLE))


def _share(text: str) -> float:
    try:
        number = float(text.removesuffix("%"))
    except ValueError:
        raise ValueError(f"{text} is no share: write 5% or 0.05") from None
    share = number / 100 if text.endswith("%") else number
    if share > 1 and not text.endswith("%"):
        raise ValueError(f"{text} is no share: write {text}% or {number / 100:g}")
    if not 0 < share <= 1:
        raise ValueError(f"{text} is no share: it is more than 0% and at most 100%")
    return share


def _time(text: str) -> float:
    seconds = seconds_of(text)
    if not re.fullmatch(r"[0-9.]+[smhd]", text) or not isinstance(seconds, float):
        raise ValueError(f"{text} is no time: write 10m, with s, m, h or d")
    return seconds


def _requests(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"{text} is no number of requests; the time comes before it")
    return int(text)
