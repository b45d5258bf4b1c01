"""Looks through what Mooring's processes write for what nobody is to read there: keys and tokens they were given.

Every test that starts one has its output looked through, wherever that goes: into a file, a pipe, or pytest's own.
What is secret is known from how the process was started: from its variables, its flags and its files of keys.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

MARK = "payload-that-nobody-reads"
"""What a test may put into a payload: it is secret everywhere but in the log."""
SHORTEST = 8
"""A shorter secret, such as `a`, may well be in what is said; so may words, such as `a secret`."""
_VARIABLE = re.compile(r"MOORING_\w*(TOKEN|KEY|SECRET)")
_FLAG = re.compile(r"--[a-z-]*(token|key|secret)")
_FILE = re.compile(r"(MOORING_|--)((API|ADMIN|api|admin)[_-](KEY|key)[_-](FILE|file)|(TLS|tls)[_-](KEY|key))")


class Overheard:
    """The secrets of the processes that were started, and the files that they write to."""

    def __init__(self) -> None:
        self.secrets: set[str] = {MARK}
        self._key_files: set[Path] = set()
        self._outputs: dict[Path, int] = {}
        self._texts: list[str] = []

    def started(self, args: Any, env: Mapping[str, str] | None, cwd: Any, outputs: Iterable[Any]) -> None:
        """Note how a process is started, if it is one of Mooring's."""
        words = [os.fsdecode(one) for one in args] if isinstance(args, list | tuple) else []
        if not any(re.fullmatch(r"(.*/)?mooring|mooring\.[\w.]+", word) for word in words):
            return
        given = list((os.environ if env is None else env).items())
        for word, following in zip(words, [*words[1:], ""], strict=True):
            name, equals, value = word.partition("=")
            given.append((name, value if equals else following))
        for name, value in given:
            if _FILE.fullmatch(name):
                self._key_files.add(Path(cwd or ".", value).absolute())
            elif _VARIABLE.fullmatch(name) or _FLAG.fullmatch(name):
                self._keep(value)
        for output in outputs:
            if isinstance(path := getattr(output, "name", None), str):
                self._outputs.setdefault(Path(path).absolute(), 0)

    def heard(self, *texts: bytes | str | None) -> None:
        """Note what a process has written into a pipe."""
        self._texts += [
            text.decode(errors="replace") if isinstance(text, bytes) else text for text in texts if text
        ]

    def told(self, sections: Sequence[tuple[str, str]], when: str) -> list[str]:
        """Return what is secret of what was written since this was asked, and in pytest's sections of a phase."""
        for path in self._key_files:
            if path.is_file():
                for line in path.read_text(errors="replace").splitlines():
                    if not line.startswith(("#", "-----")):  # a comment, and the frame of a PEM
                        self._keep(line.strip())
        texts, self._texts = self._texts, []
        captured = f"Captured stderr {when}", f"Captured stdout {when}"
        texts += [text for name, text in sections if name in captured]
        for path, offset in list(self._outputs.items()):
            if path.is_file():
                with path.open("rb") as file:
                    file.seek(offset)
                    texts.append(file.read().decode(errors="replace"))
                    self._outputs[path] = file.tell()
        return sorted(secret for secret in self.secrets if any(secret in text for text in texts))

    def _keep(self, secret: str) -> None:
        if len(secret) >= SHORTEST * (1 + (" " in secret)):
            self.secrets.add(secret)


overheard = Overheard()


class HeardPopen(subprocess.Popen):  # type: ignore[type-arg]
    """A process whose output is looked through."""

    def __init__(self, args: Any, *further: Any, **options: Any) -> None:
        outputs = (options.get("stdout"), options.get("stderr"))
        overheard.started(args, options.get("env"), options.get("cwd"), outputs)
        super().__init__(args, *further, **options)

    def communicate(self, *args: Any, **options: Any) -> Any:
        """Return what the process has written."""
        out, err = super().communicate(*args, **options)
        overheard.heard(out, err)
        return out, err
