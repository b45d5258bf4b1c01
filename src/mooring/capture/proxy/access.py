"""Who may ask the proxy and its admin port: the keys that they show."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mooring.capture.proxy.api_keys import ApiKeys
from mooring.capture.say import say

if TYPE_CHECKING:
    from mooring.config import FrontSettings

_LOOK_SECONDS = 1.0


class Access:
    """The keys of a process, read anew when their files change. None where there is no such file."""

    def __init__(self, settings: FrontSettings) -> None:
        """Read the files. Raises ValueError for those that can't be taken."""
        self._muted = False
        file = settings.admin_key_file
        self.admin_keys = ApiKeys(file, "--admin-key-file", self._say) if file else None

    def mute(self) -> None:
        """Say nothing any more of files that change: another process does."""
        self._muted = True

    def tick(self) -> None:
        """Look whether files have changed; to be called now and then."""
        if self.admin_keys is not None:
            self.admin_keys.tick()

    async def watch(self) -> None:
        """Look for ever."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            self.tick()

    def _say(self, text: str) -> None:
        if not self._muted:
            say(text)
