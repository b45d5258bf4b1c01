"""What a report is made from."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from mooring.drift.baseline import Baseline
from mooring.drift.judge import Judgement
from mooring.drift.profile import Profile
from mooring.state.assessments import Assessment

Status = Literal["ok", "warning", "critical", "too_few", "no_baseline"]
"""What is said of a window; the last two say that it could not be judged."""


class ReportWindow(msgspec.Struct):
    """A window of the inference log, of one version and variant, and what was found of it.

    Times are aware. `judgement` is there where the window was judged; `profile` needs to be there for the newest
    windows only, of which distributions are drawn. `message` says why a window was not judged and what to do.
    """

    start: datetime
    end: datetime
    rows: int
    requests: int
    version: str | None
    variant: str
    severity: Status
    provisional: bool = False
    judgement: Judgement | None = None
    profile: Profile | None = None
    late_rows: int = 0
    message: str = ""


class Report(msgspec.Struct):
    """All that a report on a model tells. `baseline` is that of the version in service, None where it has none.

    `windows` may come in any order, and hold those of several versions and variants. `performance` is how well the
    model did in windows that have labels, of the variant that answers, the oldest first.
    """

    model: str
    log: str
    created: datetime
    baseline: Baseline | None
    windows: list[ReportWindow]
    performance: list[Assessment] = []
