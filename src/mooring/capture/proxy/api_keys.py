"""Bearer keys: who shows one of them may ask."""

from __future__ import annotations

import secrets
from hashlib import blake2b
from pathlib import Path

from mooring.capture.proxy.file_watch import FileWatch

_SCHEME = b"bearer"
_BLANKS = b" \t"
_ACCEPTED = 1024
_LONGEST_ACCEPTED = 1024


class ApiKeys:
    """The keys in a file, one a line; blank lines and those that begin with `#` are none.

    The file is read again when it changes. One that is gone, or has no key in it, changes nothing: it is said.

    How long it takes to tell whether a key is known does not depend on how much of it is right: keys are looked up
    by their hashes under a secret of this process, and a field as a whole where it was accepted before.
    """

    def __init__(self, path: str, setting: str) -> None:
        """Read the file; `setting` is the flag that names it. Raises ValueError where that can't be done."""
        self._path = path
        self._setting = setting
        self._secret = secrets.token_bytes(32)
        self._known: frozenset[bytes] = frozenset()
        self._accepted: set[bytes] = set()  # fields, so that those who ask again and again cost one look-up
        self._watch = FileWatch([path], self._read)

    def known(self, authorization: bytes | None) -> bool:
        """Whether an Authorization field, None where there is none, shows one of the keys."""
        if authorization is None:
            return False
        if authorization in self._accepted:
            return True
        scheme, _, key = authorization.strip(_BLANKS).partition(b" ")
        if scheme.lower() != _SCHEME or self._hash(key.strip(_BLANKS)) not in self._known:
            return False
        if len(authorization) <= _LONGEST_ACCEPTED:
            if len(self._accepted) >= _ACCEPTED:
                self._accepted.clear()
            self._accepted.add(authorization)
        return True

    def tick(self) -> None:
        """Read the file again if it has changed; to be called now and then."""
        self._watch.tick()

    def _hash(self, key: bytes) -> bytes:
        return blake2b(key, key=self._secret, digest_size=32).digest()

    def _read(self) -> None:
        try:
            text = Path(self._path).read_text(encoding="utf-8-sig")
        except OSError as error:
            raise ValueError(f"{self._setting}: can't read {self._path}: {error.strerror}.") from None
        except UnicodeDecodeError:
            raise ValueError(f"{self._setting}: {self._path} is no text file.") from None
        self._known = frozenset(map(self._hash, self._keys(text)))
        self._accepted.clear()

    def _keys(self, text: str) -> list[bytes]:
        keys = []
        for number, line in enumerate(text.splitlines(), 1):
            key = line.strip()
            if not key or key.startswith("#"):
                continue
            if not all("!" <= sign <= "~" for sign in key):  # the key itself is not for messages
                raise ValueError(
                    f"{self._setting}: line {number} of {self._path} is no key: one has no blanks in it, and "
                    "only letters, digits and signs of ASCII."
                )
            keys.append(key.encode())
        if not keys:
            raise ValueError(
                f"{self._setting}: {self._path} has no key in it, so nobody could ask. Put one on each line, "
                "such as what `openssl rand -hex 32` prints."
            )
        return keys
