"""The aliases of registered models, and their tags: who is champion, who challenges, and who was refused.

Each function may be called again after a kill, or after MLflow was away, and then finishes what it began. All
raise TrackingError where MLflow does not do what it is asked.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mooring.registry import versions
from mooring.registry.client import PermanentError, asking, unless_missing
from mooring.registry.versions import Missing

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION = "champion"
CHALLENGER = "challenger"
PREVIOUS = "previous"
GATE = "mooring.gate"
REASONS = "mooring.gate.reasons"
PROMOTED = "mooring.promoted"
ROLLOUT = "mooring.rollout"
ROLLOUT_REASON = "mooring.rollout.reason"
_PRODUCTION = "Production"


class Moved(PermanentError):
    """Somebody else has moved the champion meanwhile. `version` is who it is now, None where there is none."""

    def __init__(self, model: str, version: str | None, expected: str | None) -> None:
        now = "there is none now" if version is None else f"it is version {version} now"
        was = "there was none" if expected is None else f"it was version {expected}"
        super().__init__(f"the champion of {model} was moved by somebody else: {was}, {now}")
        self.version = version


def of(model: str) -> dict[str, str]:
    """Return the model's aliases and the version that each names; of an unknown model there are none."""
    with asking(f"tell the aliases of {model}") as client:
        return _of(client, model)


def champion(model: str, alias: str = CHAMPION) -> str | None:
    """Return the version that is champion, or that another alias names, or None."""
    with asking(f"tell which version of {model} is {alias}") as client:
        return _of(client, model).get(alias)


def set_challenger(model: str, version: str, tags: Mapping[str, str] | None = None) -> None:
    """Make a version that passed the gate the challenger: first its tags, `mooring.gate=passed` and others."""
    with asking(f"make {model} version {version} the {CHALLENGER}") as client:
        found = versions.existing(client, model, version)
        versions.tag(client, model, found, {**(tags or {}), GATE: "passed"})
        client.set_registered_model_alias(model, CHALLENGER, version)


def refuse(model: str, version: str, reasons: Iterable[str], tags: Mapping[str, str] | None = None) -> None:
    """Tag a version with why the gate refused it; it is no challenger any longer, if it was."""
    with asking(f"tag {model} version {version} as refused") as client:
        found = versions.existing(client, model, version)
        refused = {REASONS: "; ".join(reasons) or "not said", GATE: "refused"}
        versions.tag(client, model, found, {**(tags or {}), **refused})
        _end_challenger(client, model, version)


def disown(model: str, named: Iterable[str]) -> list[str]:
    """Take from versions what only the gate may give, and return those that had it: tag, and alias challenger."""
    had = []
    with asking(f"take back that versions of {model} passed the gate") as client:
        challenger = _of(client, model).get(CHALLENGER)
        for version in named:
            found = versions.found(client, model, version)
            if found is None or (GATE not in found.tags and challenger != version):
                continue
            had.append(version)
            if challenger == version:
                client.delete_registered_model_alias(model, CHALLENGER)
            if GATE in found.tags:
                client.delete_model_version_tag(model, version, GATE)
    return had


def end_rollout(model: str, version: str, what: str, reason: str) -> None:
    """Tag a version, and its run, with what became of its rollout and why; it is no challenger any longer.

    A version that was deleted meanwhile needs no tags.
    """
    with asking(f"tag {model} version {version} as {what}") as client:
        with suppress(Missing):
            found = versions.existing(client, model, version)
            versions.tag(client, model, found, {ROLLOUT_REASON: reason or "not said", ROLLOUT: what})
        _end_challenger(client, model, version)


def move_champion(
    model: str,
    version: str,
    *,
    expected: str | None,
    tags: Mapping[str, str] | None = None,
    at: datetime | None = None,
) -> None:
    """Make a version the champion, and what was it the previous one.

    In this order: the alias `previous`, the alias `champion`, the stage Production as far as MLflow has stages,
    tags, and the alias `challenger` goes. Whether it is done is told by the alias `champion` alone, which MLflow
    moves at one stroke: so there is always one. What comes after is made up for by calling this again.

    Parameters
    ----------
    model, version
        The version that is to be champion.
    expected
        The version that is it now, None where there is none.
    tags
        For the version and its run, beside `mooring.promoted`.
    at
        When it was promoted; a caller who may have to repeat this gives the same time again.

    Raises Missing, and Moved where the champion is neither of the two: then nothing was changed.
    """
    with asking(f"make {model} version {version} the {CHAMPION}") as client:
        found = versions.existing(client, model, version)
        now = _of(client, model).get(CHAMPION)
        _check(model, now, version, expected)
        if now != version:
            if now is not None:
                client.set_registered_model_alias(model, PREVIOUS, now)
            client.set_registered_model_alias(model, CHAMPION, version)
        _move_stage(client, model, version)
        promoted = (at or datetime.now(UTC)).astimezone(UTC).isoformat(timespec="seconds")
        versions.tag(client, model, found, {**(tags or {}), PROMOTED: promoted})
        _end_challenger(client, model, version)


def put_back(model: str, version: str, *, expected: str) -> None:
    """Make the champion again what was it before `expected` made itself the champion, and leave no trace.

    The alias `previous` stays as it is, as nobody is to go back to a version that proved nothing. Raises Missing,
    and Moved where the champion is neither of the two.
    """
    with asking(f"make {model} version {version} the {CHAMPION} again") as client:
        versions.existing(client, model, version)
        _check(model, _of(client, model).get(CHAMPION), version, expected)
        client.set_registered_model_alias(model, CHAMPION, version)
        _move_stage(client, model, version)


def _of(client: MlflowClient, model: str) -> dict[str, str]:
    found = unless_missing(lambda: client.get_registered_model(model))
    return {name: str(version) for name, version in found.aliases.items()} if found is not None else {}


def _check(model: str, now: str | None, version: str, expected: str | None) -> None:
    if now not in (version, expected):
        raise Moved(model, now, expected)


def _end_challenger(client: MlflowClient, model: str, version: str) -> None:
    if _of(client, model).get(CHALLENGER) == version:
        client.delete_registered_model_alias(model, CHALLENGER)


def _move_stage(client: MlflowClient, model: str, version: str) -> None:
    """Bring a version into Production, and out of it whichever was there: in one call where MLflow can do that."""
    if not hasattr(client, "transition_model_version_stage"):
        return
    from mlflow.exceptions import MlflowException

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*(transition_model_version_stage|latest_versions)", FutureWarning)
        try:
            client.transition_model_version_stage(model, version, _PRODUCTION, archive_existing_versions=True)
        except MlflowException as error:
            # Unity Catalog and some other registries have no stages, and say so in these ways.
            if error.error_code in ("ENDPOINT_NOT_FOUND", "FEATURE_DISABLED") or "unsupported" in str(error):
                return
            # MLflow 3.17 on PostgreSQL compares a number with a text there.
            if "operator does not exist" not in str(error):
                raise
            client.transition_model_version_stage(model, version, _PRODUCTION)
            for other in versions.search(model):
                if other.current_stage == _PRODUCTION and str(other.version) != version:
                    client.transition_model_version_stage(model, str(other.version), "Archived")
