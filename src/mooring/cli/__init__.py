"""Every command. Each imports what it runs only when it runs."""

from __future__ import annotations

import os

import click

from mooring import __version__, messages
from mooring.capture import form
from mooring.cli.baseline import baseline, calibrate
from mooring.cli.capture import drain, proxy
from mooring.cli.compare import compare
from mooring.cli.gate import gate
from mooring.cli.help import Group
from mooring.cli.incidents import incidents
from mooring.cli.labels import labels_group
from mooring.cli.log import log_group
from mooring.cli.monitor import drift, monitor, report
from mooring.cli.note import note
from mooring.cli.output import CONTEXT
from mooring.cli.performance import performance
from mooring.cli.retrain import history, promote, retrain, rollback
from mooring.cli.rollout import rollout
from mooring.cli.serve import serve
from mooring.cli.start import demo, init
from mooring.cli.ui import ui
from mooring.registry.client import IMPATIENT


@click.group(cls=Group, context_settings=CONTEXT)
@click.version_option(__version__, message=f"%(prog)s %(version)s ({form()})")
def main() -> None:
    """Mooring logs what an MLflow model server is asked and answers, and watches the log for drift."""
    messages.set_up()  # until the command knows its settings
    for name, value in IMPATIENT.items():
        os.environ.setdefault(name, value)


main.add_section("Getting started", init, demo)
main.add_section("Serving and logging", proxy, serve, drain, log_group, labels_group)
main.add_section(
    "Watching", monitor, incidents, note, drift, performance, report, baseline, calibrate, compare, ui
)
main.add_section("Retraining and rolling out", retrain, gate, promote, rollback, rollout, history)
