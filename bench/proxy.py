"""Proxies in front of a trivially fast server: throughput, latency, and CPU per request of the proxy's process.

    python bench/proxy.py [--seconds 10] [--rounds 3] [--only mooring,mooring-compiled,nginx] [--loads varying-32]

The main case is bodies and answers of varying lengths, several hundred different ones; the second is one body
again and again, the third 100 KB. For each load all run in turn, round by round, and each is compared with nginx
in the same round. nginx, haproxy, wrk and h2load come from Debian's packages; what is not installed is left out,
and said so. mitmproxy runs from an environment of its own, given with --mitmdump, the compiled Mooring from
another, given with --compiled. The drain, which has a start of its own, is measured apart, after the load.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import re
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

from drain import COLUMNS
from report import machine, save

from mooring.demo.processes import free_ports, running, wait_for

ROOT = Path(__file__).parents[1]
T = TypeVar("T")
NGINX = """
worker_processes 1; daemon off; pid {directory}/{name}.pid; error_log {directory}/{name}.err;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 1000000000; client_body_buffer_size 1m; client_max_body_size 0;
  client_body_temp_path {directory}/body; proxy_temp_path {directory}/temp; fastcgi_temp_path {directory}/f;
  uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
  log_format bodies escape=json '{{"time":"$msec","status":$status,"request":"$request_body"}}';
  {http}
}}
"""
# Each body's length is its own, and so says which answer belongs to it: a look-up, and the server stays cheap.
SERVER = """map_hash_max_size 4096; map_hash_bucket_size 128;
  map $content_length $answer {{ default '{{"predictions": [6.0, 5.0]}}'; {answers} }}
  server {{ listen 127.0.0.1:{port}; default_type application/json; location / {{ return 200 $answer; }} }}"""
PROXY = """upstream u {{ server 127.0.0.1:{upstream}; keepalive 64; keepalive_requests 1000000000; }}
  server {{ listen 127.0.0.1:{port}; {log}
  location / {{ proxy_http_version 1.1; proxy_set_header Connection ""; proxy_pass http://u; }} }}"""
HAPROXY = """
global
  nbthread 1
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend f
  bind 127.0.0.1:{port}
  default_backend b
backend b
  http-reuse always
  server s 127.0.0.1:{upstream}
"""
LUA = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
local requests, number = {{}}, 0
function init(args)
  for body in io.lines("{bodies}") do requests[#requests + 1] = wrk.format(nil, nil, nil, body) end
end
function request()
  number = number % #requests + 1
  return requests[number]
end
"""
# No segment closes before the load ends: what the drain takes is measured apart.
MOORING = ["-m", "mooring", "proxy", "--admin-port", "-1", "--drain-timeout", "0", "--segment-seconds", "3600"]
MOORING += ["--segment-bytes", str(2**40)]
VARYING = 400
SHORTEST, LONGEST = 60, 8192
LONGEST_ANSWER = 4000
"""nginx takes no longer word in its configuration."""


class Contender(NamedTuple):
    """A proxy: how it is started, its port and which path is asked.

    `captures` says whether it is Mooring, beside which a drain runs; `drain` drains its spool once it has ended.
    """

    key: str
    name: str
    command: list[str]
    port: int
    path: str = "/invocations"
    captures: bool = False
    drain: tuple[str, ...] = ()


class Figures(NamedTuple):
    """What one run gave. `drain_us` is the drain's CPU a request, beyond its start."""

    rate: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    drain_us: float | None = None


def varying_bodies() -> dict[str, str]:
    """Return bodies of different lengths, log-uniform from 60 bytes to 8 KB, each with its answer.

    Three forms of MLflow's, numbers whole or with up to four decimals, columns in an order of each request's own,
    as many as fit; one prediction a row, and a third of the answers with a probability beside it.
    """
    rng = random.Random(1)
    found: dict[int, tuple[str, str]] = {}
    while len(found) < VARYING:
        size = math.exp(rng.uniform(math.log(SHORTEST), math.log(LONGEST)))
        columns = rng.sample(COLUMNS, min(len(COLUMNS), max(1, int((size - 40) / 25))))
        form = rng.choice(("dataframe_split", "dataframe_records", "inputs"))
        rows: list[list[float]] = []
        body = ""
        while not rows or len(body) < size:
            rows.append([rng.randrange(300) if rng.random() < 0.2 else number(rng) for _ in columns])
            records = [dict(zip(columns, row, strict=True)) for row in rows]
            split = {"columns": columns, "data": rows}
            body = json.dumps({form: {"dataframe_split": split, "dataframe_records": records}.get(form, rows)})
        predictions: list[object] = [number(rng) for _ in rows]
        if rng.random() < 1 / 3:
            predictions = [{"prediction": one, "probability": rng.random()} for one in predictions]
        answer = json.dumps({"predictions": predictions})
        if SHORTEST <= len(body) <= LONGEST and len(answer) < LONGEST_ANSWER:
            found.setdefault(len(body), (body, answer))
    return dict(found.values())


def number(rng: random.Random) -> float:
    """Return a number with none to four decimals."""
    return round(rng.uniform(0, 100), rng.randrange(5))


def contenders(directory: Path, upstream: int, mitmdump: str | None, compiled: Path | None) -> Iterator[Contender]:
    """Yield the proxies that can run here."""
    url = f"http://127.0.0.1:{upstream}"
    ports = iter(free_ports(16))

    def nginx(key: str, port: int, log: str) -> list[str]:
        http = PROXY.format(upstream=upstream, port=port, log=log)
        config = directory / f"{key}.conf"
        config.write_text(NGINX.format(directory=directory, name=key, http=http))
        return ["nginx", "-c", str(config)]

    port = next(ports)
    yield Contender("nginx", "nginx", nginx("nginx", port, ""), port)
    port = next(ports)
    log = f"access_log {directory}/bodies.log bodies buffer=64k flush=1s;"
    yield Contender("nginx-logging", "nginx, logging bodies", nginx("nginx-logging", port, log), port)
    if shutil.which("haproxy"):
        port = next(ports)
        config = directory / "haproxy.cfg"
        config.write_text(HAPROXY.format(port=port, upstream=upstream))
        yield Contender("haproxy", "haproxy", ["haproxy", "-db", "-f", str(config)], port)
    port = next(ports)
    script = str(Path(__file__).with_name("aiohttp_proxy.py"))
    yield Contender("aiohttp", "aiohttp", [sys.executable, script, str(port), url], port)
    if mitmdump:
        port = next(ports)
        command = [mitmdump, "--mode", f"reverse:{url}", "-p", str(port), "--listen-host", "127.0.0.1", "-q"]
        yield Contender("mitmproxy", "mitmproxy", command, port)
    forms = {"interpreted": Path(sys.executable)} | ({"compiled": compiled} if compiled else {})
    for form, python in forms.items():
        for what, flags in (
            ("no capture", []),
            ("durability none", ["--durability", "none"]),
            ("durability process", ["--durability", "process"]),
            ("durability power", ["--durability", "power"]),
        ):
            words = ["mooring", "compiled" if form == "compiled" else "", *what.split()[1:]]
            key = "-".join(filter(None, words)).removesuffix("-process")
            port = next(ports)
            where = ["--log", str(directory / f"log-{key}"), "--spool", str(directory / f"spool-{key}")]
            command = [str(python), *MOORING, "--upstream", url, "--port", str(port), *where, *flags]
            drain = (str(python), "-m", "mooring", "drain", *where)
            yield Contender(
                key,
                f"Mooring {form}, {what}",
                command,
                port,
                "/invocations" if flags else "/passed",  # other paths pass without capture
                captures=True,
                drain=drain if what == "durability process" else (),
            )


def cpu_seconds(pid: int) -> float:
    """Return the CPU that a process has taken so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def measure(contender: Contender, pid: int, load: list[str]) -> tuple[Figures, int]:
    """Run a load on a contender; return its figures, and how many requests that were."""
    own = [pid] if contender.captures else [pid, *children(pid)]  # Mooring's child is the drain
    before = sum(map(cpu_seconds, own))
    output = subprocess.run(load, capture_output=True, text=True, check=True).stdout
    cpu = sum(map(cpu_seconds, own)) - before
    requests, rate, p50, p99 = parse_wrk(output) if load[0] == "wrk" else parse_h2load(output)
    return Figures(rate, p50, p99, cpu / requests * 1e6), requests


def parse_wrk(output: str) -> tuple[int, float, float, float]:
    """Return requests, rate, and two latencies in milliseconds."""
    if bad := re.search(r"Non-2xx.*|Socket errors.*", output):
        print(f"  {bad[0]}", file=sys.stderr)
    requests = int(re.search(r"(\d+) requests in", output)[1])
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", output)[1])
    p50, p99 = (milliseconds(re.search(rf"{share}%\s+([\d.]+\w+)", output)[1]) for share in (50, 99))
    return requests, rate, p50, p99


def parse_h2load(output: str) -> tuple[int, float, float, float]:
    """Return the same from h2load's log of each request, and its summary."""
    times = sorted(int(line.split("\t")[2]) / 1000 for line in LOG.read_text().splitlines())
    LOG.unlink()
    rate = float(re.search(r"([\d.]+) req/s", output)[1])
    return len(times), rate, times[len(times) // 2], times[int(len(times) * 0.99)]


LOG = Path(tempfile.gettempdir()) / f"mooring-h2load-{os.getpid()}.log"


def milliseconds(text: str) -> float:
    """Return a time of wrk's in milliseconds."""
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()
    return float(number) * {"us": 0.001, "ms": 1, "s": 1000}[unit]


@contextmanager
def started(contender: Contender, directory: Path) -> Iterator[int]:
    """Run a contender, and yield its process id once it answers and nothing of its start is under way."""
    url = f"http://127.0.0.1:{contender.port}{contender.path}"
    probe = ["curl", "-sf", "-o", "/dev/null", "-X", "POST", "-d", "{}", url]
    with running(contender.command, directory, directory / "output.log") as process:
        wait_for(
            lambda: subprocess.run(probe, check=False).returncode == 0, 30, f"{contender.name} does not answer"
        )
        if contender.captures:
            wait_for(lambda: bool(children(process.pid)), 10, "no drain was started")
            [drain] = children(process.pid)
            wait_for(lambda: rests(drain), 60, "the drain never rests")
        try:
            yield process.pid
        finally:
            if contender.captures:
                # At once, so that the drain doesn't work while the next one is measured.
                drains = children(process.pid)
                for pid in (process.pid, *drains):
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)


def rests(pid: int) -> bool:
    """Whether a process has taken no CPU for half a second."""
    before = cpu_seconds(pid)
    time.sleep(0.5)
    return cpu_seconds(pid) - before < 0.02


def drained(command: tuple[str, ...], directory: Path) -> float:
    """Run a drain until its spool is empty, and return the CPU seconds that it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=directory, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def table(results: dict[str, list[Figures]]) -> str:
    """Return the medians as a table, with the CPU's ratios to nginx's in the same round."""
    bases = [
        (key, name) for key, name in (("nginx", "nginx"), ("nginx, logging bodies", "logging")) if key in results
    ]
    drains = any(run.drain_us is not None for runs in results.values() for run in runs)
    heads = ["proxy", "requests/s", "p50 ms", "p99 ms", "CPU µs a request (spread)"]
    heads += [f"to {name}" for _, name in bases] + ["drain's CPU µs"] * drains
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, runs in results.items():
        rate, p50, p99, cpu = (statistics.median(values) for values in list(zip(*runs, strict=True))[:4])
        spread = f"{min(run.cpu_us for run in runs):.1f}–{max(run.cpu_us for run in runs):.1f}"
        cells = [name, f"{rate:,.0f}", f"{p50:.2f}", f"{p99:.2f}", f"{cpu:.1f} ({spread})"]
        for key, _ in bases:
            pairs = zip(runs, results[key], strict=True)
            cells.append(f"{statistics.median(run.cpu_us / base.cpu_us for run, base in pairs):.2f}×")
        taken = [run.drain_us for run in runs if run.drain_us is not None]
        if drains:
            cells.append(f"{statistics.median(taken):.1f}" if taken else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def loads(directory: Path, bodies: list[str], seconds: int) -> dict[str, tuple[str, list[str]]]:
    """Return each load's title and command by its key."""
    row = [7, 0.27, 0.36, 20.7, 0.045, 45, 170, 1.001, 3, 0.45, 8.8]
    small = json.dumps({"dataframe_split": {"columns": COLUMNS, "data": [row]}})
    large = json.dumps({"dataframe_split": {"columns": COLUMNS, "data": [row] * 1800}})
    found: dict[str, tuple[str, list[str]]] = {}
    for key, title, sent in (
        ("varying", "Bodies and answers of varying lengths", bodies),
        ("equal", "Equal bodies of 300 B", [small]),
        ("large", "Equal bodies of 100 KB", [large]),
    ):
        file, script = directory / f"{key}.json", directory / f"{key}.lua"
        file.write_text("\n".join(sent))
        script.write_text(LUA.format(bodies=file))
        for connections in (32, 1):
            command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", str(script)]
            found[f"{key}-{connections}"] = (
                f"{title}, {connections} connection{'s' * (connections > 1)}", command
            )  # fmt: skip
    if shutil.which("h2load"):
        count, body = str(3000 * seconds), str(directory / "equal.json")
        found["paced"] = "Equal bodies of 300 B, paced at 3,000 a second", [
            "h2load", "--h1", "-c", "30", "--rps", "100", "-n", count, "-d", body,
            "-H", "Content-Type: application/json", f"--log-file={LOG}",
        ]  # fmt: skip
    return found


def main() -> None:
    """Run all, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mitmdump", help="path of mitmproxy's mitmdump")
    parser.add_argument("--compiled", type=Path, default=ROOT / ".venv/compiled/bin/python", help="its Python")
    parser.add_argument("--only", help="keys of contenders, separated by commas; nothing is written then")
    parser.add_argument("--loads", help="keys of loads, separated by commas")
    parser.add_argument("--drain", action=argparse.BooleanOptionalAction, default=True, help="measure drains, too")
    arguments = parser.parse_args()
    mitmdump = arguments.mitmdump and str(Path(arguments.mitmdump).absolute())
    missing = [name for name in ("nginx", "wrk", "curl") if not shutil.which(name)]
    if missing:
        sys.exit(f"install these first: {' '.join(missing)}")
    compiled = arguments.compiled.absolute() if arguments.compiled.exists() else None
    check_forms(compiled)
    bodies = varying_bodies()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name, ExitStack() as stack:
        directory = Path(name)
        os.chmod(directory, 0o777)  # nginx's worker is another user
        [upstream] = free_ports(1)
        config = directory / "server.conf"
        answers = " ".join(f"{len(body)} '{answer}';" for body, answer in bodies.items())
        server = SERVER.format(port=upstream, answers=answers)
        config.write_text(NGINX.format(directory=directory, name="server", http=server))
        stack.enter_context(running(["nginx", "-c", str(config)], directory, directory / "server.log"))
        of_loads = chosen(loads(directory, list(bodies), arguments.seconds), arguments.loads)
        there = {one.key: one for one in contenders(directory, upstream, mitmdump, compiled)}
        there = chosen(there, arguments.only)
        results: dict[str, dict[str, list[Figures]]] = defaultdict(lambda: defaultdict(list))
        starts = []
        for turn in range(arguments.rounds):
            for key, (_, command) in of_loads.items():
                for contender in there.values():
                    with started(contender, directory) as pid:
                        url = f"http://127.0.0.1:{contender.port}{contender.path}"
                        figures, requests = measure(contender, pid, [*command, url])
                    if contender.drain and arguments.drain:
                        cpu = drained(contender.drain, directory)
                        starts.append(drained(contender.drain, directory))  # there is nothing left to drain
                        figures = figures._replace(drain_us=(cpu - starts[-1]) / requests * 1e6)
                    results[key][contender.name].append(figures)
                    print(f"round {turn + 1}: {key}, {contender.key}: {figures}", flush=True)
                    for path in directory.glob("*-mooring*"):
                        shutil.rmtree(path, ignore_errors=True)
                    (directory / "bodies.log").unlink(missing_ok=True)
        versions = [version(["nginx", "-v"]), version(["haproxy", "-v"]), version(["wrk", "-v"])]
        lengths = sorted(map(len, bodies))
        text = (
            f"Medians of {arguments.rounds} rounds of {arguments.seconds} s each, in turn; ratios are of CPU in "
            f"the same round. Of varying lengths are {len(bodies)} bodies, log-uniform from {lengths[0]} to "
            f"{lengths[-1]:,} bytes, the median {lengths[len(lengths) // 2]:,}, and as many answers."
        )
        if starts:
            start = statistics.median(starts)
            text += f" The drain's CPU is that of a request, beyond its start, which takes {start:.2f} s."
        text += "\n\n"
        for key, found in results.items():
            text += f"### {of_loads[key][0]}\n\n{table(found)}\n"
        if arguments.only or arguments.loads:
            print(text)
        else:
            save("proxy", "The proxy", f"{text}{machine(*filter(None, versions))}\n")


def chosen(there: dict[str, T], keys: str | None) -> dict[str, T]:
    """Return those of `there` that are asked for; all, where nothing is said."""
    if keys is None:
        return there
    wanted = keys.split(",")
    if unknown := set(wanted) - there.keys():
        sys.exit(f"there is no {' and no '.join(sorted(unknown))}, but there are {', '.join(there)}")
    return {key: one for key, one in there.items() if key in wanted}


def check_forms(compiled: Path | None) -> None:
    """Make sure that what is measured as compiled or interpreted is that."""
    if compiled is None:
        print("there is no compiled Mooring (make .venv/.compiled): it is left out", file=sys.stderr)
    for form, python in (("interpreted", Path(sys.executable)), ("compiled", compiled)):
        if python is not None:
            said = version([str(python), "-P", "-m", "mooring", "--version"])
            if not said.endswith(f"({form})"):
                sys.exit(f"{python} has not Mooring {form}: {said}")


def version(command: list[str]) -> str:
    """Return a program's first line about itself, or nothing if it is not there."""
    if not shutil.which(command[0]):
        return ""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).partition("\n")[0].strip()


if __name__ == "__main__":
    main()
