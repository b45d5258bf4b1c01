"""One model server process: MLflow's own scoring app on a Unix socket, until the process that started it is gone.

    python model_server.py --model DIRECTORY --socket PATH --timeout SECONDS

It is run by its path, by the Python of the model's environment, which may not have Mooring but has MLflow and
uvicorn, which runs MLflow's own server. Answers are those of `mlflow models serve`. The socket appears once the
model is loaded. SIGTERM lets it finish what it has; when its stdin ends, it is gone at once.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    # Run by its path, Python looks beside this file for modules, where a model's own may have the same name as one
    # of Mooring's. With `mlflow models serve` it looks in the current directory.
    if sys.path[:1] == [os.path.dirname(os.path.realpath(__file__))]:
        del sys.path[0]
    sys.path.insert(0, "")

import argparse
import asyncio
import ctypes
import io
import math
import signal
import threading
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1
_OOM_SCORE = "500"
_KEEP_ALIVE_SECONDS = 75


def main() -> None:
    """Serve the model that the command line names."""
    end_with_parent()
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True, help="directory of the model's files")
    parser.add_argument("--socket", required=True, help="path of the Unix socket to listen on")
    parser.add_argument("--timeout", required=True, type=float, help="seconds that a prediction may take")
    options = parser.parse_args()
    os.register_at_fork(after_in_child=_heed_signals)
    serve(options.model, options.socket, options.timeout)


def end_with_parent() -> None:
    """Have this process end when the one that started it does, however that ends.

    That one holds the other end of this one's stdin, which the kernel closes for it. On Linux the kernel also ends
    this process by itself, even while the model keeps Python from running any other thread.
    """
    parent = os.getppid()
    held = os.dup(0)
    # What the model starts may read its stdin, and gets none.
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    threading.Thread(target=_wait_for_end, args=(held,), daemon=True, name="end with parent").start()
    if sys.platform == "linux":
        _let_kernel_end(parent)


def serve(model: str, path: str, timeout: float) -> None:
    """Load the model in the directory `model`, and answer on a Unix socket at `path` until SIGTERM.

    A prediction that takes longer than `timeout` seconds is answered with 504; MLflow counts in whole seconds, so
    that it is rounded up.
    """
    # What `mlflow models serve` sets for its server.
    os.environ["__pyfunc_model_path__"] = Path(os.path.abspath(model)).as_uri()  # noqa: SIM112
    os.environ["MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT"] = str(math.ceil(timeout))
    # As on a terminal: what a model prints before it crashes is seen.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    try:
        import uvicorn
        from mlflow.pyfunc.scoring_server.app import app
    except ModuleNotFoundError as error:
        if error.name not in ("uvicorn", "fastapi", "mlflow", "mlflow.pyfunc.scoring_server.app"):
            raise
        sys.exit(
            f"{error.name} is missing in the model's environment, {sys.prefix}: a model is served by the MLflow "
            "that its requirements name, which has to be 3.1 or later"
        )
    lighten(app)
    config = uvicorn.Config(
        app,
        uds=path,
        log_level="warning",
        access_log=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        # Only the front can connect, and says whether its client did by https, as a redirect has to.
        forwarded_allow_ips="*",
    )
    uvicorn.Server(config).run()


class Timeout:
    """MLflow's limit of the time that a request may take, as plain ASGI middleware with the same answer.

    MLflow's own is a function, for which Starlette runs each request in a task of its own and takes the answer
    through a queue: an eighth of the processor's time that a small request takes.
    """

    def __init__(self, app: Any, seconds: float) -> None:
        self._app = app
        self._seconds = seconds

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Take a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self._seconds):
                await self._app(scope, receive, send)
        except TimeoutError:
            from starlette.responses import Response

            answer = Response("Request processing time exceeded limit", 504, media_type="application/json")
            await answer(scope, receive, send)


def lighten(app: Any) -> None:
    """Put `Timeout` in the place of MLflow's own, where that is all the middleware there is, and Python has it."""
    names = [getattr(each.kwargs.get("dispatch"), "__name__", "") for each in app.user_middleware]
    if names == ["timeout_middleware"] and hasattr(asyncio, "timeout"):
        app.user_middleware.clear()
        app.add_middleware(Timeout, seconds=float(os.environ["MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT"]))


def _wait_for_end(held: int) -> None:
    while os.read(held, 4096):
        pass
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)  # with what the model has started
    os._exit(1)


def _heed_signals() -> None:
    """Have a process that the model forks end by signals: this one's handlers only note that one has come.

    Else `multiprocessing.Pool` waits for ever for those that it has asked to end.
    """
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _let_kernel_end(parent: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # it was gone before that
    try:
        # Where memory is short, a model server goes before the process that could start another.
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)
    except OSError as error:
        print(
            f"the kernel's choice of what to end when memory is short is left as it is: {error}", file=sys.stderr
        )


if __name__ == "__main__":
    main()
