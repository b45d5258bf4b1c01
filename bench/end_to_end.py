"""`mlflow models serve`, asked straight and through the proxy with capture: what the proxy costs in throughput.

python bench/end_to_end.py [--seconds 5] [--rounds 5]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from drain import COLUMNS
from proxy import LUA
from report import machine, save

from mooring.demo.processes import free_ports, running, wait_until_up

TARGET = 0.97


def rate(port: int, script: Path, seconds: int, connections: int) -> float:
    """Return the requests a second that a server answers."""
    url = f"http://127.0.0.1:{port}/invocations"
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script), url]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in output:
        sys.exit(f"the server refuses: {output}")
    return float(re.search(r"Requests/sec:\s+([\d.]+)", output)[1])


def main() -> None:
    """Run all, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    server_port, proxy_port = free_ports(2)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{directory}/mlflow.db"
        subprocess.run(
            [sys.executable, "-m", "mooring.demo.train"], cwd=directory, check=True, capture_output=True
        )
        body = directory / "body.json"
        row = [7, 0.27, 0.36, 20.7, 0.045, 45, 170, 1.001, 3, 0.45, 8.8]
        body.write_text(json.dumps({"dataframe_split": {"columns": COLUMNS, "data": [row]}}))
        script = directory / "post.lua"
        script.write_text(LUA.format(body=body))
        serve = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local"]
        serve += ["--port", str(server_port), "-m", "models:/sklearn-monitor@champion"]
        proxy = [sys.executable, "-m", "mooring", "proxy", "--port", str(proxy_port), "--admin-port", "-1"]
        proxy += ["--upstream", f"http://127.0.0.1:{server_port}", "--log", str(directory / "log")]
        lines = ["| connections | straight | through the proxy | ratio (spread) |", "|---|---|---|---|"]
        with (
            running(serve, directory, directory / "server.log") as server,
            running(proxy, directory, directory / "proxy.log") as proxying,
        ):
            wait_until_up(server_port, server, directory / "server.log")
            wait_until_up(proxy_port, proxying, directory / "proxy.log")
            for connections in (1, 8):
                pairs = [
                    tuple(rate(port, script, arguments.seconds, connections) for port in (server_port, proxy_port))
                    for _ in range(arguments.rounds)
                ]
                ratios = [through / straight for straight, through in pairs]
                straight, through = (statistics.median(rates) for rates in zip(*pairs, strict=True))
                lines.append(
                    f"| {connections} | {straight:.0f}/s | {through:.0f}/s "
                    f"| {statistics.median(ratios):.3f} ({min(ratios):.3f}–{max(ratios):.3f}) |"
                )
                print(lines[-1], flush=True)
    text = (
        f"Medians of {arguments.rounds} rounds of {arguments.seconds} s; target: a ratio of {TARGET} or more.\n\n"
    )
    save("end_to_end", "A real model server", text + "\n".join(lines) + f"\n\n{machine()}\n")


if __name__ == "__main__":
    main()
