"""The spool keeps what it was given, in order, whatever ends the writer."""

from __future__ import annotations

import errno
import os
import resource
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.exchange import Exchange, Ledger, decode, encode
from mooring.files import try_lock
from mooring.spool import (
    FRAME,
    MAGIC,
    Account,
    SpoolWriter,
    abandoned,
    keep_account,
    last_ledger,
    live_writers,
    past_ledger,
    read_frames,
    segments,
)


def payloads(spool: Path) -> list[bytes]:
    return [payload for segment in segments(spool) for payload, _ in read_frames(segment.path)]


@given(batches=st.lists(st.lists(st.binary(max_size=200), max_size=5), max_size=8), limit=st.integers(1, 500))
def test_what_is_appended_is_read_in_order_however_it_is_cut_into_segments(tmp_path_factory, batches, limit):
    spool = tmp_path_factory.mktemp("spool")
    writer = SpoolWriter(spool, segment_bytes=limit)
    for batch in batches:
        writer.append(batch)
    assert payloads(spool) == [payload for batch in batches for payload in batch]
    writer.close()
    assert payloads(spool) == [payload for batch in batches for payload in batch]
    assert all(segment.closed for segment in segments(spool))


@given(cut=st.integers(min_value=0))
def test_a_torn_tail_loses_only_the_frames_that_it_tore(tmp_path_factory, cut):
    spool = tmp_path_factory.mktemp("spool")
    frames = [b"one", b"two" * 30, b"", b"three" * 5]
    writer = SpoolWriter(spool)
    writer.append(frames)
    writer.close()
    path = segments(spool)[0].path
    whole = path.read_bytes()
    cut %= len(whole) + 1
    path.write_bytes(whole[:cut])

    ends, end = [], len(MAGIC)
    for frame in frames:
        end += FRAME.size + len(frame)
        ends.append(end)
    survived = [frame for frame, end in zip(frames, ends, strict=True) if end <= cut]
    assert [payload for payload, _ in read_frames(path)] == survived


@given(place=st.integers(min_value=0), bit=st.integers(0, 7))
def test_a_flipped_bit_never_yields_a_frame_that_was_not_written(tmp_path_factory, place, bit):
    spool = tmp_path_factory.mktemp("spool")
    frames = [b"one", b"two" * 30, b"three" * 5]
    writer = SpoolWriter(spool)
    writer.append(frames)
    writer.close()
    path = segments(spool)[0].path
    data = bytearray(path.read_bytes())
    place = len(MAGIC) + place % (len(data) - len(MAGIC))
    data[place] ^= 1 << bit
    path.write_bytes(data)
    read = [payload for payload, _ in read_frames(path)]
    assert read == frames[: len(read)]


def test_reading_goes_on_where_it_stopped(tmp_path):
    writer = SpoolWriter(tmp_path)
    writer.append([b"one"])
    path = segments(tmp_path)[0].path
    [(_, offset)] = read_frames(path)
    writer.append([b"two", b"three"])
    assert [payload for payload, _ in read_frames(path, offset)] == [b"two", b"three"]
    writer.close()


def test_a_living_writer_is_left_alone_and_the_directories_of_dead_ones_go_once_empty(tmp_path):
    writer = SpoolWriter(tmp_path)
    assert live_writers(tmp_path)
    writer.append([b"one"])
    assert live_writers(tmp_path)
    assert not segments(tmp_path)[0].closed
    writer.close()
    assert not live_writers(tmp_path)
    segments(tmp_path)[0].path.unlink()
    assert not live_writers(tmp_path)
    assert not list(tmp_path.iterdir())


def test_writers_do_not_share_a_directory(tmp_path):
    writers = [SpoolWriter(tmp_path) for _ in range(5)]
    assert len({writer.directory for writer in writers}) == 5
    for writer in writers:
        writer.close()


def test_a_lock_is_held_by_one(tmp_path):
    lock = try_lock(tmp_path / "lock")
    assert lock is not None
    assert try_lock(tmp_path / "lock") is None
    lock.release()
    again = try_lock(tmp_path / "lock")
    assert again is not None
    again.release()


def test_what_is_left_is_seen_while_the_drain_looks_at_it_too(tmp_path):
    """Else whoever waits for the drain goes on while the last of the spool is not in the log."""
    writer = SpoolWriter(tmp_path)
    writer.append([b"one"])
    writer.close()
    ended = threading.Event()

    def look() -> None:
        while not ended.is_set():
            assert not live_writers(tmp_path)

    with ThreadPoolExecutor() as threads:
        looking = threads.submit(look)
        try:
            assert all(abandoned(tmp_path) for _ in range(5_000))
        finally:
            ended.set()
        looking.result()


def test_a_write_that_the_disk_cuts_short_is_taken_back(tmp_path):
    writer = SpoolWriter(tmp_path)
    writer.append([b"before"])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(OSError) as refused:
            writer.append([b"x" * 1000])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)
    assert refused.value.errno == errno.EFBIG
    assert os.path.getsize(segments(tmp_path)[0].path) == len(MAGIC) + FRAME.size + len(b"before")
    writer.append([b"after"])
    writer.close()
    assert payloads(tmp_path) == [b"before", b"after"]


def test_a_foreign_file_is_refused_by_name(tmp_path):
    path = tmp_path / "foreign"
    path.write_text("not a segment")
    with pytest.raises(ValueError, match=r"foreign is not a segment"):
        list(read_frames(path))


def test_the_account_of_an_ended_writer_is_found_wherever_the_drain_is(tmp_path):
    writer = SpoolWriter(tmp_path)
    writer.append([encode(Exchange(request_id="a", time_ns=0)), encode(Ledger(seen=2, stored=1, in_flight=1))])
    directory = writer.directory
    writer.abandon()  # as a kill does
    assert last_ledger(directory).seen == 2
    assert not live_writers(tmp_path)  # it closes the segment
    [segment] = segments(tmp_path)
    assert last_ledger(directory).seen == 2
    account = Account()
    for payload, _ in read_frames(segment.path):
        account.add(decode(payload))
    keep_account(segment, account)
    segment.path.unlink()
    assert last_ledger(directory).seen == 2
    live_writers(tmp_path)
    assert not directory.exists()
    assert last_ledger(directory) == Ledger(seen=2, stored=1, dropped={"killed": 1})


def test_the_accounts_of_ended_writers_do_not_grow_without_bound(tmp_path):
    for _ in range(200):
        writer = SpoolWriter(tmp_path)
        writer.append([encode(Ledger(seen=1, stored=1))])
        writer.close()
        for segment in segments(tmp_path):
            account = Account()
            for payload, _ in read_frames(segment.path):
                account.add(decode(payload))
            keep_account(segment, account)
            segment.path.unlink()
        live_writers(tmp_path)
    assert past_ledger(tmp_path).seen == 200
    assert (tmp_path / "ledger.json").stat().st_size < 10_000


def test_a_segment_that_had_just_been_opened_hides_none_of_those_before_it(tmp_path):
    writer = SpoolWriter(tmp_path, segment_bytes=1)
    writer.append([encode(Exchange(request_id="a", time_ns=0)), encode(Ledger(seen=1, stored=1))])
    writer.append([encode(Exchange(request_id="b", time_ns=0)), encode(Ledger(seen=2, stored=2))])
    (writer.directory / "00000003.open").write_bytes(MAGIC)
    writer.abandon()
    assert last_ledger(writer.directory).seen == 2
