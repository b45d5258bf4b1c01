"""The documentation says what the code does: metrics, reasons, codes, files for deployment."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from mooring.capture.proxy.admin import metrics
from mooring.capture.proxy.stats import Stats
from mooring.config import COMMANDS
from mooring.exchange import Ledger

ROOT = Path(__file__).parents[1]
OPERATE = (ROOT / "docs" / "operate.md").read_text()
SOURCES = "\n".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))


def test_every_metric_is_documented_and_no_other():
    ledger = Ledger(dropped={"disk_full": 1}, errors={"truncated": 1})
    names = set()
    for family in metrics(Stats(), ledger, 0):
        names.add(family.name + ("_total" if family.type == "counter" else ""))
    assert set(re.findall(r"`(mooring_\w+)(?:\{\w+\})?`", OPERATE)) == names


def test_every_reason_for_a_drop_is_documented():
    table = re.search(r"\| reason \| what was dropped \|\n\|[-|]+\|\n((?:\|.*\n)+)", OPERATE)[1]
    documented = set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE))
    assert documented == {"spool_full", "disk_full", "spool_unwritable", "killed"}
    assert all(f'"{reason}"' in SOURCES for reason in documented)


def test_what_is_deployed_uses_settings_that_exist():
    settings = {f"MOORING_{name.upper()}" for command in COMMANDS.values() for name in command.__struct_fields__}
    for path in (ROOT / "deploy").iterdir():
        used = set(re.findall(r"MOORING_[A-Z_]+", path.read_text()))
        assert used
        assert used <= settings, path


def test_the_sidecar_is_valid_yaml_with_a_deployment_and_a_service():
    kinds = [document["kind"] for document in yaml.safe_load_all((ROOT / "deploy" / "sidecar.yaml").read_text())]
    assert kinds == ["Deployment", "Service"]


def test_links_between_documents_lead_somewhere():
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"
