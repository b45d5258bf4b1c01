"""Compiles what each request goes through with mypyc, where there is a C compiler. The rest is in pyproject.toml.

MOORING_COMPILE=0 leaves all interpreted, MOORING_COMPILE=1 makes it an error where something can't be compiled.
An editable install stays interpreted: a compiled module would hide what is edited.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CCompilerError

HERE = Path(__file__).parent
COMPILED = ["src/mooring/capture/proxy/*.py", "src/mooring/capture/recorder.py", "src/mooring/ids.py"]
INTERPRETED = {
    "src/mooring/capture/proxy/__init__.py": "nothing to compile",
    "src/mooring/capture/proxy/legacy.py": "a msgspec struct, whose options would be lost",
    "src/mooring/capture/proxy/listening.py": "an OSError of its own, which mypyc can't make",
    "src/mooring/capture/proxy/routes.py": "a msgspec struct, whose options would be lost",
    "src/mooring/capture/proxy/stats.py": "a msgspec struct, whose options would be lost",
}
WISH = os.environ.get("MOORING_COMPILE", "")


def modules() -> list[str]:
    """Return the paths of the modules that are compiled."""
    found = {path.relative_to(HERE).as_posix() for pattern in COMPILED for path in HERE.glob(pattern)}
    if unknown := INTERPRETED.keys() - found:
        sys.exit(f"setup.py keeps interpreted what is not there: {', '.join(sorted(unknown))}")
    return sorted(found - INTERPRETED.keys())


def interpreted(why: str) -> None:
    """Say that nothing is compiled, and why; fail where it must be."""
    if WISH == "1":
        sys.exit(f"mooring: MOORING_COMPILE=1, but {why}")
    print(f"mooring: NOT COMPILED: {why}. It runs interpreted, at about twice the CPU a request.", file=sys.stderr)


def extensions(directory: str) -> list[Extension]:
    """Return what is to be compiled, its C code in `directory`; nothing where that can't be done."""
    if WISH == "0":
        interpreted("MOORING_COMPILE=0")
        return []
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        interpreted(f"there is no C compiler ({compiler})")
        return []
    try:
        from mypyc.build import mypycify
    except ImportError:
        interpreted("mypy is not there, which a build without isolation needs")
        return []
    options = [
        "--config-file=",
        f"--cache-dir={directory}/mypy",
        # The same everywhere, whatever is installed beside; that the types are right, CI has seen.
        "--no-site-packages",
        "--ignore-missing-imports",
        "--follow-imports=silent",
    ]
    try:
        return mypycify([*options, *modules()], target_dir=directory, group_name="mooring", debug_level="0")
    except SystemExit as error:
        # Whoever installs it can do nothing about that, and interpreted it works: `make wheel`, and so CI, fails.
        interpreted(f"mypyc fails: {error}")
        return []


class BuildAllOrNothing(build_ext):
    """Compiles all modules or none: one without the others can't be imported."""

    def run(self) -> None:
        """Compile."""
        try:
            super().run()
        except (BaseError, CCompilerError) as error:
            interpreted(f"the C compiler fails: {error}")
            for path in self.get_outputs():
                Path(path).unlink(missing_ok=True)
            self.extensions = []


if __name__ == "__main__":
    if "bdist_wheel" not in sys.argv:
        setup()
    else:
        # In a directory of its own, so that nothing that an earlier build left gets into the wheel.
        Path("build").mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir="build") as absolute:
            directory = os.path.relpath(absolute)
            setup(
                ext_modules=extensions(directory),
                cmdclass={"build_ext": BuildAllOrNothing},
                options={"build": {"build_base": f"{directory}/build"}},
            )
