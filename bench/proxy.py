"""Proxies in front of a trivially fast server: throughput, latency, and CPU per request of the proxy's process.

    python bench/proxy.py [--seconds 3] [--rounds 3]

All run in turn, round by round. nginx, haproxy, wrk and h2load come from Debian's packages; what is not installed
is left out, and said so. mitmproxy runs from an environment of its own, given with --mitmdump.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from drain import COLUMNS
from report import machine, save

from mooring.demo.processes import free_ports, running, wait_for

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
SERVER = """server {{ listen 127.0.0.1:{port}; default_type application/json;
  location / {{ return 200 '{{"predictions": [6.0, 5.0]}}'; }} }}"""
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
local file = io.open("{body}", "rb")
wrk.body = file:read("*a")
file:close()
"""
MOORING = [sys.executable, "-m", "mooring", "proxy", "--admin-port", "-1", "--drain-timeout", "0"]


class Contender(NamedTuple):
    """A proxy: how it is started, which path is asked, and whose CPU counts."""

    name: str
    command: list[str]
    path: str = "/invocations"
    drains: bool = False


class Figures(NamedTuple):
    """What one run gave."""

    rate: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    drain_us: float


def contenders(directory: Path, upstream: int, mitmdump: str | None) -> Iterator[tuple[Contender, int]]:
    """Yield the proxies that can run here, each with its port."""
    url = f"http://127.0.0.1:{upstream}"

    def nginx(name: str, port: int, log: str) -> list[str]:
        http = PROXY.format(upstream=upstream, port=port, log=log)
        config = directory / f"{name}.conf"
        config.write_text(NGINX.format(directory=directory, name=name, http=http))
        return ["nginx", "-c", str(config)]

    ports = free_ports(9)
    log = f"access_log {directory}/bodies.log bodies buffer=64k flush=1s;"
    yield Contender("nginx", nginx("plain", ports[0], "")), ports[0]
    yield Contender("nginx, logging bodies", nginx("logging", ports[1], log)), ports[1]
    if shutil.which("haproxy"):
        config = directory / "haproxy.cfg"
        config.write_text(HAPROXY.format(port=ports[2], upstream=upstream))
        yield Contender("haproxy", ["haproxy", "-db", "-f", str(config)]), ports[2]
    script = str(Path(__file__).with_name("aiohttp_proxy.py"))
    yield Contender("aiohttp", [sys.executable, script, str(ports[3]), url]), ports[3]
    if mitmdump:
        command = [mitmdump, "--mode", f"reverse:{url}", "-p", str(ports[4]), "--listen-host", "127.0.0.1", "-q"]
        yield Contender("mitmproxy", command), ports[4]
    for at, (name, flags) in enumerate(
        [
            ("Mooring, no capture", []),
            ("Mooring, durability none", ["--durability", "none"]),
            ("Mooring, durability process", ["--durability", "process"]),
            ("Mooring, durability power", ["--durability", "power"]),
        ]
    ):
        port = ports[5 + at]
        command = [*MOORING, "--upstream", url, "--port", str(port), "--log", str(directory / f"log{at}"), *flags]
        # Other paths pass without capture.
        yield Contender(name, command, "/invocations" if flags else "/passed", bool(flags)), port


def cpu_seconds(pid: int) -> float:
    """Return the CPU that a process has taken so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def measure(contender: Contender, pid: int, load: list[str]) -> Figures:
    """Run a load on a contender, and return its figures."""
    started = children(pid)
    drains = started if contender.drains else []
    own = [pid] if contender.drains or not started else [pid, *started]
    before = sum(map(cpu_seconds, own)), sum(map(cpu_seconds, drains))
    output = subprocess.run(load, capture_output=True, text=True, check=True).stdout
    after = sum(map(cpu_seconds, own)), sum(map(cpu_seconds, drains))
    requests, rate, p50, p99 = parse_wrk(output) if load[0] == "wrk" else parse_h2load(output)
    cpu, drain = ((b - a) / requests * 1e6 for a, b in zip(before, after, strict=True))
    return Figures(rate, p50, p99, cpu, drain)


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
def started(contender: Contender, port: int, directory: Path) -> Iterator[int]:
    """Run a contender, and yield its process id once it answers."""
    with running(contender.command, directory, directory / "output.log") as process:
        probe = [
            "curl",
            "-sf",
            "-o",
            "/dev/null",
            "-X",
            "POST",
            "-d",
            "{}",
            f"http://127.0.0.1:{port}{contender.path}",
        ]
        wait_for(
            lambda: subprocess.run(probe, check=False).returncode == 0, 30, f"{contender.name} does not answer"
        )
        time.sleep(0.5)  # so that a drain has started, which is not what is measured
        yield process.pid


def table(results: dict[str, list[Figures]]) -> str:
    """Return the medians as a table, with the ratio of CPU to nginx's."""
    base = statistics.median(figures.cpu_us for figures in results["nginx"])
    lines = [
        "| proxy | requests/s | p50 ms | p99 ms | CPU µs a request (spread) | to nginx | drain's CPU µs |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, runs in results.items():
        rate, p50, p99, cpu, drain = (statistics.median(values) for values in zip(*runs, strict=True))
        spread = f"{min(run.cpu_us for run in runs):.1f}–{max(run.cpu_us for run in runs):.1f}"
        lines.append(
            f"| {name} | {rate:,.0f} | {p50:.2f} | {p99:.2f} | {cpu:.1f} ({spread}) | {cpu / base:.2f}× "
            f"| {f'{drain:.1f}' if drain else ''} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run all, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mitmdump", help="path of mitmproxy's mitmdump")
    parser.add_argument("--only", help="names of contenders, separated by |")
    arguments = parser.parse_args()
    mitmdump = arguments.mitmdump and str(Path(arguments.mitmdump).absolute())
    missing = [name for name in ("nginx", "wrk", "curl") if not shutil.which(name)]
    if missing:
        sys.exit(f"install these first: {' '.join(missing)}")
    row = [7, 0.27, 0.36, 20.7, 0.045, 45, 170, 1.001, 3, 0.45, 8.8]
    small = {"dataframe_split": {"columns": COLUMNS, "data": [row]}}
    large = {"dataframe_split": {"columns": COLUMNS, "data": [row] * 1800}}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name, ExitStack() as stack:
        directory = Path(name)
        os.chmod(directory, 0o777)  # nginx's worker is another user
        [upstream] = free_ports(1)
        config = directory / "server.conf"
        config.write_text(NGINX.format(directory=directory, name="server", http=SERVER.format(port=upstream)))
        stack.enter_context(running(["nginx", "-c", str(config)], directory, directory / "server.log"))
        loads: dict[str, list[str]] = {}
        for size, body in (("300 B", small), ("100 KB", large)):
            path = directory / f"{size.replace(' ', '')}.json"
            path.write_text(json.dumps(body))
            script = path.with_suffix(".lua")
            script.write_text(LUA.format(body=path))
            for connections in (1, 32):
                loads[f"{size}, {connections} connection{'s' * (connections > 1)}"] = [
                    "wrk", "-t1", f"-c{connections}", f"-d{arguments.seconds}s", "--latency", "-s", str(script),
                ]  # fmt: skip
        if shutil.which("h2load"):
            count = 3000 * arguments.seconds
            loads["300 B, paced at 3,000 a second"] = [
                "h2load", "--h1", "-c", "30", "--rps", "100", "-n", str(count), "-d", str(directory / "300B.json"),
                "-H", "Content-Type: application/json", f"--log-file={LOG}",
            ]  # fmt: skip
        results: dict[str, dict[str, list[Figures]]] = defaultdict(lambda: defaultdict(list))
        for number in range(arguments.rounds):
            for contender, port in contenders(directory, upstream, mitmdump):
                if arguments.only and contender.name not in arguments.only.split("|"):
                    continue
                with started(contender, port, directory) as pid:
                    for load, command in loads.items():
                        figures = measure(contender, pid, [*command, f"http://127.0.0.1:{port}{contender.path}"])
                        results[load][contender.name].append(figures)
                        print(f"round {number + 1}: {contender.name}, {load}: {figures}", flush=True)
                for path in directory.glob("log*"):
                    shutil.rmtree(path, ignore_errors=True)
        versions = [version(["nginx", "-v"]), version(["haproxy", "-v"]), version(["wrk", "-v"])]
        text = f"Medians of {arguments.rounds} rounds of {arguments.seconds} s each, in turn.\n\n"
        for load, found in results.items():
            text += f"### {load}\n\n{table(found)}\n"
        if not arguments.only:
            save("proxy", "The proxy", f"{text}{machine(*filter(None, versions))}\n")


def version(command: list[str]) -> str:
    """Return a program's first line about itself, or nothing if it is not there."""
    if not shutil.which(command[0]):
        return ""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).partition("\n")[0].strip()


if __name__ == "__main__":
    main()
