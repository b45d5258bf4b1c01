"""What every benchmark says of itself, and how it writes its part of docs/benchmarks.md."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import version
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"


def machine(*programs: str) -> str:
    """Return a line that says on what this ran: processors, Python, and the versions of what matters."""
    model = ""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        found = re.search(r"model name\s*: (.*)", cpuinfo.read_text())
        model = found[1] if found else ""
    packages = ", ".join(
        f"{name} {version(name)}" for name in ("httptools", "uvloop", "msgspec", "pyarrow", "mlflow")
    )
    parts = [
        f"{os.cpu_count()} processors {model}".strip(),
        f"{platform.system()} {platform.release().split('-')[0]}",
        f"Python {platform.python_version()}",
        packages,
        *programs,
    ]
    return "; ".join(parts) + ". Ratios travel, absolute figures do not."


def save(name: str, title: str, text: str) -> None:
    """Write a benchmark's part of the page, in the place of the one that it wrote before."""
    page = PAGE.read_text() if PAGE.exists() else "# Benchmarks\n\nWritten by `make bench`, not by hand.\n"
    part = f"<!-- {name} -->\n## {title}\n\n{text}<!-- /{name} -->\n"
    pattern = re.compile(rf"<!-- {name} -->.*?<!-- /{name} -->\n", re.DOTALL)
    page = pattern.sub(lambda _: part, page) if pattern.search(page) else f"{page}\n{part}"
    PAGE.write_text(page)
