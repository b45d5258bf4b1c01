"""How often an unchanged window alarms, what drift is found how soon, and whether the tail of chance is right.

    python bench/alarms.py [--streams 4] [--stream-windows 128] [--shifted 40] [--windows 4000] [--largest 200]
                           [--peers 200] [--power 400] [--draws 10000000]

Windows are drawn afresh, with replacement, from the real wine file beside the repository, or else from the
project's own sample. Evidently and NannyML run from environments of their own, .venv/peers-evidently and
.venv/peers-nannyml; what is not installed is left out, and said so. A number of 0 leaves that part out.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor

from calendar_time import calendar_time
from false_alarms import PEERS, SIZES, false_alarms, false_row, peers_table, version_of
from report import machine, save
from shifts import shifts
from tail import tail
from wine import BUDGETS, CONSECUTIVE, REAL, REFERENCE, SAMPLE


def main() -> None:
    """Run all, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--streams", type=int, default=4, help="unchanged streams of each kind and size")
    parser.add_argument("--stream-windows", type=int, default=128, help="windows of each")
    parser.add_argument("--shifted", type=int, default=40, help="streams with each shift")
    parser.add_argument("--windows", type=int, default=4000, help="unchanged windows a size, but for the largest")
    parser.add_argument("--largest", type=int, default=200, help="unchanged windows of the largest size")
    parser.add_argument("--peers", type=int, default=200, help="unchanged windows a size for the peers")
    parser.add_argument("--power", type=int, default=400, help="repetitions of each shift")
    parser.add_argument("--draws", type=int, default=10_000_000, help="draws to compare the fitted tail with")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    source = "the real wine file" if REAL.exists() else f"{SAMPLE.name}, a stand-in for the real wine file"
    with ProcessPoolExecutor(arguments.processes) as pool:
        if arguments.streams or arguments.shifted:
            text = calendar_time(pool, arguments.stream_windows, arguments.streams, arguments.shifted)
            save("calendar-time", "Alarms by the calendar", text + f"\n{machine()}\n")
        if arguments.windows:
            lines = []
            for size in SIZES:
                windows = arguments.largest if size == SIZES[-1] else arguments.windows
                lines.append(false_row(size, false_alarms(pool, size, windows)))
                print(lines[-1], flush=True)
                # After each size, as all of them take hours.
                save("alarms", "Alarms when nothing has changed", false_text(source, lines) + f"\n{machine()}\n")
        if arguments.peers:
            told = ", ".join(f"{name} {version_of(name)}" for name in PEERS)
            text = f"The same windows, by the defaults of {told}; any column drifted, or half of them.\n\n"
            save("alarms-peers", "Alarms of others when nothing has changed",
                 text + peers_table(pool, arguments.peers) + f"\n{machine()}\n")  # fmt: skip
        if arguments.power:
            save("shifts", "How small a shift is found", shifts(pool, arguments.power) + f"\n{machine()}\n")
        if arguments.draws:
            save("tail", "The fitted tail", tail(pool, arguments.draws) + f"\n{machine()}\n")


def false_text(source: str, lines: list[str]) -> str:
    """Return the part on unchanged windows."""
    head = [f"floors {floors}, {budget:g}" for floors in ("off", "on") for budget in BUDGETS]
    columns = ["rows", "windows", *head, "KS p < 0.05", "KS and chi-square p < 0.05"]
    table = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|", *lines]
    return (
        f"The share of windows with any alarm, with its 95 % interval. A baseline of {REFERENCE:,} rows and "
        f"{CONSECUTIVE} consecutive windows are drawn afresh, with replacement, from {source}: 11 features, and "
        "categories of 20 and 2,000 values. Windows of a run share their baseline and overlap; the intervals "
        "heed that. Budgets are 0.05, 0.01 and 0.001, effect floors off and on; where a budget misses the "
        "interval, or with floors on lies below it, it says off. KS and chi-square are tests of each feature, "
        "uncorrected, chi-square with the baseline's shares as expected.\n\n" + "\n".join(table) + "\n"
    )


if __name__ == "__main__":
    main()
