"""What retraining does in MLflow's registry: it finds the new version, and moves the one champion.

Each function may be called again after a kill, or after MLflow was away, and then finishes what it began. All
raise TrackingError where MLflow does not do what it is asked.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from mooring.monitor.tracking import Tracking, TrackingError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHAMPION = "champion"
CHALLENGER = "challenger"
PREVIOUS = "previous"
TICKET = "mooring.ticket"
GATE = "mooring.gate"
REASONS = "mooring.gate.reasons"
PROMOTED = "mooring.promoted"
ROLLOUT = "mooring.rollout"
ROLLOUT_REASON = "mooring.rollout.reason"
_LONGEST_TAG = 5000  # MLflow's databases take that everywhere
_PRODUCTION = "Production"
_CLOCKS = timedelta(minutes=10)  # by so much may MLflow's clock be behind this host's


class Moved(Exception):
    """Somebody else has moved the champion meanwhile. `version` is who it is now, None where there is none."""

    def __init__(self, model: str, version: str | None, expected: str | None) -> None:
        now = "there is none now" if version is None else f"it is version {version} now"
        was = "there was none" if expected is None else f"it was version {expected}"
        super().__init__(f"the champion of {model} was moved by somebody else: {was}, {now}")
        self.version = version


class Missing(TrackingError):
    """There is no such version. Asking again does not help."""

    def __init__(self, model: str, version: str) -> None:
        super().__init__(f"there is no version {version} of the model {model} in MLflow's registry")


class Claim(NamedTuple):
    """The tickets that a version says it came of, by its tags and those of its run, and when it was made."""

    version: str
    made: datetime
    tickets: tuple[str, ...]


class _Registry(Tracking):
    """MLflow's client and how its errors are told."""

    @property
    def client(self) -> MlflowClient:
        return self._client

    def asking(self, what: str) -> AbstractContextManager[None]:
        return self._asking(what)

    def unless_missing(self, ask: Any) -> Any:
        return self._unless_missing(ask)

    def version(self, model: str, version: str) -> ModelVersion:
        """Return a version. Raises Missing."""
        found: ModelVersion | None = None
        if version.isdecimal():
            found = self.unless_missing(lambda: self.client.get_model_version(model, version))
        if found is None:
            raise Missing(model, version)
        return found

    def aliases(self, model: str) -> dict[str, str]:
        """Return the model's aliases and the version that each names; of an unknown model there are none."""
        found = self.unless_missing(lambda: self.client.get_registered_model(model))
        return {name: str(version) for name, version in found.aliases.items()} if found else {}

    def note(self, version: ModelVersion, tags: Mapping[str, str]) -> None:
        """Tag a version, and its run where that is still there."""
        for name, value in tags.items():
            if version.tags.get(name) != value[:_LONGEST_TAG]:
                self.client.set_model_version_tag(version.name, str(version.version), name, value[:_LONGEST_TAG])
        run_id = version.run_id
        run = self.unless_missing(lambda: self.client.get_run(run_id)) if run_id else None
        if run and run.info.lifecycle_stage == "active":
            for name, value in tags.items():
                self.client.set_tag(run.info.run_id, name, value[:_LONGEST_TAG])


def champion(model: str) -> str | None:
    """Return the version that is champion, or None."""
    return Tracking().champion(model)


def aliases(model: str) -> dict[str, str]:
    """Return the model's aliases and the version that each names; of an unknown model there are none."""
    registry = _Registry()
    with registry.asking(f"tell the aliases of {model}"):
        return registry.aliases(model)


def previous(model: str) -> str | None:
    """Return the version that was champion before, or None."""
    return Tracking().champion(model, PREVIOUS)


def tags_of(model: str, version: str) -> dict[str, str]:
    """Return the tags of a version; one that is not there has none."""
    registry = _Registry()
    with registry.asking(f"tell the tags of {model} version {version}"):
        found = registry.unless_missing(lambda: registry.client.get_model_version(model, version))
        return dict(found.tags) if found else {}


def claim_of(model: str, version: str) -> Claim | None:
    """Return which tickets a version says it came of; None where it is not there."""
    registry = _Registry()
    with registry.asking(f"tell the retraining of {model} version {version}"):
        found = registry.unless_missing(lambda: registry.client.get_model_version(model, version))
        return _claim(registry, found) if found else None


def claims(model: str, since: datetime) -> list[Claim]:
    """Return which tickets the versions say they came of that were made from `since` on, the oldest first."""
    registry = _Registry()
    with registry.asking(f"tell the retrainings of the new versions of {model}"):
        new = [one for one in _versions(registry, model) if _created(one) >= since - _CLOCKS]
        return [_claim(registry, one) for one in new]


def run_of(model: str, version: str) -> str | None:
    """Return the id of the run that a version came of, None where it came of none. Raises Missing."""
    registry = _Registry()
    with registry.asking(f"tell the run of {model} version {version}"):
        return registry.version(model, version).run_id or None


def require(model: str, version: str) -> None:
    """Raise Missing where there is no such version."""
    run_of(model, version)


def candidates(model: str, ticket: str, since: datetime, *, tagged: bool = False) -> list[str]:
    """Return the versions that came of a ticket, which was opened at `since`, the oldest first.

    They have the tag `mooring.ticket`, or their run has. Where none has, it is the only version that was made from
    `since` on and is not of another ticket: of two nobody can tell. With `tagged` nothing is guessed.
    """
    registry = _Registry()
    with registry.asking(f"tell the new versions of {model}"):
        found = [one for one in _versions(registry, model) if one.status == "READY"]
        tickets = {str(one.version): _ticket(registry, one, since - _CLOCKS) for one in found}
    own = [version for version, name in tickets.items() if name == ticket]
    if own or tagged:
        return own
    new = [str(one.version) for one in found if _created(one) >= since and tickets[str(one.version)] is None]
    return new if len(new) == 1 else []


def _versions(registry: _Registry, model: str) -> list[ModelVersion]:
    """Return all versions of a model, the oldest first."""
    quote = '"' if "'" in model else "'"
    found: list[ModelVersion] = []
    token = None
    while True:
        page = registry.client.search_model_versions(f"name={quote}{model}{quote}", page_token=token)
        found += page
        token = page.token
        if not token:
            return sorted(found, key=lambda one: int(one.version))


def _claim(registry: _Registry, version: ModelVersion) -> Claim:
    run = registry.unless_missing(lambda: registry.client.get_run(version.run_id)) if version.run_id else None
    names = filter(None, [version.tags.get(TICKET), run.data.tags.get(TICKET) if run else None])
    return Claim(str(version.version), _created(version), tuple(dict.fromkeys(names)))


def _ticket(registry: _Registry, version: ModelVersion, since: datetime) -> str | None:
    """Return the ticket that a version or its run is tagged with; runs of older versions are not asked for."""
    if TICKET in version.tags or not version.run_id or _created(version) < since:
        return version.tags.get(TICKET)
    run = registry.unless_missing(lambda: registry.client.get_run(version.run_id))
    return run.data.tags.get(TICKET) if run else None


def _created(version: ModelVersion) -> datetime:
    return datetime.fromtimestamp(version.creation_timestamp / 1000, UTC)


def set_challenger(model: str, version: str, tags: Mapping[str, str] | None = None) -> None:
    """Make a version that passed the gate the challenger: first its tags, `mooring.gate=passed` and others."""
    registry = _Registry()
    with registry.asking(f"make {model} version {version} the {CHALLENGER}"):
        found = registry.version(model, version)
        registry.note(found, {**(tags or {}), GATE: "passed"})
        registry.client.set_registered_model_alias(model, CHALLENGER, version)


def refuse(model: str, version: str, reasons: Iterable[str], tags: Mapping[str, str] | None = None) -> None:
    """Tag a version with why the gate refused it; it is no challenger any longer, if it was."""
    registry = _Registry()
    with registry.asking(f"tag {model} version {version} as refused"):
        found = registry.version(model, version)
        registry.note(found, {**(tags or {}), REASONS: "; ".join(reasons) or "not said", GATE: "refused"})
        _end_challenger(registry, model, version)


def disown(model: str, versions: Iterable[str]) -> list[str]:
    """Take from versions what only the gate may give, and return those that had it: tag, and alias challenger."""
    registry, had = _Registry(), []
    with registry.asking(f"take back that versions of {model} passed the gate"):
        challenger = registry.aliases(model).get(CHALLENGER)
        for version in versions:
            found = registry.unless_missing(
                lambda number=version: registry.client.get_model_version(model, number)
            )
            if found is None or (GATE not in found.tags and challenger != version):
                continue
            had.append(version)
            if challenger == version:
                registry.client.delete_registered_model_alias(model, CHALLENGER)
            if GATE in found.tags:
                registry.client.delete_model_version_tag(model, version, GATE)
    return had


def end_rollout(model: str, version: str, what: str, reason: str) -> None:
    """Tag a version, and its run, with what became of its rollout and why; it is no challenger any longer.

    A version that was deleted meanwhile needs no tags.
    """
    registry = _Registry()
    with registry.asking(f"tag {model} version {version} as {what}"):
        with suppress(Missing):
            registry.note(registry.version(model, version), {ROLLOUT_REASON: reason or "not said", ROLLOUT: what})
        _end_challenger(registry, model, version)


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

    Raises Moved where the champion is neither of the two: then nothing was changed.
    """
    registry = _Registry()
    with registry.asking(f"make {model} version {version} the {CHAMPION}"):
        found = registry.version(model, version)
        now = registry.aliases(model).get(CHAMPION)
    if now not in (version, expected):
        raise Moved(model, now, expected)
    with registry.asking(f"make {model} version {version} the {CHAMPION}"):
        if now != version:
            if now is not None:
                registry.client.set_registered_model_alias(model, PREVIOUS, now)
            registry.client.set_registered_model_alias(model, CHAMPION, version)
        _move_stage(registry.client, found)
        promoted = (at or datetime.now(UTC)).astimezone(UTC).isoformat(timespec="seconds")
        registry.note(found, {**(tags or {}), PROMOTED: promoted})
        _end_challenger(registry, model, version)


def put_back(model: str, version: str, *, expected: str) -> None:
    """Make the champion again what was it before `expected` made itself the champion, and leave no trace.

    The alias `previous` stays as it is, as nobody is to go back to a version that proved nothing. Raises Moved
    where the champion is neither of the two.
    """
    registry = _Registry()
    with registry.asking(f"make {model} version {version} the {CHAMPION} again"):
        found = registry.version(model, version)
        now = registry.aliases(model).get(CHAMPION)
    if now not in (version, expected):
        raise Moved(model, now, expected)
    with registry.asking(f"make {model} version {version} the {CHAMPION} again"):
        registry.client.set_registered_model_alias(model, CHAMPION, version)
        _move_stage(registry.client, found)


def _move_stage(client: MlflowClient, version: ModelVersion) -> None:
    """Bring a version into Production, and out of it whichever was there: in one call where MLflow can do that."""
    if not hasattr(client, "transition_model_version_stage"):
        return
    from mlflow.exceptions import MlflowException

    name, number = version.name, str(version.version)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*(transition_model_version_stage|latest_versions)", FutureWarning)
        try:
            client.transition_model_version_stage(name, number, stage=_PRODUCTION, archive_existing_versions=True)
        except MlflowException as error:
            # Unity Catalog and some other registries have no stages, and say so in these ways.
            if error.error_code in ("ENDPOINT_NOT_FOUND", "FEATURE_DISABLED") or "unsupported" in str(error):
                return
            # MLflow 3.17 on PostgreSQL compares a number with a text there.
            if "operator does not exist" not in str(error):
                raise
            client.transition_model_version_stage(name, number, stage=_PRODUCTION)
            quote = '"' if "'" in name else "'"
            for other in client.search_model_versions(f"name={quote}{name}{quote}"):
                if other.current_stage == _PRODUCTION and str(other.version) != number:
                    client.transition_model_version_stage(name, str(other.version), stage="Archived")


def _end_challenger(registry: _Registry, model: str, version: str) -> None:
    if registry.aliases(model).get(CHALLENGER) == version:
        registry.client.delete_registered_model_alias(model, CHALLENGER)
