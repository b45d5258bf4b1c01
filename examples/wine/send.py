"""Send requests of random wines to the proxy, and then the labels of each: `python send.py --low` or `--high`.

With `--write FILE` these wines become a file to train on, and nothing is sent.
"""

from __future__ import annotations

import os

import click
from rich.console import Console

from mooring.demo.processes import DemoError
from mooring.demo.traffic import Traffic
from mooring.demo.train import SAMPLE, read


@click.command()
@click.option("--low/--high", default=True, help="Wines below the median in alcohol, or above it.")
@click.option("--data-path", default=str(SAMPLE), help="CSV file of wines.")
@click.option("--requests", default=200, show_default=True)
@click.option("--write", type=click.Path(dir_okay=False), help="Write these wines into a CSV file instead.")
@click.option("--port", default=5001, show_default=True, help="The proxy's.")
@click.option("--admin-port", default=5003, show_default=True, help="The proxy's admin port, which takes labels.")
def main(*, low: bool, data_path: str, requests: int, write: str | None, port: int, admin_port: int) -> None:
    """Send requests of four wines each, and then their labels."""
    wines = read(data_path)
    below = wines["alcohol"] <= wines["alcohol"].median()
    chosen = wines[below if low else ~below]
    if write:
        chosen.to_csv(write, index=False)
        return
    token = os.environ.get("MOORING_LABELS_TOKEN")
    if token is None:
        raise click.UsageError(
            "MOORING_LABELS_TOKEN is missing: give it the token that the proxy was started with"
        )
    traffic = Traffic(port, admin_port, token, Console())
    try:
        traffic.send(chosen, requests, f"of wines {'below' if low else 'above'} the median")
    except DemoError as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(
            f"the proxy does not answer on ports {port} and {admin_port}: {error}"
        ) from None


if __name__ == "__main__":
    main()
