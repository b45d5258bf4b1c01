"""The certificate that clients are shown, and the authorities whose certificates they have to show."""

from __future__ import annotations

import ssl
from abc import ABC, abstractmethod
from pathlib import Path

from mooring.capture.proxy.file_watch import FileWatch

_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"
_KEY = b"PRIVATE KEY-----"


class Handshake(ABC):
    """A connection whose handshake is under way."""

    @abstractmethod
    def abort(self) -> None:
        """Close at once."""


class ServerTls:
    """How clients connect by TLS, 1.2 and up: `context` is that of new connections.

    It is made anew when one of the files changes. Connections that are open keep theirs, and nothing of theirs is
    lost; nor does a session that began with other authorities go on with the new ones. Files that can't be taken,
    half written or of two pairs, change nothing: it is said.
    """

    def __init__(
        self,
        cert: str,
        key: str | None,
        client_ca: str | None,
        *,
        handshakes: int = 256,
    ) -> None:
        """Read the files; so many `handshakes` may be under way.

        Raises ValueError for files that can't be taken, with what is wrong with which.
        """
        self.handshakes = handshakes
        self.shaking: dict[Handshake, None] = {}
        """The connections whose handshake is under way, the oldest first."""
        self._cert = cert
        self._key = key
        self._client_ca = client_ca
        self.context = _context()
        self.asking = _context()
        """The same, for a port where clients may come without a certificate, as probes do."""
        files = [path for path in (cert, key, client_ca) if path is not None]
        self._watch = FileWatch(files, self._load)

    @property
    def takes_certificates(self) -> bool:
        """Whether clients have to show a certificate."""
        return self._client_ca is not None

    def tick(self) -> None:
        """Read the files again if they have changed; to be called now and then."""
        self._watch.tick()

    def _load(self) -> None:
        contexts = _context(), _context()
        for context, mode in zip(contexts, (ssl.CERT_REQUIRED, ssl.CERT_OPTIONAL), strict=True):
            _load_pair(context, self._cert, self._key)
            if self._client_ca is not None:
                _load_authorities(context, self._client_ca)
                context.verify_mode = mode
        self.context, self.asking = contexts  # both or none


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["http/1.1"])
    return context


def _load_pair(context: ssl.SSLContext, cert: str, key: str | None) -> None:
    if _CERTIFICATE not in _read("--tls-cert", cert):
        raise ValueError(
            f"--tls-cert: {cert} has no certificate in it: it must be PEM, -----BEGIN CERTIFICATE-----."
        )
    name, path = ("--tls-key", key) if key is not None else ("--tls-cert", cert)
    if _KEY not in _read(name, path):
        hint = "" if key is not None else " Name the file that has it with --tls-key."
        raise ValueError(
            f"{name}: {path} has no private key in it: it must be PEM, -----BEGIN PRIVATE KEY-----.{hint}"
        )

    def password() -> str:
        raise ValueError(
            f"{name}: the key in {path} is encrypted. Write it without a password, readable by this user alone: "
            f"openssl pkey -in {path} -out NEW"
        )

    try:
        context.load_cert_chain(cert, key, password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ValueError(f"{name}: the key in {path} is not that of the certificate in {cert}.") from None
        raise ValueError(f"--tls-cert: {cert} and the key in {path} can't be used: {_reason(error)}.") from None
    except OSError as error:
        raise ValueError(f"--tls-cert: can't read {cert} or {path}: {error.strerror}.") from None


def _load_authorities(context: ssl.SSLContext, path: str) -> None:
    if _CERTIFICATE not in _read("--tls-client-ca", path):
        raise ValueError(
            f"--tls-client-ca: {path} has no certificate in it: it must have those of the authorities that have "
            "signed your clients', in PEM."
        )
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise ValueError(f"--tls-client-ca: {path} can't be used: {_reason(error)}.") from None
    except OSError as error:
        raise ValueError(f"--tls-client-ca: can't read {path}: {error.strerror}.") from None


def _read(setting: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{setting}: can't read {path}: {error.strerror}.") from None


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).replace("_", " ").lower()
