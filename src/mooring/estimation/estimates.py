"""What was estimated of rows without labels: each measure with its interval, and what was assumed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    import pandas as pd

ASSUMED = (
    "Assumed: among rows with these inputs and predictions, labels are what they were in the held-out rows. "
    "If what the inputs mean has changed (concept shift), no estimate without labels shows it."
)


class Estimate(msgspec.Struct, frozen=True):
    """A measure of performance, estimated without labels.

    `lower` and `upper` are between what labels of these very rows would show with a probability of 90 %; all three
    are None where it can't be told. `held_out` is the measure of the held-out rows, `realised` that of the rows'
    own labels, where these are known.
    """

    measure: str
    estimated: float | None
    lower: float | None
    upper: float | None
    held_out: float | None
    realised: float | None

    @property
    def refuted(self) -> bool:
        """Whether labels are known and lie outside of the interval."""
        if self.realised is None or self.lower is None or self.upper is None:
            return False
        return not self.lower <= self.realised <= self.upper

    def __str__(self) -> str:
        if self.estimated is None or self.lower is None or self.upper is None:
            text = f"{self.measure} can't be told"
        else:
            text = f"{self.measure} {self.estimated:.4g} ({self.lower:.4g} to {self.upper:.4g})"
        if self.held_out is not None:
            text += f", {self.held_out:.4g} on held-out rows"
        if self.realised is None:
            return text
        return f"{text}, measured {self.realised:.4g}" + (" (outside of the interval)" if self.refuted else "")


class Estimates:
    """What was estimated of rows without labels; printed, it says what that rests on.

    Attributes
    ----------
    estimates
        Each measure, that which says most first.
    rows, labelled, held_out_rows
        How many rows it is of, how many of them have labels, and how many held-out rows it rests on.
    out_of_support
        The share of rows where held-out rows are too few to tell anything by.
    effective_rows
        How many held-out rows there are like these: weighted to be like them, they count for so many.
    by_features
        Whether features say more of errors than the model's probabilities or predictions alone.
    unknown
        Why it can't be told; empty where it can.
    classes
        All classes in their order; None of a regression.
    left_out
        Columns that are not used, and why.

    """

    def __init__(
        self,
        estimates: Sequence[Estimate],
        *,
        rows: int,
        labelled: int,
        held_out_rows: int,
        out_of_support: float,
        effective_rows: float,
        by_features: bool,
        unknown: str,
        classes: tuple[str, ...] | None,
        left_out: dict[str, str],
    ) -> None:
        self.estimates = list(estimates)
        self.rows = rows
        self.labelled = labelled
        self.held_out_rows = held_out_rows
        self.out_of_support = out_of_support
        self.effective_rows = effective_rows
        self.by_features = by_features
        self.unknown = unknown
        self.classes = classes
        self.left_out = left_out

    def __getitem__(self, measure: str) -> Estimate:
        """Return one measure. Raises KeyError for one that was not estimated."""
        for one in self.estimates:
            if one.measure == measure:
                return one
        raise KeyError(f"there is no {measure}; there is: {', '.join(one.measure for one in self.estimates)}")

    @property
    def refuted(self) -> list[str]:
        """The measures whose labels lie outside of the interval."""
        return [one.measure for one in self.estimates if one.refuted]

    def to_pandas(self) -> pd.DataFrame:
        """Return a row for each measure: measure, estimated, lower, upper, realised, out_of_support.

        What can't be told, and what is not known, is nan.
        """
        import pandas as pd

        names = ("measure", "estimated", "lower", "upper", "realised")
        table = pd.DataFrame({name: [getattr(one, name) for one in self.estimates] for name in names})
        table["out_of_support"] = self.out_of_support
        return table.astype(dict.fromkeys((*names[1:], "out_of_support"), float))

    def __str__(self) -> str:
        head = f"Performance of {self.rows:,} rows, estimated by {self.held_out_rows:,} held-out rows with labels"
        lines = [f"Can't tell: {self.unknown}." if self.unknown else f"{head}:"]
        lines += [f"  {one}" for one in self.estimates]
        lines.append(
            f"{self.out_of_support:.1%} of the rows are where held-out rows are too few; "
            f"{math.floor(self.effective_rows):,} of the held-out rows are like these."
        )
        if not self.unknown:
            lines.append(ASSUMED)
        if self.refuted:
            lines.append(
                f"Labels lie outside of the interval of {', '.join(self.refuted)}, as those of one measure in ten "
                "do by chance. If it is more than that, what the inputs mean has changed, or not all rows have "
                "labels alike. Go by what was measured."
            )
        return "\n".join(lines)

    __repr__ = __str__
