"""The verdict of a report: one sentence on how the model is, and what to know beside it."""

from __future__ import annotations

from typing import NamedTuple

from mooring.monitor.results import STATUSES
from mooring.report.model import Report, ReportWindow, Status
from mooring.report.reading import CHAMPION, Reading
from mooring.report.words import from_log, listed, moment, name, plural


class Verdict(NamedTuple):
    """What is to be said first. `status` is empty where nothing was logged at all."""

    status: Status | None
    label: str
    sentence: str
    notes: list[str]


def verdict(report: Report, reading: Reading) -> Verdict:
    """Return the verdict on a model."""
    model = name(report.model)
    last = reading.windows[-1] if reading.windows else None
    if last is None:
        where = f"Its log is {name(report.log, 300)}."
        return Verdict(None, "nothing logged", f"Nothing has been logged for {model} yet.", [where])
    if last.variant != CHAMPION:
        model = f"{model} ({name(last.variant, 40)})"
    newest = reading.newest
    if newest is None or (last.severity == "no_baseline"):
        return _unjudged(model, last)
    notes = [*_beside(newest, last), *_variants(reading)]
    run = reading.run()
    since = _since(reading, run)
    if newest.severity == "ok":
        like = "its baseline" if from_log(report.baseline) else "the data it was trained on"
        sentence = f"{model} is well: its {_windows(run)} like {like}."
        if drift := reading.last_drift():
            notes.insert(0, f"Its last drift was from {moment(drift[0])} to {moment(drift[1])}.")
    else:
        what = "its baseline" if from_log(report.baseline) else "the training data"
        sentence = f"{model} is drifting: {_moved(reading, what)}, {since}."
    return Verdict(newest.severity, STATUSES[newest.severity], sentence, notes)


def _unjudged(model: str, last: ReportWindow) -> Verdict:
    if last.severity == "no_baseline":
        who = f"version {name(last.version)} of {model}" if last.version else model
        sentence = f"Nobody can tell whether {who} drifts: it has no baseline."
        advice = (
            last.message or "Log one in training with mooring.log_baseline, or make one: mooring baseline build."
        )
        return Verdict("no_baseline", STATUSES["no_baseline"], sentence, [advice])
    rows = plural(last.rows, "row")
    sentence = f"There is too little traffic to judge {model}: its newest window has {rows}."
    return Verdict("too_few", STATUSES["too_few"], sentence, [last.message] if last.message else [])


def _moved(reading: Reading, what: str) -> str:
    """Say which features have moved, and of which that is critical."""
    far = [name(one.name, 60) for one in reading.drifted if one.severity == "critical"]
    others = [name(one.name, 60) for one in reading.drifted if one.severity != "critical"]
    if not far:
        verb = "have" if len(others) > 1 else "has"
        return f"{listed(others) or 'its data'} {verb} moved away from {what}"
    less = f", and less so {listed(others)}" if others else ""
    return f"{listed(far)} {'have' if len(far) > 1 else 'has'} moved far from {what}{less}"


def _windows(run: list[ReportWindow]) -> str:
    return "newest window looks" if len(run) == 1 else f"last {len(run)} windows look"


def _since(reading: Reading, run: list[ReportWindow]) -> str:
    judged = [window for window in reading.windows if window.judgement]
    started = moment(run[0].start)
    if len(run) == 1:
        return f"since {started}, the newest window"
    if len(run) == len(judged):
        return f"in all {len(run)} windows of this report, since {started}"
    return f"since {started}, for {len(run)} windows"


def _beside(newest: ReportWindow, last: ReportWindow) -> list[str]:
    notes = []
    if newest.provisional:
        notes.append("Provisional: the newest window is still open.")
    if last is not newest and last.severity == "too_few":
        text = f"A newer window, from {moment(last.start)}, has too few rows to be judged: {last.rows:,}."
        notes.append(text)
    judgement = newest.judgement
    if judgement and judgement.missing:
        missing = [name(one, 60) for one in judgement.missing]
        notes.append(f"Missing from the traffic: {listed(missing, 5)}.")
    return notes


def _variants(reading: Reading) -> list[str]:
    """Return a line for each other variant that was judged, such as a canary."""
    answering = reading.windows[-1].variant
    notes = []
    for series in reading.series:
        if series.variant == answering or not (judged := series.judged) or not judged.judgement:
            continue
        who = f"The {name(series.variant, 40)}" + (
            f", version {name(series.version, 40)}," if series.version else ""
        )
        features = [name(one, 60) for one in judged.judgement.features]
        what = f"is drifting: {listed(features)}." if judged.severity != "ok" else "is well."
        notes.append(f"{who} {what}")
    return notes
