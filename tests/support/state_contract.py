"""What a state promises in whatever database it is."""

from __future__ import annotations

import math
import shutil
from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, text

from mooring.drift.judgement import Judgement, Result
from mooring.monitor.drift_check import WindowCheck
from mooring.state import migrations
from mooring.state.alerts import Alerts
from mooring.state.baselines import StoredBaselines
from mooring.state.cells import Cell, encode
from mooring.state.database import Database, StateError
from mooring.state.leases import LeaseHeld, LeaseLost
from mooring.state.objects import DoneObject, Objects, StateConflict
from mooring.state.state import State
from mooring.state.tables import VERSION_TABLE, metadata
from mooring.state.verdicts import Finding, Verdict, Verdicts
from mooring.state.windows import Judged, Recent, Window, Windows
from states import DAY, HOUR, LOG, NOON, alert, put, verdict, window
from waiting import wait_for


def count(state: State, done: list[DoneObject]) -> None:
    with state.begin() as tx:
        Windows(tx).put(window(), b"")
        Objects(tx).mark_done("wine", LOG, done)


CELLS = {"alcohol": Cell(1.5, "warning", "ks", 4, 0.3), "pH, naïve": Cell(0.2, "ok", "js", 1, 0.01)}
JUDGEMENT = Judgement(
    [
        Result("alcohol", "input", "numeric", "ks", 0.3, 4, threshold=0.2, alarm=True, severity="warning"),
        Result("pH, naïve", "input", "numeric", "js", 0.01, threshold=0.05),
        Result("pH, naïve", "input", "numeric", "psi", 0.01),
    ],
    "warning", ["alcohol"], 10, 10.0, 0.001, 0,
)  # fmt: skip


def put_cells(state: State, *given: Verdict, cells: bytes) -> None:
    with state.begin() as tx:
        for one in given:
            Verdicts(tx).put(one, WindowCheck(one, JUDGEMENT).results, cells)


LATER = """
import sqlalchemy as sa
from alembic import op
revision, down_revision = "9999", {head!r}
def upgrade():
    with op.batch_alter_table("mooring_windows") as windows:
        windows.add_column(sa.Column("note", sa.Text))
    op.create_table("mooring_retrains", sa.Column("id", sa.Text, primary_key=True))
def downgrade():
    op.drop_table("mooring_retrains")
    with op.batch_alter_table("mooring_windows") as windows:
        windows.drop_column("note")
"""


class StateContract:
    """The promises of a state. A subclass has the URL of an empty database."""

    @pytest.fixture
    def url(self) -> str:
        raise NotImplementedError

    @pytest.fixture
    def state(self, url):
        with State(url) as opened:
            yield opened

    def test_a_window_comes_back_as_it_was_in_whatever_zone_its_times_were_given(self, state):
        east = timezone(timedelta(hours=5, minutes=30))
        given = window(
            start=datetime(2026, 3, 1, 12, 0, 0, 123457, tzinfo=east),
            end=datetime(2026, 3, 1, 13, 0, 0, 1, tzinfo=east),
            version=None,
            variant="canary",
            rows=2**40,
            requests=7,
            weight=2**50,
            late=2,
            revision=1,
        )
        with state.begin() as tx:
            written = Windows(tx).put(given, b"\x00profile\xff")
        [(found, none)] = Windows(state).history("wine")
        assert found == written == msgspec.structs.replace(given, number=1)
        assert none is None
        assert found.start.tzinfo is UTC
        assert found.id == given.id
        assert Windows(state).profiles([found.id, "unknown"]) == {found.id: b"\x00profile\xff"}

    def test_a_verdict_comes_back_with_its_findings_and_results(self, state):
        findings = (
            Finding(feature="pH, naïve \u0000", measure="ks", value=0.25, threshold=0.1, p_value=1e-300, scale=4),
            Finding(feature="é", measure="psi", value=math.inf),
        )
        given = verdict(
            window(), "critical", rows=1000, seed=2**62, budget=0.001, baseline="d1", alarms=2, summary=findings
        )
        with state.begin() as tx:
            of = Windows(tx).put(window(), b"")
            assert Verdicts(tx).put(given, b"\x00results\xff")
        found = Windows(state).judged(given.id)
        no_number = msgspec.structs.replace(findings[1], value=None)
        assert found == Judged(of, msgspec.structs.replace(given, summary=(findings[0], no_number)))
        assert Verdicts(state).results(given.id) == b"\x00results\xff"
        assert (Windows(state).judged("unknown"), Verdicts(state).results("unknown")) == (None, None)
        assert Windows(state).find("wine", of.id) == found
        assert Windows(state).find("beer", of.id) is Windows(state).find("wine", "unknown") is None
        assert Verdicts(state).window_ids([given.id, "unknown"]) == {given.id: of.id}

    def test_the_newest_baseline_of_a_version_counts_and_the_older_are_kept(self, state):
        with state.begin() as tx:
            first = StoredBaselines(tx).put("wine", None, b"\x00one", "models:/wine/3")
        with state.begin() as tx:
            second = StoredBaselines(tx).put("wine", None, b"two", "mooring-log 2026-02-01..2026-03-01")
        assert StoredBaselines(state).newest("wine", None) == second
        assert StoredBaselines(state).newest("wine", None, first.digest) == first
        assert StoredBaselines(state).newest("wine", "3") is None
        with state.begin() as tx:
            StoredBaselines(tx).put("wine", None, b"\x00one", "again")
        assert StoredBaselines(state).newest("wine", None).source == "again"
        assert StoredBaselines(state).newest_digest("wine", None) == first.digest
        assert StoredBaselines(state).newest_digest("wine", "3") is None
        assert StoredBaselines(state).data("wine", second.digest) == b"two"
        assert StoredBaselines(state).data("beer", second.digest) is None

    def test_a_time_without_a_zone_is_refused(self, state):
        with pytest.raises(Exception, match="has no time zone"), state.begin() as tx:
            Windows(tx).put(window(start=datetime(2026, 3, 1, 12)), b"")

    def test_objects_that_are_done_are_known_by_model_and_log(self, state):
        names = [f"inferences/model=wine/date=2026-03-01/{number}.parquet" for number in range(1200)]
        with state.begin() as tx:
            Objects(tx).mark_done("wine", LOG, [DoneObject(name, DAY, 10) for name in names[:1100]])
            Objects(tx).mark_done("wine", LOG, [])
            Objects(tx).mark_done("wine", "other", [DoneObject(names[1199], DAY + timedelta(days=1), 10)])
        assert Objects(state).seen("wine", LOG, names) == set(names[:1100])
        assert Objects(state).seen("beer", LOG, names) == set()
        assert Objects(state).newest_day("wine", LOG) == DAY
        assert Objects(state).newest_day("beer", LOG) is None

    def test_an_object_that_is_done_already_lets_nothing_of_the_transaction_through(self, state):
        with state.begin() as tx:
            Objects(tx).mark_done("wine", LOG, [DoneObject("a", DAY, 10)])
        with pytest.raises(StateConflict, match="nothing is counted twice"):
            count(state, [DoneObject("b", DAY, 10), DoneObject("a", DAY, 10)])
        assert Objects(state).seen("wine", LOG, ["a", "b"]) == {"a"}
        assert Windows(state).history("wine") == []

    def test_a_window_written_again_is_changed_and_keeps_its_number(self, state):
        first, second, other = put(state, window(0), window(1), window(0, model="beer"))
        assert [first.number, second.number, other.number] == [1, 2, 1]
        with state.begin() as tx:
            again = Windows(tx).put(
                msgspec.structs.replace(window(0), rows=5, late=5, revision=1, status="open"), b"new"
            )
        assert (again.number, again.rows, again.revision) == (1, 5, 1)
        assert [one.window for one in Windows(state).history("wine")] == [again, second]
        assert [one.window for one in Windows(state).history("wine", status="open")] == [again]
        assert Windows(state).profiles([first.id])[first.id] == b"new"

    def test_a_final_verdict_is_written_once(self, state):
        [one] = put(state, window())
        with state.begin() as tx:
            assert not Verdicts(tx).put(verdict(one, "critical"), b"otherwise")
        [judged] = Windows(state).history("wine")
        assert judged.verdict.status == "ok"
        assert Verdicts(state).results(judged.verdict.id) != b"otherwise"

    def test_a_provisional_verdict_is_replaced_and_gives_way_to_the_final_one_and_to_later_revisions(self, state):
        now = window(status="open")
        with state.begin() as tx:
            Windows(tx).put(now, b"")
            first = verdict(now, "too_few", provisional=True, rows=10)
            more = verdict(now, "warning", provisional=True, rows=500)
            assert [Verdicts(tx).put(each, b"") for each in (first, first, more, more)] == [
                True,
                False,
                True,
                False,
            ]
        assert first.id == more.id
        assert Windows(state).history("wine")[0].verdict == more
        final = verdict(now, "ok")
        with state.begin() as tx:
            Verdicts(tx).put(final, b"")
        assert Windows(state).history("wine")[0].verdict == final
        assert Windows(state).judged(more.id).verdict == more
        late = verdict(msgspec.structs.replace(now, revision=1), "critical", provisional=True)
        with state.begin() as tx:
            Verdicts(tx).put(late, b"")
        assert Windows(state).history("wine")[0].verdict == late

    def test_an_exception_undoes_all_of_a_transaction(self, state):
        def fail(tx):
            Windows(tx).put(window(), b"")
            StoredBaselines(tx).put("wine", "3", b"", "")
            Objects(tx).mark_done("wine", LOG, [DoneObject("a", DAY, 10)])
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError), state.begin() as tx:
            fail(tx)
        assert Windows(state).history("wine") == []
        assert Windows(state).watched() == []
        assert StoredBaselines(state).newest("wine", "3") is None
        assert Objects(state).seen("wine", LOG, ["a"]) == set()

    def test_a_lease_is_renewed_as_long_as_it_is_used_and_released_then(self, state):
        with state.lease("monitor/wine", 1.0):
            first = state.holder("monitor/wine")
            wait_for(lambda: state.holder("monitor/wine").expires > first.expires, "it is not renewed")
            with (
                pytest.raises(LeaseHeld, match=r"monitor/wine is being done by .*:\d+"),
                state.lease("monitor/wine"),
            ):
                pass
            assert state.lease("monitor/beer").acquire()
        assert state.holder("monitor/wine") is None
        assert state.lease("monitor/wine").acquire()

    def test_who_was_not_heard_of_in_time_writes_nothing_once_another_has_taken_over(self, state):
        slow, quick = state.lease("monitor/wine", 0.1), state.lease("monitor/wine")
        assert slow.acquire()
        wait_for(quick.acquire, "the lease does not expire")
        with (
            pytest.raises(LeaseLost, match="another process has taken over monitor/wine"),
            state.begin(slow) as tx,
        ):
            Windows(tx).put(window(), b"")
        with pytest.raises(LeaseLost):
            slow.renew()
        slow.release()
        assert not slow.acquire()
        with state.begin(quick) as tx:
            Windows(tx).put(window(), b"")
        assert len(Windows(state).history("wine")) == 1

    def test_history_is_by_range_version_and_variant_and_the_oldest_first(self, state):
        hours = put(state, *(window(hour) for hour in range(5)))
        canary, unversioned = put(state, window(1, variant="canary"), window(2, version=None))
        found = {
            "newest": Windows(state).history("wine", newest=2),
            "range": Windows(state).history(
                "wine", start=NOON + HOUR, end=NOON + 3 * HOUR, version="3", variant="champion"
            ),
            "canary": Windows(state).history("wine", variant="canary"),
            "unversioned": Windows(state).history("wine", version=None),
            "nothing": Windows(state).history("beer"),
        }
        assert {name: [one.window for one in judged] for name, judged in found.items()} == {
            "newest": hours[3:],
            "range": hours[1:3],
            "canary": [canary],
            "unversioned": [unversioned],
            "nothing": [],
        }
        assert all(one.verdict.window_id == one.window.id for one in Windows(state).history("wine"))

    def test_overlapping_windows_are_found_by_any_part(self, state):
        first, second = put(state, window(0), window(5, end=NOON + 8 * HOUR))
        put(state, window(0, end=NOON + 9 * HOUR, variant="canary"))

        def overlapping(start: float, end: float) -> list[Window]:
            return Windows(state).overlapping("wine", "3", "champion", NOON + start * HOUR, NOON + end * HOUR)

        assert overlapping(0.5, 0.6) == [first]
        assert overlapping(-1, 0.1) == [first]
        assert overlapping(0.5, 5.1) == [first, second]
        assert overlapping(6, 7) == [second]
        assert overlapping(1, 5) == overlapping(8, 9) == overlapping(-2, 0) == []

    def test_models_are_listed_with_their_newest_verdict_and_what_stands(self, state):
        put(state, window(0), window(1), status="ok")
        [_, last] = put(state, window(2), window(3, version="4"), status="warning")
        put(state, window(0, model="beer", version=None, variant="shadow"))
        with state.begin() as tx:
            Windows(tx).put(window(4, status="open"), b"")
            Windows(tx).set_standing("wine", "4", "champion", "warning")
        beer, three, four = Windows(state).watched()
        assert beer[:4] == ("beer", None, "shadow", "ok")
        assert three[:4] == ("wine", "3", "champion", "ok")
        assert (three.newest.window.start, three.newest.verdict.status) == (NOON + 2 * HOUR, "warning")
        assert four[:4] == ("wine", "4", "champion", "warning")
        assert four.newest.window == last
        assert Windows(state).standing("wine", "4", "champion") == "warning"
        assert Windows(state).standing("rum", None, "champion") == "ok"

    def test_the_newest_windows_of_every_model_come_at_once_and_without_shadows(self, state):
        put(state, *(window(hour, rows=hour) for hour in range(4)), status="warning")
        put(state, window(3, variant="canary", version="4"), window(9, variant="shadow", version="4"))
        put(state, window(0, model="beer", version=None), window(1, model="beer", version=None))
        put(state, window(0, model="rum", variant="shadow"))
        with state.begin() as tx:
            last = Windows(tx).put(window(5, rows=7, status="open"), b"")
            Verdicts(tx).put(verdict(window(3), "too_few", provisional=True, alarms=9), b"")
            again = Windows(tx).put(window(2, rows=2, revision=1), b"")
            Verdicts(tx).put(verdict(again, "critical", alarms=3), b"")
        found = Windows(state).recent(newest=4)
        assert set(found) == {"wine", "beer"}
        assert [(one.start.hour, one.rows, one.variant, one.status, one.alarms) for one in found["wine"]] == [
            (14, 2, "champion", "critical", 3),
            (15, 3, "champion", "warning", 0),
            (15, 0, "canary", "ok", 0),
            (17, 7, "champion", None, 0),
        ]
        assert found["wine"][-1] == Recent(last.id, last.start, last.end, 7, "3", "champion", None, 0, False)
        assert [(one.version, one.status) for one in found["beer"]] == [(None, "ok")] * 2
        assert Windows(state).recent(["beer"], newest=1) == {"beer": found["beer"][1:]}
        assert Windows(state).recent(["gin"]) == Windows(state).recent([]) == {}
        history = [one for one in Windows(state).history("wine") if one.window.variant != "shadow"]
        assert [one.window.id for one in history] == [one.window_id for one in Windows(state).recent()["wine"]]

    def test_a_provisional_verdict_is_recent_until_there_is_a_final_one(self, state):
        now = window(status="open")
        with state.begin() as tx:
            Windows(tx).put(now, b"")
            Verdicts(tx).put(verdict(now, "warning", provisional=True, alarms=1), b"")
        [recent] = Windows(state).recent()["wine"]
        assert (recent.status, recent.alarms, recent.provisional) == ("warning", 1, True)
        with state.begin() as tx:
            Verdicts(tx).put(verdict(now, "ok"), b"")
        [recent] = Windows(state).recent()["wine"]
        assert (recent.status, recent.alarms, recent.provisional) == ("ok", 0, False)

    def test_cells_come_back_by_verdict_and_feature(self, state):
        hours = put(state, *(window(hour) for hour in range(600)))
        ids = [verdict(one).id for one in hours]
        late = [verdict(msgspec.structs.replace(one, revision=1), "warning") for one in hours]
        put_cells(state, *late, cells=encode(CELLS))
        found = Verdicts(state).cells(one.id for one in late)
        assert len(found) == 600
        assert all(cells == CELLS for cells in found.values())
        assert Verdicts(state).cells(ids) == {}  # their results hold none either
        assert Verdicts(state).cells([]) == Verdicts(state).cells(["unknown"]) == {}

    def test_cells_of_verdicts_written_before_there_were_any_are_worked_out_from_the_results(self, state):
        first, second, third = put(state, *(window(hour, revision=1) for hour in range(3)))
        old = [verdict(msgspec.structs.replace(one, revision=2), "warning") for one in (first, second)]
        few = verdict(msgspec.structs.replace(third, revision=2), "too_few")
        put_cells(state, *old, few, cells=b"")
        new = verdict(msgspec.structs.replace(third, revision=3), "ok")
        put_cells(state, new, cells=encode({"alcohol": CELLS["alcohol"]}))
        damaged = verdict(msgspec.structs.replace(third, revision=4), "ok")
        put_cells(state, damaged, cells=encode(CELLS)[:-2])
        found = Verdicts(state).cells([one.id for one in (*old, few, new, damaged)])
        assert set(found) == {old[0].id, old[1].id, new.id, damaged.id}
        assert found[new.id] == {"alcohol": CELLS["alcohol"]}
        for one in (*old, damaged):
            assert found[one.id] == {
                name: msgspec.structs.replace(cell, ratio=pytest.approx(cell.ratio))
                for name, cell in CELLS.items()
            }

    def test_cells_are_worked_out_of_the_last_that_are_named_only(self, state):
        hours = put(state, *(window(hour, revision=1) for hour in range(102)))
        old = [verdict(msgspec.structs.replace(one, revision=2)) for one in hours]
        put_cells(state, *old, cells=b"")
        assert set(Verdicts(state).cells(one.id for one in old)) == {one.id for one in old[2:]}

    def test_a_provisional_verdicts_cells_are_replaced_with_it(self, state):
        now = window(status="open")
        few, more, none = (verdict(now, provisional=True, rows=rows) for rows in (10, 20, 30))
        with state.begin() as tx:
            Windows(tx).put(now, b"")
            Verdicts(tx).put(few, b"", encode(CELLS))
        only = {"alcohol": CELLS["alcohol"]}
        with state.begin() as tx:
            assert Verdicts(tx).put(more, b"", encode(only))
            assert not Verdicts(tx).put(more, b"", encode(CELLS))
        assert Verdicts(state).cells([more.id]) == {more.id: only}
        with state.begin() as tx:
            Verdicts(tx).put(none, b"")
        assert Verdicts(state).cells([more.id]) == {}

    def test_final_verdicts_wait_to_be_logged_to_mlflow(self, state):
        first, second, third = put(state, window(1), window(0), window(2))
        with state.begin() as tx:
            Verdicts(tx).put(verdict(third, provisional=True), b"")
        waiting = Windows(state).untracked("wine")
        assert [one.window for one in waiting] == [first, second, third]
        with state.begin() as tx:
            Verdicts(tx).mark_tracked([one.verdict.id for one in waiting[:2]])
        assert [one.window for one in Windows(state).untracked("wine")] == [third]
        assert Windows(state).history("wine")[0].verdict.tracked is not None

    def test_old_profiles_are_forgotten_and_their_verdicts_stay(self, state):
        old, new = put(state, window(0), window(1))
        [open_one] = put(state, window(-1, status="open"))
        with state.begin() as tx:
            assert Windows(tx).prune("wine", before=NOON + HOUR) == 1
            assert Windows(tx).prune("beer", before=NOON + HOUR) == 0
        assert set(Windows(state).profiles([old.id, new.id, open_one.id])) == {new.id, open_one.id}
        assert all(one.verdict for one in Windows(state).history("wine"))

    def test_an_alert_is_put_once_and_those_of_a_channel_keep_their_order(self, state):
        first, second = put(state, window(0), window(1))
        new = alert(verdict(first), payload='{"kind": "new"}')
        ended = alert(verdict(second), "ended", created=NOON + HOUR)
        elsewhere = alert(verdict(second), "ended", "command:page", created=NOON + HOUR)
        with state.begin() as tx:
            assert [Alerts(tx).put(one) for one in (new, new, ended, elsewhere)] == [True, False, True, True]
        later = NOON + 2 * HOUR
        assert Alerts(state).due("wine", NOON - HOUR) == Alerts(state).due("beer", later) == []
        assert Alerts(state).due("wine", later) == [new, elsewhere]
        failed = msgspec.structs.replace(new, attempts=1, next_attempt=later + HOUR, last_error="refused")
        sent = msgspec.structs.replace(elsewhere, attempts=1, status="sent", sent=later)
        with state.begin() as tx:
            Alerts(tx).update(failed)
            Alerts(tx).update(sent)
        assert Alerts(state).due("wine", later) == []
        assert Alerts(state).due("wine", later + HOUR) == [failed]
        with state.begin() as tx:
            Alerts(tx).update(msgspec.structs.replace(failed, status="failed"))
        assert Alerts(state).due("wine", later) == [ended]
        assert len(Alerts(state).newest("wine")) == 3
        assert Alerts(state).newest("wine", 1)[0].kind == "ended"
        assert Alerts(state).newest(None, end=NOON + HOUR) == Alerts(state).newest("wine", end=NOON + HOUR)
        assert [one.id for one in Alerts(state).newest("wine", end=NOON + HOUR)] == [new.id]
        assert len(Alerts(state).newest("wine", start=NOON + HOUR)) == 2
        assert Alerts(state).newest("beer") == []

    def test_the_migrations_make_the_tables_that_the_code_knows(self, state, url):
        with state.database.reading() as connection:
            context = MigrationContext.configure(
                connection, opts={"version_table": VERSION_TABLE, "compare_type": True}
            )
            assert compare_metadata(context, metadata) == []

    def test_a_state_goes_down_to_nothing_and_up_again(self, url):
        database = Database(url)
        with database.migrating() as connection:
            migrations.downgrade(connection, "base")
            assert not migrations.at_head(connection)
        database.close()
        with State(url) as state:
            put(state, window())
            assert len(Windows(state).history("wine")) == 1

    @pytest.fixture
    def later(self, tmp_path):
        """The migrations of a Mooring to come."""
        scripts = tmp_path / "migrations"
        shutil.copytree(migrations.HERE, scripts, ignore=shutil.ignore_patterns("__pycache__"))
        head = max(path.name for path in (scripts / "versions").glob("r*.py"))[1:5]
        (scripts / "versions" / "r9999_later.py").write_text(LATER.format(head=head))
        return scripts

    def test_a_state_is_brought_up_from_an_older_revision_and_keeps_its_rows(self, url, later):
        with State(url) as state:
            written = put(state, window(0), window(1))
        database = Database(url)
        with database.migrating() as connection:
            migrations.upgrade(connection, later)
            assert migrations.at_head(connection, later)
            assert connection.scalar(text("SELECT count(*) FROM mooring_windows WHERE note IS NULL")) == 2
            migrations.downgrade(connection, "-1", later)
        database.close()
        with State(url) as state:
            assert [one.window for one in Windows(state).history("wine")] == written

    def test_a_state_of_a_newer_mooring_is_left_alone(self, url, later):
        State(url).close()
        database = Database(url)
        with database.migrating() as connection:
            migrations.upgrade(connection, later)
        database.close()
        with pytest.raises(StateError, match=r"written by a newer Mooring \(its tables are of revision 9999\)"):
            State(url)

    def test_it_shares_a_database_with_mlflow(self, state, url):
        engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32))"))
            connection.execute(text("INSERT INTO alembic_version VALUES ('of-mlflow')"))
        engine.dispose()
        with State(url) as again:
            assert Windows(again).watched() == []
