"""Figures for plotly: plain data. Colours are named as the style sheet does, and times are written in UTC.

Texts of figures may hold a little markup, so whatever comes from outside goes through `plain`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from mooring.report.words import measure, name, number, plural, short
from mooring.state.cells import Cell
from mooring.status import ALARMING, JUDGED, OUTCOMES, STATUSES, Severity, Status, rank

Figure = dict[str, Any]

_LONGEST_LABEL = 26
_TICKS = 6
_MOST_RATIO = 10.0
_ROW = 19
_DOTS = {"dot": ("circle", 5), "square": ("square", 6)}
_LEVELS = ("--wash", "--low", "--mid", "--high", "--alarm", "--large")
_NOTHING = STATUSES["no_baseline"].symbol, STATUSES["no_baseline"].colour
_IN_VAIN = ("refused", "failed", "rolled_back", "aborted")
_ALERTS = {"sent": ("diamond", "--now"), "pending": ("diamond-open", "--now"), "failed": ("x", "--large")}


class Mark(NamedTuple):
    """A point of a lane: when, how it looks, what is said of it, and where it leads."""

    at: datetime
    status: str
    text: str
    see: str


class ChartSpan(NamedTuple):
    """A part of a lane: from when to when, and what stands there. `under_way` ones have no end yet."""

    start: datetime
    end: datetime
    status: str
    label: str
    text: str
    see: str
    under_way: bool = False


class Bracket(NamedTuple):
    """From which window of a heat map to which an incident shows; `below` puts it into the second lane."""

    first: int
    last: int
    status: Severity
    below: bool
    is_open: bool
    text: str
    see: str


class Point(NamedTuple):
    """A window of a figure in which windows follow each other evenly."""

    end: datetime
    status: Status | None
    value: float | None
    low: float | None
    high: float | None
    text: str
    see: str


def plain(text: str, longest: int = 120) -> str:
    """Return a text from outside as it fits into a figure, where it is no markup.

    >>> plain("<a href=x>&")
    '&lt;a href=x&gt;&amp;'
    """
    return name(text, longest).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def utc(time: datetime) -> str:
    """Return a time as figures have it.

    >>> utc(datetime(2026, 3, 1, 12, 30, tzinfo=UTC))
    '2026-03-01T12:30:00.000Z'
    """
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def timeline(
    windows: Sequence[Mark],
    incidents: Sequence[ChartSpan],
    versions: Sequence[ChartSpan],
    alerts: Sequence[Mark],
    retrainings: Sequence[ChartSpan],
    rollouts: Sequence[ChartSpan],
) -> Figure:
    """Return what happened to a model on one axis of time, with a lane for each sort of thing."""
    lanes: list[tuple[str, list[Figure]]] = [
        ("windows", _marks(windows, _look)),
        ("incidents", _lasting(incidents)),
        ("versions", _bars(versions)),
        ("alerts", _marks(alerts, lambda status: _ALERTS.get(status, _NOTHING))),
        ("retrainings", _spans(retrainings)),
        ("rollouts", _spans(rollouts)),
    ]
    shown = [lane for lane in lanes if lane[1]]
    data = []
    for place, (_, traces) in enumerate(reversed(shown)):
        data += [{**trace, "y": [place] * len(trace["x"])} for trace in traces]
    names = [lane for lane, _ in reversed(shown)]
    return {
        "data": data,
        "layout": {
            "height": 60 + 46 * len(shown),
            "hovermode": "closest",
            "dragmode": "zoom",
            "xaxis": {"type": "date", "range": _reach(windows, alerts, retrainings, rollouts), "showgrid": True},
            "yaxis": {
                "tickvals": list(range(len(names))),
                "ticktext": names,
                "range": [-0.6, len(names) - 0.4],
                "fixedrange": True,
                "showgrid": False,
                "zeroline": False,
            },
        },
    }


def heat_map(
    ends: Sequence[datetime],
    rows: Mapping[str, Sequence[Cell | None]],
    to: str,
    windows: Sequence[str],
    breaks: Sequence[int] = (),
    brackets: Sequence[Bracket] = (),
) -> Figure:
    """Return how far each feature was from its threshold in each window.

    Parameters
    ----------
    ends
        When each window ended, the oldest first.
    rows
        By feature a cell for each window, None where that was not judged.
    to
        The address of a cell, with {x} for the window's id and {y} for the feature.
    windows
        The ids.
    breaks
        The places of windows with which another version of the model begins.
    brackets
        Incidents, which stand in lanes of their own above the features.
    """
    features = list(rows)
    across = _apart([utc(end) for end in ends])
    down = _apart([plain(one) for one in features])
    cells: Figure = {
        "type": "heatmap",
        "x": across,
        "y": down,
        "z": [[_level(cell) for cell in some] for some in rows.values()],
        "text": [[_said(cell) for cell in some] for some in rows.values()],
        "zmin": -0.5,
        "zmax": len(_LEVELS) - 0.5,
        "colorscale": _steps(),
        "showscale": False,
        "xgap": 1,
        "ygap": 1,
        "hoverongaps": False,
        "hovertemplate": "%{y}<br>window until %{x}<br>%{text}<extra></extra>",
    }
    lanes = 1 + any(one.below for one in brackets) if brackets else 0
    of_rows = _ROW * max(len(features), 2)
    top = of_rows / (of_rows + _ROW * lanes)
    return {
        "data": [
            cells,
            *_dots(across, dict(zip(down, rows.values(), strict=True))),
            *(_bracket(one, across) for one in brackets),
        ],
        "layout": {
            "height": 60 + of_rows + _ROW * lanes,
            "dragmode": False,
            "xaxis": {"type": "category", "fixedrange": True, "showgrid": False, **_ticks(across, across)},
            "yaxis": {
                "type": "category",
                "autorange": "reversed",
                "fixedrange": True,
                "showgrid": False,
                "tickvals": down,
                "ticktext": [plain(short(one, _LONGEST_LABEL), 200) for one in features],
                "tickfont": {"size": 12},
                **({"domain": [0, top]} if lanes else {}),
            },
            **({"yaxis2": _incident_lanes(top, lanes)} if lanes else {}),
            "shapes": [_upright(at - 0.5) for at in breaks],
        },
        "to": {"address": to, "x": list(windows), "y": features},
    }


def _bracket(one: Bracket, across: Sequence[str]) -> Figure:
    """Return an incident over its windows: how bad it is at the beginning, a bar at the end or a way on."""
    symbol, colour = _look(one.status)
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "x": [across[one.first], across[one.last]],
        "y": [int(one.below)] * 2,
        "yaxis": "y2",
        "text": [one.text] * 2,
        "customdata": [one.see] * 2,
        "hovertemplate": "%{text}<extra></extra>",
        "line": {"color": colour, "width": 3},
        "marker": {
            "symbol": [symbol, "triangle-right-open" if one.is_open else "line-ns-open"],
            "size": 11,
            "color": colour,
            "line": {"width": 2, "color": colour},
        },
    }


def _incident_lanes(top: float, lanes: int) -> Figure:
    names = ["incidents", "performance"][:lanes]
    return {
        "domain": [top, 1],
        "range": [lanes - 0.5, -0.5],
        "fixedrange": True,
        "showgrid": False,
        "zeroline": False,
        "tickvals": list(range(lanes)),
        "ticktext": names,
        "tickfont": {"size": 12},
    }


def _dots(across: Sequence[str], rows: Mapping[str, Sequence[Cell | None]]) -> list[Figure]:
    """Return the marks on those cells of a heat map that alarm, so that colour is not all that tells them."""
    found = []
    for severity in ALARMING:
        places = [
            (end, label)
            for label, cells in rows.items()
            for end, cell in zip(across, cells, strict=True)
            if cell is not None and cell.severity == severity
        ]
        symbol, size = _DOTS[STATUSES[severity].dot]
        if places:
            found.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "x": [end for end, _ in places],
                    "y": [label for _, label in places],
                    "marker": {"symbol": symbol, "size": size, "color": "--on-alarm"},
                    "hoverinfo": "skip",
                }
            )
    return found


def ratios(points: Sequence[Point]) -> Figure:
    """Return how far a feature was from its threshold, window by window; at most at the top."""
    drawn = [one._replace(value=min(one.value, _MOST_RATIO) if one.value is not None else None) for one in points]
    top = max([1.2, *(1.1 * one.value for one in drawn if one.value is not None)])
    return {
        "data": _line(drawn),
        "layout": {
            "height": 260,
            "hovermode": "closest",
            "dragmode": False,
            "xaxis": _even(points),
            "yaxis": {"title": {"text": "× threshold"}, "range": [0, top], "fixedrange": True, "zeroline": False},
            "shapes": [_dashed(1.0)],
        },
    }


def performance(
    points: Sequence[Point], reference: Sequence[float | None], coverage: Sequence[float], label: str
) -> Figure:
    """Return a measure window by window with its intervals, dashed what it was before, and coverage."""
    places = list(range(len(points)))
    bars = {
        "type": "bar",
        "x": places,
        "y": list(coverage),
        "yaxis": "y2",
        "marker": {"color": "--train"},
        "hovertemplate": "%{y:.0%} of the rows have a label<extra></extra>",
    }
    return {
        "data": [_before(reference), *_line(points), bars],
        "layout": {
            "height": 340,
            "hovermode": "closest",
            "dragmode": False,
            "bargap": 0.15,
            "xaxis": {**_even(points), "anchor": "y2"},
            "yaxis": {"title": {"text": label}, "domain": [0.32, 1], "fixedrange": True, "zeroline": False},
            "yaxis2": {
                "title": {"text": "labelled"},
                "domain": [0, 0.22],
                "range": [0, 1],
                "tickformat": ".0%",
                "tickvals": [0, 1],
                "fixedrange": True,
            },
        },
    }


def estimated(
    points: Sequence[Point],
    reference: Sequence[float | None],
    measured: Sequence[float | None],
    label: str,
) -> Figure:
    """Return what a measure is estimated to be by window, dashed what it was before, and what labels showed."""
    rings = {
        "type": "scatter",
        "mode": "markers",
        "x": list(range(len(points))),
        "y": list(measured),
        "marker": _marker("circle-open", "--ink", 10),
        "hoverinfo": "skip",
    }
    return {
        "data": [_before(reference), *_line(points), rings],
        "layout": {
            "height": 260,
            "hovermode": "closest",
            "dragmode": False,
            "xaxis": _even(points),
            "yaxis": {"title": {"text": label}, "fixedrange": True, "zeroline": False},
        },
    }


def _before(reference: Sequence[float | None]) -> Figure:
    """Return what a measure was before, as a dashed line."""
    return {
        "type": "scatter",
        "mode": "lines",
        "x": list(range(len(reference))),
        "y": list(reference),
        "line": {"color": "--soft", "dash": "dash", "width": 1.5, "shape": "hvh"},
        "hoverinfo": "skip",
    }


def _line(points: Sequence[Point]) -> list[Figure]:
    """Return a line through windows, and their marks: each sort with its own colour and shape."""
    data: list[Figure] = [
        {
            "type": "scatter",
            "mode": "lines",
            "x": list(range(len(points))),
            "y": [one.value for one in points],
            "line": {"color": "--now", "width": 1},
            "hoverinfo": "skip",
        }
    ]
    for status in (*JUDGED, None):
        mine = [
            (at, one)
            for at, one in enumerate(points)
            if one.value is not None and (one.status if one.status in JUDGED else None) == status
        ]
        if not mine:
            continue
        symbol, colour = _look(status or "none")
        colour = "--now" if status == "ok" else colour
        trace: Figure = {
            "type": "scatter",
            "mode": "markers",
            "x": [at for at, _ in mine],
            "y": [one.value for _, one in mine],
            "text": [one.text for _, one in mine],
            "customdata": [one.see for _, one in mine],
            "hovertemplate": "%{text}<extra></extra>",
            "marker": _marker(symbol, colour, 8),
        }
        if any(one.low is not None and one.high is not None for _, one in mine):
            trace["error_y"] = {
                "type": "data",
                "symmetric": False,
                "array": [_distance(one.high, one.value) for _, one in mine],
                "arrayminus": [_distance(one.value, one.low) for _, one in mine],
                "color": colour,
                "thickness": 1.2,
                "width": 0,
            }
        data.append(trace)
    return data


def _distance(high: float | None, low: float | None) -> float:
    return max(high - low, 0.0) if high is not None and low is not None else 0.0


def _marks(marks: Sequence[Mark], look: Callable[[str], tuple[str, str]]) -> list[Figure]:
    """Return points of a lane, in a trace for each sort."""
    found = []
    for status in dict.fromkeys(one.status for one in marks):
        symbol, colour = look(status)
        mine = [one for one in marks if one.status == status]
        found.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": [utc(one.at) for one in mine],
                "text": [one.text for one in mine],
                "customdata": [one.see for one in mine],
                "hovertemplate": "%{text}<br>%{x}<extra></extra>",
                "marker": _marker(symbol, colour, 11),
            }
        )
    return found


def _bars(spans: Sequence[ChartSpan]) -> list[Figure]:
    """Return parts of a lane that follow each other, as versions do: neighbours differ in shade."""
    found = []
    for place, one in enumerate(spans):
        found.append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": [utc(one.start), utc(one.end)],
                "text": [one.text] * 2,
                "customdata": [one.see] * 2,
                "hovertemplate": "%{text}<extra></extra>",
                "line": {"color": "--high" if place % 2 else "--train", "width": 18},
            }
        )
        middle = one.start + (one.end - one.start) / 2
        found.append(
            {
                "type": "scatter",
                "mode": "text",
                "x": [utc(middle)],
                "text": [one.label],
                "customdata": [one.see],
                "hoverinfo": "skip",
                "textfont": {"color": "--ink", "size": 12},
            }
        )
    return found


def _lasting(spans: Sequence[ChartSpan]) -> list[Figure]:
    """Return incidents: a line from beginning to end, where it begins a mark of how bad it is; dotted if open."""
    found = []
    for one in spans:
        symbol, colour = _look(one.status)
        found.append(
            _marked_line(one, (symbol, "triangle-right-open" if one.under_way else "line-ns-open"), colour)
        )
    return found


def _spans(spans: Sequence[ChartSpan]) -> list[Figure]:
    """Return parts of a lane: a line from beginning to end, and there a mark that says how it ended."""
    found = []
    for one in spans:
        symbol, colour = (
            ("circle-open", "--now") if one.under_way or one.status == "challenger" else _end(one.status)
        )
        found.append(_marked_line(one, ("line-ns-open", symbol), colour))
    return found


def _marked_line(one: ChartSpan, marks: tuple[str, str], colour: str) -> Figure:
    """Return a line with a mark at its beginning and its end, dotted as long as it goes on."""
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "x": [utc(one.start), utc(one.end)],
        "text": [one.text] * 2,
        "customdata": [one.see] * 2,
        "hovertemplate": "%{text}<extra></extra>",
        "line": {"color": colour, "width": 4, "dash": "dot" if one.under_way else "solid"},
        "marker": {
            "symbol": list(marks),
            "size": 11,
            "color": colour,
            "line": {"width": 2, "color": colour},
        },
    }


def _reach(
    windows: Sequence[Mark],
    alerts: Sequence[Mark],
    retrainings: Sequence[ChartSpan],
    rollouts: Sequence[ChartSpan],
) -> list[str] | None:
    """Return what the axis of time shows: from the first window's end on, with room at both ends."""
    begins = [one.at for one in windows] or [one.start for one in (*retrainings, *rollouts)]
    ends = [one.at for one in (*windows, *alerts)] + [one.end for one in (*retrainings, *rollouts)]
    if not begins or not ends:
        return None
    first, last = min(begins), max(ends)
    room = (last - first) * 0.03
    return [utc(first - room), utc(last + room)]


def _even(points: Sequence[Point]) -> Figure:
    places = list(range(len(points)))
    return {
        "range": [-0.7, len(points) - 0.3],
        "fixedrange": True,
        "showgrid": False,
        "zeroline": False,
        **_ticks(places, [utc(one.end) for one in points]),
    }


def _ticks(places: Sequence[Any], times: Sequence[str]) -> Figure:
    """Return a few ticks, at most so many that their times fit beside each other."""
    step = max(1, -(-len(places) // _TICKS))
    return {"tickvals": list(places[::step]), "ticktext": list(times[::step]), "tickangle": 0}


def _apart(labels: Iterable[str]) -> list[str]:
    """Return labels of which no two are the same, since those of an axis are its places.

    >>> _apart(["a", "b", "a"])
    ['a', 'b', 'a\\u200b']
    """
    found: dict[str, None] = {}
    for label in labels:
        while label in found:
            label += "\N{ZERO WIDTH SPACE}"
        found[label] = None
    return list(found)


def _dashed(at: float) -> Figure:
    return {
        "type": "line",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "y0": at,
        "y1": at,
        "line": {"color": "--soft", "width": 1.5, "dash": "dash"},
    }


def _upright(at: float) -> Figure:
    return {
        "type": "line",
        "yref": "paper",
        "x0": at,
        "x1": at,
        "y0": 0,
        "y1": 1,
        "line": {"color": "--ink", "width": 1, "dash": "dash"},
    }


def _marker(symbol: str, colour: str, size: int) -> Figure:
    marker: Figure = {"symbol": symbol, "color": colour, "size": size}
    if symbol.endswith("-open"):
        marker["line"] = {"width": 2, "color": colour}
    return marker


def _look(status: str) -> tuple[str, str]:
    """Return the symbol and colour of a window's status."""
    look = next((look for name, look in STATUSES.items() if name == status), None)
    return (look.symbol, look.colour) if look is not None else _NOTHING


def _end(status: str) -> tuple[str, str]:
    """Return the symbol and colour of what a retraining or rollout has come to."""
    if status not in OUTCOMES:
        return _NOTHING
    look = STATUSES[OUTCOMES[status]]
    return ("x" if status in _IN_VAIN else look.symbol), look.colour


def _level(cell: Cell | None) -> int | None:
    """Return the place of a cell's colour: hardly anything, far below its threshold, nearer, close, alarms."""
    if cell is None:
        return None
    if cell.severity != "ok":
        return 3 + rank(cell.severity)
    return 0 if cell.ratio < 0.1 else 1 if cell.ratio < 0.7 else 2 if cell.ratio < 0.9 else 3


def _steps() -> list[list[Any]]:
    """Return a scale of colours without anything between them."""
    count = len(_LEVELS)
    return [[at / count, colour] for place, colour in enumerate(_LEVELS) for at in (place, place + 1)]


def _said(cell: Cell | None) -> str:
    """Return what a cell says; nothing where there is none."""
    if cell is None:
        return ""
    over = f", {plural(cell.scale, 'window')} together" if cell.scale > 1 else ""
    alarm = "" if cell.severity == "ok" else f"{STATUSES[cell.severity].word}: "
    return f"{alarm}{measure(cell.measure)}{over}, {number(cell.ratio, 2)} × its threshold"
