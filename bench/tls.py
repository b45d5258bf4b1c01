"""What TLS and keys cost: CPU per request of the proxy, on connections that are kept, with and without them.

    python bench/tls.py [--seconds 3] [--rounds 9] [--connections 32]

All run in turn, round by round. Handshakes are left out: they are over before the counting begins, and `openssl
speed` says what they cost. wrk and nginx come from Debian's packages.
"""

from __future__ import annotations

import argparse
import json
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack
from math import ceil
from pathlib import Path
from signal import SIGINT
from typing import NamedTuple
from urllib.request import Request, urlopen

from proxy import NGINX, cpu_seconds
from report import machine, save

from mooring.demo.processes import free_ports, running, wait_for

KEY = "bench-key"
MOORING = [sys.executable, "-m", "mooring", "proxy", "--drain-timeout", "0"]
BODIES = {"one row": 1, "100 rows": 100, "10,000 rows": 10_000}
SERVER = """server {{ listen 127.0.0.1:{port}; default_type application/json;
  location / {{ return 200 '{{"predictions": [6.0, 5.0]}}'; }} }}"""
LUA = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
local file = io.open("{body}", "rb")
wrk.body = file:read("*a")
file:close()
"""
ROW = "[7.4, 0.7, 0.0, 1.9, 0.076, 11.0, 34.0, 0.9978, 3.51, 0.56, 9.4]"


class Contender(NamedTuple):
    """A proxy: its name, its flags, how its URL begins, and whether a request shows a key."""

    name: str
    flags: list[str]
    scheme: str
    key: bool = False


def contenders(directory: Path) -> list[Contender]:
    """Return what is compared, with the files that they need."""
    command = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=localhost"
    cert, key, keys = directory / "cert.pem", directory / "key.pem", directory / "keys"
    subprocess.run(
        ["openssl", *command.split(), "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True
    )
    keys.write_text("".join(f"key-{number}\n" for number in range(100)) + KEY + "\n")
    tls = ["--tls-cert", str(cert), "--tls-key", str(key)]
    return [
        Contender("plain", [], "http"),
        Contender("keys", ["--api-key-file", str(keys)], "http", True),
        Contender("TLS", tls, "https"),
        Contender("TLS and keys", [*tls, "--api-key-file", str(keys)], "https", True),
    ]


def stats(contender: Contender, port: int) -> dict:
    """Return what a proxy tells on its admin port."""
    url = f"{contender.scheme}://127.0.0.1:{port}/stats"
    request = Request(url, headers={"Authorization": f"Bearer {KEY}"})
    context = ssl._create_unverified_context() if contender.scheme == "https" else None
    with urlopen(request, context=context) as answer:
        return json.load(answer)


def measure(
    contender: Contender, pid: int, admin: int, load: list[str], connections: int, seconds: float
) -> float:
    """Return microseconds of CPU a request, once all connections are there."""
    with subprocess.Popen(load, stdout=subprocess.PIPE, text=True) as wrk:
        wait_for(lambda: stats(contender, admin)["clients"] >= connections, 20, "wrk does not connect")
        count, cpu = stats(contender, admin)["since_start"]["seen"], cpu_seconds(pid)
        time.sleep(seconds)
        cpu, count = cpu_seconds(pid) - cpu, stats(contender, admin)["since_start"]["seen"] - count
        wrk.send_signal(SIGINT)
        out = wrk.communicate()[0]
    if count == 0 or "Non-2xx" in out or "Socket errors" in out:
        raise SystemExit(f"{contender.name}: requests failed:\n{out}")
    return cpu / count * 1e6


def load_of(contender: Contender, port: int, script: Path, connections: int, seconds: float) -> list[str]:
    """Return the command that asks a proxy again and again."""
    headers = ["-H", f"Authorization: Bearer {KEY}"] if contender.key else []
    url = f"{contender.scheme}://127.0.0.1:{port}/invocations"
    return ["wrk", "-t1", f"-c{connections}", f"-d{ceil(seconds) + 60}s", "-s", str(script), *headers, url]


def table(found: dict[tuple[str, str], list[float]]) -> str:
    """Return the figures, and how they compare with plain HTTP: the median of the ratios within each round."""
    lines = ["| body | proxy | CPU µs a request | against plain |\n|---|---|---:|---:|\n"]
    for (body, name), figures in found.items():
        ratios = [one / plain for one, plain in zip(figures, found[body, "plain"], strict=True)]
        lines.append(f"| {body} | {name} | {statistics.median(figures):.0f} | {statistics.median(ratios):.2f} |\n")
    return "".join(lines)


def main() -> None:
    """Measure, and write the page's part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--body", choices=BODIES, help="only this one")
    parser.add_argument("--save", action="store_true", help="write it into docs/benchmarks.md")
    given = parser.parse_args()
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        [upstream] = free_ports(1)
        config = directory / "nginx.conf"
        config.write_text(NGINX.format(directory=directory, name="u", http=SERVER.format(port=upstream)))
        stack.enter_context(running(["nginx", "-c", str(config)], directory, directory / "nginx.log"))
        started = []
        for at, contender in enumerate(contenders(directory)):
            port, admin = free_ports(2)
            log = directory / f"{at}.log"
            flags = ["--upstream", f"http://127.0.0.1:{upstream}", "--port", str(port), "--admin-port", str(admin)]
            command = [*MOORING, *flags, "--log", str(directory / f"log{at}"), *contender.flags]
            process = stack.enter_context(running(command, directory, log))
            wait_for(lambda log=log: "counts on" in log.read_text(), 20, f"it did not start: {log.read_text()}")
            started.append((contender, process, port, admin))
        for body, rows in BODIES.items():
            if given.body not in (None, body):
                continue
            data = ", ".join([ROW] * rows)
            (directory / "post.json").write_text(f'{{"dataframe_split": {{"columns": [], "data": [{data}]}}}}')
            script = directory / "post.lua"
            script.write_text(LUA.format(body=directory / "post.json"))
            for number in range(given.rounds):
                for contender, process, port, admin in started[:: 1 if number % 2 else -1]:
                    load = load_of(contender, port, script, given.connections, given.seconds)
                    figure = measure(contender, process.pid, admin, load, given.connections, given.seconds)
                    found[body, contender.name].append(figure)
        order = [(body, contender.name) for body in BODIES for contender, *_ in started]
    text = table({key: found[key] for key in order if key in found})
    print(text)
    if given.save:
        save("tls", "TLS and keys", f"{machine()}\n\n{given.connections} connections that are kept.\n\n{text}")


if __name__ == "__main__":
    main()
