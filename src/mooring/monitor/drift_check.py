"""The check of a window: from its profile to the verdict on it, and what is kept of both."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec
import pyarrow as pa

from mooring.drift.baseline import Baseline
from mooring.drift.common_cells import rows_of
from mooring.drift.dependence import Dependence, DesignEffect, typical
from mooring.drift.judge import AlarmRules, judge
from mooring.drift.judgement import Judgement
from mooring.drift.profile import Profile, empty
from mooring.drift.segments import segments_of
from mooring.drift.stored import FORMAT, dump
from mooring.log.listing import AGAIN_SECONDS
from mooring.monitor.baselines import Baselines
from mooring.monitor.incidents import Advanced
from mooring.monitor.ingest import Stream, between, done_of, profile_of
from mooring.monitor.new_objects import NewObjects
from mooring.monitor.open_windows import OpenWindows
from mooring.monitor.parts import WHOLE, Part, plain
from mooring.monitor.special_days import SpecialDays, special_days
from mooring.monitor.standings import Standings
from mooring.monitor.thresholds import pointless, rules_of, thresholds_of
from mooring.monitor.windows import name_of
from mooring.settings import JudgeSettings, MonitorSettings
from mooring.state.cells import cells_of, encode, strongest_alarm
from mooring.state.notes import Notes
from mooring.state.state import State
from mooring.state.verdicts import Finding, Verdict
from mooring.state.windows import Window
from mooring.status import JUDGED, worst

_FINDINGS = 10

logger = logging.getLogger(__name__)


class WindowCheck(NamedTuple):
    """The verdict on a window, the judgement behind it, if there is one, and how its stream stands after it.

    `notes` say what could not be judged of it; they are in the verdict's message, too.
    """

    verdict: Verdict
    judgement: Judgement | None
    notes: str = ""
    advanced: Advanced | None = None

    @property
    def results(self) -> bytes:
        """The judgement as bytes that `judgement_of` reads; none where there is no judgement."""
        return b"" if self.judgement is None else dump(self.judgement, "judgement", FORMAT)

    @property
    def cells(self) -> bytes:
        """What its features amount to, as `State.cells` reads it; none where the window can't be tested."""
        if self.judgement is None or self.verdict.status not in JUDGED:
            return b""
        return encode(cells_of(self.judgement))

    @property
    def values(self) -> list[tuple[str, str, float]]:
        """Feature, measure and value of each result of the window alone."""
        results = [] if self.judgement is None else self.judgement.results
        return [(one.feature, one.measure, one.value) for one in results if one.scale == 1]


class DriftCheck:
    """Checks the windows of one model against their baselines.

    Parameters
    ----------
    settings
        The budget, thresholds, segments, holidays, and how many rows are enough. Raises ValueError for an invalid
        threshold, and for holidays that can't be read.
    baselines
        Where a version's baseline is found.
    objects
        Where the rows of segments are read again.
    state
        Where it is remembered how streams stand.
    """

    def __init__(self, settings: MonitorSettings, baselines: Baselines, objects: NewObjects, state: State) -> None:
        self._state = state
        self._budget_seconds = settings.false_alarm_seconds
        self._standings: Standings | None = None
        self._settings = settings
        self._thresholds = thresholds_of(settings.threshold)
        self._special_days = special_days(settings, ())
        self._baselines = baselines
        self._objects = objects
        self._suited: set[str] = set()

    def look_again(self) -> None:
        """Take how the streams stand from the state again: what was checked since may not have been written."""
        self._standings = None

    def _standing(self) -> Standings | None:
        """Return how the streams stand; None where the budget is one per window."""
        if self._standings is None and self._budget_seconds:
            self._standings = Standings(
                self._state,
                self._budget_seconds,
                floors=self._settings.floors,
                weight=self._settings.weight,
                special_days=self._days(),
            )
        return self._standings

    def _days(self) -> SpecialDays:
        """Return the days that are not usual as they are now: those from before, where they can't be read."""
        try:
            self._special_days = special_days(self._settings, Notes(self._state).of(self._settings.model))
        except ValueError as error:
            logger.warning(
                "%s: the holidays are as before", error, extra={"every": AGAIN_SECONDS, "about": str(error)}
            )
        return self._special_days

    def check(
        self, window: Window, windows: OpenWindows, *, objects: Collection[str] = (), provisional: bool = False
    ) -> WindowCheck:
        """Return the verdict on a window, with those before it merged, and have `windows` hold it.

        `objects` are those with rows of it that the state does not know as done yet.
        """
        standings = self._standing()
        baseline, digest, why_not = self._baselines.of(window.model, window.version)
        counted = windows.profile(window)
        profiles: list[Profile] = []
        segments: dict[str, tuple[Baseline, Profile]] = {}
        before: dict[str, Profile] = {}
        dependences: dict[str, Dependence] = {}
        if baseline is not None and (counted is None or counted.digest != baseline.digest):
            baseline, why_not = None, "the baseline is another now: it is checked again, from the log"
        if baseline is not None and counted is not None:
            self._warn_of_thresholds(window, baseline)
            profiles = [counted, *windows.before(window, baseline)]
            segments = self._segments(window, baseline, objects)
            if standings is not None:
                if baseline.in_sample:
                    before = standings.before(window, baseline)
                counts = {WHOLE: counted, **{name: one for name, (_, one) in segments.items()}}
                dependences = standings.dependences(window, baseline, counts)
        effects = {
            name: one.design_effects((segments[name][0] if name else baseline).grids)
            for name, one in dependences.items()
            if baseline is not None
        }
        checked = check_window(
            window,
            profiles,
            baseline,
            self._settings,
            provisional=provisional,
            digest=digest if baseline else None,
            why_not=why_not,
            segments=segments,
            before=before,
            effects=effects,
        )
        if standings is not None and baseline is not None and checked.judgement is not None:
            if checked.verdict.status in JUDGED:
                parts = self._parts(baseline, profiles[0], checked.judgement, segments, effects)
                advanced = standings.advance(
                    window, parts, dependences, checked.verdict.seed, provisional=provisional
                )
                checked = by_evidence(checked, advanced, rules_of(self._settings))
            else:
                fed = standings.feed(window, baseline, dependences, provisional=provisional)
                checked = checked._replace(advanced=fed)
        windows.conclude(window, checked.verdict)
        return checked

    def _parts(
        self,
        baseline: Baseline,
        profile: Profile,
        judgement: Judgement,
        segments: Mapping[str, tuple[Baseline, Profile]],
        effects: Mapping[str, Mapping[str, DesignEffect]],
    ) -> dict[str, Part]:
        """Return what is watched of a window; of the order of its rows all that is to know is in `effects`."""
        whole = msgspec.structs.replace(profile, order=None)
        parts = {WHOLE: Part(baseline, whole, judgement, self._thresholds, effects[WHOLE])}
        for name, found in judgement.segments.items():
            of_segment, counted = segments[name]
            counted = msgspec.structs.replace(counted, order=None)
            parts[name] = Part(of_segment, counted, found, effects=effects[name])
        return parts

    def window_rows(self, window: Window) -> int:
        """Return with how many rows a stream's next window ends: as many as are worth those of the settings.

        By what is known of the windows before it, to a power of two, so that it is hardly ever another. Where no
        more is known, each row counts.
        """
        rows = self._settings.window_rows
        baseline, _, _ = self._baselines.of(window.model, window.version)
        standings = self._standing()
        if standings is None or baseline is None:
            return rows
        effects = standings.dependence(window, baseline).design_effects(baseline.grids)
        return rows << int(math.log2(typical(effects, rows)))

    def _segments(
        self, window: Window, baseline: Baseline, objects: Collection[str]
    ) -> dict[str, tuple[Baseline, Profile]]:
        """Return the segments that are asked for, each with its baseline and the profile of the window's rows."""
        wanted = {name: baseline.segments[name] for name in self._settings.segment if name in baseline.segments}
        for column in self._settings.segment:
            if column not in wanted:
                logger.warning(
                    "the baseline of %s has no segments by %s, so drift is not told apart by it: log one with "
                    "mooring.log_baseline(…, segments=[%r])",
                    window.model,
                    column,
                    column,
                    extra={"every": AGAIN_SECONDS, "about": (window.model, column)},
                )
        if not wanted:
            return {}
        found = done_of(self._objects, window, objects)
        rows = between(found, Stream(window.version, window.variant), window.start, window.end)
        return segment_profiles(rows, baseline, wanted)

    def _warn_of_thresholds(self, window: Window, baseline: Baseline) -> None:
        """Warn of thresholds that can't ever alarm, once for each baseline."""
        if baseline.digest in self._suited:
            return
        self._suited.add(baseline.digest)
        for problem in pointless(self._thresholds, baseline):
            of = name_of(msgspec.structs.replace(window, variant="champion"))
            logger.warning("%s: %s", of, problem, extra={"every": AGAIN_SECONDS, "about": (of, problem)})


def check_window(
    window: Window,
    profiles: Sequence[Profile],
    baseline: Baseline | None,
    settings: JudgeSettings,
    *,
    provisional: bool = False,
    digest: str | None = None,
    why_not: str = "",
    segments: Mapping[str, tuple[Baseline, Profile]] | None = None,
    before: Mapping[str, Profile] | None = None,
    effects: Mapping[str, Mapping[str, DesignEffect]] | None = None,
) -> WindowCheck:
    """Return the verdict on a window.

    Parameters
    ----------
    window
        The window as it is now.
    profiles
        Its profile, then those of the windows before it, newest first.
    baseline, digest
        What it is compared with, and the name under which the state has that.
    settings
        The budget, thresholds, and how many rows are enough.
    provisional
        Whether the window is still open.
    why_not
        Why there is no baseline, and what to do.
    segments
        By FEATURE=VALUE the baseline of the rows with that value, and the profile of the window's. The budget is
        divided among them and the whole.
    before
        All earlier windows of the stream, of the `WHOLE` and by segment: in-sample outputs are compared with them.
    effects
        Of the `WHOLE` and by segment, each feature's design effect; by default what these windows show.
    """
    before, effects = before or {}, effects or {}
    # From the window's id, so that the same window is checked alike wherever and whenever it is.
    seed = (int(window.id[:8], 16) + window.revision) % 2**31
    verdict = Verdict(
        window_id=window.id,
        revision=window.revision,
        provisional=provisional,
        status="no_baseline",
        rows=window.rows,
        seed=seed,
        budget=settings.window_budget,
        baseline=digest,
        message=why_not,
        created=datetime.now(UTC),
    )
    if baseline is None:
        return WindowCheck(verdict, None)
    share = settings.window_budget / (1 + len(segments or {}))
    rules = msgspec.structs.replace(rules_of(settings), budget=share)
    found = judge(
        baseline,
        profiles,
        rules,
        past=baseline.past,
        before=_on(baseline, before.get(WHOLE)),
        effects=effects.get(WHOLE),
        seed=seed,
    )
    if found.effective_rows < settings.min_rows:
        few = f"{window.rows} rows, worth {found.effective_rows:.0f} independent ones: fewer than the"
        words = [f"{few} {settings.min_rows:g} wanted", _unanswered(baseline, profiles[0])]
        message = "; ".join(filter(None, words))
        return WindowCheck(msgspec.structs.replace(verdict, status="too_few", message=message), found)
    of_segments = {
        name: judge(
            sub,
            [profile],
            AlarmRules(share, settings.floors),
            before=_on(sub, before.get(name)),
            effects=effects.get(name),
            seed=seed,
        )
        for name, (sub, profile) in (segments or {}).items()
        if profile.rows >= settings.min_rows
    }
    found.segments = {name: one for name, one in of_segments.items() if one.effective_rows >= settings.min_rows}
    drifted = {name: one for name, one in found.segments.items() if one.alarms}
    severities = {found.severity, *(one.severity for one in drifted.values())}
    notes = "; ".join(filter(None, [_unwatched(found), _unanswered(baseline, profiles[0])]))
    words = [in_words(found), *(f"{plain(name)}: {in_words(one)}" for name, one in list(drifted.items())[:3])]
    return WindowCheck(
        msgspec.structs.replace(
            verdict,
            budget=share,
            status=worst(severities),
            alarms=len(found.alarms) + sum(len(one.alarms) for one in drifted.values()),
            summary=tuple(findings(found)),
            message="; ".join(filter(None, [*words, notes])),
        ),
        found,
        notes,
    )


def _on(baseline: Baseline, before: Profile | None) -> Profile | None:
    """Return what was before a window, where it is on the baseline's grids."""
    return before if before is not None and before.digest == baseline.digest else None


def by_evidence(checked: WindowCheck, advanced: Advanced, rules: AlarmRules) -> WindowCheck:
    """Return a check whose verdict says how the window's stream stands, and not what stands out in it alone.

    What lies beyond a threshold that somebody gave is a warning in the window itself, whatever the evidence.
    """
    judgement, verdict = checked.judgement, checked.verdict
    assert judgement is not None
    beyond = [one for one in judgement.alarms if rules.fixed(one.feature, one.measure) is not None]
    lasting = advanced.incident if advanced.severity != "ok" else None
    names = {one.feature for one in beyond} | set(lasting.features if lasting else ())
    summary = [one for one in findings(judgement) if one.feature in names]
    words = [lasting.message] if lasting is not None else []
    words += [f"{plain(one.feature)}: {one.measure} {one.value:.3g}, over the threshold" for one in beyond[:3]]
    if advanced.special is not None:
        words.append(f"no evidence for or against drift: {plain(advanced.special) or 'a special day'}")
    verdict = msgspec.structs.replace(
        verdict,
        status=worst([advanced.severity, *(one.severity for one in beyond)]),
        alarms=len(names),
        summary=tuple(summary),
        message="; ".join(filter(None, [*words, checked.notes])),
    )
    return WindowCheck(verdict, judgement, checked.notes, advanced)


def _unwatched(judgement: Judgement) -> str:
    """Say which outputs can't be judged yet, '' where all are."""
    if not judgement.unwatched:
        return ""
    named = ", ".join(plain(name) for name in judgement.unwatched[:3])
    return f"{named}: not judged yet, as the baseline's are in-sample (mooring baseline show)"


def _unanswered(baseline: Baseline, window: Profile) -> str:
    """Say how many rows have no output of their own, '' where all have, or the baseline has no output."""
    counted = [
        rows_of(window.features[name]) for name, feature in baseline.features.items() if feature.role == "output"
    ]
    without = window.rows - max(counted, default=window.rows)
    if not without:
        return ""
    return (
        f"{without} of {window.rows} rows have no prediction of their own, and are judged by their inputs alone "
        "(rows_differ: the answer had another number of rows than the request)"
    )


def findings(judgement: Judgement) -> list[Finding]:
    """Return the strongest alarm of each feature that drifted, the most drifted first."""
    found = []
    for name in judgement.features[:_FINDINGS]:
        top = strongest_alarm([one for one in judgement.alarms if one.feature == name])
        found.append(
            Finding(
                feature=name,
                measure=top.measure,
                value=top.value,
                threshold=top.threshold,
                p_value=top.p_value,
                scale=top.scale,
            )
        )
    return found


def in_words(judgement: Judgement) -> str:
    """Say in a line what drifted."""
    parts = [_in_words(judgement, name) for name in judgement.features[:3]]
    more = len(judgement.features) - len(parts)
    parts += [f"and {more} more"] if more > 0 else []
    parts += [f"{plain(name)} is missing" for name in judgement.missing[:3] if name not in judgement.features]
    return "; ".join(parts)


def _in_words(judgement: Judgement, name: str) -> str:
    if name in judgement.missing:
        return f"{plain(name)} is missing"
    top = strongest_alarm([one for one in judgement.alarms if one.feature == name])
    over = f" over {top.scale} windows" if top.scale > 1 else ""
    return f"{plain(name)}: {top.measure} {top.value:.3g}{over}"


def segment_profiles(
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
