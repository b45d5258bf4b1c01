"""Benchmarks and scripts take hours, and no test runs them: what they take of Mooring is there, at least."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = sorted([*(ROOT / "bench").rglob("*.py"), *(ROOT / "scripts").glob("*.py")])


def taken(tree: ast.Module) -> dict[str, object]:
    """Return what a program imports of Mooring, by the name that it has there."""
    found: dict[str, object] = {}
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("mooring"):
            continue
        module = importlib.import_module(node.module or "")
        for name in node.names:
            if not hasattr(module, name.name):
                importlib.import_module(f"{node.module}.{name.name}")
            found[name.asname or name.name] = getattr(module, name.name)
    return found


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_it_takes_of_mooring_is_there(path):
    tree = ast.parse(path.read_text())
    modules = {name: one for name, one in taken(tree).items() if isinstance(one, ModuleType)}
    used = [
        (node.value.id, node.attr)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules
    ]
    assert [f"{module}.{name}" for module, name in used if not hasattr(modules[module], name)] == []
