"""Flags that several commands have which take no settings by themselves."""

from __future__ import annotations

from typing import Any

import click

from mooring.settings import DEFAULT_LOG, DEFAULT_STATE

log = click.option("--log", help=f"the log  [default: {DEFAULT_LOG}]")
state = click.option("--state", help=f"the monitor's state  [default: {DEFAULT_STATE}]")
model = click.option("--model", help="name of the model; needed where the state knows several")
as_json = click.option("--json", "as_json", is_flag=True, help="a JSON object")
as_json_lines = click.option("--json", "as_json", is_flag=True, help="a JSON object a line")
as_json_windows = click.option("--json", "as_json", is_flag=True, help="a JSON list, the oldest window first")
reason = click.option("--reason", default="", help="why, for the record")
reason_by_hand = click.option("--reason", default="by hand", show_default=True, help="why, for the record")


def of_state(command: Any) -> Any:
    """Give a command the flags that say which model in which state is meant."""
    return model(state(command))
