"""Send requests of random wines to the proxy, and then the labels of each: `python send.py --low` or `--high`."""

from __future__ import annotations

import os

import click
from rich.console import Console

from mooring.demo.traffic import Traffic
from mooring.demo.train import SAMPLE, read


@click.command()
@click.option("--low/--high", default=True, help="Wines below the median in alcohol, or above it.")
@click.option("--data-path", default=str(SAMPLE), help="CSV file of wines.")
@click.option("--requests", default=200, show_default=True)
@click.option("--port", default=5001, show_default=True, help="The proxy's.")
@click.option("--admin-port", default=5003, show_default=True, help="The proxy's admin port, which takes labels.")
def main(*, low: bool, data_path: str, requests: int, port: int, admin_port: int) -> None:
    """Send requests of four wines each, and then their labels."""
    wines = read(data_path)
    below = wines["alcohol"] <= wines["alcohol"].median()
    traffic = Traffic(port, admin_port, os.environ["MOORING_LABELS_TOKEN"], Console())
    traffic.send(wines[below if low else ~below], requests, f"of wines {'below' if low else 'above'} the median")


if __name__ == "__main__":
    main()
