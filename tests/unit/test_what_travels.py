"""What of Mooring travels inside a logged model: what is needed there, no more, and how much that is."""

from __future__ import annotations

import ast
from pathlib import Path

import grimp

import mooring
from mooring.capture.pyfunc import TRAVELS

PACKAGE = Path(mooring.__file__).parent
ROOTS = ("mooring.capture.monitored_model", "mooring.log.drain", "mooring.__main__")
CALLED = {"mooring.drift", "mooring.log", "mooring.performance"}
"""Packages that `import mooring` itself looks at by name."""


def at_once(module: str) -> set[str]:
    """Return what a module imports as it is imported itself; a name that is imported may be a module, too."""
    body = ast.parse((PACKAGE / f"{module.removeprefix('mooring.').replace('.', '/')}.py").read_text()).body
    found = {one.module or "" for one in body if isinstance(one, ast.ImportFrom)}
    return found | {
        f"{one.module}.{name.name}" for one in body if isinstance(one, ast.ImportFrom) for name in one.names
    }


def needed() -> set[str]:
    """Return the modules that capture in a server and its drain import, now or later, and their packages."""
    graph = grimp.build_graph("mooring", cache_dir=None, exclude_type_checking_imports=True)
    found, waiting = set(CALLED), list(ROOTS)
    while waiting:
        module = waiting.pop()
        found.add(module)
        parents = {module.rsplit(".", count)[0] for count in range(module.count(".") + 1)}
        imported = graph.find_modules_directly_imported_by(module)
        if module.startswith("mooring.cli."):  # they are imported together; what each imports as it runs is not
            imported &= at_once(module)
        waiting += (imported | parents) - found
    return found


def test_it_is_what_is_needed_there_and_no_more():
    named = {"mooring." + name.replace("/", ".") for name in TRAVELS}
    assert {name.removesuffix(".__init__") for name in named} == needed()
    assert len(named) == len(TRAVELS)


def test_it_is_small():
    assert sum((PACKAGE / f"{name}.py").stat().st_size for name in TRAVELS) < 425_000
