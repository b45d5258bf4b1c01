"""`mooring demo` and `mooring init`: for those who begin."""

from __future__ import annotations

from pathlib import Path

import click

from mooring.cli.output import CONTEXT
from mooring.config import SettingError
from mooring.settings import DEFAULT_LOG, DEFAULT_STATE


@click.command(context_settings=CONTEXT)
@click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    default="mooring-demo",
    show_default=True,
    help="directory that everything is written to",
)
@click.option(
    "--data-path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="CSV file of wines with a column 'quality', such as UCI's  [default: Mooring's synthetic wines]",
)
@click.option("--worse", is_flag=True, help="have the retraining make a worse model, which the gate refuses")
@click.option(
    "--bad-model",
    is_flag=True,
    help="have it make a model that passes the gate, fails after a while in service, and is rolled back",
)
@click.option("--ui", is_flag=True, help="open the dashboard, and leave it open at the end until Ctrl-C")
def demo(directory: Path, data_path: Path | None, *, worse: bool, bad_model: bool, ui: bool) -> None:
    """See the loop close: train, serve, log, drift, labels, retrain, compare, roll out.

    It starts mooring serve and the monitor, and sends requests and labels from start to end; what follows is
    their doing. Takes about two minutes, stops everything that it started, and names the report at the end.
    A mooring.yaml is left in the directory, where `mooring history` and the other commands need no options.
    """
    if worse and bad_model:
        raise click.UsageError("--worse and --bad-model: choose one")
    from mooring.demo.processes import DemoError
    from mooring.demo.run import run

    try:
        run(directory, data_path, worse=worse, bad=bad_model, show=ui)
    except DemoError as error:
        raise click.ClickException(str(error)) from None


@click.command(context_settings=CONTEXT)
@click.argument("model")
@click.option("--force", is_flag=True, help="write over a mooring.yaml that is there")
def init(model: str, *, force: bool) -> None:
    """Write a mooring.yaml for a registered model, models:/NAME, and say what to type next."""
    import json
    import shlex

    path = Path("mooring.yaml")
    if path.exists() and not force:
        raise SettingError(f"{path} is there already: --force writes over it")
    name, uri = _registered(model)
    quoted = json.dumps(name, ensure_ascii=False)  # a name may look like anything in YAML
    try:
        path.write_text(_YAML.format(name=quoted, log=DEFAULT_LOG, state=DEFAULT_STATE), encoding="utf-8")
    except OSError as error:
        raise click.ClickException(f"{path} can't be written: {error.strerror}") from None
    click.echo(_NEXT.format(uri=shlex.quote(uri)), nl=False)
    if not uri.endswith("@champion"):
        click.echo(_NO_CHAMPION.format(name=repr(name)), nl=False)


def _registered(model: str) -> tuple[str, str]:
    """Return the name of a registered model, and the URI of what is to be served of it."""
    from mooring.registry import aliases, versions
    from mooring.registry.client import TrackingError, place

    name, alias, version = _parts(model)
    try:
        numbers = [one.version for one in versions.all_of(name)] if name else []
        named = sorted(aliases.of(name)) if numbers else []
    except TrackingError as error:
        raise click.ClickException(str(error)) from None
    if not numbers:
        raise click.ClickException(
            f"MLflow at {place()} has no versions of a registered model {name!r}: check the name, and "
            "MLFLOW_TRACKING_URI, or register one with mlflow.register_model"
        )
    if alias is None and version is None:
        return name, f"models:/{name}@champion" if "champion" in named else f"models:/{name}/{numbers[-1]}"
    if alias in named or version in numbers:
        return name, f"models:/{name}@{alias}" if alias else f"models:/{name}/{version}"
    there = f"versions {', '.join(numbers[-10:])}" + (f" and the aliases {', '.join(named)}" if named else "")
    raise click.ClickException(f"there is no {model}: {name} has {there}")


def _parts(model: str) -> tuple[str, str | None, str | None]:
    """Return the name, alias and version that are asked for.

    >>> _parts("models:/wine"), _parts("wine@champion"), _parts("models:/wine/3")
    (('wine', None, None), ('wine', 'champion', None), ('wine', None, '3'))
    """
    text = model.removeprefix("models:/").strip("/")
    name, at, alias = text.partition("@")
    if at:
        return name, alias, None
    name, slash, version = text.partition("/")
    return name, None, version if slash else None


_YAML = """\
# Settings of Mooring in this directory. Flags and MOORING_* variables go before them.
# Every one is explained by `mooring proxy --help` and `mooring monitor --help`.

model: {name}

# The inference log: a directory, or s3://, gs:// or az:// and a bucket.
log: {log}

# What the monitor remembers: an SQLite file, or postgresql://USER@HOST/NAME for several hosts.
state: {state}

# A window is judged once it has so many rows or its time is over, whichever comes first.
window_rows: 1000
window: 1h

# How many false alarms there may be in what time, over all that this state's monitors watch.
false_alarms: 1 per 90d

# Who is told when drift begins, gets worse, and ends.
# alert_webhook: [https://chat.example/hooks/…]
# alert_command: ["notify-team --channel models"]

# Fields that are never stored as they are.
# redact: ["email=hash", "name=drop"]

# How to train, once labels are in the log: `mooring retrain --help`.
# retrain:
#   command: [python, train.py, --data, "{{data}}"]
#   label: quality    # the column that is predicted

# How `mooring serve` puts a new version into service, once it is loaded and checked; else by a shadow of a minute.
# rollout:
#   step: [shadow 20% 10m 500, canary 5% 10m 200, canary 50% 10m 200]
"""

_NEXT = """\
mooring.yaml is written. Next, each in a terminal of its own:

    mlflow models serve --env-manager local --port 5002 --model-uri {uri}
    mooring proxy --upstream http://localhost:5002 --port 5001 --model {uri}
    mooring monitor

and, once there are verdicts:

    mooring report
"""

_NO_CHAMPION = """
A retraining compares with the version that has the alias champion. Which one is served, say in Python:

    mlflow.MlflowClient().set_registered_model_alias({name}, "champion", "VERSION")
"""
