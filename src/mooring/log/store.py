"""Where a log lies: a directory, or a bucket of S3, Google Cloud Storage or Azure, all through obstore."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError
from obstore.store import LocalStore, from_url

from mooring.files import create, make_directory
from mooring.settings import REMOTE

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig


_ENDPOINTS = (
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT",
    "AZURE_STORAGE_ENDPOINT",
    "AZURE_ENDPOINT",
    "GOOGLE_BASE_URL",
)
"""Variables that name a store other than the cloud's own; what they name without TLS is meant so."""


_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound")
_ASKS_THE_MACHINE = ("/latest/api/token", "/computeMetadata/", "/metadata/identity/")
"""Where each cloud tells its own machines their credentials; asked where the environment has none."""


class StoreError(OSError):
    """A store that does not do what it is asked; the message says what to do about it."""


def is_local(uri: str) -> bool:
    """Whether `uri` is a directory of this machine.

    >>> is_local("mooring-log"), is_local("file:///var/log"), is_local("s3://bucket/log")
    (True, True, False)
    """
    return "://" not in uri or uri.startswith("file://")


def _directory(uri: str) -> Path:
    return Path(uri.removeprefix("file://")).absolute()


def open_store(uri: str) -> ObjectStore:
    """Return the store at `uri`; a directory is made where it is missing.

    Credentials and endpoints come from the environment that each cloud's own tools use: AWS_ACCESS_KEY_ID and
    AWS_ENDPOINT_URL, GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY.
    Nothing is asked of a remote store yet. Raises StoreError for a URI that can't be used.
    """
    try:
        if is_local(uri):
            make_directory(_directory(uri), _directory(uri))
            return LocalStore(_directory(uri))
        scheme = uri.partition("://")[0]
        if scheme not in REMOTE:
            raise StoreError(
                f"{uri} is no place for a log: it is a directory, or begins with s3://, gs:// or az://"
            )
        options: ClientConfig = {"timeout": "30s", "connect_timeout": "5s"}
        if any(os.environ.get(name, "").startswith("http://") for name in _ENDPOINTS):
            options["allow_http"] = True
        # Whoever calls tries again, for longer and with something to say meanwhile.
        retry: RetryConfig = {"max_retries": 1, "retry_timeout": timedelta(seconds=10)}
        opened: ObjectStore = from_url(uri, client_options=options, retry_config=retry)
        return opened
    except BaseError as error:
        raise StoreError(explain(error, uri)) from error


def put_if_absent(store: ObjectStore, path: str, data: bytes | memoryview, uri: str) -> bool:
    """Write an object unless there is one of that name, and say whether it was written.

    Raises StoreError where the store refuses.
    """
    try:
        if is_local(uri):
            # Where obstore is killed it leaves a `NAME#1`, which engines take for a part of the log.
            return create(_directory(uri) / path, data, _directory(uri))
        obstore.put(store, path, data, mode="create", use_multipart=False)
    except AlreadyExistsError:
        return False
    except (BaseError, OSError) as error:
        raise StoreError(explain(error, uri)) from error
    return True


def remove_parts(uri: str, path: str, older_than: float = 0.0) -> None:
    """Remove what killed processes left of the objects at `path`, a pattern, that they did not finish.

    Only what is at least `older_than` seconds old. A remote store keeps nothing unfinished. What can't be removed
    stays: it is hidden, and no part of the log.
    """
    if not is_local(uri):
        return
    place = _directory(uri) / path
    with suppress(OSError):
        for part in place.parent.glob(f".{place.name}.*.part"):
            if time.time() - part.stat().st_mtime >= older_than:
                part.unlink(missing_ok=True)


def get(store: ObjectStore, path: str, uri: str) -> bytes | None:
    """Return an object's bytes, or None if there is none. Raises StoreError where the store refuses."""
    try:
        return bytes(obstore.get(store, path).bytes())
    except FileNotFoundError as error:
        if any(code in str(error) for code in _NO_BUCKET):
            raise StoreError(explain(error, uri)) from error
        return None
    except (BaseError, OSError) as error:
        raise StoreError(explain(error, uri)) from error


def explain(error: Exception, uri: str) -> str:
    """Say in a sentence what is wrong with the store, and what to do."""
    text = str(error)
    if any(code in text for code in _NO_BUCKET):
        return f"there is no bucket for {uri}: make it, or name another"
    if "Account must be specified" in text:
        return f"{uri} does not say whose it is: set AZURE_STORAGE_ACCOUNT_NAME"
    if any(path in text.partition("\n")[0] for path in _ASKS_THE_MACHINE):
        return f"there are no credentials for {uri}: none in the environment, and this machine is given none"
    if isinstance(error, PermissionDeniedError) or "403 Forbidden" in text or "401 Unauthorized" in text:
        return f"{uri} refuses these credentials: check them in the environment, and what they allow"
    if "error sending request" in text or "dns error" in text:
        return f"{uri} can't be reached: check the network, and the endpoint if one is set"
    first = text.partition("\n")[0]
    return f"{uri}: {first}"
