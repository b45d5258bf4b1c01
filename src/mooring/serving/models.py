"""The files of registered versions, brought to this machine once, and the environments that they ask for.

Only the controller imports this: it needs MLflow. On disk, under the directory that the settings name:

    NAME/VERSION/model          what MLflow downloads
    NAME/VERSION/origin.json    which version of which registry that is, and the digest of each of its files
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

import msgspec
import yaml

from mooring.files import locked, make_directory, sync
from mooring.log.listing import folder_name
from mooring.registry import versions
from mooring.registry.client import PermanentError, TrackingError
from mooring.serving.environment import EnvironmentFailed, EnvManager, activation
from mooring.serving.protocol import Model

logger = logging.getLogger(__name__)

_MODEL = "model"
_ORIGIN = "origin.json"
_TEMPORARY = ".partial-"
_FULL = {errno.ENOSPC, errno.EDQUOT}


class BringError(Exception):
    """A version can't be brought here; the message says why, and what to do."""

    @property
    def may_pass(self) -> bool:
        """Whether it may be brought another time, since only MLflow does not answer."""
        return isinstance(self.__cause__, TrackingError) and not isinstance(self.__cause__, PermanentError)


class Origin(msgspec.Struct, frozen=True):
    """What tells a version from another of the same number, in another registry or after it was deleted."""

    source: str
    run_id: str
    created: datetime


class _Brought(msgspec.Struct, frozen=True):
    """What was downloaded: the SHA-256 of each file, by its path."""

    origin: Origin
    digests: dict[str, str]


def bring(name: str, version: str, directory: Path, env_manager: EnvManager) -> Model:
    """Return a version whose files are here and whose environment is made, both as far as they were not yet.

    Files that are gone, or not what was downloaded, are downloaded again. Where MLflow does not answer, what was
    brought before serves. Raises BringError.
    """
    if not version.isdecimal():
        raise BringError(f"{version!r} is no version of {name}: versions are numbers")
    path = _files(name, version, Path(directory))
    try:
        return Model(version, str(path), activation(path, env_manager))
    except EnvironmentFailed as error:
        raise BringError(f"{name} version {version} can't be served: {error}") from error


def forget(name: str, keep: set[str], directory: Path) -> None:
    """Remove the files of a model's versions except of those in `keep`. Raises BringError."""
    folder = Path(directory) / _folder_name(name)
    try:
        if not folder.is_dir():
            return
        with _locked(folder):
            for path in folder.iterdir():
                if path.name.isdecimal() and path.name not in keep:
                    _remove(path)
    except OSError as error:
        raise BringError(f"{folder} can't be tidied: {error}") from error


def example(path: Path | str) -> bytes | None:
    """Return the body of a scoring request, from the input example of the model in `path`, or None without one.

    Raises BringError where the example can't be read.
    """
    path = Path(path)
    try:
        info = (yaml.safe_load((path / "MLmodel").read_text()) or {}).get("saved_input_example_info") or {}
        if served := info.get("serving_input_path"):
            return Path(path, served).read_bytes()
        return _made_request(path) if info else None
    except (OSError, ValueError, AttributeError, yaml.YAMLError) as error:
        raise BringError(f"the input example in {path} can't be read: {error}") from error


def _made_request(path: Path) -> bytes | None:
    """Return the request of an example that was logged by an MLflow which did not store that yet (before 2.16)."""
    from mlflow.exceptions import MlflowException
    from mlflow.models import Model as Logged
    from mlflow.models import convert_input_example_to_serving_input

    try:
        logged = Logged.load(str(path))
        data, params = logged.load_input_example(str(path)), logged.load_input_example_params(str(path))
        body = convert_input_example_to_serving_input(data if params is None else (data, params))
    except MlflowException as error:
        raise BringError(f"the input example in {path} can't be read: {error}") from error
    return None if body is None else str(body).encode()


def _folder_name(name: str) -> str:
    """Return the folder of a model: as in the log, but without %, at which MLflow misses files.

    >>> _folder_name("wine quality")
    'wine=20quality'
    """
    return folder_name(name).replace("%", "=")


def _files(name: str, version: str, directory: Path) -> Path:
    """Return the directory of a version's files, downloaded unless they are there."""
    folder = directory / _folder_name(name)
    place = folder / version
    origin = away = None
    try:
        found = versions.find(name, version)
    except TrackingError as error:
        away = error
    else:
        if found is None:
            raise BringError(
                f"there is no version {version} of {name} in MLflow's registry: name one that is there"
            )
        origin = Origin(found.source or "", found.run_id or "", found.created)
    try:
        make_directory(folder, Path(directory))
        with _locked(folder):
            brought = _read_brought(place)
            damage = _damage(place / _MODEL, brought.digests) if brought is not None else ""
            if away is not None and (brought is None or damage):
                why = f"is damaged here ({damage})" if damage else "was not brought here yet"
                raise BringError(f"{name} version {version} {why}, and {away}") from away
            if origin is not None and (brought is None or damage or brought.origin != origin):
                _download(name, version, origin, place)
                if damage:
                    told = "%s version %s was damaged here (%s), and was downloaded again"
                    logger.warning(told, name, version, damage)
            return (place / _MODEL).resolve()
    except OSError as error:
        if error.errno in _FULL:
            raise _no_room(name, version, folder) from error
        raise BringError(f"{name} version {version} can't be brought to {folder}: {error}") from error


def _read_brought(place: Path) -> _Brought | None:
    with suppress(FileNotFoundError, NotADirectoryError, msgspec.DecodeError, UnicodeDecodeError):
        return msgspec.json.decode((place / _ORIGIN).read_bytes(), type=_Brought)
    return None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _damage(directory: Path, digests: dict[str, str]) -> str:
    """Say what is wrong with downloaded files, nothing where all are as they were.

    Files that came later, as Python's compiled ones do, are no damage.
    """
    for name, digest in digests.items():
        try:
            if _digest(directory / name) != digest:
                return f"{name} is not what was downloaded"
        except OSError as error:
            return f"{name}: {error.strerror}"
    return ""


def _download(name: str, version: str, origin: Origin, place: Path) -> None:
    """Download a version into `place`, which is there afterwards as a whole or not at all."""
    temporary = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=place.parent))
    try:
        try:
            got = versions.download(name, version, temporary / _MODEL)
        except Exception as error:  # each store of artifacts has errors of its own
            if _is_full(error):
                raise _no_room(name, version, place.parent) from error
            reason = " ".join(str(error).split())[:500]
            raise BringError(
                f"the files of {name} version {version} can't be downloaded: {reason or type(error).__name__}; "
                f"check that {origin.source} is still there"
            ) from error
        if not (got / "MLmodel").is_file():
            raise BringError(f"{name} version {version} is no model: {origin.source} has no file MLmodel")
        if got != temporary / _MODEL:
            os.rename(got, temporary / _MODEL)
        files = [path for path in sorted((temporary / _MODEL).rglob("*")) if path.is_file()]
        digests = {str(path.relative_to(temporary / _MODEL)): _digest(path) for path in files}
        brought = _Brought(origin, digests)
        (temporary / _ORIGIN).write_bytes(msgspec.json.encode(brought))
        _sync(temporary)
        if place.exists():
            _remove(place)
        os.rename(temporary, place)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _sync(directory: Path) -> None:
    """Have the disk keep what is in a directory, so that a rename after it is never kept without it."""
    for root, _, files in os.walk(directory):
        for path in (*(Path(root, file) for file in files), Path(root)):
            sync(path)


def _remove(place: Path) -> None:
    """Remove a version's directory so that never half of it is left under its name."""
    gone = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=place.parent))
    os.rename(place, gone / place.name)
    shutil.rmtree(gone)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep others from changing what is in a folder, and clear away what one that was killed has left."""
    with locked(folder / ".lock"):
        for left in folder.glob(f"{_TEMPORARY}*"):
            shutil.rmtree(left, ignore_errors=True)
        yield


def _is_full(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        if "No space left on device" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _no_room(name: str, version: str, folder: Path) -> BringError:
    return BringError(
        f"there is no room for {name} version {version}: free some on the disk of {folder.resolve()}"
    )
