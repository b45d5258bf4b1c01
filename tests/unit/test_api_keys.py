"""Keys in a file: which are known, and what happens when the file changes."""

from __future__ import annotations

import os

import pytest

from mooring.capture.proxy.api_keys import ApiKeys


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "keys"
    path.write_text("# the team's\nfirst-key\n\n  second+key/=  \r\n")
    return path


@pytest.fixture
def said(caplog):
    caplog.set_level("INFO", "mooring")
    return caplog


@pytest.fixture
def keys(file):
    return ApiKeys(str(file), "--api-key-file")


def look(keys: ApiKeys, times: int = 3) -> None:
    for _ in range(times):
        keys._watch.look()


@pytest.mark.parametrize(
    "field", [b"Bearer first-key", b"bearer  second+key/= ", b"BEARER first-key\t", b" Bearer first-key"]
)
def test_keys_are_known(keys, field):
    assert keys.known(field)


@pytest.mark.parametrize(
    "field",
    [
        None,
        b"",
        b"Bearer",
        b"Bearer ",
        b"first-key",
        b"Basic first-key",
        b"Bearer first",
        b"Bearer first-key2",
        b"Bearer first-key, Bearer second+key/=",
        b"Bearer # the team's",
        b"Bearer \xff",
    ],
)
def test_others_are_not(keys, field):
    assert not keys.known(field)


def test_keys_that_come_and_go(keys, file, said):
    file.write_text("second+key/=\nthird-key\n")
    look(keys)
    assert keys.known(b"Bearer third-key")
    assert not keys.known(b"Bearer first-key")
    assert said.messages == [f"{file}: changed, and in use from now on"]


def test_a_file_that_is_replaced_by_a_link(keys, file, tmp_path):
    """As Kubernetes does it: the directory of a secret is a link that is turned to another one."""
    for number in range(2):
        directory = tmp_path / str(number)
        directory.mkdir()
        (directory / "keys").write_text(f"key-{number}\n")
    (tmp_path / "now").symlink_to("0")
    linked = ApiKeys(str(tmp_path / "now" / "keys"), "--api-key-file")
    (tmp_path / "next").symlink_to("1")
    os.replace(tmp_path / "next", tmp_path / "now")
    look(linked, 1)
    assert linked.known(b"Bearer key-1")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "can't read"),
        (b"", "no key"),
        (b"# nothing\n", "no key"),
        (b"\xff\xfe", "no text"),
        (b"a b\n", "line 1"),
    ],
)
def test_a_file_that_cant_be_taken_changes_nothing_and_is_said_once(keys, file, said, content, says):
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    look(keys, 1)
    assert said.messages == []  # perhaps somebody is writing it just now
    look(keys)
    assert len(said.messages) == 1
    assert says in said.messages[0]
    assert "stays in use" in said.messages[0]
    assert keys.known(b"Bearer first-key")
    file.write_text("third-key\n")
    look(keys)
    assert keys.known(b"Bearer third-key")
    assert len(said.messages) == 2


@pytest.mark.parametrize("content", [None, "", "# nothing\n", "a key\n", "schlüssel\n"])
def test_a_start_without_keys_is_refused(tmp_path, content):
    path = tmp_path / "keys"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match="--api-key-file: "):
        ApiKeys(str(path), "--api-key-file")


def test_no_message_has_a_key_in_it(tmp_path):
    path = tmp_path / "keys"
    path.write_text("hush hush\n")
    with pytest.raises(ValueError) as raised:
        ApiKeys(str(path), "--api-key-file")
    assert "hush" not in str(raised.value)
