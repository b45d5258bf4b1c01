"""Models as the dashboard shows them: a history to be shown, and what pages and API say of it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec

from dashboard import Answer, ask
from judged import HOSTILE, HOUR, START, Made, assess, baseline_of, columns
from mooring.state.alerts import Alert, Alerts
from mooring.state.retrainings import Cause, Tickets
from mooring.state.rollouts import Rollouts, new
from mooring.state.state import State
from mooring.state.tables import verdicts, windows
from mooring.state.windows import Windows
from mooring.ui.pages.model import ModelPage


def shown(address: str, path: str, status: int = 200) -> str:
    answer = ask(address, path, headers={"Accept": "text/html"})
    assert answer.status == status, answer.text
    return answer.text


def told(address: str, path: str, kind: type = ModelPage):
    """Return what the API says, read strictly as what it is documented to be."""
    answer: Answer = ask(address, f"/api{path}")
    assert answer.status == 200, answer.text
    return msgspec.json.decode(answer.body, type=kind)


def charts(page: str) -> list[dict]:
    found = re.findall(r'<script type="application/json">(.*?)</script>', page, flags=re.DOTALL)
    return [json.loads(one) for one in found]


def nine_hours(directory: Path) -> Made:
    """Nine hours of a model: well, drifting, a window of few rows, then another version that is well."""
    state = State(f"sqlite:///{directory}/state.db")
    baseline = baseline_of(columns(5000, seed=0))
    wine = Made(state, "wine", baseline)
    for at, shift in enumerate([0, 0, 0, 3, 3]):
        wine.put(at, shift=shift)
    wine.put(5, rows=20)
    wine.put(6, version="2")
    wine.put(7, shift=3, version="2")
    wine.put(8, shift=3, version="2", status="open")
    Made(state, "wine", baseline).put(7, shift=5, version="3", variant="shadow")
    assess(state, "wine")
    with state.begin() as tx:
        Windows(tx).prune("wine", START + HOUR)
        judged = Windows(state).history("wine", newest=1, variant="champion", end=START + 5 * HOUR)[0].verdict
        assert judged is not None
        at = START + 5 * HOUR
        Alerts(tx).put(
            Alert(verdict_id=judged.id, model="wine", kind="new", channel="webhook:x", created=at, next_attempt=at)
        )
    Tickets(state).open("wine", Cause(kind="manual"), "asked for", champion="1", directory="retrain")
    Rollouts(state).open(new("wine", "2", "1", "moved"))
    Tickets(state).open("fresh", Cause(kind="manual"), "asked for", champion="1", directory="retrain")
    Made(state, "bare", None).put(0)
    hostile = baseline_of({HOSTILE: columns(3000)["alcohol"]})
    Made(state, "a/b " + HOSTILE, hostile).put(0, shift=3, rename=HOSTILE)
    foreign = Made(state, "foreign", baseline)
    foreign.put(0, shift=3)
    with state.begin() as tx:
        of_it = verdicts.c.window_id == foreign.ids[0]
        tx.connection.execute(verdicts.update().where(of_it).values(results=b"mooring-judgement 99\nx"))
        tx.connection.execute(
            windows.update().where(windows.c.id == foreign.ids[0]).values(profile=b"mooring-profile 99\nx")
        )
    return wine
