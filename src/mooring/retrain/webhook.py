"""The job where others train: tells them, then waits for a version that carries the ticket as a tag.

Run as `python -m mooring.retrain.webhook URL` by the job, whose time limit holds for it, too.
"""

from __future__ import annotations

import os
import sys
import time
from datetime import UTC, datetime

from mooring.monitor.tracking import TrackingError
from mooring.retrain import job, registry

SECRET = "MOORING_RETRAIN_SECRET"  # noqa: S105 (the name of a variable)
_TRIES = 6
_POLL_SECONDS = 5.0


def main(url: str) -> int:
    """Tell `url` of the ticket, and wait until there is a version for it; return an exit code."""
    ticket, model = os.environ["MOORING_TICKET"], os.environ["MOORING_MODEL"]
    payload = {
        "event": "retrain",
        "ticket": ticket,
        "attempt": int(os.environ["MOORING_ATTEMPT"]),
        "model": model,
        "training_data": os.environ["MOORING_TRAINING_DATA"],
        "tag": f"mooring.ticket={ticket}",
    }
    since = datetime.now(UTC)
    for tried in range(1, _TRIES + 1):
        try:
            job.fire(url, os.environ.get(SECRET), payload)
            break
        except job.NotFired as error:
            print(f"{url} did not take it, attempt {tried} of {_TRIES}: {error}", flush=True)
            if tried == _TRIES or error.final:
                return 1
            time.sleep(max(2.0**tried, error.wait or 0.0))
    print(f"{url} was told; waiting for a version of {model} with the tag mooring.ticket={ticket}", flush=True)
    while True:
        try:
            if found := registry.candidates(model, ticket, since):
                print(f"version {found[-1]} has come", flush=True)
                return 0
        except TrackingError as error:
            print(f"{error}", flush=True)
        time.sleep(_POLL_SECONDS)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
