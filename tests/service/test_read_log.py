"""The log in S3, and the documentation's examples of reading one."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mooring
from mooring.log.reader import LogWarning
from mooring.log.store import StoreError
from s3 import S3, s3_server
from written_logs import DAY, DOCS, NOON, ROWS, days, in_order, log_of_days, write

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f-]{21}")


@pytest.fixture
def log(tmp_path) -> Path:
    return log_of_days(tmp_path)


@pytest.fixture(scope="module")
def s3(tmp_path_factory) -> Iterator[S3]:
    with s3_server(tmp_path_factory.mktemp("s3")) as store:
        yield store


def test_a_log_in_s3_is_read_like_one_on_disk(s3, tmp_path, monkeypatch):
    for name, value in s3.env().items():
        monkeypatch.setenv(name, value)
    uri = "s3://logs/some/log"
    segments = [[*days(3)[day], *days(3, model="größe/2 %")[day]] for day in range(3)]
    write(uri, tmp_path / "spool", *segments)
    assert in_order(mooring.read_log(uri, model="wine", flat=True), "prediction") == ROWS
    assert in_order(mooring.read_log(uri, model="größe/2 %", flat=True), "prediction") == ROWS
    part = mooring.read_log(uri, model="wine", start=NOON + DAY, end=NOON + 2 * DAY, columns=["output.prediction"])
    assert part["output.prediction"].to_pylist() == [10.0, 11.0]

    s3.client.put_object(Bucket="logs", Key="some/log/inferences/model=wine/date=2026-03-02/x.parquet", Body=b"x")
    with pytest.warns(LogWarning, match=r"inferences/model=wine/date=2026-03-02/x\.parquet is left out"):
        assert mooring.read_log(uri, model="wine").num_rows == 6
    s3.client.delete_object(Bucket="logs", Key="some/log/inferences/model=wine/date=2026-03-02/x.parquet")

    # A process of its own, since Arrow's threads must not outlive it.
    sql = "SELECT sum(prediction) AS total, count(DISTINCT time) AS n FROM flat JOIN payloads USING (time)"
    command = [sys.executable, "-m", "mooring", "log", "query", sql, "--log", uri, "--model", "wine", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, json.loads(done.stdout)) == (0, {"total": 63.0, "n": 3})

    with pytest.raises(StoreError, match="no bucket"):
        mooring.read_log("s3://nowhere/log")
    s3.switch.off()
    with pytest.raises(StoreError, match="can't be reached"):
        mooring.read_log(uri, model="wine")
    s3.switch.on()


def test_the_examples_of_reading_run_and_print_what_they_say(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    names: dict[str, Any] = {}
    blocks = re.findall(r"```(\w*)\n(.*?)```", (DOCS / "reading.md").read_text(), re.DOTALL)
    ran = 0
    for place, (language, code) in enumerate(blocks):
        if language == "python":
            exec(code, names)
            output = capsys.readouterr().out
        elif language == "sh":
            command = f'PATH="{Path(sys.executable).parent}:$PATH"\nset -e\n{code}'
            output = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True).stdout
        else:
            continue
        ran += 1
        following = blocks[place + 1] if place + 1 < len(blocks) else ("sh", "")
        if following[0] == "text":
            assert _blurred(output) == _blurred(following[1])
    assert ran >= 5


def _blurred(text: str) -> str:
    """Return a text without what differs every time: ids, times, sizes, and how a table is padded."""
    text = re.sub(r"\d{4}-\d{2}-\d{2}([T ][\d:.]+Z?)?|\d{2}:\d{2}", "TIME", UUID.sub("ID", text))
    return re.sub(r"─+|\s+", " ", re.sub(r"0\.\d\d\b", "SIZE", text)).strip()
