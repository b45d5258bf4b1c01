"""What a report is made from."""

from __future__ import annotations

from datetime import datetime

import msgspec

from mooring.drift.baseline import Baseline
from mooring.drift.judgement import Judgement
from mooring.drift.profile import Profile
from mooring.report.course import WindowSummary
from mooring.state.assessments import Assessment
from mooring.state.estimations import Estimation
from mooring.state.incidents import Incident, StreamState
from mooring.status import Status


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

    @property
    def summary(self) -> WindowSummary:
        """What a sentence on the model needs of it."""
        found = WindowSummary(
            start=self.start,
            end=self.end,
            rows=self.rows,
            version=self.version,
            variant=self.variant,
            status=self.severity,
            judged=self.judgement is not None,
            provisional=self.provisional,
            message=self.message,
        )
        return found if self.judgement is None else found.with_found(self.judgement)


class Report(msgspec.Struct):
    """All that a report on a model tells. `baseline` is that of the version in service, None where it has none.

    `windows` may come in any order, and hold those of several versions and variants. `performance` is how well the
    model did in windows that have labels, of the variant that answers, the oldest first; `estimated` is what it is
    estimated to do without. `incidents` are those of that variant in this time, the newest first, and `stream`
    says how far the version in service is from the next.
    """

    model: str
    log: str
    created: datetime
    baseline: Baseline | None
    windows: list[ReportWindow]
    performance: list[Assessment] = []
    estimated: list[Estimation] = []
    incidents: list[Incident] = []
    stream: StreamState | None = None
