"""What a feature is: where in an exchange it stands, and of what kind its values are."""

from __future__ import annotations

from typing import Literal

Role = Literal["input", "output", "label"]
Kind = Literal["numeric", "categorical", "timestamp", "text", "other"]
