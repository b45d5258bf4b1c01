"""The versions of registered models: which there are, where they come from, and their tags and files.

All raise TrackingError where MLflow does not answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from mooring.registry.client import PermanentError, asking, unless_missing

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

TICKET = "mooring.ticket"
_LONGEST_TAG = 5000  # MLflow's databases take that everywhere
_CLOCKS = timedelta(minutes=10)  # by so much may MLflow's clock be behind this host's


class Missing(PermanentError):
    """There is no such version."""

    def __init__(self, model: str, version: str) -> None:
        super().__init__(f"there is no version {version} of the model {model} in MLflow's registry")


class Version(msgspec.Struct, frozen=True):
    """A version of a registered model, and the run that it came of, if any."""

    version: str
    run_id: str | None
    source: str | None
    created: datetime
    ready: bool
    tags: dict[str, str]


class Claim(msgspec.Struct, frozen=True):
    """The tickets that a version says it came of, by its tags and those of its run, and when it was made."""

    version: str
    made: datetime
    tickets: tuple[str, ...]


def find(model: str, version: str) -> Version | None:
    """Return a version, None where there is none."""
    with asking(f"tell of {model} version {version}") as client:
        return found(client, model, version)


def get(model: str, version: str) -> Version:
    """Return a version. Raises Missing."""
    with asking(f"tell of {model} version {version}") as client:
        return existing(client, model, version)


def all_of(model: str) -> list[Version]:
    """Return the versions of a registered model, the oldest first; of an unknown model there are none."""
    with asking(f"tell the versions of {model}"):
        return sorted(map(_version, search(model)), key=lambda one: int(one.version))


def tags_of(model: str, version: str) -> dict[str, str]:
    """Return the tags of a version; one that is not there has none."""
    one = find(model, version)
    return one.tags if one is not None else {}


def claim_of(model: str, version: str) -> Claim | None:
    """Return which tickets a version says it came of; None where it is not there."""
    with asking(f"tell the retraining of {model} version {version}") as client:
        one = found(client, model, version)
        return _claim(client, one) if one is not None else None


def claims(model: str, since: datetime) -> list[Claim]:
    """Return which tickets the versions say they came of that were made from `since` on, the oldest first."""
    new = [one for one in all_of(model) if one.created >= since - _CLOCKS]
    with asking(f"tell the retrainings of the new versions of {model}") as client:
        return [_claim(client, one) for one in new]


def candidates(model: str, ticket: str, since: datetime, *, tagged: bool = False) -> list[str]:
    """Return the versions that came of a ticket, which was opened at `since`, the oldest first.

    They have the tag `mooring.ticket`, or their run has. Where none has, it is the only version that was made from
    `since` on and is not of another ticket: of two nobody can tell. With `tagged` nothing is guessed.
    """
    ready = [one for one in all_of(model) if one.ready]
    tickets = {one.version: one.tags.get(TICKET) for one in ready}
    with asking(f"tell the new versions of {model}") as client:
        for one in ready:
            if TICKET not in one.tags and one.created >= since - _CLOCKS:  # runs of older ones are not asked for
                tickets[one.version] = _run_tags(client, one).get(TICKET)
    own = [version for version, name in tickets.items() if name == ticket]
    if own or tagged:
        return own
    new = [one.version for one in ready if one.created >= since and tickets[one.version] is None]
    return new if len(new) == 1 else []


def number(model: str, alias: str, version: str) -> str:
    """Return the version that an alias names, or, without an alias, the given one, where it is there."""
    with asking(f"tell which version of {model} is {alias or version}") as client:
        if alias:
            return str(client.get_model_version_by_alias(model, alias).version)
        return existing(client, model, version).version


def download(model: str, version: str, directory: Path) -> Path:
    """Download a version's files, and return where they are. Raises whatever its store of artifacts does."""
    import mlflow

    uri = f"models:/{model}/{version}"
    return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(directory)))


# What the rest of this package does with a client that it has


def found(client: MlflowClient, model: str, version: str) -> Version | None:
    """Return a version, None where there is none: versions are numbers."""
    if not version.isdecimal():
        return None
    one = unless_missing(lambda: client.get_model_version(model, version))
    return _version(one) if one is not None else None


def existing(client: MlflowClient, model: str, version: str) -> Version:
    """Return a version. Raises Missing."""
    one = found(client, model, version)
    if one is None:
        raise Missing(model, version)
    return one


def search(model: str, newest: int | None = None) -> list[ModelVersion]:
    """Return MLflow's versions of a model, or so many of the newest, in no order that can be relied on."""
    import mlflow

    quote = '"' if "'" in model else "'"
    order = ["version_number DESC"] if newest else None
    return mlflow.search_model_versions(newest, f"name={quote}{model}{quote}", order)


def tag(client: MlflowClient, model: str, version: Version, tags: Mapping[str, str]) -> None:
    """Tag a version, and its run where that is still there."""
    for name, value in tags.items():
        if version.tags.get(name) != value[:_LONGEST_TAG]:
            client.set_model_version_tag(model, version.version, name, value[:_LONGEST_TAG])
    run = _run(client, version)
    if run is not None and run.info.lifecycle_stage == "active":
        for name, value in tags.items():
            client.set_tag(run.info.run_id, name, value[:_LONGEST_TAG])


def _run(client: MlflowClient, version: Version) -> Any:
    run_id = version.run_id
    return unless_missing(lambda: client.get_run(run_id)) if run_id else None


def _run_tags(client: MlflowClient, version: Version) -> dict[str, str]:
    run = _run(client, version)
    return run.data.tags if run is not None else {}


def _claim(client: MlflowClient, one: Version) -> Claim:
    names = one.tags.get(TICKET), _run_tags(client, one).get(TICKET)
    return Claim(one.version, one.created, tuple(dict.fromkeys(filter(None, names))))


def _version(one: ModelVersion) -> Version:
    return Version(
        version=str(one.version),
        run_id=one.run_id or None,
        source=one.source or None,
        created=datetime.fromtimestamp(one.creation_timestamp / 1000, UTC),
        ready=one.status == "READY",
        tags=dict(one.tags),
    )
