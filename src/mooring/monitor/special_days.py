"""Days that are not usual, from a file of holidays and from notes: what differs then is expected."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime, time, timedelta, tzinfo
from pathlib import Path
from typing import NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from mooring.settings import MonitorSettings
from mooring.state.notes import Note


class SpecialTime(NamedTuple):
    """A time that is not usual, from `start` on and before `end`."""

    start: datetime
    end: datetime
    name: str = ""


class SpecialDays(NamedTuple):
    """The times that are not usual, the time zone, and whether windows are compared by the hour of the week."""

    spans: tuple[SpecialTime, ...]
    zone: tzinfo
    seasonal: bool = True

    def name_of(self, start: datetime, end: datetime) -> str | None:
        """Return the name of the time that is not usual which a window has a part of; None where there is none."""
        return next((one.name for one in self.spans if one.start < end and start < one.end), None)


def special_days(settings: MonitorSettings, notes: Iterable[Note]) -> SpecialDays:
    """Return the times that are not usual. Raises ValueError for what can't be read."""
    zone = zone_of(settings.timezone)
    spans = [] if settings.holidays is None else read_holidays(Path(settings.holidays), zone)
    spans += [SpecialTime(one.start, one.end, one.name) for one in notes]
    return SpecialDays(tuple(spans), zone, settings.seasonality == "auto")


def zone_of(name: str) -> tzinfo:
    """Return a time zone by its name. Raises ValueError where there is none.

    >>> zone_of("Europe/Atlantis")
    Traceback (most recent call last):
    ValueError: --timezone Europe/Atlantis: there is no such time zone; give one such as Europe/Berlin
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(
            f"--timezone {name}: there is no such time zone; give one such as Europe/Berlin"
        ) from None


def read_holidays(path: Path, zone: tzinfo) -> list[SpecialTime]:
    """Return what a file of holidays says: a date or two on each line, and a name, if it has one.

    Empty lines, and what is behind a #, are left out. Raises ValueError with the line that can't be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--holidays {path}: {error}") from None
    spans = []
    for number, line in enumerate(text.splitlines(), start=1):
        days, _, name = line.partition("#")[0].strip().partition(" ")
        if not days:
            continue
        try:
            spans.append(span_of(days, zone, name.strip()))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
    return spans


def span_of(text: str, zone: tzinfo, name: str = "") -> SpecialTime:
    """Return a day, the days from one to another, both with them, or the time between two times.

    >>> from datetime import UTC
    >>> one = span_of("2026-12-25/2026-12-28", UTC, "Christmas")
    >>> one.start.isoformat(), one.end.isoformat()
    ('2026-12-25T00:00:00+00:00', '2026-12-29T00:00:00+00:00')
    >>> span_of("2026-12-24T18:00/2026-12-25", UTC).start.isoformat()
    '2026-12-24T18:00:00+00:00'
    >>> span_of("Christmas", UTC)
    Traceback (most recent call last):
    ValueError: 'Christmas' is no day; write 2026-12-25, or 2026-12-25/2026-12-28 for several
    """
    first, slash, last = text.partition("/")
    start, end = _moment(first, zone, text)[0], _moment(last if slash else first, zone, text)[1]
    if end <= start:
        raise ValueError(f"{text!r} ends before it begins")
    return SpecialTime(start, end, name)


def _moment(text: str, zone: tzinfo, whole: str) -> tuple[datetime, datetime]:
    """Return when a day begins and ends; a time does both at once."""
    try:
        if len(text) == len("2026-12-25"):
            day = date.fromisoformat(text)
            return datetime.combine(day, time(), zone), datetime.combine(day + timedelta(days=1), time(), zone)
        at = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise ValueError(f"{whole!r} is no day; write 2026-12-25, or 2026-12-25/2026-12-28 for several") from None
    at = at if at.tzinfo is not None else at.replace(tzinfo=zone)
    return at, at
