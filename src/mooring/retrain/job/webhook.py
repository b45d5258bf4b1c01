"""The job where others train: tells them, then waits for a version that carries the ticket as a tag.

Run as `python -m mooring.retrain.job.webhook` by the job, whose time limit holds for it, too. It finds the URL in
its environment, as that may hold a secret, and everybody on a machine can read the arguments of its processes.
"""

from __future__ import annotations

import os
import sys
import time
from datetime import datetime

from mooring.monitor.alerting.channels import Webhook
from mooring.registry import versions
from mooring.registry.client import TrackingError
from mooring.retrain.job import jobs

URL = "MOORING_RETRAIN_WEBHOOK"
OPENED = "MOORING_TICKET_OPENED"
SECRET = "MOORING_RETRAIN_SECRET"  # noqa: S105 (the name of a variable)
_TRIES = 6
_POLL_SECONDS = 5.0


def main() -> int:
    """Tell the URL of the ticket, and wait until there is a version for it; return an exit code."""
    url = os.environ[URL]
    name = Webhook(url).name
    ticket, model = os.environ["MOORING_TICKET"], os.environ["MOORING_MODEL"]
    payload = {
        "event": "retrain",
        "ticket": ticket,
        "attempt": int(os.environ["MOORING_ATTEMPT"]),
        "model": model,
        "training_data": os.environ["MOORING_TRAINING_DATA"],
        "tag": f"mooring.ticket={ticket}",
    }
    # What came of an attempt before, while nobody waited for it, counts too.
    since = datetime.fromisoformat(os.environ[OPENED])
    for tried in range(1, _TRIES + 1):
        try:
            jobs.fire(url, os.environ.get(SECRET), payload)
            break
        except jobs.NotFired as error:
            print(f"{name} did not take it, attempt {tried} of {_TRIES}: {error}", flush=True)
            if tried == _TRIES or error.final:
                return 1
            time.sleep(max(2.0**tried, error.wait or 0.0))
    print(f"{name} was told; waiting for a version of {model} with the tag mooring.ticket={ticket}", flush=True)
    while True:
        try:
            if found := versions.candidates(model, ticket, since, tagged=True):
                print(f"version {found[-1]} has come", flush=True)
                return 0
        except TrackingError as error:
            print(f"{error}", flush=True)
        time.sleep(_POLL_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
