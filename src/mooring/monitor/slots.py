"""The hours of the week of a stream: what each holds, as far as windows have been checked, written or not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from mooring.drift.profile import Profile
from mooring.drift.seasons import SlotSums
from mooring.drift.stored import FormatError, dump, load
from mooring.state.repository import Source, Transaction
from mooring.state.slots import SlotKey, Slots, StoredSlot

_FORMAT = 1


class SlotPast(msgspec.Struct):
    """The windows of an hour of the week: those before a block of sixteen, and those of that block, `block`."""

    settled: Profile | None = None
    running: Profile | None = None
    block: int = 0

    def before(self, block: int | None = None) -> Profile | None:
        """Return the profile of all of them, or of those before a block; None of none."""
        parts = [self.settled, None if block == self.block else self.running]
        there = [one for one in parts if one is not None]
        return there[0] + there[1] if len(there) > 1 else (there[0] if there else None)

    def after(self, window: Profile, block: int) -> SlotPast:
        """Return what it is after one more window, of a block."""
        if block == self.block and self.running is not None:
            return SlotPast(self.settled, self.running + window, block)
        return SlotPast(self.before(), window, block)


class Slot(NamedTuple):
    """An hour of the week."""

    sums: SlotSums
    past: SlotPast


class ChangedSlot(NamedTuple):
    """An hour of the week of a part of a stream, as it is after a window."""

    key: SlotKey
    number: int
    slot: Slot

    def stored(self) -> StoredSlot:
        """Return it as it is written."""
        sums, past = dump(self.slot.sums, "sums", _FORMAT), dump(self.slot.past, "slot", _FORMAT)
        return StoredSlot(self.number, sums, past)


class StreamSlots:
    """The hours of the week of streams, read when they are needed.

    Parameters
    ----------
    source
        The state in which they are; without one they are in memory alone.

    """

    def __init__(self, source: Source | None = None) -> None:
        self._slots = Slots(source) if source is not None else None
        self._held: dict[SlotKey, dict[int, Slot | None]] = {}

    def at(self, key: SlotKey, number: int) -> Slot | None:
        """Return an hour of the week of a part of a stream; None where no window was of it."""
        held = self._held.setdefault(key, {})
        if number not in held:
            stored = self._slots.of(key, number) if self._slots is not None else None
            held[number] = None if stored is None else _slot(stored)
        return held[number]

    def sums(self, key: SlotKey) -> dict[int, SlotSums]:
        """Return the sums of all hours of the week of a part of a stream."""
        stored = self._slots.sums(key) if self._slots is not None else {}
        found = {number: sums for number, raw in stored.items() if (sums := _sums(raw)) is not None}
        return found | {number: one.sums for number, one in self._held.get(key, {}).items() if one is not None}

    def put(self, changed: Iterable[ChangedSlot]) -> None:
        """Have hours of the week be as they are after a window."""
        for one in changed:
            self._held.setdefault(one.key, {})[one.number] = one.slot


def write_slots(tx: Transaction, changed: Iterable[ChangedSlot]) -> None:
    """Write hours of the week in the transaction of the verdict that goes with them."""
    slots = Slots(tx)
    for one in changed:
        slots.put(one.key, one.stored())


def _slot(stored: StoredSlot) -> Slot | None:
    sums = _sums(stored.sums)
    try:
        past = load(stored.data, SlotPast, "slot", _FORMAT)
    except FormatError:
        return None  # another version wrote it: what is usual is gathered anew
    return None if sums is None else Slot(sums, past)


def _sums(raw: bytes) -> SlotSums | None:
    try:
        return load(raw, SlotSums, "sums", _FORMAT)
    except FormatError:
        return None
