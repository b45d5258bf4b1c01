"""The monitor reads what is new, judges each window once, and goes on whatever happens to it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from itertools import chain, repeat

import pytest
from sqlalchemy import Engine, event

from monitoring import START, Monitoring, Traffic, results, settings, without_mlflow
from mooring.drift.baseline import Baseline
from mooring.monitor.alerting.channels import Webhook
from mooring.registry.client import TrackingError
from mooring.state.alerts import Alerts
from mooring.state.baselines import StoredBaselines
from mooring.state.incidents import Incidents
from mooring.state.judgements import judgement_of
from mooring.state.verdicts import Verdicts
from mooring.state.windows import Windows


@pytest.fixture
def traffic(tmp_path, monkeypatch) -> Traffic:
    without_mlflow(tmp_path, monkeypatch)
    return Traffic(tmp_path / "log")


@pytest.fixture
def state(tmp_path) -> str:
    return f"sqlite:///{tmp_path}/state.db"


def test_unchanged_traffic_is_ok_and_shifted_traffic_is_drift(traffic, state):
    monitoring = Monitoring(settings(traffic.log, state))
    monitoring.keep(traffic.baseline())
    traffic.write(traffic.exchanges(3000))
    traffic.write(traffic.exchanges(2000, START + timedelta(minutes=10), shift=0.7))
    assert monitoring.watch.look() == 5
    assert monitoring.verdicts() == [(1000, "ok")] * 3 + [(1000, "critical")] * 2
    [*_, last] = Windows(monitoring.state).history("wine")
    assert [one.feature for one in last.verdict.summary][:2] in (
        ["alcohol", "prediction"],
        ["prediction", "alcohol"],
    )
    assert "alcohol" in last.verdict.message
    assert monitoring.watch.look() == 0, "what is done is not read again"


def test_slow_drift_is_found_in_merged_windows_before_single_ones_show_it(traffic, state):
    monitoring = Monitoring(settings(traffic.log, state, floors=False, budget="0.01 per window"))
    monitoring.keep(traffic.baseline(60_000))
    for hour in range(20):
        traffic.write(traffic.exchanges(1000, START + timedelta(hours=hour), shift=0.06, per_request=1))
    monitoring.watch.look()
    alarms = [
        {
            one.scale
            for one in judgement_of(Verdicts(monitoring.state).results(verdict.id)).alarms
            if one.feature == "alcohol"
        }
        for _, verdict in Windows(monitoring.state).history("wine")
        if verdict is not None
    ]
    assert 16 in alarms[-1]
    assert sum(1 in scales for scales in alarms) < len(alarms) / 2


def test_the_same_log_gives_the_same_verdicts_however_it_is_read(traffic, tmp_path):
    years = 100 * 365 * 86_400.0  # no window ends by the time of day meanwhile
    at_once = Monitoring(settings(traffic.log, f"{tmp_path}/a.db", window=years))
    bit_by_bit = Monitoring(settings(traffic.log, f"{tmp_path}/b.db", window=years))
    baseline = traffic.baseline()
    for monitoring in (at_once, bit_by_bit):
        monitoring.keep(baseline)
    for number in range(8):
        traffic.write(traffic.exchanges(450, START + timedelta(minutes=5 * number), shift=0.1 * number))
        bit_by_bit.watch.look()
    at_once.watch.look()
    assert results(at_once) == results(bit_by_bit)
    assert len(results(at_once)) == 3


def test_two_writers_at_the_same_time_make_common_windows(traffic, state):
    monitoring = Monitoring(settings(traffic.log, state))
    monitoring.keep(traffic.baseline())
    for writer in "ab":
        for part in range(3):
            start = START + timedelta(minutes=part * 3, seconds=0.5 * (writer == "b"))
            traffic.write(traffic.exchanges(1000, start), f"{writer}-{part:08d}")
    monitoring.watch.look()
    assert monitoring.verdicts() == [(1000, "ok")] * 6


def test_late_rows_open_their_window_again(traffic, state):
    monitoring = Monitoring(settings(traffic.log, state))
    monitoring.keep(traffic.baseline())
    traffic.write(traffic.exchanges(2000))
    monitoring.watch.look()
    [first, _] = Windows(monitoring.state).history("wine")
    traffic.write(traffic.exchanges(500, START + timedelta(seconds=1), seconds=0.1, shift=3))
    assert monitoring.watch.look() == 1
    [again, _] = Windows(monitoring.state).history("wine")
    assert (again.window.rows, again.window.late, again.window.revision) == (1500, 500, 1)
    assert (first.verdict.status, again.verdict.status) == ("ok", "critical")
    assert first.verdict.id != again.verdict.id


def test_rows_later_than_the_grace_are_counted_and_said(traffic, state):
    monitoring = Monitoring(settings(traffic.log, state, grace=60))
    monitoring.keep(traffic.baseline())
    traffic.write(traffic.exchanges(3000))
    monitoring.watch.look()
    traffic.write(traffic.exchanges(30, START + timedelta(seconds=1)))
    assert monitoring.watch.look() == 0
    [first, *_] = Windows(monitoring.state).history("wine")
    assert (first.window.rows, first.window.late, first.window.revision) == (1000, 30, 0)
    assert any("30 rows came later than --grace" in line for line in monitoring.said)


def test_versions_and_variants_are_kept_apart(traffic, state):
    monitoring = Monitoring(settings(traffic.log, state))
    baseline = traffic.baseline()
    for version in "12":
        monitoring.keep(baseline, version)
    both = traffic.exchanges(1000, version="1") + traffic.exchanges(1000, version="2", shift=1)
    traffic.write(both + traffic.exchanges(1000, version="2", variant="canary"))
    monitoring.watch.look()
    assert monitoring.verdicts(version="1") == [(1000, "ok")]
    assert monitoring.verdicts(version="2", variant="champion") == [(1000, "critical")]
    assert monitoring.verdicts(version="2", variant="canary") == [(1000, "ok")]


def test_a_window_waits_for_its_hour_and_then_says_that_it_has_too_few_rows(traffic, state):
    monitoring = Monitoring(settings(traffic.log, state))
    monitoring.keep(traffic.baseline())
    now = datetime.now(UTC)
    traffic.write(traffic.exchanges(10, now - timedelta(hours=3)))
    traffic.write(traffic.exchanges(10, now))
    monitoring.watch.look()
    assert monitoring.verdicts() == [(10, "too_few"), (10, "-")]
    monitoring.watch.look(provisional=True)
    [_, (_, provisional)] = Windows(monitoring.state).history("wine")
    assert (provisional.status, provisional.provisional) == ("too_few", True)


def test_many_rows_in_few_requests_are_too_few_independent_ones(traffic, state):
    monitoring = Monitoring(settings(traffic.log, state))
    monitoring.keep(traffic.baseline())
    traffic.write(traffic.exchanges(1000, per_request=250))
    monitoring.watch.look()
    [(_, verdict)] = Windows(monitoring.state).history("wine")
    assert verdict.status == "too_few"
    assert verdict.message.startswith("1000 rows, worth 4 independent ones")


def test_a_large_request_is_a_window_of_its_own_whose_rows_count_by_their_order(traffic, state):
    monitoring = Monitoring(settings(traffic.log, state))
    monitoring.keep(traffic.baseline())
    traffic.write(traffic.exchanges(300, per_request=1))
    traffic.write(traffic.exchanges(1400, START + timedelta(minutes=20), per_request=700))
    traffic.write(traffic.exchanges(100, START + timedelta(minutes=30), per_request=1))
    monitoring.watch.look()
    found = Windows(monitoring.state).history("wine")
    assert [(one.window.rows, one.window.requests) for one in found] == [
        (300, 300),
        (700, 1),
        (700, 1),
        (100, 100),
    ]
    assert {one.verdict.status for one in found} == {"ok"}


def test_equal_rows_of_requests_are_watched_as_windows_end_by_independent_ones(traffic, state):
    monitoring = Monitoring(settings(traffic.log, state, window=86_400.0, window_rows=200))
    monitoring.keep(traffic.baseline())
    hour = timedelta(hours=1)
    for at in range(24):
        sent = traffic.exchanges(120, START.replace(hour=0) + at * hour, 30.0, shift=at >= 18, per_request=1)
        for one in sent:
            body = json.loads(one.request)
            body["dataframe_split"]["data"] *= 33
            one.request = json.dumps(body).encode()
            one.response = json.dumps({"predictions": json.loads(one.response)["predictions"] * 33}).encode()
        traffic.write(sent)
    monitoring.watch.look()
    found = Windows(monitoring.state).history("wine")
    statuses = [one.verdict.status for one in found if one.verdict]
    assert found[-2].window.rows > 33 * 100
    assert len(statuses) > 10
    assert "too_few" not in statuses[4:]
    [incident] = Incidents(monitoring.state).newest("wine")
    assert START.replace(hour=18) < incident.opened < START.replace(hour=22)
    assert {"alcohol", "prediction"} <= {*incident.features}


def test_without_a_baseline_windows_wait_for_one_and_are_judged_then(traffic, state, monkeypatch):
    monkeypatch.setattr("mooring.monitor.baselines._AGAIN_SECONDS", 0.0)
    monitoring = Monitoring(settings(traffic.log, state))
    traffic.write(traffic.exchanges(2500))
    monitoring.watch.look()
    assert monitoring.verdicts() == [(1000, "no_baseline"), (1000, "no_baseline"), (500, "no_baseline")]
    [(_, verdict), *_] = Windows(monitoring.state).history("wine")
    assert "MLFLOW_TRACKING_URI" in verdict.message
    monitoring.keep(traffic.baseline())
    traffic.write(traffic.exchanges(500, START + timedelta(minutes=20)))
    monitoring.watch.look()
    found = monitoring.verdicts()
    assert [status for _, status in found[:2]] == ["ok", "ok"]
    assert sum(rows for rows, _ in found) == 3000
    monitoring.watch.look()
    assert {status for _, status in monitoring.verdicts()} <= {"ok", "-"}


def test_a_foreign_file_and_a_truncated_object_are_said_and_the_rest_goes_on(traffic, state):
    monitoring = Monitoring(settings(traffic.log, state))
    monitoring.keep(traffic.baseline())
    name = traffic.write(traffic.exchanges(1000))
    traffic.write(traffic.exchanges(1000, START + timedelta(hours=1)))
    [whole] = traffic.log.glob(f"inferences/**/{name}.parquet")
    whole.with_name("foreign.parquet").write_bytes(b"PAR1 but not really")
    whole.with_name("cut.parquet").write_bytes(whole.read_bytes()[:-100])
    whole.with_name("notes.txt").write_text("hello")
    monitoring.watch.look()
    assert monitoring.verdicts() == [(1000, "ok")] * 2
    assert sum("foreign.parquet" in line for line in monitoring.said) == 1
    assert sum("cut.parquet" in line for line in monitoring.said) == 1
    monitoring.said.clear()
    monitoring.watch.look()
    assert monitoring.said == []


def test_a_window_of_nan_only_is_drift_and_no_crash(traffic, state):
    monitoring = Monitoring(settings(traffic.log, state))
    monitoring.keep(traffic.baseline())
    exchanges = traffic.exchanges(1000)
    nothing = [[None, None, None]] * 10
    body = json.dumps({"dataframe_split": {"columns": ["alcohol", "sugar", "colour"], "data": nothing}}).encode()
    for exchange in exchanges:
        exchange.request = body
    traffic.write(exchanges)
    monitoring.watch.look()
    [(_, verdict)] = Windows(monitoring.state).history("wine")
    assert verdict.status == "critical"
    assert {one.measure for one in verdict.summary if one.feature != "prediction"} == {"null_rate"}


def test_rows_from_the_future_are_said(traffic, state):
    monitoring = Monitoring(settings(traffic.log, state))
    monitoring.keep(traffic.baseline())
    tomorrow = datetime.now(UTC).replace(minute=0) + timedelta(days=1)  # all in one hour
    traffic.write(traffic.exchanges(1000, tomorrow))
    monitoring.watch.look()
    assert any("set the clock" in line for line in monitoring.said)
    assert monitoring.verdicts() == [(1000, "ok")]


def test_a_baseline_of_another_format_is_said_and_windows_wait(traffic, state):
    monitoring = Monitoring(settings(traffic.log, state))
    newer = traffic.baseline().to_bytes().replace(b"mooring-baseline 2", b"mooring-baseline 3", 1)
    with monitoring.state.begin() as tx:
        StoredBaselines(tx).put("wine", None, newer, "test")
    traffic.write(traffic.exchanges(1000))
    monitoring.watch.look()
    [(_, verdict)] = Windows(monitoring.state).history("wine")
    assert verdict.status == "no_baseline"
    assert "format 3 and this Mooring reads 2" in verdict.message
    assert "mooring baseline build --model wine" in verdict.message


def test_a_baseline_that_is_replaced_judges_what_comes_and_what_was_open(traffic, state):
    monitoring = Monitoring(settings(traffic.log, state, window=1e9))  # none ends by the time of day
    monitoring.keep(traffic.baseline())
    traffic.write(traffic.exchanges(1500))
    monitoring.watch.look()
    assert monitoring.verdicts() == [(1000, "ok"), (500, "-")]
    monitoring.keep(traffic.baseline(4000))
    traffic.write(traffic.exchanges(1000, START + timedelta(minutes=10)))
    traffic.write(traffic.exchanges(10, START + timedelta(seconds=5)))  # late, for a window of the old one
    monitoring.watch.look()
    assert monitoring.verdicts() == [(1010, "ok"), (500, "ok"), (1000, "ok")]
    newest = {verdict.baseline for _, verdict in Windows(monitoring.state).history("wine") if verdict}
    assert newest == {StoredBaselines(monitoring.state).newest("wine", None).digest}


class Registry:
    """A registry of baselines by version, whose champion can be moved, and which can be off."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, baselines: dict[str, Baseline]) -> None:
        self.baselines = baselines
        self.is_champion: str | None = None
        self.off = False
        self.asked = 0
        monkeypatch.setattr("mooring.registry.versions.all_of", lambda model: [])
        monkeypatch.setattr("mooring.registry.aliases.champion", self.champion)
        monkeypatch.setattr("mooring.registry.baselines.find", self.find_baseline)

    def champion(self, model: str, alias: str = "champion") -> str | None:
        self._ask()
        return self.is_champion

    def find_baseline(self, model: str, version: str) -> bytes | None:
        self._ask()
        found = self.baselines.get(version)
        return found.to_bytes() if found else None

    def _ask(self) -> None:
        self.asked += 1
        if self.off:
            raise TrackingError("it is off")


def test_rows_without_a_version_are_compared_with_whatever_is_champion(traffic, state, monkeypatch):
    registry = Registry(monkeypatch, {"1": traffic.baseline(), "2": traffic.baseline()})
    monitoring = Monitoring(settings(traffic.log, state))
    registry.is_champion = "1"
    for number in range(4):
        traffic.write(traffic.exchanges(1000, START + timedelta(minutes=10 * number)))
        monitoring.watch.look()
        if number == 1:
            registry.is_champion = "2"
        if number == 2:
            registry.off = True  # what is known goes on to be used
    used = [verdict.baseline for _, verdict in Windows(monitoring.state).history("wine")]
    assert used[0] == used[1] != used[2] == used[3]
    assert all(status == "ok" for _, status in monitoring.verdicts())


def test_a_registry_that_does_not_answer_is_left_alone_for_a_while(traffic, state, monkeypatch):
    registry = Registry(monkeypatch, {})
    registry.off = True
    monitoring = Monitoring(settings(traffic.log, state))
    for version in range(10):
        traffic.write(traffic.exchanges(1000, START + timedelta(minutes=version), version=f"{version}"))
    for _ in range(3):
        monitoring.watch.look()
    assert registry.asked == 1
    assert monitoring.verdicts() == [(1000, "no_baseline")] * 10


def test_a_baseline_that_is_built_meanwhile_is_found_at_the_next_look(traffic, state, monkeypatch):
    Registry(monkeypatch, {})
    monitoring = Monitoring(settings(traffic.log, state))
    traffic.write(traffic.exchanges(2000, version="1") + traffic.exchanges(1000, START + timedelta(days=1)))
    monitoring.watch.look()
    assert {status for _, status in monitoring.verdicts()} == {"no_baseline"}
    for version in ("1", None):
        monitoring.keep(traffic.baseline(), version)
    assert monitoring.watch.look() == 3
    assert monitoring.verdicts() == [(1000, "ok")] * 3
    assert monitoring.watch.look() == 0


def test_a_drift_that_began_long_ago_and_lasts_is_told(traffic, state):
    monitoring = Monitoring(settings(traffic.log, state, window=1e9))
    monitoring.keep(traffic.baseline())
    for hours in (96, 72, 1):
        traffic.write(traffic.exchanges(1000, datetime.now(UTC) - timedelta(hours=hours), shift=2))
    monitoring.watch.look()
    assert [status for _, status in monitoring.verdicts()] == ["critical"] * 3
    assert Windows(monitoring.state).standing("wine", None, "champion") == "critical"
    [_, _, (_, newest)] = Windows(monitoring.state).history("wine")
    webhook = Webhook("http://127.0.0.1:9/")
    told = Monitoring(settings(traffic.log, f"{state}.told", window=1e9), channels=[webhook])
    told.keep(traffic.baseline())
    told.watch.look()
    assert [(alert.kind, alert.verdict_id) for alert in Alerts(told.state).newest("wine")] == [("new", newest.id)]


def test_it_ends_between_two_chunks_when_it_is_told_to(traffic, state):
    monitoring = Monitoring(settings(traffic.log, state))
    monitoring.keep(traffic.baseline())
    for day in range(3):
        traffic.write(traffic.exchanges(1000, START + timedelta(days=day)))
    asked = chain([False], repeat(True))
    assert monitoring.watch.look(stopping=lambda: next(asked)) == 1
    assert monitoring.verdicts() == [(1000, "ok")]
    assert monitoring.watch.look() == 2


def test_a_look_at_nothing_new_asks_little_however_much_is_known(traffic, state):
    monitoring = Monitoring(settings(traffic.log, state))
    monitoring.keep(traffic.baseline())
    traffic.write(traffic.exchanges(6000))
    monitoring.watch.look()
    statements: list[str] = []

    def note(*arguments: object) -> None:
        statements.append(str(arguments[2]))

    event.listen(Engine, "before_cursor_execute", note)
    try:
        assert monitoring.watch.look() == 0
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    assert len([one for one in statements if one.startswith(("SELECT", "UPDATE", "INSERT"))]) <= 5


def test_slow_drift_that_shows_in_single_windows_now_and_then_is_no_drift_that_ends(traffic, state):
    monitoring = Monitoring(settings(traffic.log, state, seasonality="none"))
    monitoring.keep(traffic.baseline(20_000))
    for hour in range(20):
        traffic.write(traffic.exchanges(300, START + timedelta(hours=hour), shift=0.25, per_request=1))
    monitoring.watch.look()
    late = [status for _, status in monitoring.verdicts()][16:]
    assert "ok" not in late


def nightly(traffic: Traffic, days: int, shift_from: int = 10**6, *, ordered: bool = False) -> None:
    """Write a batch of 1,000 rows each night, with a shift from some day on."""
    for day in range(days):
        [sent] = traffic.exchanges(
            1000, START.replace(month=1) + timedelta(days=day), shift=0.5 * (day >= shift_from), per_request=1000
        )
        if ordered:
            body = json.loads(sent.request)
            body["dataframe_split"]["data"].sort()
            sent.request = json.dumps(body).encode()
            answers = [row[0] / 2 for row in body["dataframe_split"]["data"]]
            sent.response = json.dumps({"predictions": answers}).encode()
        traffic.write([sent])


@pytest.mark.parametrize("ordered", [False, True])
def test_nightly_batches_are_judged_and_do_not_alarm_as_long_as_nothing_changes(traffic, state, ordered):
    monitoring = Monitoring(settings(traffic.log, state))
    monitoring.keep(traffic.baseline())
    nightly(traffic, 12, ordered=ordered)
    monitoring.watch.look()
    assert [rows for rows, _ in monitoring.verdicts()] == [1000] * 12
    assert Incidents(monitoring.state).newest("wine") == []
    if not ordered:
        assert {status for _, status in monitoring.verdicts()} == {"ok"}


def test_a_shift_in_nightly_batches_is_found(traffic, state):
    monitoring = Monitoring(settings(traffic.log, state))
    monitoring.keep(traffic.baseline())
    nightly(traffic, 12, shift_from=8)
    monitoring.watch.look()
    statuses = [status for _, status in monitoring.verdicts()]
    assert statuses[:8] == ["ok"] * 8
    assert "ok" not in statuses[9:]


def test_windows_of_dependent_rows_are_cut_alike_after_any_restart(traffic, state, tmp_path):
    def write(to: Traffic, hour: int) -> None:
        sent = to.exchanges(150, START + timedelta(hours=hour), 20.0, per_request=1)
        for one in sent:
            body = json.loads(one.request)
            body["dataframe_split"]["data"] *= 5
            one.request = json.dumps(body).encode()
            one.response = json.dumps({"predictions": json.loads(one.response)["predictions"] * 5}).encode()
        to.write(sent, f"w-{hour:08d}")

    other = Traffic(tmp_path / "other")
    at_once = Monitoring(settings(traffic.log, state, window=10 * 86_400.0, window_rows=200))
    at_once.keep(Traffic(traffic.log, seed=7).baseline())
    for hour in range(8):
        write(traffic, hour)
    at_once.watch.look()
    for hour in range(8):
        write(other, hour)
        again = Monitoring(settings(other.log, state + "2", window=10 * 86_400.0, window_rows=200, settle=1e9))
        again.keep(Traffic(other.log, seed=7).baseline())
        again.watch.look()
        again.state.close()
    read = Monitoring(settings(other.log, state + "2"))
    assert read.verdicts()[:-1] == at_once.verdicts()[:-1]
    assert max(rows for rows, _ in read.verdicts()) > 700
