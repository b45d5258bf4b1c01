"""The environment that a version's requirements ask for, made as `mlflow models serve --env-manager` makes it.

Only the controller imports this: it needs MLflow.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

from mooring.files import locked

EnvManager = Literal["local", "virtualenv", "uv", "conda"]
_LINES = 5
_ERROR = re.compile(r"error|×|fatal", re.IGNORECASE)


class EnvironmentFailed(Exception):
    """A version's environment can't be made; the message says why."""


def activation(path: Path, manager: EnvManager) -> str:
    """Return the shell command that enters the environment of the model in `path`, made where it is not there yet.

    It is empty for `local`, which is this Python's own. Raises EnvironmentFailed.
    """
    if manager == "local":
        return ""
    from mlflow.models import Model
    from mlflow.pyfunc import FLAVOR_NAME
    from mlflow.pyfunc.backend import PyFuncBackend

    backend_of: Any = PyFuncBackend
    try:
        backend = backend_of(Model.load(str(path)).flavors[FLAVOR_NAME], env_manager=manager)
        with nullcontext() if manager == "conda" else _made_whole(path):
            return " && ".join(backend.prepare_env(str(path), capture_output=True).get_activate_command())
    except Exception as error:  # MLflow's own, a shell's, and those of each tool
        raise EnvironmentFailed(
            f"its environment can't be made with {manager}: {_reason(error)}; install what is missing, or correct "
            "the model's requirements, or serve it in this Python's environment with --env-manager local"
        ) from error


@contextmanager
def _made_whole(path: Path) -> Iterator[None]:
    """See to it that an environment that was being made when everything ended is not taken for one.

    MLflow takes any that is there.
    """
    from mlflow.utils import virtualenv

    mlflows: Any = virtualenv  # its names for environments are not public
    root = Path(mlflows._get_mlflow_virtualenv_root())
    root.mkdir(parents=True, exist_ok=True)
    name = mlflows._get_virtualenv_name(mlflows._get_python_env(path), path)
    unfinished = root / f"{name}.mooring-unfinished"
    with locked(root / f"{name}.mooring-lock"):
        if unfinished.exists():
            shutil.rmtree(root / name, ignore_errors=True)
        elif not (root / name).exists():
            unfinished.touch()
        yield
        unfinished.unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    """Return what a failed command printed from its first error on, else the last that MLflow says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first = next((place for place, line in enumerate(lines) if _ERROR.match(line)), max(len(lines) - _LINES, 0))
    return " ".join(lines[first:])[:600] or type(error).__name__
