"""A promotion: it is recorded as begun, the champion's alias is moved, and it is recorded as done, or as failed.

Whoever promotes does it here: a retraining, a rollout, a person. Killed anywhere in between, the same promotion is
to be made again, and goes on from where it was; one that is done already changes nothing.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal

import msgspec

from mooring.registry import aliases
from mooring.registry.client import PermanentError
from mooring.state.promotions import Promotion, Promotions


def begun(
    model: str,
    version: str,
    previous: str | None,
    *,
    reason: str,
    name: str | None = None,
    ticket_id: str | None = None,
    kind: Literal["promotion", "rollback", "restored"] = "promotion",
    who: str = "mooring",
) -> Promotion:
    """Return a move of the champion that begins now; those of the same `name` are the same one, begun again."""
    return Promotion(
        id=str(uuid.uuid5(uuid.NAMESPACE_URL, name) if name else uuid.uuid4()),
        model=model,
        ticket_id=ticket_id,
        kind=kind,
        version=version,
        previous=previous,
        status="begun",
        reason=reason,
        who=who,
        created=datetime.now(UTC),
    )


def promote(
    promotions: Promotions,
    promotion: Promotion,
    *,
    tags: Mapping[str, str] | None = None,
    final: type[Exception] = PermanentError,
) -> Promotion:
    """Make `promotion.version` the champion in the place of `promotion.previous`, and return the record of it.

    Parameters
    ----------
    promotions
        Where it is written down. One with the same id that is there already is taken up as it was begun.
    promotion
        What is begun. Where there is no champion by now, `previous` is not looked for.
    tags
        For the version and its run.
    final
        The errors after which nobody tries it again: it is written down as failed. After others it stays begun.

    Raises Moved where somebody else has moved the champion, Missing where the version is not there, TrackingError
    where MLflow does not answer, and StateError.
    """
    known = next((one for one in promotions.newest(promotion.model) if one.id == promotion.id), promotion)
    if known.status == "done":
        return known
    current = msgspec.structs.replace(known, status="begun", reason=promotion.reason, ended=None)
    promotions.put(current)
    try:
        aliases.move_champion(
            current.model,
            current.version,
            expected=current.previous if aliases.champion(current.model) is not None else None,
            tags=tags,
            at=current.created,
        )
    except final as error:
        failed = msgspec.structs.replace(current, status="failed", reason=f"{error}", ended=datetime.now(UTC))
        promotions.put(failed)
        raise
    done = msgspec.structs.replace(current, status="done", ended=datetime.now(UTC))
    promotions.put(done)
    return done


def restore(promotions: Promotions, promotion: Promotion) -> bool:
    """Move the champion back from `promotion.previous` to `promotion.version`, recorded; return whether it left.

    Where the champion is another by now, nothing is moved, and nothing recorded. Killed anywhere in between, it is
    to be called again. Raises TrackingError where MLflow does not answer, and StateError.
    """
    champion = aliases.champion(promotion.model)
    begun_before = {one.id: one.status for one in promotions.newest(promotion.model)}.get(promotion.id) == "begun"
    if promotion.previous is None or champion not in (promotion.previous, promotion.version):
        return True
    if champion == promotion.version and not begun_before:
        return True
    promotions.put(promotion)
    try:
        aliases.put_back(promotion.model, promotion.version, expected=promotion.previous)
    except PermanentError as error:  # somebody else has seen to it, or nobody can
        why = f"{error}"
        promotions.put(msgspec.structs.replace(promotion, status="failed", reason=why, ended=datetime.now(UTC)))
        return False
    promotions.put(msgspec.structs.replace(promotion, status="done", ended=datetime.now(UTC)))
    return True
