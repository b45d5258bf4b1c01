"""What the front tells the controller when it starts it."""

from __future__ import annotations

import msgspec

from mooring.settings import ServeSettings

GAVE_UP = 2
"""The exit code of a controller that can't do what it was told, however often it is started."""

REPEATED = {"every": 60.0}
"""Marks a message that comes again and again as long as something goes wrong: the seconds between two of them."""


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """What a controller is to do, as JSON on its stdin.

    `settings.model` is the model's plain name; what is followed is an `alias`, or `version` for good. `holder`
    names the front: a controller that is started anew by the same front has the lease at once.

    >>> text = msgspec.json.encode(Start(settings=ServeSettings(model="wine"), alias="champion", holder="host:7"))
    >>> msgspec.json.decode(text, type=Start).follows
    '@champion'
    """

    settings: ServeSettings
    alias: str | None = None
    version: str | None = None
    holder: str | None = None

    @property
    def model(self) -> str:
        """The model's name."""
        return self.settings.model or ""

    @property
    def follows(self) -> str:
        """What is followed, in a word."""
        return f"@{self.alias}" if self.alias is not None else self.version or ""
