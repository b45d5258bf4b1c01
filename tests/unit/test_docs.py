"""The documentation says what the code does: metrics, reasons, codes, files for deployment."""

from __future__ import annotations

import json
import os
import re
import textwrap
from datetime import UTC, datetime
from pathlib import Path
from typing import get_type_hints

import click
import msgspec
import pytest
import yaml

from mooring.capture import pyfunc
from mooring.capture.admin.metrics import metrics
from mooring.capture.proxy.stats import Stats
from mooring.cli import main
from mooring.exchange import Ledger
from mooring.log.parquet import fit
from mooring.monitor.alerts import payload
from mooring.monitor.judging import MEASURES
from mooring.serving.front import metrics as server_metrics
from mooring.serving.messages import Route, Server
from mooring.settings import COMMANDS, CaptureSettings
from mooring.state.verdicts import Finding, Verdict
from mooring.state.windows import Window
from told_metrics import told_metrics

ROOT = Path(__file__).parents[2]
MONITOR = (ROOT / "docs" / "monitor.md").read_text()
OPERATE = (ROOT / "docs" / "operate.md").read_text()
SOURCES = "\n".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))


def test_every_metric_is_documented_and_no_other():
    ledger = Ledger(dropped={"disk_full": 1}, errors={"truncated": 1})
    names = set()
    served = server_metrics({"3": Server(1, 1)}, [Route("3", "champion")])
    for family in (*metrics(Stats(), ledger, 0), *served):
        names.add(family.name + ("_total" if family.type == "counter" else ""))
    assert set(re.findall(r"`(mooring_\w+)(?:\{[\w,]+\})?`", OPERATE)) == names


def test_every_metric_of_the_monitor_is_documented_with_its_labels_and_no_other():
    found = set()
    for family in told_metrics().collect():
        [sample] = [one for one in family.samples if not one.name.endswith("_created")]
        found.add(f"{sample.name}{{{','.join(sample.labels)}}}")
    assert set(re.findall(r"^\| `(mooring_\w+\{[\w,]+\})`", MONITOR, re.MULTILINE)) == found


def test_every_field_of_an_alert_is_documented_and_no_other():
    at = datetime(2026, 3, 1, tzinfo=UTC)
    window = Window(model="wine", version="3", start=at, end=at)
    finding = Finding(feature="alcohol", measure="ks", value=0.1)
    verdict = Verdict(window_id=window.id, status="warning", summary=(finding,), created=at)
    sent = json.loads(msgspec.json.encode(payload("new", window, verdict, channel="x", now=at)))
    example = json.loads(re.search(r"```json\n(.*?)```", MONITOR, re.DOTALL)[1])
    assert list(example) == list(sent)
    assert list(example["window"]) == list(sent["window"])
    assert list(example["features"][0]) == list(sent["features"][0])
    table = re.search(r"\| field \| what it is \|\n\|[-|]+\|\n((?:\|.*\n)+)", MONITOR)[1]
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", table, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set(sent)


def test_every_measure_is_documented_and_no_other():
    table = re.search(r"\| measure \| what it is \| of \|\n\|[-|]+\|\n((?:\|.*\n)+)", MONITOR)[1]
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", table, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set(MEASURES)


def test_the_settings_of_a_model_that_logs_are_documented_and_no_other(monkeypatch):
    settings = (ROOT / "docs" / "settings.md").read_text()
    rows = re.findall(r"^\| `(MLFLOW_\w+)` \| ([^|]+) \| ([^|]+) \|$", settings, re.MULTILINE)
    read = set(re.findall(r"MLFLOW_MONITORING_[A-Z]+", SOURCES))
    assert {name for name, *_ in rows} == read
    for name in read:
        monkeypatch.delenv(name, raising=False)
    assert "MOORING_LOG" not in os.environ
    (_, directory, about), (_, form, about_form) = sorted(rows)
    hints = get_type_hints(CaptureSettings, include_extras=True)
    assert (about, about_form) == tuple(hints[name].__metadata__[0].description for name in ("log", "format"))
    found = pyfunc._settings()
    assert (f"`{found.log}`", f"`{found.format}` in a directory, else `parquet`") == (directory, form)
    monkeypatch.setenv("MLFLOW_MONITORING_DIR", "s3://bucket/log")
    monkeypatch.setenv("MOORING_LOG", "elsewhere")
    monkeypatch.setenv("MOORING_SAMPLE", "0.5")
    found = pyfunc._settings()
    assert (found.log, found.format, found.sample) == ("s3://bucket/log", "parquet", 0.5)


PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "examples/wine/README.md")),
    *(ROOT / "docs").glob("*.md"),
]
ENDLESS = re.compile(
    r"mooring (proxy|serve|ui|monitor(?!.*--once))\b|mlflow (models serve|server|ui)\b|python \S*proxy_server.py"
)


def shell_blocks(page: Path) -> list[str]:
    found = re.findall(r"^( *)```sh\n(.*?)^ *```", page.read_text(), re.DOTALL | re.MULTILINE)
    return [re.sub(r"\\\n *", " ", textwrap.dedent(text)) for _, text in found]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_is_to_be_typed_can_be_pasted(page):
    """Nothing comes after a command that does not end, and no part is left to fill in."""
    for block in shell_blocks(page):
        *before, _ = block.strip().splitlines()
        assert not [line for line in before if ENDLESS.match(re.sub(r"^(\w+=\S+ )+", "", line))], block
        assert "…" not in block
        given = set(re.findall(r"^(\w+)=\S+ ", block, re.MULTILINE))  # for that command alone, not for the next
        assert not given & set(re.findall(r"\$(\w+)", block)), block


def flags_of(command: click.Command) -> set[str]:
    options = (one for one in command.params if isinstance(one, click.Option))
    return {flag for one in options for flag in (*one.opts, *one.secondary_opts)} | {"--help", "-h"}


def test_every_command_of_the_documentation_has_the_flags_that_it_is_given():
    seen = set()
    for page in PAGES:
        for line in "\n".join(shell_blocks(page)).splitlines():
            if not (found := re.match(r"(?:\w+=\S+ )*mooring (\w.*?)(?: +#.*)?$", line)):
                continue
            command: click.Command = main
            words = re.sub(r"\"[^\"]*\"?|'[^']*'?", "x", found[1]).split()
            while words and isinstance(command, click.Group) and words[0] in command.commands:
                command = command.commands[words.pop(0)]
            assert command is not main, line
            flags = {re.sub(r"=.*", "", word) for word in words if re.match(r"--?[a-z]", word)}
            assert flags <= flags_of(command), (page.name, line)
            seen.add(command.name)
    assert len(seen) > 15


def test_the_log_keeps_large_integers_as_it_is_documented():
    told = (ROOT / "docs" / "log.md").read_text()
    assert "An integer that no double has is the nearest double, and stands in `misfits` as it was." in told
    values = [2**53 - 1, 2**53, 2**53 + 1, 2**53 + 2, 2**60, 2**60 + 1, -(2**53) - 1]
    array, misfits = fit(values, "double")
    assert array.to_pylist() == [float(value) for value in values]
    assert misfits == [2, 5, 6]


def test_every_reason_for_a_drop_is_documented():
    table = re.search(r"\| reason \| what was dropped \|\n\|[-|]+\|\n((?:\|.*\n)+)", OPERATE)[1]
    documented = set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE))
    assert documented == {"spool_full", "disk_full", "spool_unwritable", "killed", "not_redacted"}
    assert all(f'"{reason}"' in SOURCES for reason in documented)


def test_what_is_deployed_uses_settings_that_exist():
    settings = {f"MOORING_{name.upper()}" for command in COMMANDS.values() for name in command.__struct_fields__}
    for path in (ROOT / "deploy").iterdir():
        used = set(re.findall(r"MOORING_[A-Z_]+", path.read_text()))
        assert used
        assert used <= settings | {"MOORING_COMPILE"}, path  # which is setup.py's


def test_the_sidecar_is_valid_yaml_with_a_deployment_and_a_service():
    kinds = [document["kind"] for document in yaml.safe_load_all((ROOT / "deploy" / "sidecar.yaml").read_text())]
    assert kinds == ["Deployment", "Service"]


def test_links_between_documents_lead_somewhere():
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"
