"""What a window is compared with where its feature follows the clock: the same hours of earlier days.

Hours of which there are different numbers of rows are brought to the same, so that a block of windows is compared
with as much of each hour as it has itself.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np

from mooring.drift.grid import Integers
from mooring.drift.profile import (
    CategoricalProfile,
    FeatureProfile,
    NumericProfile,
    OtherProfile,
    Profile,
    TextProfile,
    TimestampProfile,
    Values,
)

_FINE = 256
"""How many times as many rows as the window a reference is brought to, so that rounding does not show."""


class Like(msgspec.Struct):
    """A feature's reference, brought to `_FINE` times the rows of what it is for, and its effective rows.

    These count rows of a request as one. `of_log` says that they are of the stream itself, whose rows may depend
    on each other in other ways, too.
    """

    profile: FeatureProfile
    effective_rows: float
    of_log: bool = True


def mixed(parts: list[tuple[float, Profile]], name: str, rows: int) -> Like | None:
    """Return the reference of a feature in a window of so many rows, of shares of profiles; None of nothing."""
    there = [(share, one) for share, one in parts if one.rows and one.effective_rows]
    whole = sum(share for share, _ in there)
    if not whole:
        return None
    inverse = sum((share / whole) ** 2 / one.effective_rows for share, one in there)
    of_parts = [scaled(one.features[name], share / whole * rows * _FINE / one.rows) for share, one in there]
    profile = of_parts[0]
    for other in of_parts[1:]:
        profile = profile + other
    return Like(profile, min(1 / inverse, float(rows * _FINE)))


class BlockLikes(msgspec.Struct):
    """The references of a block of windows so far: of each feature that had one in every window of it.

    `inverse` are sums of squared rows over effective rows, and `slots` the hours of the week: windows of the same
    hour share what they are compared with.
    """

    rows: float = 0.0
    windows: int = 0
    profiles: dict[str, FeatureProfile] = {}
    inverse: dict[str, float] = {}
    slots: list[int] = []

    def after(self, likes: Mapping[str, Like], slot: int, rows: int) -> BlockLikes:
        """Return the references of the block with one more window."""
        if not self.windows:
            names = list(likes)
            profiles = {name: likes[name].profile for name in names}
        else:
            names = [name for name in self.profiles if name in likes]
            profiles = {name: self.profiles[name] + likes[name].profile for name in names}
        return BlockLikes(
            self.rows + rows,
            self.windows + 1,
            profiles,
            {name: self.inverse.get(name, 0.0) + rows**2 / likes[name].effective_rows for name in names},
            sorted({*self.slots, slot}),
        )

    @property
    def likes(self) -> dict[str, Like]:
        """The references of the block."""
        shared = len(self.slots) / max(self.windows, 1)
        return {
            name: Like(profile, self.rows**2 / self.inverse[name] * shared)
            for name, profile in self.profiles.items()
        }


def scaled(profile: FeatureProfile, factor: float) -> FeatureProfile:
    """Return a profile of the same shares, of so many times the rows.

    >>> one = FeatureProfile(NumericProfile(np.array([1, 3]), total=6.0), nulls=2)
    >>> scaled(one, 2.5).values.counts.tolist(), scaled(one, 2.5).nulls
    ([2, 8], 5)
    """
    return FeatureProfile(
        _scaled(profile.values, factor),
        _times(profile.nulls, factor),
        _times(profile.misfits, factor),
        _times(profile.absent, factor),
        _times(profile.cast, factor),
    )


def _times(count: int, factor: float) -> int:
    return round(count * factor)


def _counts(counts: Integers, factor: float) -> Integers:
    return np.asarray(np.rint(counts * factor), np.int64)


def _scaled(values: Values, factor: float) -> Values:
    match values:
        case NumericProfile():
            return _numbers(values, factor)
        case CategoricalProfile():
            new = {name: max(1, _times(count, factor)) for name, count in values.new.items()}
            return CategoricalProfile(_counts(values.counts, factor), new, _times(values.more, factor))
        case TimestampProfile():
            hours, weekdays = _counts(values.hours, factor), _counts(values.weekdays, factor)
            return TimestampProfile(hours, weekdays, values.days, values.minimum, values.maximum)
        case TextProfile():
            return TextProfile(_numbers(values.lengths, factor))
        case OtherProfile():
            return OtherProfile(_times(values.values, factor))


def _numbers(values: NumericProfile, factor: float) -> NumericProfile:
    return NumericProfile(
        _counts(values.counts, factor),
        _times(values.nans, factor),
        _times(values.infinities, factor),
        values.total * factor,
        values.squares * factor,
        values.minimum,
        values.maximum,
        values.low * factor,
        values.high * factor,
        None if values.minus is None else _times(values.minus, factor),
    )
