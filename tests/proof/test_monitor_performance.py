"""The monitor killed while it joins labels to rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from labelling import Labelling
from mooring.state.assessments import Assessment, Assessments


def test_a_monitor_that_is_killed_leaves_the_same_rows_each_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = Labelling(tmp_path)
    for hour in range(4):
        it.ask(100, hour=hour)
    rows = it.rows()
    it.label(rows.iloc[:400])

    whole = Labelling(tmp_path, state=f"sqlite:///{tmp_path}/whole.db")
    whole.monitoring.keep(it.baseline)
    wanted = whole.look()

    from mooring.monitor import performance_monitor

    monkeypatch.setattr(performance_monitor, "_AT_ONCE", 1)
    monkeypatch.setattr(performance_monitor, "_BATCH_ROWS", 100)
    done = Assessments.put
    for survived in range(4):
        count = iter(range(100))

        def put(kept: Assessments, one: Assessment, count=count, survived=survived) -> None:
            if next(count) == survived:
                raise KeyboardInterrupt
            done(kept, one)

        monkeypatch.setattr(Assessments, "put", put)
        with pytest.raises(KeyboardInterrupt):
            it.again().watch.look()
    monkeypatch.setattr(Assessments, "put", done)
    it.again().watch.look()

    def told(one: Assessment) -> tuple:
        return one.id, one.look, one.status, one.labelled, one.chance, one.measures

    assert [told(one) for one in it.found()] == [told(one) for one in wanted]
    assert len(wanted) == 4
    it.again().watch.look()
    assert [told(one) for one in it.found()] == [told(one) for one in wanted]
