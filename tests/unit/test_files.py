"""Files are written whole or not at all, closed to others, and locked where several processes write them."""

from __future__ import annotations

import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mooring.files import create, locked, replace, try_lock, writing


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


@pytest.mark.parametrize("before", [None, b"as it was"])
@pytest.mark.parametrize("error", [OSError, ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("durable", [True, False])
def test_what_fails_meanwhile_leaves_all_as_it_was(tmp_path, before, error, durable):
    path = tmp_path / "file"
    if before is not None:
        path.write_bytes(before)
    with pytest.raises(error), writing(path, durable=durable) as file:  # noqa: PT012
        file.write(b"half of ")
        raise error
    assert names(tmp_path) == ({"file"} if before is not None else set())
    assert before is None or path.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"short", bytes(3 * 2**20)])
@pytest.mark.parametrize("durable", [True, False])
def test_a_file_is_replaced_as_a_whole(tmp_path, content, durable):
    path = tmp_path / "file"
    for each in (b"before", content):
        replace(path, each, durable=durable)
    assert path.read_bytes() == content
    assert names(tmp_path) == {"file"}


@pytest.mark.parametrize(
    ("directory", "given", "mode"),
    [
        (0o700, {}, 0o600),
        (0o755, {}, 0o600),
        (0o750, {"root": True}, 0o640),
        (0o770, {"root": True}, 0o660),
        (0o755, {"root": True}, 0o600),
        (0o755, {"private": False}, 0o644),
    ],
)
def test_who_may_read_it(tmp_path, directory, given, mode):
    root = tmp_path / "root"
    root.mkdir()
    root.chmod(directory)
    before = os.umask(0o022)
    try:
        replace(root / "file", b"text", **{"root": root} if "root" in given else given)
    finally:
        os.umask(before)
    assert stat.S_IMODE((root / "file").stat().st_mode) == mode


def test_one_of_many_makes_a_file_and_all_find_it_whole(tmp_path):
    path = tmp_path / "a" / "b" / "file"
    contents = [str(count).encode() * 1000 for count in range(8)]
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda content: create(path, content, tmp_path), contents))
    assert made.count(True) == 1
    assert path.read_bytes() == contents[made.index(True)]
    assert names(path.parent) == {"file"}


def test_a_lock_that_is_waited_for_is_had_once_it_is_free(tmp_path):
    path, order = tmp_path / "lock", []
    held = try_lock(path)
    assert held is not None
    assert try_lock(path) is None
    assert try_lock(path, shared=True) is None

    def wait() -> None:
        with locked(path):
            order.append("waited")

    waiting = threading.Thread(target=wait)
    waiting.start()
    order.append("released")
    held.release()
    waiting.join()
    assert order == ["released", "waited"]
    again = try_lock(path)
    assert again is not None
    again.release()


def test_one_that_is_shared_makes_no_file_and_stops_only_those_that_are_not(tmp_path):
    path = tmp_path / "lock"
    assert try_lock(path, shared=True) is None
    assert names(tmp_path) == set()
    path.touch()
    looks = [try_lock(path, shared=True) for _ in range(3)]
    assert None not in looks
    assert try_lock(path) is None
    for look in looks:
        look.release()
    last = try_lock(path)
    assert last is not None
    last.release()
