"""Send requests of random wines, and the labels of each: `python send.py --low` or `--high`.

With `--labels FILE` the labels go into a CSV file for `mooring labels add`. With `--write FILE` these wines become
a file to train on, and nothing is sent.
"""

from __future__ import annotations

import os

import click
import pandas as pd

from mooring.demo.processes import DemoError, pings, wait_for
from mooring.demo.traffic import RATE, DemoTraffic
from mooring.demo.train import SAMPLE, read


@click.command()
@click.option("--low/--high", default=True, help="Wines below the median in alcohol, or above it.")
@click.option("--data-path", default=str(SAMPLE), help="CSV file of wines.")
@click.option("--requests", default=200, show_default=True)
@click.option("--write", type=click.Path(dir_okay=False), help="Write these wines into a CSV file instead.")
@click.option("--labels", type=click.Path(dir_okay=False), help="Write the labels into a CSV file instead.")
@click.option("--port", default=5001, show_default=True, help="Of mooring serve or mooring proxy.")
@click.option("--admin-port", default=5003, show_default=True, help="Its admin port, which takes labels.")
def main(
    *, low: bool, data_path: str, requests: int, write: str | None, labels: str | None, port: int, admin_port: int
) -> None:
    """Send requests of four wines each, 25 a second, and their labels, and say which versions answered."""
    wines = read(data_path)
    below = wines["alcohol"] <= wines["alcohol"].median()
    chosen = wines[below if low else ~below]
    if write:
        chosen.to_csv(write, index=False)
        return
    token = None if labels else os.environ.get("MOORING_LABELS_TOKEN")
    if token is None and not labels:
        raise click.UsageError(
            "MOORING_LABELS_TOKEN is missing: give it the token that the server was started with, or "
            "--labels FILE to write labels into a file"
        )
    if not pings(port):
        raise click.ClickException(f"nothing answers on port {port}: start the server first")
    try:
        with DemoTraffic(port, admin_port, token, chosen) as traffic:
            seconds = 10 * requests / RATE + 60
            wait_for(lambda: traffic.requests >= requests, seconds, f"slow answers: {traffic.last_failure}")
            traffic.finish()
            if labels:
                pd.DataFrame(traffic.labels).to_csv(labels, index=False)
    except DemoError as error:
        raise click.ClickException(str(error)) from None
    for version, count in sorted(traffic.answered.items()):
        click.echo(f"version {version} answered {count}")
    if traffic.failed:
        raise click.ClickException(f"{traffic.failed.total()} requests failed: {traffic.last_failure}")


if __name__ == "__main__":
    main()
