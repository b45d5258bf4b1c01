"""Settings: one name everywhere, flag over variable over file over default, and errors that say where."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, get_type_hints

import msgspec
import pytest
from click.testing import CliRunner

from mooring.cli import main
from mooring.config import SettingError, _is_duration, resolve
from mooring.settings import COMMANDS, MonitorSettings, ProxySettings, duration_text

DOCS = Path(__file__).parents[2] / "docs" / "settings.md"
UPSTREAM = {"upstream": "http://localhost:5002"}


def test_flag_over_variable_over_model_over_file_over_default():
    yaml = {"port": 1, "log": "top", "host": "::1", "models": {"m": {"log": "model", "host": "::2"}}}
    environ = {"MOORING_HOST": "::3", "MOORING_PORT": "4"}
    resolved = resolve(ProxySettings, {**UPSTREAM, "port": 5, "model": "m"}, environ, yaml)
    assert (resolved.port, resolved.host, resolved.log, resolved.idle_timeout) == (5, "::3", "model", 75.0)


def test_times_are_written_with_their_unit_and_tables_of_thresholds_as_such():
    yaml = {"window": "30m", "threshold": {"psi": 0.2, "alcohol.ks": 0.1}}
    resolved = resolve(MonitorSettings, {"every": "1.5h"}, {"MOORING_GRACE": "90"}, yaml)
    assert (resolved.every, resolved.grace, resolved.window) == (5400.0, 90.0, 1800.0)
    assert resolved.threshold == ("psi=0.2", "alcohol.ks=0.1")


@pytest.mark.parametrize(
    ("flags", "environ", "yaml", "message"),
    [
        ({}, {}, {}, "--upstream is missing. Give it, or set MOORING_UPSTREAM, or upstream in mooring.yaml."),
        ({**UPSTREAM, "port": "x"}, {}, {}, "--port: "),
        (UPSTREAM, {"MOORING_PORT": "70000"}, {}, "MOORING_PORT: "),
        (UPSTREAM, {}, {"port": -1}, "port in mooring.yaml: "),
        ({**UPSTREAM, "model": "m"}, {}, {"models": {"m": {"port": "y"}}}, "port of m in mooring.yaml: "),
        (UPSTREAM, {}, {"prot": 1}, "mooring.yaml has a key that is no setting: prot."),
    ],
)
def test_what_is_wrong_is_said_with_where_it_came_from(flags, environ, yaml, message):
    with pytest.raises(SettingError) as error:
        resolve(ProxySettings, flags, environ, yaml)
    assert error.value.message.startswith(message)


def test_a_wrong_setting_is_one_line_and_exit_code_2(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["proxy", "--upstream", "http://localhost:1", "--port", "many"])
    assert result.exit_code == 2
    assert result.output == "Error: --port: Expected `int`, got `str` (got 'many').\n"


@pytest.mark.parametrize("text", ["port: [", "- 1", "models: [1]"])
def test_a_broken_file_is_one_message_and_exit_code_2(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    Path("mooring.yaml").write_text(text)
    result = CliRunner().invoke(main, ["proxy", "--upstream", "http://localhost:1"])
    assert result.exit_code == 2
    assert "mooring.yaml" in result.output


def test_a_wrong_upstream_is_a_usage_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["proxy", "--upstream", "localhost:5002"])
    assert result.exit_code == 2
    assert "http://localhost:5002" in result.output


def test_every_flag_is_in_the_help_of_its_command_in_both_spellings():
    for name, settings in COMMANDS.items():
        text = CliRunner().invoke(main, [name, "--help"]).output
        for field in settings.__struct_fields__:
            assert re.search(rf"--{field.replace('_', '-')}[ ,]", text)
    assert "log-dir" not in text


def test_the_documentation_has_every_setting_and_no_other():
    documented = {
        match["flag"]: match.groupdict()
        for match in re.finditer(
            r"^\| `--(?P<flag>[a-z-]+)` \| `(?P<variable>\w+)` \| (?P<default>[^|]*) \| (?P<commands>[^|]*) "
            r"\| (?P<text>.*) \|$",
            DOCS.read_text(),
            re.MULTILINE,
        )
    }
    expected = {}
    for command, settings in COMMANDS.items():
        hints = get_type_hints(settings, include_extras=True)
        for field in msgspec.structs.fields(settings):
            flag = field.name.replace("_", "-")
            row = expected.setdefault(flag, {"flag": flag, "variable": f"MOORING_{field.name.upper()}"})
            row["commands"] = ", ".join(filter(None, [row.get("commands"), command]))
            time = _is_duration(hints[field.name])
            row["default"] = f"`{duration_text(field.default)}`" if time else _default(field)
            row["text"] = _description(hints[field.name])
    assert documented == expected


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    if isinstance(field.default, bool):
        return "on" if field.default else "off"
    if isinstance(field.default, tuple):
        return f"`{', '.join(field.default)}`" if field.default else ""
    return "" if field.default is None else f"`{field.default}`"


def _description(hint: object) -> str:
    assert hasattr(hint, "__metadata__"), Annotated
    return next(meta.description for meta in hint.__metadata__ if meta.description)
