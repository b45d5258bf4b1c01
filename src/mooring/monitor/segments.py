"""The rows of a window in segments: those in which a feature has one value, each with a profile of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pyarrow as pa

from mooring.drift.baseline import Baseline
from mooring.drift.profile import Profile, empty
from mooring.drift.segments import segments_of
from mooring.monitor.ingest import profile_of


def profiles_of(
    parts: Iterable[pa.Table], baseline: Baseline, segments: Mapping[str, Mapping[str, Baseline]]
) -> dict[str, tuple[Baseline, Profile]]:
    """Return by FEATURE=VALUE the baseline of each segment and the profile of the rows that are of it."""
    subs = {(column, value): one for column, values in segments.items() for value, one in values.items()}
    found = {key: empty(one.grids) for key, one in subs.items()}
    for table in parts:
        for column, values in segments.items():
            if column not in table.column_names:
                continue
            names = segments_of(table[column], baseline.features[column])
            for value, sub in values.items():
                rows = names == value
                if rows.any():
                    some = table.filter(pa.array(rows))
                    found[column, value] += profile_of([some], sub)
    return {f"{column}={value}": (one, found[column, value]) for (column, value), one in subs.items()}
