"""Make the README's pictures of the dashboard: `make screenshots`.

The demonstration closes the loop once, which takes two minutes, and its dashboard is photographed. One that has
run already is named as an argument: PYTHONPATH=tests/support python scripts/screenshots.py mooring-demo
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from browser import browser, opened
from dashboard import ask, dashboard

ROOT = Path(__file__).resolve().parent.parent
WIDTH, HEIGHT = 1200, 850


def main() -> None:
    """Photograph the dashboard of a demonstration."""
    if len(sys.argv) > 1:
        photograph(Path(sys.argv[1]).resolve())
        return
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory) / "demo"
        subprocess.run([sys.executable, "-m", "mooring", "demo", "--dir", str(place)], check=True)
        photograph(place)


def photograph(place: Path) -> None:
    """Write images/dashboard-*.png of a demonstration that has run in a directory."""
    state = f"sqlite:///{place / 'state.db'}"
    with dashboard(state, log=str(place / "log"), token=None) as address, browser() as chromium:
        [line] = ask(address, "/api/models").json["models"]
        windows = ask(address, f"/api{line['see']}").json["windows"]
        drifted = next(one for one in windows if one["status"] == "critical")["id"]
        for name, path, top in (
            ("model", line["see"], "h1"),
            (
                "drift",
                f"{line['see']}?window={drifted}&feature=alcohol&features=8",
                "h2:has-text('features drifted')",
            ),
            ("retraining", line["retraining"]["see"], "h1"),
        ):
            with opened(chromium, address + path, width=WIDTH, height=HEIGHT) as page:
                if page.locator("figure.chart").count():
                    page.locator("figure.chart .plot svg").first.wait_for()
                if top != "h1":
                    page.locator(top).evaluate("element => element.scrollIntoView()")
                path_of_it = ROOT / "images" / f"dashboard-{name}.png"
                page.screenshot(path=path_of_it, animations="disabled")
                print(path_of_it)


if __name__ == "__main__":
    main()
