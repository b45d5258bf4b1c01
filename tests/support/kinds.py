"""Cases of a test that are proofs, where their neighbours show the most of it."""

from __future__ import annotations

from typing import Any

import pytest


def proofs(*values: Any) -> list[Any]:
    """Return parameters that are tried by `make test-all` alone; a tuple is of as many arguments."""
    return [
        pytest.param(*(value if isinstance(value, tuple) and value else [value]), marks=pytest.mark.proof)
        for value in values
    ]
