"""What marks the MLflow runs that training begins; MLflow finds it by its entry point."""

from __future__ import annotations

import os

TICKET = "mooring.ticket"
"""The tag of runs and model versions that names the ticket they come from."""


class TicketContext:
    """Tags each run that is begun where MOORING_TICKET is set.

    >>> os.environ["MOORING_TICKET"] = "ticket-1"
    >>> TicketContext().in_context(), TicketContext().tags()
    (True, {'mooring.ticket': 'ticket-1'})
    >>> del os.environ["MOORING_TICKET"]
    """

    def in_context(self) -> bool:
        """Whether this process trains for a ticket."""
        return bool(os.environ.get("MOORING_TICKET"))

    def tags(self) -> dict[str, str]:
        """Return the run's tag."""
        return {TICKET: os.environ["MOORING_TICKET"]}
