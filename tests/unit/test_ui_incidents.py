"""Evidence and incidents on the dashboard: how near the next is, what is open, what moved and in which windows."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboard import ask, pages
from incidents_shown import MANY, Shown, incident, stream, with_incidents
from judged import HOSTILE, HOUR, START, Made, baseline_of, columns
from model_pages import charts, shown, told
from monitoring import START as EARLY
from monitoring import Monitoring, Traffic, settings, without_mlflow
from mooring.report.evidence import share_of
from mooring.state.incidents import Incidents, StreamStates
from mooring.state.state import State
from mooring.ui.pages.feature import FeaturePage
from mooring.ui.pages.incident import IncidentPage, split
from mooring.ui.pages.incidents import IncidentsPage
from mooring.ui.pages.model import ModelPage
from mooring.ui.pages.models import ModelLine, Models


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    return with_incidents(tmp_path_factory.mktemp("state"))


@pytest.fixture(scope="module")
def address(made: Shown) -> Iterator[str]:
    with pages(made.state, token=None) as found:
        yield found


def text_of(page: str) -> str:
    """Return a page as it is read: no markup, single spaces."""
    page = re.sub(r"<script.*?</script>|<svg.*?</svg>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub("<[^>]*>", " ", page)).replace("\u00a0", " ").split())


def line_of(address: str, model: str) -> ModelLine:
    return next(one for one in told(address, "/models", Models).models if one.model == model)


def test_each_model_says_how_near_it_is_to_an_incident_and_how_many_are_open(address, made):
    wine = line_of(address, "wine")
    assert wine.open_incidents == 4
    assert [(one.standing, one.version, one.variant) for one in wine.evidence] == [
        ("open", "1", "champion"),
        ("growing", "2", "canary"),
    ], "not the version that is served no more, nor performance, of which there is no evidence"
    assert wine.evidence[0].incident == made.see("lasting")
    assert wine.evidence[1].since == START + 3 * HOUR
    [cider] = line_of(address, "cider").evidence
    assert (cider.standing, cider.level, cider.incident) == ("quiet", 0.08, None)
    [perry] = line_of(address, "perry").evidence
    assert perry.standing == "small"
    text = text_of(shown(address, "/"))
    assert "8.0 % of what opens an incident" in text
    assert "36 % of what opens an incident, growing since" in text
    assert "something has changed for certain, by too little to matter" in text
    assert "4 open incidents" in text
    assert line_of(address, "unwatched").evidence == ()


def test_the_meter_is_logarithmic_and_never_told_by_colour_alone(address):
    meters = [line_of(address, model).evidence[0] for model in ("cider", "perry")]
    assert [round(one.share, 2) for one in meters] == [0.16, 1.0]
    page = shown(address, "/")
    assert page.count('class="stripes"') == 1, "only what is in an incident is striped"
    assert all('aria-hidden="true"' in svg for svg in re.findall('<svg class="gauge[^>]*>', page))


@given(st.floats(0, 1e9), st.floats(0, 1e9))
def test_more_evidence_never_lies_further_from_an_incident(one, other):
    low, high = sorted([one, other])
    assert 0 <= share_of(low) <= share_of(high) <= 1
    assert (share_of(high) == 1) == (high >= 1) or high > 1 - 1e-9


@pytest.mark.parametrize(
    ("asked", "per_year", "words"),
    [
        ({}, 365 / 90, "about 4.1 false alarms a year are to be expected: 1 per 90d, over 5 streams"),
        ({"false_alarms": "2 per 30d"}, 365 / 15, "about 24 false alarms a year"),
    ],
)
def test_the_false_alarms_to_be_expected_are_those_of_the_budget(made, asked, per_year, words):
    with pages(made.state, token=None, **asked) as address:
        found = told(address, "/models", Models).false_alarms
        assert found.per_year == pytest.approx(per_year)
        assert (found.per_window, found.streams) == (False, 5)
        assert words in text_of(shown(address, "/"))


def test_with_a_budget_for_each_window_they_follow_from_the_rate_of_late_and_no_evidence_is_told(made):
    with pages(made.state, token=None, budget="0.001 per window") as address:
        found = told(address, "/models", Models).false_alarms
        rates = {one.model: one.judged_per_year for one in told(address, "/models", Models).models}
        # Nine windows in the ten to twelve hours since the first began, for drift and for performance.
        assert 2 * 9 * 8760 / 12 <= rates["wine"] <= 2 * 9 * 8760 / 10
        assert found.per_year == pytest.approx(0.001 * sum(rates.values()), rel=0.01)
        assert found.per_window
        text = text_of(shown(address, "/"))
        assert "0.001 per window" in text
        assert "each window judged by itself" in text
        [drift, _] = told(address, "/models/wine").evidence
        assert (drift.standing, drift.level) == ("none", None)
        assert "none adds up: the budget is for each window" in text_of(shown(address, "/models/wine"))


def test_a_state_in_which_nothing_was_judged_of_late_expects_nothing(tmp_path):
    with State(f"sqlite:///{tmp_path}/state.db") as state:
        Made(state, "old", baseline_of(columns(500))).put(-24 * 30)
    for asked, per_year in (({}, pytest.approx(365 / 90)), ({"budget": 0.001}, None)):
        with pages(f"sqlite:///{tmp_path}/state.db", token=None, **asked) as address:
            found = told(address, "/models", Models).false_alarms
            assert (found.per_year, found.streams) == (per_year, 0)
            assert "in the last week" in text_of(shown(address, "/"))


def test_the_page_of_a_model_has_the_meter_of_the_version_and_variant_that_is_shown(address):
    def standings(query: str) -> list[tuple[str, str | None, str]]:
        return [(one.kind, one.version, one.standing) for one in told(address, f"/models/wine{query}").evidence]

    assert standings("") == [("drift", "1", "open"), ("performance", "1", "none")]
    assert standings("?version=0") == [("drift", "0", "open")]
    assert standings("?version=7") == [("drift", "7", "none")]
    assert "an incident is open; no window since" in text_of(shown(address, "/models/wine?version=0"))
    [none] = told(address, "/models/unwatched").evidence
    assert (none.standing, none.level, none.since) == ("none", None, None)
    assert "none yet: no window of it was looked at" in text_of(shown(address, "/models/unwatched"))


def test_incidents_come_with_those_that_are_open_first(address, made):
    found = told(address, "/models/wine").incidents
    names = {one.id: name for name, one in made.incidents.items()}
    assert [names[one.id] for one in found] == ["lasting", "performance", "gone", "passed"]
    lasting, _, gone, passed = found
    assert (lasting.is_open, lasting.severity, lasting.seconds) == (True, "critical", 2 * 3600)
    assert (passed.is_open, passed.closed, passed.windows) == (False, START + 6 * HOUR, 5)
    assert [one.asleep for one in found] == [False, False, True, False]
    assert "no window of it since" in text_of(shown(address, "/models/wine"))
    for one in (*found, gone):
        assert ask(address, one.see).status == 200
    within = told(address, f"/models/wine?end={(START + 2 * HOUR).isoformat().replace('+00:00', 'Z')}").incidents
    assert [names[one.id] for one in within] == ["gone", "passed"]
    assert [names[one.id] for one in told(address, "/models/wine?version=0").incidents] == ["gone"]


def test_windows_of_an_incident_are_marked_as_such(address, made):
    found: ModelPage = told(address, "/models/wine")
    names = {one.id: name for name, one in made.incidents.items()}
    assert [{names[one] for one in window.incidents} for window in found.windows] == [
        set(),
        {"passed"},
        {"passed"},
        {"passed", "performance"},
        {"passed", "performance"},
        {"passed", "performance"},
        {"performance"},
        {"lasting", "performance"},
        {"lasting", "performance"},
    ]
    timeline, heat, *_ = charts(shown(address, "/models/wine"))
    assert "incidents" in timeline["layout"]["yaxis"]["ticktext"]
    brackets = [trace for trace in heat["data"] if trace.get("yaxis") == "y2"]
    ends = {trace["customdata"][0]: [heat["data"][0]["x"].index(at) for at in trace["x"]] for trace in brackets}
    assert ends == {made.see("passed"): [1, 5], made.see("lasting"): [7, 8], made.see("performance"): [3, 8]}
    shapes = {trace["customdata"][0]: trace["marker"]["symbol"] for trace in brackets}
    assert shapes[made.see("lasting")] == ["square", "triangle-right-open"]
    assert shapes[made.see("passed")] == ["triangle-up", "line-ns-open"]
    table = text_of(shown(address, "/models/wine"))
    assert "loss of performance since" in table, "the same stands in the table of windows"


def test_an_incident_has_its_features_and_its_windows_each_with_a_page(address, made):
    found = told(address, made.see("passed"), IncidentPage)
    assert [one.id for one in found.windows] == made.wine.ids[5:0:-1]
    for one in found.windows:
        assert told(address, one.see).looked_at.window.id == one.id
    assert [one.feature for one in found.features] == ["alcohol", "prediction"]
    assert found.features[0].alarms == 2
    assert found.features[0].severities == ("critical", "critical", "ok", "ok", "ok")
    feature = told(address, found.features[0].see, FeaturePage)
    assert (feature.feature, feature.looked_at.id) == ("alcohol", made.wine.ids[5])
    text = text_of(shown(address, made.see("passed")))
    assert "wine version 1 drifted from" in text
    assert "It has ended: what moved is no longer away by as much as matters." in text
    assert "opened it" in text
    lasting = text_of(shown(address, made.see("lasting")))
    assert "wine version 1 has been drifting since" in lasting
    assert re.search("critical ?, open", lasting)
    assert told(address, found.model_page).windows[-1].id == made.wine.ids[5]


def test_a_part_of_the_windows_can_be_asked_for_and_the_rest_is_a_page_away(address, made):
    seen: list[str] = []
    where: str | None = f"{made.see('passed')}?newest=2"
    while where is not None:
        found = told(address, where, IncidentPage)
        assert len(found.windows) <= 2
        seen += [one.id for one in found.windows]
        where = found.older
    assert seen == made.wine.ids[5:0:-1]


def test_of_a_segment_it_is_said_which_and_of_which_feature(address, made):
    whole, segment = told(address, made.see("lasting"), IncidentPage).features
    assert (whole.segment, whole.feature) == ("", "alcohol")
    assert (segment.segment, segment.feature) == ("colour=red", "alcohol")
    assert ask(address, segment.see).status == 200
    assert "where colour=red" in text_of(shown(address, made.see("lasting")))


@given(st.text(min_size=1), st.text(), st.text(min_size=1))
def test_a_feature_is_found_whatever_it_and_the_segment_are_called(column, value, feature):
    segment = f"{column}={value}"
    assert split(feature, {feature}) == ("", feature)
    found = split(f"{segment}: {feature}", {feature})
    assert found[1] == feature or f"{segment}: {feature}" == feature


def test_loss_of_performance_has_its_measures(address, made):
    found = told(address, made.see("performance"), IncidentPage)
    rmse, mae = found.features
    assert (rmse.feature, rmse.value, rmse.reference) == ("rmse", 1.2, 0.69)
    assert told(address, mae.see.partition("#")[0]).performance.measure == "mae"
    assert {one.status for one in found.windows} == {"critical"}
    assert [one.id for one in found.windows] == made.wine.ids[8:2:-1]
    text = text_of(shown(address, made.see("performance")))
    assert "wine version 1 has done worse than it did since" in text
    assert "it was 0.69" in text


def test_features_that_may_be_called_anything_are_text(address, made):
    found = told(address, made.see("canary"), IncidentPage)
    assert tuple(one.feature for one in found.features) == MANY
    assert len(found.incident.features) + found.incident.more_features == 64
    for path in (made.see("canary"), "/models/wine/incidents", "/models/wine?variant=canary", "/"):
        page = shown(address, path)
        assert "<script>alert" not in page
        assert '<a href="javascript' not in page
    assert HOSTILE in html.unescape(shown(address, made.see("canary")))
    assert "wine (canary) has been drifting" in text_of(shown(address, made.see("canary")))
    assert "Its windows are not in this state any more" in text_of(shown(address, made.see("canary")))
    assert all(ask(address, one.see).status == 200 for one in found.features[:3])


def test_of_a_version_that_is_served_no_more_it_stays_open_and_says_so(address, made):
    assert told(address, made.see("gone"), IncidentPage).incident.asleep
    assert "is this version served no more, nothing is to be done" in text_of(shown(address, made.see("gone")))


def test_one_that_another_baseline_has_ended_says_so(tmp_path):
    with State(f"sqlite:///{tmp_path}/state.db") as state:
        wine = Made(state, "wine", baseline_of(columns(3000)))
        for at in (0, 1):
            wine.put(at, shift=3)
        wine.past, wine.baseline = [], baseline_of(columns(3000, shift=3, seed=9))
        wine.put(2, shift=3)
        ended = incident(0, 1, closed=START + 2 * HOUR)
        Incidents(state).put(ended)
    with pages(f"sqlite:///{tmp_path}/state.db", token=None) as address:
        found = told(address, f"/models/wine/incidents/{ended.id}", IncidentPage)
        assert found.ended_by == "the version got another baseline, and all begins anew against that"


@pytest.mark.parametrize(
    "path",
    [
        "/models/wine/incidents/nothing",
        "/models/wine/incidents/a%00b",
        "/models/wine/incidents/é",
        "/models/nobody/incidents",
        "/models/wine/incidents?after=nothing",
    ],
)
def test_what_is_not_there_is_said_not_to_be(address, path):
    assert ask(address, f"/api{path}").status == 404
    shown(address, path, 404)


def test_an_incident_is_found_under_its_own_model_only(address, made):
    assert ask(address, f"/api/models/cider/incidents/{made.incidents['passed'].id}").status == 404


def test_a_model_without_any_says_so(address):
    found = told(address, "/models/cider/incidents", IncidentsPage)
    assert (found.incidents, found.open_count) == ((), 0)
    assert "0 open incidents of cider" in text_of(shown(address, "/models/cider/incidents"))


def test_thousands_of_incidents_are_told_page_by_page_and_none_is_missed(tmp_path: Path):
    with State(f"sqlite:///{tmp_path}/state.db") as state:
        Made(state, "wine", baseline_of(columns(500))).put(0)
        with state.begin() as tx:
            for number in range(1200):
                start = START - (number // 2) * HOUR  # two begin at a time
                Incidents(tx).put(
                    incident(
                        0,
                        0,
                        version=f"{number % 2}",
                        start=start,
                        opened=start + HOUR,
                        updated=start + HOUR,
                        closed=None if number < 300 else start + HOUR,
                    )
                )
    with pages(f"sqlite:///{tmp_path}/state.db", token=None) as address:
        model = told(address, "/models/wine")
        assert [one.is_open for one in model.incidents] == [True] * 100 + [False] * 100
        assert told(address, "/models", Models).models[0].open_incidents == 300
        page = shown(address, "/models/wine")
        assert page.count("since it was opened") == 15
        seen: list[str] = []
        where: str | None = "/models/wine/incidents?newest=200"
        while where is not None:
            found = told(address, where, IncidentsPage)
            assert len(found.incidents) <= 200
            seen += [one.id for one in found.incidents]
            where = found.older
        assert len(seen) == len(set(seen)) == 1200
        ended = told(address, "/models/wine/incidents?which=ended&newest=7", IncidentsPage)
        assert [one.is_open for one in ended.incidents] == [False] * 7
        assert ended.older is not None
        assert "which=ended" in ended.older


def test_a_state_tells_streams_and_incidents_within_bounds(tmp_path):
    with State(f"sqlite:///{tmp_path}/state.db") as state:
        for number in range(30):
            at = START - number * timedelta(days=1)
            StreamStates(state).put(stream(version=f"{number}", updated=at, data=b"much"))
            Incidents(state).put(incident(0, 0, version=f"{number}", opened=at, closed=at if number else None))
        StreamStates(state).put(stream(model="beer"))
        latest = StreamStates(state).latest(each=3)
        assert {model: [one.version for one in some] for model, some in latest.items()} == {
            "beer": ["1"],
            "wine": ["0", "1", "2"],
        }
        assert all(not one.data for some in latest.values() for one in some)
        assert list(StreamStates(state).latest("beer")) == ["beer"]
        assert [one.version for one in StreamStates(state).of_version("wine", "7", "champion")] == ["7"]
        known = Incidents(state)
        assert known.open_counts() == {"wine": 1}
        assert known.open_counts("beer") == {}
        assert [one.version for one in known.newest("wine", version="4")] == ["4"]
        assert known.newest("wine", variant="canary") == []
        first = known.newest("wine", 3)
        assert [one.version for one in known.newest("wine", 2, before=first[-1])] == ["3", "4"]


def test_what_the_monitor_finds_is_what_is_shown(tmp_path, monkeypatch):
    without_mlflow(tmp_path, monkeypatch)
    traffic, state = Traffic(tmp_path / "log"), f"sqlite:///{tmp_path}/state.db"
    for hour, shift in enumerate([0.0, 0.0, 1.0, 1.0]):
        begin = EARLY + hour * HOUR
        traffic.write(traffic.exchanges(1000, begin, 3.0, shift=shift, per_request=1))
    monitoring = Monitoring(settings(traffic.log, state, window_rows=10**6))
    monitoring.keep(Traffic(traffic.log).baseline(3000))
    monitoring.watch.look()
    with pages(state, token=None) as address:
        found = told(address, "/models/wine")
        [one] = found.incidents
        assert set(one.features) == {"alcohol", "prediction"}
        assert [bool(window.incidents) for window in found.windows] == [False, False, True, True]
        [meter] = found.evidence
        assert (meter.standing, meter.incident, meter.since) == ("open", one.see, one.start)
        shows = told(address, one.see, IncidentPage)
        assert [window.status for window in shows.windows] == ["critical", "critical"]
        assert {feature.alarms for feature in shows.features} == {2}


def in_sample(directory: Path, *, held_out: bool) -> str:
    """Return a state with two windows of a model whose predictions' baseline is of rows that it was trained on."""
    name = f"sqlite:///{directory}/state.db"
    baseline = baseline_of(columns(3000))
    features = {
        name: msgspec.structs.replace(one, held_out=held_out and one.role == "output")
        for name, one in baseline.features.items()
    }
    with State(name) as state:
        Made(state, "wine", msgspec.structs.replace(baseline, features=features)).put(8)
    return name


def test_an_output_taken_as_in_sample_is_said_to_be_with_what_to_do(tmp_path):
    with pages(in_sample(tmp_path, held_out=False), token=None) as address:
        text = text_of(shown(address, "/models/wine/features/prediction"))
        assert "prediction, in-sample" in text
        assert "In-sample, and not judged." in text
        assert "there was no earlier one to compare it with" in text
        assert "evaluation=(labels, predictions)" in text
        found = told(address, "/models/wine/features/prediction", FeaturePage)
        assert (found.cell.in_sample, found.cell.watched) == (True, False)
        assert told(address, "/models/wine").in_sample == ("prediction",)
        assert "In-sample: prediction" in text_of(shown(address, "/models/wine"))
        assert "in-sample" not in text_of(shown(address, "/models/wine/features/alcohol"))
    with pages(f"sqlite:///{tmp_path}/state.db", token=None, budget=0.001) as address:
        assert "only by a threshold of your own" in text_of(shown(address, "/models/wine/features/prediction"))


def test_one_of_held_out_rows_is_not(tmp_path):
    with pages(in_sample(tmp_path, held_out=True), token=None) as address:
        assert "In-sample" not in text_of(shown(address, "/models/wine/features/prediction"))
        assert told(address, "/models/wine").in_sample == ()
