"""Messages: what stderr shows of them, as text and as JSON, how often, and where nothing is set up."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
from click.testing import CliRunner

from mooring import messages
from mooring.cli import main

logger = logging.getLogger("mooring.part")


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    root = logging.getLogger("mooring")
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    root.setLevel(logging.NOTSET)
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(messages.time, "monotonic", lambda: now[0])
    return now


def test_text_is_the_program_and_the_message(capsys):
    messages.set_up()
    logger.info("%s of %s", 1, 2)
    logger.debug("not shown")
    messages.set_up(level="warning", program="mooring drain")
    logger.info("not shown")
    logger.warning("100%")
    assert capsys.readouterr().err == "mooring: 1 of 2\nmooring drain: 100%\n"


def test_at_level_debug_text_says_when_and_how_bad(capsys):
    messages.set_up(level="debug")
    logger.debug("here")
    shown = capsys.readouterr().err
    assert shown.startswith("mooring 20")
    assert shown.endswith("+00:00 DEBUG mooring.part: here\n")


@pytest.mark.parametrize(
    "text",
    ["plain", 'a "quoted"\nline', "ünïcode \u2028", "\udcff of a file's name", "{}%"],
    ids=["plain", "quotes", "unicode", "surrogate", "percent"],
)
def test_json_is_an_object_a_line_whatever_the_message_has(capsys, monkeypatch, text):
    monkeypatch.setattr(logging.getLogger("mooring"), "propagate", False)  # pytest's own report takes no surrogate
    messages.set_up(format="json", program="mooring monitor")
    logger.error("%s", text)
    try:
        raise ValueError(text)
    except ValueError:
        logger.exception("failed")
    first, second = map(json.loads, capsys.readouterr().err.split("\n")[:-1])
    assert first["message"] == text
    assert (first["level"], first["program"], first["logger"]) == ("error", "mooring monitor", "mooring.part")
    assert first["time"].endswith("+00:00")
    assert "ValueError" in second["exception"]


def test_what_repeats_itself_is_shown_once_in_a_while_and_says_how_often_it_was_not(capsys, clock):
    messages.set_up()
    for count in range(5):
        logger.warning("can't write: %s", count, extra={"every": 10.0})
        logger.warning("another", extra={"every": 10.0})
        logger.warning("as it comes")
    clock[0] += 10.0
    logger.warning("can't write: %s", 5, extra={"every": 10.0})
    lines = capsys.readouterr().err.splitlines()
    assert lines.count("mooring: as it comes") == 5
    assert [line for line in lines if "as it" not in line] == [
        "mooring: can't write: 0",
        "mooring: another",
        "mooring: can't write: 5 (4 more like this since the last)",
    ]


def test_what_is_about_different_things_is_shown_of_each(capsys, clock):
    messages.set_up(format="json")
    for model in ("a", "b", "a"):
        logger.warning("no baseline", extra={"every": 60.0, "about": model})
    clock[0] += 60.0
    logger.warning("no baseline", extra={"every": 60.0, "about": "a"})
    shown = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [one.get("suppressed", 0) for one in shown] == [0, 0, 1]


def test_a_logger_and_a_handler_that_both_limit_do_it_once(capsys, clock):
    limited = logging.getLogger("mooring.limited")
    limited.addFilter(messages.REPEATS)
    messages.set_up()
    for _ in range(3):
        limited.warning("again", extra={"every": 5.0})
        clock[0] += 5.0
    assert capsys.readouterr().err == "mooring: again\n" * 3


def test_what_is_remembered_of_repeats_is_bounded():
    repeats = messages.Repeats()
    for count in range(5000):
        record = logging.makeLogRecord({"name": "mooring", "msg": f"{count}", "every": 60.0})
        assert repeats.filter(record)
    assert len(repeats._shown) == messages._MOST


def test_in_a_users_process_warnings_are_shown_and_nothing_else(capsys, monkeypatch):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's own
    messages.last_resort()
    messages.last_resort()
    logger.info("not shown")
    logger.warning("not stored: %s exchanges", 3)
    logging.getLogger("users").info("nothing of Mooring's")
    assert capsys.readouterr().err == "mooring: not stored: 3 exchanges\n"
    assert logging.getLogger().handlers == []


def test_where_a_user_has_set_up_logging_that_alone_shows_messages(capsys, caplog):
    messages.last_resort()
    logger.warning("here")
    assert caplog.messages == ["here"]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("stream", [None, "closed", "full"])
def test_a_stderr_that_takes_nothing_stops_nobody(monkeypatch, tmp_path, stream):
    messages.set_up()
    if stream is None:
        monkeypatch.setattr("sys.stderr", None)
    else:
        taken = open("/dev/full" if stream == "full" else tmp_path / "file", "w")  # noqa: SIM115
        if stream == "closed":
            taken.close()
        monkeypatch.setattr("sys.stderr", taken)
    logger.warning("somebody hears it or not")


@pytest.mark.parametrize(
    ("given", "environ", "yaml"),
    [
        (["--message-format", "json", "--message-level", "error"], {"MOORING_MESSAGE_FORMAT": "text"}, ""),
        ([], {"MOORING_MESSAGE_FORMAT": "json", "MOORING_MESSAGE_LEVEL": "error"}, "message_level: debug"),
        ([], {}, "message_format: json\nmessage_level: error\n"),
    ],
)
def test_flag_variable_and_file_say_what_is_shown(tmp_path, monkeypatch, capsys, given, environ, yaml):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mooring.yaml").write_text(yaml)
    CliRunner().invoke(main, ["proxy", "--upstream", "none", *given], env=environ)
    logger.warning("not shown")
    logger.error("shown")
    assert json.loads(capsys.readouterr().err)["message"] == "shown"
