"""`mooring gate`: whether a new version of a model is proven better than the champion."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mooring.cli import flags
from mooring.cli.help import Command
from mooring.cli.monitor import explained
from mooring.cli.output import CONTEXT, show, with_name
from mooring.config import SettingError, load, options
from mooring.settings import GateSettings, RetrainSettings

if TYPE_CHECKING:
    from mooring.retrain.gate import GateVerdict

REFUSED = 3
"""The exit code for a candidate that broke a rule."""


@click.command(cls=Command, context_settings=CONTEXT)
@options(GateSettings)
@click.option(
    "--candidate", metavar="VERSION", required=True, help="the version that is to prove itself  [required]"
)
@click.option("--champion", metavar="VERSION", help="what it is compared with  [default: the alias champion]")
@click.option("--holdout", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="labelled rows that neither has seen  [default: the newest ones of the log]")  # fmt: skip
@click.option("--label", metavar="COLUMN", help="the column of labels in that file  [default: --retrain-label]")
@flags.as_json
def gate(
    settings: GateSettings,
    *,
    candidate: str,
    champion: str | None,
    holdout: Path | None,
    label: str | None,
    as_json: bool,
) -> None:
    """Compare a version of a model with the champion, on the same labelled rows, and change nothing.

    Exit code 0: it passed. 3: it was refused. 1: it can't be told. 2: wrong usage.

    \b
    mooring gate --model wine --candidate 4
    mooring gate --model wine --candidate 4 --holdout test.csv --label quality --gate-better-by 0.05

    The rows must be such that the candidate was not trained on them. Both are evaluated in MLflow, as runs of the
    experiment mooring/NAME.
    """
    import msgspec

    settings = with_name(settings)
    if settings.model is None:
        raise SettingError("--model is missing. Give it, or set MOORING_MODEL, or model in mooring.yaml.")
    with explained(), tempfile.TemporaryDirectory(prefix="mooring-gate-") as directory:
        verdict = _judged(settings, settings.model, candidate, champion, holdout, label, Path(directory))
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(verdict), indent=1).decode())
    else:
        show(
            ["rule", "", "what was found"],
            [[check.name, "ok" if check.passed else "NO", check.message] for check in verdict.checks],
        )
    against = f"version {verdict.champion}" if verdict.champion else "no champion"
    word = "passed" if verdict.passed else "refused"
    click.echo(f"version {candidate} of {settings.model} against {against}: {word}", err=True)
    if not verdict.passed:
        sys.exit(REFUSED)


def _judged(
    settings: GateSettings,
    model: str,
    candidate: str,
    champion: str | None,
    holdout: Path | None,
    label: str | None,
    directory: Path,
) -> GateVerdict:
    from mooring.registry import aliases
    from mooring.retrain import gate
    from mooring.retrain.dataset.gather import Changed, NotEnough, make, open_holdout
    from mooring.retrain.evaluation import records

    retraining = load(RetrainSettings, {"model": model})
    label = label or retraining.retrain_label or "label"
    champion = champion or aliases.champion(model)
    if champion == candidate:
        raise click.ClickException(
            f"version {candidate} of {model} is the champion itself: name another --champion"
        )
    try:
        if holdout is None:
            made = make(
                settings.log,
                model,
                directory / "data",
                ticket="gate",
                holdout=retraining.retrain_holdout,
                min_labels=1,
                label=label,
                protected=settings.protected,
            )
            holdout = open_holdout(directory / "data", made.holdout_digest)
        output = directory / "evaluation.json"
        records.run(
            records.command(
                settings,
                model=model,
                champion=champion,
                candidate=candidate,
                holdout=holdout,
                label=label,
                output=output,
            )
        )
        return gate.decide(records.read(output), settings)
    except (records.EvaluationError, NotEnough, Changed, OSError) as error:
        raise click.ClickException(str(error)) from None
    except ValueError as error:  # the label, say
        if type(error) is not ValueError:
            raise
        raise SettingError(str(error)) from None
