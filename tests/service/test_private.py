"""Who may read what Mooring writes, by real processes under an umask that forbids nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from labelled_logs import all_labelled, make
from mooring.exchange import Exchange, encode
from mooring.files import check
from mooring.ids import new_request_id
from mooring.spool import SpoolWriter
from mooring.state.state import State

OTHERS = 0o007
GROUP = 0o070
BODY = b'{"dataframe_split": {"columns": ["a"], "data": [[1.0]]}}'


@pytest.fixture(autouse=True)
def nothing_is_forbidden():
    before = os.umask(0)
    yield
    os.umask(before)


def readable(root: Path, bits: int) -> list[str]:
    """Return what is below a directory, or it itself, and can be reached and used by those of these bits."""
    if not root.stat().st_mode & bits:
        return []
    inside = [name for path in root.iterdir() for name in readable(path, bits)] if root.is_dir() else []
    return [str(root), *inside]


def exact(root: Path) -> set[tuple[str, str]]:
    return {("d" if one.is_dir() else "f", oct(one.stat().st_mode & 0o777)) for one in (root, *root.rglob("*"))}


def drained(directory: Path, *flags: str, form: str = "parquet", keep: bool = False) -> str:
    """Spool exchanges of several kinds, drain them into `log`, and return what the drain says."""
    writer = SpoolWriter(directory / "spool")
    answer = b'{"predictions": [1.0]}'
    writer.append([
        encode(Exchange(request_id=new_request_id(1), time_ns=1, status=200, request=BODY, response=answer)),
        encode(Exchange(request_id="b", time_ns=1, status=400, request=BODY, response=b"{}")),
        encode(Exchange(request_id="c", time_ns=1, status=200, request=b"[", response=b"{}")),
    ])  # fmt: skip
    if keep:
        writer.abandon()
        return ""
    writer.close()
    done = subprocess.run(
        [sys.executable, "-m", "mooring", "drain", "--spool", str(directory / "spool"), "--log",
         str(directory / "log"), "--format", form, *flags],
        cwd=directory, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_what_it_makes_is_for_its_owner_alone_whatever_the_umask(tmp_path, form):
    said = drained(tmp_path, form=form)
    drained(tmp_path, form=form, keep=True)  # a segment, too
    for root in (tmp_path / "spool", tmp_path / "log"):
        assert exact(root) == {("d", "0o700"), ("f", "0o600")}
    assert "every user" not in said


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_a_log_whose_directory_is_open_to_its_group_is_open_to_it_and_to_nobody_else(tmp_path, form):
    (tmp_path / "log").mkdir()
    (tmp_path / "log").chmod(0o2750)
    drained(tmp_path, form=form)
    files = [path for path in (tmp_path / "log").rglob("*") if path.is_file()]
    assert files
    assert {oct(path.stat().st_mode & 0o777) for path in files} == {"0o640"}
    assert all(str(path) in readable(tmp_path / "log", GROUP) for path in files)
    assert readable(tmp_path / "log", OTHERS) == []


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_directories_of_the_users_that_all_can_read_are_told_and_what_is_in_them_is_closed(tmp_path, form):
    drained(tmp_path, form=form)
    drained(tmp_path, form=form, keep=True)
    for root in (tmp_path / "spool", tmp_path / "log"):  # as an earlier version, or a user, left it
        for path in (root, *root.rglob("*")):
            path.chmod(0o777 if path.is_dir() else 0o666)
    (tmp_path / "log" / "notes").mkdir()  # theirs
    said = drained(tmp_path, form=form)
    assert oct((tmp_path / "log" / "notes").stat().st_mode & 0o777) == "0o777"
    (tmp_path / "log" / "notes").rmdir()
    for name in ("spool", "log"):
        assert readable(tmp_path / name, OTHERS) == [str(tmp_path / name)]
        assert f"{tmp_path / name} is a directory that every user" in said


def test_training_data_and_holdout_are_their_owners_alone_where_an_earlier_version_left_them_open_too(tmp_path):
    log = all_labelled(tmp_path)
    make(log, tmp_path / "retrain" / "1")
    assert {one for one in exact(tmp_path / "retrain") if one[0] == "d"} == {("d", "0o700")}
    data = [path for path in (tmp_path / "retrain").rglob("*") if path.suffix in (".parquet", ".json")]
    assert {oct(path.stat().st_mode & 0o777) for path in data} == {"0o600"}
    for path in (tmp_path / "retrain").rglob("*"):
        path.chmod(0o777)
    make(log, tmp_path / "retrain" / "1")
    assert readable(tmp_path / "retrain" / "1", OTHERS) == []


def test_a_directory_of_its_own_is_closed_without_a_word(tmp_path):
    own = tmp_path / ".mooring" / "spool"
    own.mkdir(parents=True)
    assert check(own, "the spool") == ""
    assert readable(own, OTHERS | GROUP) == []
    assert check(tmp_path / "nowhere", "the spool") == ""


def test_the_state_is_its_owners_alone_before_and_after(tmp_path):
    def seen(path: Path) -> set[str]:
        return {oct(one.stat().st_mode & 0o777) for one in path.glob("state.db*")}

    with State(f"sqlite:///{tmp_path}/new/state.db"):
        assert seen(tmp_path / "new") == {"0o600"}
    assert oct((tmp_path / "new").stat().st_mode & 0o777) == "0o700"
    (tmp_path / "new" / "state.db").chmod(0o644)
    with State(f"sqlite:///{tmp_path}/new/state.db"):
        assert seen(tmp_path / "new") == {"0o600"}
    group = tmp_path / "group"
    group.mkdir()
    group.chmod(0o770)
    with State(f"sqlite:///{group}/state.db"):
        assert seen(group) == {"0o660"}
