"""docs/design.md tells where things are, and the way of one exchange: both are held against the code."""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "src/mooring"
DESIGN = (ROOT / "docs/design.md").read_text()
STEP = re.compile(r"^\d+\. `([\w/]+\.py)` .*\(`(\w+)`\)\.$", re.MULTILINE)
WALK = STEP.findall(DESIGN)
HANDED_OVER = {
    ("capture/proxy/request.py", "capture/proxy/backend.py"): "to a Target, an interface of the two",
    ("capture/proxy/upstream.py", "capture/proxy/request.py"): "to what it carries, an interface of the two",
    ("capture/recorder.py", "spool/segments.py"): "by the package spool",
    ("spool/segments.py", "log/drain.py"): "a segment, to a process of its own",
    ("log/store.py", "monitor/new_objects.py"): "an object of the log",
    ("monitor/alerting/queue.py", "retrain/trigger.py"): "verdicts in the state",
    ("retrain/gate.py", "serving/registry_watch.py"): "the alias challenger",
    ("serving/controller.py", "serving/rollout/stages.py"): "by rollout.py, the one under way",
    ("serving/rollout/stages.py", "promotion.py"): "to whoever runs the rollout, as it has no input or output",
}
"""Where a step leads to the next without either importing the other: what is handed over, and how."""


def table() -> list[str]:
    """Return the places that the table names."""
    rows = re.findall(r"^\| (`.*?) \| ", DESIGN, re.MULTILINE)
    return [place for row in rows for place in re.findall(r"`([\w/.]+)`", row)]


def test_every_place_in_the_table_is_there():
    assert [place for place in table() if not (SOURCES / place).exists()] == []


def test_every_package_and_module_at_the_top_is_in_the_table():
    there = {f"{one.name}/" if one.is_dir() else one.name for one in SOURCES.iterdir() if one.name[0] not in "_."}
    there -= {"py.typed"}
    named = {place.partition("/")[0] + ("/" if "/" in place else "") for place in table()}
    assert there - named == set()


def test_the_way_of_an_exchange_passes_each_file_once():
    assert len(WALK) == len(re.findall(r"^\d+\. `", DESIGN, re.MULTILINE)), (
        "a step does not name its file and part"
    )
    passed = Counter(file for file, _ in WALK)
    assert {file for file, times in passed.items() if times > 1} == {"capture/proxy/request.py"}


@pytest.mark.parametrize(("file", "part"), WALK)
def test_a_step_names_what_its_file_has(file: str, part: str):
    tree = ast.parse((SOURCES / file).read_text())
    assert part in {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}


def test_a_step_leads_to_the_next():
    graph = grimp.build_graph("mooring", cache_dir=None)

    def module(file: str) -> str:
        return f"mooring.{file.removesuffix('.py').replace('/', '.')}"

    def joined(one: str, other: str) -> bool:
        known = [module(file) for file, _ in WALK]
        callers = {one, *(graph.find_modules_that_directly_import(one) & set(known))}
        return any(
            other in graph.find_modules_directly_imported_by(caller)
            or caller in graph.find_modules_directly_imported_by(other)
            for caller in callers
        )

    pairs = set(pairwise(file for file, _ in WALK))
    apart = {(a, b) for a, b in pairs - HANDED_OVER.keys() if not joined(module(a), module(b))}
    assert apart == set()
    assert HANDED_OVER.keys() <= pairs


def test_no_class_name_stands_twice():
    places: dict[str, list[str]] = defaultdict(list)
    for path in SOURCES.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(str(path.relative_to(SOURCES)))
    assert {name: there for name, there in places.items() if len(there) > 1} == {}
