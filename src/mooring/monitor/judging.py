"""From a window's profile to its verdict, and what is kept of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from mooring.config import JudgeSettings
from mooring.drift.baseline import FORMAT, Baseline
from mooring.drift.common_cells import rows_of
from mooring.drift.judge import AlarmRules, Judgement, judge
from mooring.drift.measure_table import MEASURES
from mooring.drift.profile import Profile
from mooring.drift.stored import dump
from mooring.monitor.windows import Lengths
from mooring.state.cells import cells_of, encode, strongest_alarm
from mooring.state.verdicts import Finding, Verdict
from mooring.state.windows import Window
from mooring.status import JUDGED, worst

_FINDINGS = 10
LONGEST = 1000 * 365 * 86_400.0
"""Seconds that any time in the settings may take."""
_LONGEST_NAME = 60


class Concluded(NamedTuple):
    """A verdict, and the judgement that it rests on, if there is one."""

    verdict: Verdict
    judgement: Judgement | None

    @property
    def results(self) -> bytes:
        """The judgement as bytes that `judgement_of` reads; none where there is no judgement."""
        return b"" if self.judgement is None else dump(self.judgement, "judgement", FORMAT)

    @property
    def cells(self) -> bytes:
        """What its features amount to, as `State.cells` reads it; none where the window could not be judged."""
        if self.judgement is None or self.verdict.status not in JUDGED:
            return b""
        return encode(cells_of(self.judgement))


def rules_of(settings: JudgeSettings) -> AlarmRules:
    """Return what alarms. Raises ValueError for an invalid threshold."""
    return AlarmRules(settings.budget, settings.floors, thresholds_of(settings.threshold))


def thresholds_of(given: Sequence[str]) -> dict[str, float]:
    """Return fixed thresholds from MEASURE=VALUE or FEATURE.MEASURE=VALUE. Raises ValueError for something else.

    >>> thresholds_of(["psi=0.2", "alcohol.ks=0.1"])
    {'psi': 0.2, 'alcohol.ks': 0.1}
    """
    thresholds = {}
    for text in given:
        name, _, value = text.rpartition("=")
        try:
            thresholds[name.strip()] = float(value)
        except ValueError:
            raise ValueError(f"--threshold {text}: give MEASURE=VALUE, such as psi=0.2") from None
        if name.strip().rpartition(".")[2] not in MEASURES:
            raise ValueError(f"--threshold {text}: there is no such measure; there is: {', '.join(MEASURES)}")
    return thresholds


def lengths_of(settings: JudgeSettings, grace: float = 0.0) -> Lengths:
    """Return when windows end, `grace` in seconds. Raises ValueError for an invalid time."""
    if not 1.0 <= settings.window <= LONGEST:
        raise ValueError(
            f"--window {settings.window:g}s: a window takes a second at least, and 1000 years at most"
        )
    return Lengths(int(settings.window * 1e6), settings.window_rows, int(grace * 1e6))


def conclude(
    window: Window,
    profiles: Sequence[Profile],
    baseline: Baseline | None,
    settings: JudgeSettings,
    *,
    provisional: bool = False,
    digest: str | None = None,
    why_not: str = "",
    segments: Mapping[str, tuple[Baseline, Profile]] | None = None,
) -> Concluded:
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
    """
    # From the window's id, so that the same window is judged alike wherever and whenever it is.
    seed = (int(window.id[:8], 16) + window.revision) % 2**31
    told = Verdict(
        window_id=window.id,
        revision=window.revision,
        provisional=provisional,
        status="no_baseline",
        rows=window.rows,
        seed=seed,
        budget=settings.budget,
        baseline=digest,
        message=why_not,
        created=datetime.now(UTC),
    )
    if baseline is None:
        return Concluded(told, None)
    share = settings.budget / (1 + len(segments or {}))
    rules = rules_of(msgspec.structs.replace(settings, budget=share))
    found = judge(baseline, profiles, rules, past=baseline.past, seed=seed)
    worth = profiles[0].effective_rows
    if worth < settings.min_rows:
        message = (
            f"{window.rows} rows, worth {worth:.0f} independent ones: fewer than the {settings.min_rows:g} wanted"
        )
        message = "; ".join(filter(None, [message, _said_of_unanswered(baseline, profiles[0])]))
        return Concluded(msgspec.structs.replace(told, status="too_few", message=message), found)
    found.segments = {
        name: judge(sub, [profile], AlarmRules(share, settings.floors), seed=seed)
        for name, (sub, profile) in (segments or {}).items()
        if profile.effective_rows >= settings.min_rows
    }
    moved = {name: one for name, one in found.segments.items() if one.alarms}
    severities = {found.severity, *(one.severity for one in moved.values())}
    said = [in_words(found), *(f"{_plain(name)}: {in_words(one)}" for name, one in list(moved.items())[:3])]
    return Concluded(
        msgspec.structs.replace(
            told,
            budget=share,
            status=worst(severities),
            alarms=len(found.alarms) + sum(len(one.alarms) for one in moved.values()),
            summary=tuple(findings(found)),
            message="; ".join(filter(None, [*said, _said_of_unanswered(baseline, profiles[0])])),
        ),
        found,
    )


def _said_of_unanswered(baseline: Baseline, window: Profile) -> str:
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
    parts += [f"{_plain(name)} is missing" for name in judgement.missing[:3] if name not in judgement.features]
    return "; ".join(parts)


def _in_words(judgement: Judgement, name: str) -> str:
    if name in judgement.missing:
        return f"{_plain(name)} is missing"
    top = strongest_alarm([one for one in judgement.alarms if one.feature == name])
    over = f" over {top.scale} windows" if top.scale > 1 else ""
    return f"{_plain(name)}: {top.measure} {top.value:.3g}{over}"


def _plain(name: str) -> str:
    """Return a feature's name as it fits into a line: whoever asks the model chooses it.

    >>> _plain("residual sugar"), _plain("a" * 100)[-3:], _plain("two" + chr(10) + "lines")
    ('residual sugar', 'aa…', 'two lines')
    """
    plain = "".join(char if char.isprintable() else " " for char in name)
    return plain if len(plain) <= _LONGEST_NAME else f"{plain[: _LONGEST_NAME - 1]}…"
