"""The verdict of a report: one sentence on how the model is, and what to know beside it."""

from __future__ import annotations

from typing import NamedTuple

from mooring.report.course import CHAMPION, Course, WindowSummary
from mooring.report.words import listed, moment, name, plural
from mooring.status import STATUSES, Status


class Headline(NamedTuple):
    """What is to be said first. `status` is empty where nothing was logged at all."""

    status: Status | None
    label: str
    sentence: str
    notes: list[str]


def verdict(model: str, course: Course, *, log: str, of_log: bool) -> Headline:
    """Return the verdict on a model.

    `log` is where its requests are logged; `of_log` whether its baseline is of such, rather than of training data.
    """
    model = name(model)
    if not course.windows:
        return Headline(
            None, "nothing logged", f"Nothing has been logged for {model} yet.", [f"Its log is {name(log, 300)}."]
        )
    last, judged = course.windows[-1], course.judged
    if last.variant != CHAMPION:
        model = f"{model} ({name(last.variant, 40)})"
    if not judged or last.status == "no_baseline":
        return _unjudged(model, last)
    newest = judged[-1]
    notes = [*_beside(newest, last), *map(_other, course.others)]
    if newest.status == "ok":
        like = "its baseline" if of_log else "the data it was trained on"
        sentence = f"{model} is well: its {_windows(course)} like {like}."
        if drift := course.last_drift():
            notes.insert(0, f"Its last drift was from {moment(drift[0])} to {moment(drift[1])}.")
    else:
        what = "its baseline" if of_log else "the training data"
        sentence = f"{model} is drifting: {_moved(newest, what)}, {_since(course)}."
    return Headline(newest.status, STATUSES[newest.status].word, sentence, notes)


def _unjudged(model: str, last: WindowSummary) -> Headline:
    if last.status == "no_baseline":
        who = f"version {name(last.version)} of {model}" if last.version else model
        sentence = f"Nobody can tell whether {who} drifts: it has no baseline."
        advice = (
            last.message or "Log one in training with mooring.log_baseline, or make one: mooring baseline build."
        )
        return Headline("no_baseline", STATUSES["no_baseline"].word, sentence, [advice])
    rows = plural(last.rows, "row")
    sentence = f"There is too little traffic to judge {model}: its newest window has {rows}."
    return Headline("too_few", STATUSES["too_few"].word, sentence, [last.message] if last.message else [])


def _moved(newest: WindowSummary, what: str) -> str:
    """Say which features have moved, and of which that is critical."""
    far = [name(one, 60) for one in newest.drifted if one in newest.critical]
    others = [name(one, 60) for one in newest.drifted if one not in newest.critical]
    if not far:
        verb = "have" if len(others) > 1 else "has"
        return f"{listed(others) or 'its data'} {verb} moved away from {what}"
    less = f", and less so {listed(others)}" if others else ""
    return f"{listed(far)} {'have' if len(far) > 1 else 'has'} moved far from {what}{less}"


def _windows(course: Course) -> str:
    count = len(course.run())
    return "newest window looks" if count == 1 else f"last {count} windows look"


def _since(course: Course) -> str:
    run = course.run()
    started = moment(run[0].start)
    if len(run) == 1:
        return f"since {started}, the newest window"
    if len(run) == len(course.judged):
        return f"in all {len(run)} windows of this report, since {started}"
    return f"since {started}, for {len(run)} windows"


def _beside(newest: WindowSummary, last: WindowSummary) -> list[str]:
    notes = []
    if newest.provisional:
        notes.append("Provisional: the newest window is still open.")
    if last is not newest and last.status == "too_few":
        text = f"A newer window, from {moment(last.start)}, has too few rows to be judged: {last.rows:,}."
        notes.append(text)
    if newest.unwatched:
        notes.append(
            f"Not judged yet, as the baseline has in-sample predictions: "
            f"{listed([name(one, 60) for one in newest.unwatched], 5)}."
        )
    if newest.missing:
        notes.append(f"Missing from the traffic: {listed([name(one, 60) for one in newest.missing], 5)}.")
    return notes


def _other(newest: WindowSummary) -> str:
    """Return a line on a variant that does not answer, such as a canary."""
    version = f", version {name(newest.version, 40)}," if newest.version else ""
    features = [name(one, 60) for one in newest.drifted]
    what = f"is drifting: {listed(features)}." if newest.status != "ok" else "is well."
    return f"The {name(newest.variant, 40)}{version} {what}"
