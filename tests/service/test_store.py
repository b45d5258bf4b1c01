"""The log in S3: over the real protocol, with credentials that are checked, in good times and in bad."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from peers import OK, Proxy, answering, post, proxy, upstream
from s3 import S3, s3_server
from waiting import PATIENCE, wait_for

FAST = ("--segment-seconds", "0.3")


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    with s3_server(tmp_path_factory.mktemp("s3")) as store:
        yield store


@pytest.fixture
def start(s3, tmp_path):
    """Return a function that starts a proxy which logs into the store."""
    s3.switch.off()
    s3.switch.on()

    with upstream(answering(OK)) as server:

        def started(uri: str, *flags: str, **settings):
            return proxy(
                tmp_path,
                server.url,
                *FAST,
                "--log",
                uri,
                *flags,
                log_format="parquet",
                env=settings.get("env", s3.env()),
            )

        yield started


def send(running: Proxy, count: int) -> list[str]:
    answers = [running.exchange(post()) for _ in range(count)]
    assert {answer.line for answer in answers} == {"HTTP/1.1 200 OK"}
    return [answer.all("X-Request-Id")[0] for answer in answers]


def wait_for_rows(s3: S3, uri: str, ids: list[str], running: Proxy) -> None:
    """Return once these exchanges, and no others, are in the log, each once."""
    wait_for(lambda: len(s3.ids(uri)) >= len(ids), f"{len(s3.ids(uri))} of {len(ids)} arrived: {running.stderr}")
    assert sorted(s3.ids(uri)) == sorted(ids)
    assert sorted(s3.ids(uri, "inferences")) == sorted(ids)


def wait_for_words(running: Proxy, words: str) -> None:
    wait_for(lambda: re.search(words, running.stderr) is not None, f"{words!r} is not in {running.stderr!r}")


def stopped(running: Proxy) -> str:
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(PATIENCE) == 0
    return running.stderr


def spool(directory: Path) -> Path:
    return directory / ".mooring" / "spool"


def drain(directory: Path, uri: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mooring", "drain", "--log", uri, "--drain-timeout", "1"]
    return subprocess.run(
        ["env", *(f"{name}={value}" for name, value in env.items()), *command],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def writers_left(directory: Path) -> list[Path]:
    return [path for path in spool(directory).iterdir() if (path / "lock").exists()]


def test_what_is_asked_and_answered_arrives(s3, start, tmp_path):
    with start("s3://logs/arrives", "--model", "wine") as running:
        ids = send(running, 20)
        wait_for_rows(s3, "s3://logs/arrives", ids, running)
        ids += send(running, 5)
        assert "20 exchanges" not in stopped(running)
    wait_for_rows(s3, "s3://logs/arrives", ids, running)
    assert "25 exchanges seen, 25 stored" in running.stderr
    assert not writers_left(tmp_path)
    kinds = {re.sub(r"/date=.*", "", name) for name in s3.objects("s3://logs/arrives")}
    assert kinds == {"payloads/model=wine", "inferences/model=wine", "schemas/model=wine/000001.json"}


def test_wrong_credentials_are_called_so_and_nothing_is_lost(s3, start, tmp_path):
    uri = "s3://logs/refused"
    with start(uri, "--drain-timeout", "1", env=s3.env(secret="wrong")) as running:
        ids = send(running, 10)
        wait_for_words(
            running, rf"the log refuses: {uri} refuses these credentials: check them in the environment"
        )
        wait_for_words(running, r"Nothing is lost: it stays in .*spool")
        assert running.stats()["ledger"]["stored"] == 10
        assert "did not take everything in time; the rest stays in .mooring/spool" in stopped(running)
    assert s3.ids(uri) == []
    wait_for(lambda: "drain.lock" not in open_files(spool(tmp_path)), "the drain did not give up")
    assert drain(tmp_path, uri, s3.env(secret="wrong")).returncode == 1
    mended = drain(tmp_path, uri, s3.env())
    assert (mended.returncode, mended.stderr) == (0, "")
    wait_for_rows(s3, uri, ids, running)
    assert not writers_left(tmp_path)


def open_files(directory: Path) -> set[str]:
    """Return the files of a directory that a process has open."""
    found = set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            target = link.readlink()
        except OSError:
            continue
        if target.parent == directory:
            found.add(target.name)
    return found


def test_a_bucket_that_is_missing_may_be_made_later(s3, start):
    uri = "s3://made-later/log"
    with start(uri) as running:
        ids = send(running, 10)
        wait_for_words(running, f"the log refuses: there is no bucket for {uri}: make it, or name another")
        s3.client.create_bucket(Bucket="made-later")
        wait_for_rows(s3, uri, ids, running)
        wait_for_words(running, "the log takes exchanges again")


def test_a_put_whose_answer_is_lost_and_an_outage_under_load(s3, start):
    uri = "s3://logs/outage"
    s3.switch.cut_at = b"PUT /logs/outage/inferences"
    with start(uri) as running:
        ids: list[str] = []
        stop = threading.Event()

        def load() -> None:
            while not stop.is_set():
                ids.extend(send(running, 1))

        loading = threading.Thread(target=load)
        loading.start()
        wait_for_words(running, f"the log refuses: {uri} can't be reached: check the network, and the endpoint")
        assert [name for name in s3.objects(uri) if name.startswith("inferences")]  # it was done, unheard
        assert s3.ids(uri) == []
        s3.switch.on()
        wait_for_words(running, "the log takes exchanges again")
        stop.set()
        loading.join()
        assert running.stats()["ledger"] | {"balance": 0, "stored": len(ids)} == running.stats()["ledger"]
        stopped(running)
    wait_for_rows(s3, uri, ids, running)


def test_it_starts_without_the_store_and_a_segment_drained_twice_changes_nothing(s3, start, tmp_path):
    uri = "s3://logs/twice"
    s3.switch.off()
    with start(uri, "--drain-timeout", "0.5") as running:
        ids = send(running, 10)
        wait_for_words(running, "can't be reached")
        stopped(running)
    wait_for(lambda: "drain.lock" not in open_files(spool(tmp_path)), "the drain did not give up")
    s3.switch.on()
    [writer] = writers_left(tmp_path)
    assert list(writer.glob("*.segment"))
    shutil.copytree(writer, tmp_path / "copy")
    assert drain(tmp_path, uri, s3.env()).returncode == 0
    before = s3.objects(uri)
    ledger = (spool(tmp_path) / "ledger.json").read_bytes()
    wait_for_rows(s3, uri, ids, running)
    writer.mkdir()
    for path in (tmp_path / "copy").glob("*.segment"):
        shutil.copy(path, writer)
    assert drain(tmp_path, uri, s3.env()).returncode == 0
    assert s3.objects(uri) == before
    assert not list(writer.glob("*.segment"))
    assert (spool(tmp_path) / "ledger.json").read_bytes() == ledger


def test_an_outage_that_the_spool_cannot_hold_is_counted_and_no_client_sees_it(s3, start):
    uri = "s3://logs/full"
    s3.switch.off()
    with start(uri, "--spool-max-bytes", "8000") as running:
        ids = send(running, 60)
        wait_for(lambda: running.admin("/readyz")[0] == 503, "it is ready though the spool is full")
        ids += send(running, 20)
        ledger = running.stats()["ledger"]
        lost = ledger["dropped"]["spool_full"]
        assert (ledger["seen"], ledger["balance"], ledger["in_flight"]) == (80, 0, 0)
        assert lost >= 20
        assert ledger["stored"] == 80 - lost
        wait_for_words(running, r"not stored: \d+ exchanges so far \(spool_full: .* holds --spool-max-bytes")
        s3.switch.on()
        wait_for(lambda: running.admin("/readyz")[0] == 200, f"it does not recover: {running.stderr}")
        ids += send(running, 10)
        stopped(running)
    logged = s3.ids(uri)
    assert len(logged) == len(set(logged)) == 90 - lost
    assert set(logged) <= set(ids)
    assert set(ids[-10:]) <= set(logged)
    assert (
        f"90 exchanges seen, {90 - lost} stored, 0 of them failed, {lost} dropped (spool_full)" in running.stderr
    )
