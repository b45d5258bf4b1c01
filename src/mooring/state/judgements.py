"""Judgements as the state keeps them: all results of a verdict, as bytes."""

from __future__ import annotations

from mooring.drift.judgement import Judgement
from mooring.drift.stored import FORMAT, FormatError, load


def judgement_of(results: bytes | None) -> Judgement | None:
    """Return the judgement that a verdict's results hold; None where there is none that this version can read."""
    if not results:
        return None
    try:
        return load(results, Judgement, "judgement", FORMAT)
    except FormatError:
        return None  # another version wrote it; the verdict itself says the most of it
