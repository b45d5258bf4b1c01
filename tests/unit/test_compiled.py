"""Which modules of the proxy are compiled."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILD = runpy.run_path(str(ROOT / "setup.py"), run_name="setup")


def test_each_module_of_the_proxy_is_compiled_or_has_a_reason_not_to_be():
    modules = BUILD["modules"]()
    there = {path.relative_to(ROOT).as_posix() for path in (ROOT / "src/mooring/capture/proxy").glob("*.py")}
    assert there <= {*modules, *BUILD["INTERPRETED"]}
    assert "src/mooring/capture/recorder.py" in modules, "by which mooring.capture.compiled goes"
    assert all(BUILD["INTERPRETED"].values())


def test_what_mypyc_would_make_something_else_of_stays_interpreted():
    for path in BUILD["modules"]():
        source = (ROOT / path).read_text()
        for pattern, why in (
            (r"^class .*\bStruct\b", "it would lose the struct's options"),
            (r"\bWeakSet\b|\bweakref\b", "its classes have no weak references"),
            (r"^class \w+\((OSError|\w*Warning)\)", "only Exception can be inherited from"),
        ):
            assert not re.search(pattern, source, re.MULTILINE), f"{path}: {why}; name it in setup.py"


def test_a_module_that_has_gone_may_not_be_named(monkeypatch):
    monkeypatch.setitem(BUILD["INTERPRETED"], "src/mooring/capture/proxy/gone.py", "it was")
    with pytest.raises(SystemExit, match=r"gone\.py"):
        BUILD["modules"]()
