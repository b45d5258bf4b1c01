"""A job of training ends as it should and leaves a clear state, whoever is killed meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from mlflow_store import new_store
from mooring.monitor.alerting.channels import sign
from mooring.retrain.job import jobs
from mooring.settings import RetrainSettings
from waiting import wait_for

WAIT = 60.0
DATA = {"data": Path("/data/training.parquet"), "ticket": "t-1", "model": "wine", "directory": Path("/jobs/1")}


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def start(directory: Path, code: str, *, timeout: float = 600.0, grace: float = 10.0, **env: str) -> None:
    jobs.start(directory, python(code), env=env, timeout=timeout, grace=grace)


def ended(directory: Path) -> jobs.Ended:
    wait_for(lambda: not isinstance(jobs.look(directory), jobs.Running), f"the job in {directory} runs on")
    found = jobs.look(directory)
    assert isinstance(found, jobs.Ended), found
    return found


def wrapper(directory: Path) -> int:
    return int((directory / "job.lock").read_bytes())


def said(directory: Path) -> str:
    return (directory / jobs.OUTPUT).read_text(errors="replace")


def alive(pid: int) -> bool:
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def pid_in(path: Path) -> int:
    wait_for(lambda: path.exists() and path.read_text().endswith("\n"), f"there is no {path}")
    return int(path.read_text())


# A program that says who it is, starts another, and waits for ever; what it is sent it ignores.
STUBBORN = """
import os, pathlib, signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import signal; print('up', flush=True); signal.pause()"])
for name, pid in ("child", child.pid), ("own", os.getpid()):
    pathlib.Path(os.environ["HERE"], name).write_text(f"{pid}\\n")
child.wait()
signal.pause()
"""


def test_nothing_has_begun_where_there_is_nothing(tmp_path):
    assert jobs.look(tmp_path / "none") is None
    jobs.stop(tmp_path / "none")


def test_a_job_ends_well_with_its_output_in_its_own_session(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = (
        "import os, sys; print(os.getcwd(), os.environ['MOORING_TICKET'], os.getsid(0), repr(sys.stdin.read()));"
        "sys.stdout.flush();"
        "print('warning', file=sys.stderr)"
    )
    start(tmp_path / "a", code, MOORING_TICKET="t-1")
    found = ended(tmp_path / "a")
    assert (found.code, found.timed_out, found.stopped) == (0, False, False)
    assert found.started <= found.ended
    assert found.seconds > 0
    where, ticket, session, stdin = said(tmp_path / "a").splitlines()[0].split()
    assert (where, ticket, stdin) == (str(tmp_path), "t-1", "''")
    assert int(session) != os.getsid(0)
    assert "warning" in said(tmp_path / "a")
    start(tmp_path / "a", "raise SystemExit(1)")
    assert ended(tmp_path / "a") == found  # begun once, it doesn't begin again


@pytest.mark.parametrize(
    ("code", "wanted"),
    [("raise SystemExit(3)", 3), ("1 / 0", 1), ("import os; os.kill(os.getpid(), 9)", -9)],
)
def test_a_job_that_fails_says_how(tmp_path, code, wanted):
    start(tmp_path, code)
    assert ended(tmp_path).code == wanted
    assert ("ZeroDivisionError" in said(tmp_path)) == ("1 / 0" in code)


def test_a_program_that_is_not_there_is_a_failure_that_says_so(tmp_path):
    jobs.start(tmp_path, ["./no-such-program"], env={}, timeout=60)
    assert ended(tmp_path).code == 127
    assert "'./no-such-program' can't be run: [Errno 2] No such file or directory" in said(tmp_path)


def test_a_job_whose_time_is_over_is_asked_to_end(tmp_path):
    code = "import signal, sys; signal.signal(15, lambda *_: sys.exit(7)); print('up', flush=True); signal.pause()"
    start(tmp_path, code, timeout=3.0, grace=WAIT)
    found = ended(tmp_path)
    assert found.timed_out
    assert found.code in (7, -15)  # -15 where Python was not up by then
    assert found.code == 7 or not said(tmp_path)


def test_one_that_ignores_being_asked_is_ended_with_its_children(tmp_path):
    start(tmp_path, STUBBORN, timeout=3.0, grace=0.2, HERE=str(tmp_path))
    found = ended(tmp_path)
    assert (found.code, found.timed_out) == (-9, True)
    assert not any(alive(pid_in(tmp_path / name)) for name in ("own", "child"))


def test_stop_ends_a_job_and_its_children(tmp_path):
    start(tmp_path, STUBBORN, grace=0.2, HERE=str(tmp_path))
    pids = [pid_in(tmp_path / name) for name in ("own", "child")]
    assert isinstance(jobs.look(tmp_path), jobs.Running)
    jobs.stop(tmp_path)
    found = jobs.look(tmp_path)
    assert isinstance(found, jobs.Ended)
    assert (found.code, found.timed_out, found.stopped) == (-9, False, True)
    assert not any(map(alive, pids))


def test_of_much_output_the_end_is_kept(tmp_path):
    line = "x" * 99
    start(tmp_path, f"for i in range(500_000): print(f'{{i:>9}} {line}')\nprint('done')")
    assert ended(tmp_path).code == 0
    kept = (tmp_path / jobs.OUTPUT).read_bytes()
    assert jobs.KEEP_BYTES - 10_000 < len(kept) <= jobs.KEEP_BYTES
    lines = kept.decode().splitlines()
    assert lines[0] == "(what was here before is cut off: only the last 10 MB are kept)"
    assert lines[-1] == "done"
    numbers = [int(each.split()[0]) for each in lines[1:-1]]
    assert numbers == list(range(numbers[0], 500_000))


def test_of_output_without_lines_the_end_is_kept_and_little_shown(tmp_path):
    start(tmp_path, "import os\nfor _ in range(640): os.write(1, b'x' * 2**16)\nprint('done')")
    assert ended(tmp_path).code == 0
    kept = (tmp_path / jobs.OUTPUT).read_bytes()
    assert jobs.KEEP_BYTES - 10_000 < len(kept) <= jobs.KEEP_BYTES
    assert kept.endswith(b"xdone\n")
    first, last = jobs.last_lines(tmp_path, 40)
    assert first == "(what was here before is cut off: only the last 10 MB are kept)"
    assert last.startswith("xxx")
    assert len(last) < 3000


def test_started_by_several_at_once_it_runs_once(tmp_path):
    code = f"import os; open({str(tmp_path / 'runs')!r}, 'a').write('once\\n')"
    starter = (
        "import sys; from pathlib import Path; from mooring.retrain.job import jobs as job; sys.stdin.read();"
        f"job.start(Path({str(tmp_path / 'job')!r}), {python(code)!r}, env={{}}, timeout=60)"
    )
    starters = [subprocess.Popen(python(starter), stdin=subprocess.PIPE) for _ in range(4)]
    for one in starters:
        assert one.stdin is not None
        one.stdin.close()
    assert [one.wait(WAIT) for one in starters] == [0] * 4
    assert ended(tmp_path / "job").code == 0
    assert (tmp_path / "runs").read_text() == "once\n"


def test_it_outlives_whoever_started_it(tmp_path):
    go = tmp_path / "go"
    os.mkfifo(go)
    code = f"print('begun', flush=True); open({str(go)!r}).read(); print('ended well')"
    starter = (
        "import signal; from pathlib import Path; from mooring.retrain.job import jobs as job;"
        f"job.start(Path({str(tmp_path / 'job')!r}), {python(code)!r}, env={{}}, timeout=60); signal.pause()"
    )
    process = subprocess.Popen(python(starter), start_new_session=True)
    try:
        wait_for(lambda: (tmp_path / "job" / jobs.OUTPUT).exists() and "begun" in said(tmp_path / "job"), "no job")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert isinstance(jobs.look(tmp_path / "job"), jobs.Running)
    go.write_text("go")
    assert ended(tmp_path / "job").code == 0
    assert said(tmp_path / "job") == "begun\nended well\n"


def test_where_its_wrapper_is_killed_all_of_it_ends_and_it_is_lost(tmp_path):
    start(tmp_path, STUBBORN, HERE=str(tmp_path))
    pids = [pid_in(tmp_path / name) for name in ("own", "child")]
    os.kill(wrapper(tmp_path), signal.SIGKILL)
    wait_for(lambda: isinstance(jobs.look(tmp_path), jobs.Lost), "the job is not lost")
    wait_for(lambda: not any(map(alive, pids)), "something runs on")
    jobs.stop(tmp_path)
    start(tmp_path, "print('again')")
    assert isinstance(jobs.look(tmp_path), jobs.Lost)  # another attempt takes another directory


def test_whoever_was_killed_before_the_program_began_leaves_a_lost_job(tmp_path):
    start(tmp_path, "pass")
    ended(tmp_path)
    (tmp_path / "result.json").unlink()  # as it is right after the order was written
    wait_for(lambda: isinstance(jobs.look(tmp_path), jobs.Lost), "the job is not lost")


def test_what_the_program_leaves_behind_is_not_waited_for(tmp_path):
    code = f"""
import pathlib, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
pathlib.Path({str(tmp_path)!r}, "child").write_text(f"{{child.pid}}\\n")
print("ended")
"""
    start(tmp_path, code)
    assert ended(tmp_path).code == 0
    assert said(tmp_path) == "ended\n"
    pid = pid_in(tmp_path / "child")
    wait_for(lambda: not alive(pid), "what it left behind runs on")


# A program that starts two others, each in a session of its own: one is its child, one nobody's any more.
LEAVING = """
import os, pathlib, signal, subprocess, sys, time
here = pathlib.Path(os.environ["HERE"])
code = "import signal; [signal.signal(one, signal.SIG_IGN) for one in (15, signal.SIGHUP)]; signal.pause()"
child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
(here / "child").write_text(f"{child.pid}\\n")
if not os.fork():
    os.setsid()
    if os.fork():
        os._exit(0)
    for descriptor in range(3):
        os.close(descriptor)
    (here / "daemon").write_text(f"{os.getpid()}\\n")
    os.execv(sys.executable, [sys.executable, "-c", code])
while not (here / "daemon").exists():
    time.sleep(0.01)
print("up", flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has subreapers")
@pytest.mark.parametrize(
    "how", ["ends", "is stopped", "takes too long", "is killed", "is killed with its wrapper"]
)
def test_what_has_a_session_of_its_own_ends_with_the_job(tmp_path, how):
    waits = {"ends": "", "is killed": "\nos.kill(os.getpid(), 9)"}.get(how, "\nsignal.pause()")
    timeout = 5.0 if how == "takes too long" else 600.0
    start(tmp_path, LEAVING + waits, timeout=timeout, grace=0.2, HERE=str(tmp_path))
    pids = [pid_in(tmp_path / name) for name in ("child", "daemon")]
    if how == "is stopped":
        jobs.stop(tmp_path)
    elif how == "is killed with its wrapper":
        os.kill(wrapper(tmp_path), signal.SIGKILL)
        wait_for(lambda: isinstance(jobs.look(tmp_path), jobs.Lost), "the job is not lost")
    else:
        ended(tmp_path)
    assert not any(map(alive, pids))


def test_a_job_has_the_environment_that_it_is_given_and_no_other(tmp_path, monkeypatch):
    monkeypatch.setenv("MOORING_UI_TOKEN", "secret")
    start(tmp_path, "import os; print(sorted(os.environ))", MOORING_TICKET="t-1")
    assert ended(tmp_path).code == 0
    assert "MOORING_TICKET" in said(tmp_path)
    assert "MOORING_UI_TOKEN" not in said(tmp_path)


def test_the_wrapper_is_light():
    code = (
        "import sys, mooring.retrain.job.wrapper;"
        "print([name for name in ('mlflow', 'pandas', 'numpy', 'pyarrow', 'sqlalchemy') if name in sys.modules])"
    )
    assert subprocess.check_output(python(code), text=True) == "[]\n"


def test_placeholders_of_a_command():
    chosen = RetrainSettings(
        retrain_command="train 'a b' --data={data} {model}@{version} {{x}} --tag {ticket} {directory}"
    )
    assert jobs.argv_of(chosen, version="3", **DATA) == [
        "train",
        "a b",
        "--data=/data/training.parquet",
        "wine@3",
        "{x}",
        "--tag",
        "t-1",
        "/jobs/1",
    ]
    assert jobs.argv_of(chosen, version=None, **DATA)[3] == "wine@"
    # A value is an argument, or part of one, whatever is in it.
    odd = jobs.argv_of(chosen, version="1", **{**DATA, "model": "{ticket} '; rm"})
    assert odd[3] == "{ticket} '; rm@1"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "one of command, python and webhook"),
        ({"retrain_command": "train", "retrain_python": "a:b"}, "there are command and python"),
        (
            {"retrain_command": "train {file}"},
            r"\{file\} in '\{file\}' is no placeholder; there are \{data\}, .*; \{\{ and \}\}",
        ),
        ({"retrain_command": "train {data"}, r"\{ in '\{data' is no placeholder"),
        ({"retrain_command": "train 'a"}, "is no program and arguments: No closing quotation"),
        ({"retrain_command": " "}, "is empty"),
        ({"retrain_python": "training.py"}, "give module:function"),
        ({"retrain_python": "training:"}, "give module:function"),
        ({"retrain_webhook": "example.org/hook"}, "begins with http"),
    ],
)
def test_settings_that_can_not_be_meant(settings, says):
    with pytest.raises(ValueError, match=says):
        jobs.check(RetrainSettings(**settings))


@pytest.mark.parametrize(
    "settings",
    [
        {"retrain_command": "python train.py {data}"},
        {"retrain_python": "package.training:train"},
        {"retrain_webhook": "https://example.org/hook", "retrain_secret": "s"},
    ],
)
def test_settings_that_can_be_meant(settings):
    jobs.check(RetrainSettings(**settings))


FUNCTIONS = """
def train(data, *, ticket, epochs=3):
    print("train", data, ticket, epochs)

def everything(**given):
    print(sorted(given.items()))

def demanding(data, epochs, path):
    pass

def failing(data):
    raise ValueError("no good data")
"""


@pytest.mark.parametrize(
    ("function", "code", "says"),
    [
        ("training:train", 0, "train /data/training.parquet t-1 3"),
        (
            "training:everything",
            0,
            "[('data', '/data/training.parquet'), ('directory', '/jobs/1'), ('model', 'wine'), ('ticket', 't-1'), "
            "('version', None)]",
        ),
        ("training:demanding", 1, "training:demanding needs epochs, path; what it is given by name is data,"),
        ("training:failing", 1, "ValueError: no good data"),
        ("training:trian", 1, "there is no function trian in "),
        ("trainig:train", 1, "there is no module trainig, looked for in "),
    ],
)
def test_a_function_is_called_with_what_it_takes(tmp_path, monkeypatch, function, code, says):
    monkeypatch.chdir(tmp_path)
    Path("training.py").write_text(FUNCTIONS)
    argv = jobs.argv_of(RetrainSettings(retrain_python=function), version=None, **DATA)
    jobs.start(tmp_path / "job", argv, env={}, timeout=60)
    assert ended(tmp_path / "job").code == code
    assert says in said(tmp_path / "job")
    assert ("Traceback" in said(tmp_path / "job")) == (function == "training:failing")


def test_a_webhook_is_signed_and_what_it_refuses_can_be_tried_again():
    answers = [503, 200, 404]
    got = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append((self.headers, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(answers[len(got) - 1])
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/train"
        try:
            with pytest.raises(jobs.NotFired, match="answered 503") as first:
                jobs.fire(url, "secret", {"ticket": "t-1"})
            jobs.fire(url, "secret", {"ticket": "t-1", "model": "wine"})
            with pytest.raises(jobs.NotFired) as last:
                jobs.fire(url, None, {"ticket": "t-1"})
        finally:
            server.shutdown()
            thread.join()
    assert (first.value.final, last.value.final) == (False, True)
    headers, body = got[1]
    assert json.loads(body) == {"ticket": "t-1", "model": "wine"}
    assert headers["X-Mooring-Signature"] == sign("secret", headers["X-Mooring-Timestamp"], body)
    assert headers["X-Mooring-Alert"] == "t-1"


RUNS = """
import mlflow
mlflow.set_experiment("wine")
with mlflow.start_run():
    mlflow.log_param("depth", 3)
print([run.data.tags.get("mooring.ticket") for run in mlflow.search_runs(["0", "1"], output_format="list")])
"""


def test_runs_of_training_carry_the_ticket(tmp_path):
    env = {"MLFLOW_TRACKING_URI": new_store(tmp_path)}
    start(tmp_path / "outside", RUNS, **env)
    assert ended(tmp_path / "outside").code == 0, said(tmp_path / "outside")
    assert said(tmp_path / "outside").endswith("[None]\n")
    start(tmp_path / "inside", RUNS, MOORING_TICKET="t-1", **env)
    assert ended(tmp_path / "inside").code == 0, said(tmp_path / "inside")
    assert said(tmp_path / "inside").endswith("['t-1', None]\n")
