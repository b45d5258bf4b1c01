"""A promotion: it is recorded as begun, the champion's alias is moved, and it is recorded as done, or as failed.

Whoever promotes does it here: a retraining, a rollout, a person. Killed anywhere in between, the same promotion is
to be made again, and goes on from where it was; one that is done already changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec

from mooring.registry import aliases
from mooring.registry.aliases import Moved
from mooring.registry.versions import Missing
from mooring.state.promotions import Promotion, Promotions


def promote(
    promotions: Promotions,
    promotion: Promotion,
    *,
    tags: Mapping[str, str] | None = None,
    final: tuple[type[Exception], ...] = (Moved, Missing),
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
        Errors after which nobody tries it again: it is written down as failed. After others it stays begun.

    Raises Moved where somebody else has moved the champion, Missing where the version is not there, TrackingError
    where MLflow does not answer, and StateError.
    """
    known = next((one for one in promotions.newest(promotion.model) if one.id == promotion.id), promotion)
    if known.status == "done":
        return known
    begun = msgspec.structs.replace(known, status="begun", reason=promotion.reason, ended=None)
    promotions.put(begun)
    try:
        aliases.move_champion(
            begun.model,
            begun.version,
            expected=begun.previous if aliases.champion(begun.model) is not None else None,
            tags=tags,
            at=begun.created,
        )
    except final as error:
        failed = msgspec.structs.replace(begun, status="failed", reason=f"{error}", ended=datetime.now(UTC))
        promotions.put(failed)
        raise
    done = msgspec.structs.replace(begun, status="done", ended=datetime.now(UTC))
    promotions.put(done)
    return done
