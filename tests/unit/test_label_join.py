"""The one join of labels: its rules, and that all who count labels count the same ones."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from labelled_logs import HOUR, holdout, make, training
from monitoring import START, Traffic
from mooring.exchange import Exchange
from mooring.ids import new_request_id
from mooring.log import listing, reader
from mooring.log.add_labels import add_tables
from mooring.log.label_days import label_days
from mooring.log.label_join import LabelIndex, dependent
from mooring.log.labels import labels_table, list_label_objects, write_labels
from mooring.monitor.joining import LabelSource, LoggedRows

IDS = ["a", "b", "c", "d"]
GIVEN = st.tuples(
    st.sampled_from(IDS), st.integers(0, 1), st.sampled_from([1.0, 2.0, "1", "x"]), st.integers(1, 3)
)
ASKED = st.tuples(st.sampled_from(IDS[:3]), st.sampled_from([None, *IDS]), st.integers(0, 1))


def table(labels: list[tuple[str, int, Any, int]]) -> pa.Table:
    parts = [
        labels_table(
            *(pa.chunked_array([[value]]) for value in (id_, value, row)), pa.chunked_array([[moment(at)]])
        )
        for id_, row, value, at in labels
    ]
    return pa.concat_tables(parts) if parts else labels_table(*[pa.chunked_array([pa.array([], pa.string())])] * 2)


def moment(at: int) -> datetime:
    return datetime(2026, 3, 1, tzinfo=UTC) + timedelta(hours=at)


def rows_of(asked: list[tuple[str, str | None, int]]) -> pa.Table:
    names = ("request_id", "client_request_id", "row")
    kinds = (pa.string(), pa.string(), pa.int32())
    return pa.table({name: pa.array([one[at] for one in asked], kinds[at]) for at, name in enumerate(names)})


def joined(labels: pa.Table, rows: pa.Table) -> dict[int, tuple[Any, Any, datetime]]:
    """Return of each labelled row its label, as the log has it, and when that became known."""
    index = LabelIndex(labels)
    found = index.join(rows)
    assert (np.diff(found.rows) > 0).all()
    chosen = index.table.take(pa.array(found.labels)).to_pylist()
    return {
        int(row): (one["label"], one["label_text"], one["time"])
        for row, one in zip(found.rows, chosen, strict=True)
    }


def by_hand(labels: list[tuple[str, int, Any, int]], asked: tuple[str, str | None, int]) -> Any:
    """Return the label of a row by the documented rules: the latest, ours before the client's, the greatest."""
    ours, theirs, row = asked

    def order(one: tuple[str, int, Any, int]) -> tuple[Any, ...]:
        id_, _, value, at = one
        number = float(value) if value != "x" else np.inf  # what has no number sorts behind those that have
        return at, id_ == ours, number, not isinstance(value, str), str(value)

    mine = [one for one in labels if one[0] in (ours, theirs) and one[1] == row]
    return max(mine, key=order)[2:] if mine else None


@given(st.lists(GIVEN, max_size=8), st.lists(ASKED, max_size=6), st.randoms(use_true_random=False))
def test_a_row_s_label_depends_on_no_order_and_on_no_other_row(labels, asked, random) -> None:
    whole = joined(table(labels), rows_of(asked))
    expected = {at: by_hand(labels, one) for at, one in enumerate(asked)}
    assert {at: moment(one[1]) for at, one in expected.items() if one} == {at: one[2] for at, one in whole.items()}
    for at, (number, text, _) in whole.items():
        assert (number if text is None else text) == expected[at][0]
    shuffled = random.sample(labels, len(labels))
    assert joined(table(shuffled), rows_of(asked)) == whole
    # In parts, and alone: none of the others changes what a row has.
    for at, one in enumerate(asked):
        assert list(joined(table(shuffled), rows_of([one])).values()) == ([whole[at]] if at in whole else [])


@given(st.lists(GIVEN, max_size=8), st.lists(ASKED, max_size=6))
def test_a_label_that_a_row_has_names_that_row(labels, asked) -> None:
    index, rows = LabelIndex(table(labels)), rows_of(asked)
    named = set(np.flatnonzero(index.naming(rows)).tolist())
    assert set(index.join(rows).labels.tolist()) <= named
    keys = {(id_, row) for ours, theirs, row in asked for id_ in (ours, theirs)}
    there = index.table.select(["request_id", "row"]).to_pylist()
    assert {(there[at]["request_id"], there[at]["row"]) for at in named} == keys & {one[:2] for one in labels}


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=12))
def test_rows_that_share_a_request_or_a_label_are_of_one_group(pairs) -> None:
    requests, labels = (np.array([one[at] for one in pairs], np.int64) for at in range(2))
    found = dependent(requests, labels).tolist()
    for one, other in product(range(len(pairs)), repeat=2):
        if pairs[one][0] == pairs[other][0] or pairs[one][1] == pairs[other][1]:
            assert found[one] == found[other]
    # No fewer groups than that takes.
    groups = [{("request", a), ("label", b)} for a, b in pairs]
    for one in list(groups):
        touching = [other for other in groups if other & one]
        groups = [other for other in groups if not other & one] + [set().union(*touching)]
    assert len(set(found)) == len(groups)
    assert sorted(set(found)) == list(range(len(set(found))))


def tangled() -> tuple[list[Exchange], list[tuple[str, int, float, int]]]:
    """Return requests with ids of every kind, and labels that name them in every way."""
    asked = [(f"order-{at}", 1 + at % 3) for at in range(24)]
    asked += [("order-3", 1), ("order-3", 2), (None, 3), (None, 1), ("constant", 1), ("constant", 2)]
    made = START - timedelta(days=2)  # an order is older than the request for it
    theirs = new_request_id(int(made.timestamp() * 1e9))
    asked += [(theirs, 1)]
    sent = []
    for at, (client, count) in enumerate(asked):
        body = {"dataframe_split": {"columns": ["alcohol"], "data": [[float(at)]] * count}}
        sent.append(
            Exchange(
                request_id=new_request_id(int((START + timedelta(minutes=at)).timestamp() * 1e9)),
                client_request_id=client,
                time_ns=int((START + timedelta(minutes=at)).timestamp() * 1e9),
                model="wine",
                request=msgspec.json.encode(body),
                response=msgspec.json.encode({"predictions": [float(at)] * count}),
            )
        )
    labels = [(f"order-{at}", row, 10.0 * at + row, 3) for at in range(20) for row in range(2)]
    labels += [(sent[at].request_id, 0, -1.0 * at, 2 + at % 3) for at in range(0, 24, 2)]
    labels += [
        ("constant", 1, 5.0, 3),
        (theirs, 0, 6.0, 3),
        ("nobody", 0, 7.0, 3),
        (sent[26].request_id, 2, 8.0, 1),
    ]
    return sent, labels


def test_performance_retraining_and_counts_have_the_same_labels(tmp_path: Path) -> None:
    sent, labels = tangled()
    traffic = Traffic(tmp_path / "log")
    for begin in range(0, len(sent), 7):  # in several objects
        traffic.write(sent[begin : begin + 7])
    log = str(traffic.log)
    asked = [
        (one.request_id, one.client_request_id, row)
        for one in sent
        for row in range(len(msgspec.json.decode(one.request)["dataframe_split"]["data"]))
    ]
    expected = {(one[0], one[2]): found[0] for one in asked if (found := by_hand(labels, one)) is not None}
    assert len(expected) > 40
    for one in labels[::-1]:  # an object each
        write_labels(log, "wine", table([(one[0], one[1], one[2], 100 + one[3])]))

    found = reader.find(log, model="wine")
    rows = LoggedRows.read(found, ())
    opened = listing.open_log(log)
    listed = list_label_objects(opened, log, "wine")
    for size in (0, 10**9):  # labels read at once, and again for the rows
        big = [one._replace(size=size) for one in listed]
        labelled = LabelSource(log, "wine", START - 365 * 24 * HOUR, big).of(rows)
        keys = rows.table.take(pa.array(labelled.places)).select(["\0request_id", "\0row"]).to_pylist()
        performance = dict(zip([tuple(one.values()) for one in keys], labelled.labels.to_pylist(), strict=True))
        assert performance == expected

    manifest = make(traffic.log, tmp_path / "data", holdout=0.1)
    assert (manifest.labelled, manifest.unlabelled) == (len(expected), len(asked) - len(expected))
    trained, held = training(manifest), holdout(manifest)
    used = sorted(zip(*(trained[name].to_pylist() for name in ("alcohol", "quality")), strict=True))
    used += zip(*(held[name].to_pylist() for name in ("alcohol", "quality")), strict=True)
    places = {one.request_id: float(at) for at, one in enumerate(sent)}
    assert sorted(used) == sorted((places[id_], value) for (id_, _), value in expected.items())
    # Rows that share a label are on one side.
    again = {places[ours] for ours, client, row in asked if client == "order-3" and (ours, row) in expected}
    held_out = set(held["alcohol"].to_pylist())
    assert len(again) == 3
    assert again <= held_out or not again & held_out

    [day] = label_days(log, "wine", START - timedelta(days=1))
    assert (day.rows, day.labelled) == (len(asked), len(expected))

    keys = {(id_, row) for ours, theirs, row in asked for id_ in (ours, theirs)}
    strangers = [one for one in labels if one[:2] not in keys]
    columns = (pa.chunked_array([[one[at] for one in labels]]) for at in (0, 2, 1))
    [added] = add_tables(log, "wine", [labels_table(*columns)], timedelta(days=36_500))
    assert added.unknown == len(strangers) > 0
