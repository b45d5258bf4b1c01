"""The ways an exchange is taken: a proxy in front of the model server, a PythonModel inside it."""

from __future__ import annotations

from importlib.util import find_spec


def compiled() -> bool:
    """Whether the modules that requests go through were compiled when Mooring was installed; see setup.py."""
    spec = find_spec("mooring.capture.recorder")
    return spec is not None and not (spec.origin or "").endswith(".py")


def form() -> str:
    """Return in a word in which form they run."""
    return "compiled" if compiled() else "interpreted"
