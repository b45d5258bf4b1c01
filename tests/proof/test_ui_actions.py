"""A rollout under way is aborted from the dashboard."""

from __future__ import annotations

from pathlib import Path

import msgspec

from dashboard import TOKEN, ask, dashboard
from supervised import registered, supervised
from waiting import wait_for


def test_a_rollout_under_way_is_aborted_from_the_dashboard(tmp_path: Path) -> None:
    place = tmp_path / "serve"
    plan = ("--rollout-step", "canary 50% 1h 1000")
    with (
        supervised(place, registered(), *plan) as it,
        dashboard(f"sqlite:///{place}/state.db") as address,
    ):
        it.challenge("2")
        it.in_step(0)
        path = "/models/wine/rollouts/1"
        told = ask(address, f"/api{path}").json
        assert told["weights"][1] == {"version": "2", "variant": "canary", "share": 0.5}
        assert told["supervisor"] is not None
        body = msgspec.json.encode({"reason": "it looks wrong"})
        done = ask(address, f"/api{path}/abort", "POST", body, headers={"X-Mooring-User": "ann"}, bearer=TOKEN)
        assert done.status == 200
        aborted = it.rolled_out("2", "aborted")
        assert aborted.reason == "aborted by ann (dashboard): it looks wrong"
        assert it.aliases() == {"champion": "1"}
        wait_for(lambda: {it.ask()[1] for _ in range(10)} == {"1"}, "version 2 answers still")
        events = [(one["what"], one["who"]) for one in ask(address, f"/api{path}").json["events"]]
        assert events[-3:] == [
            ("asked", "ann (dashboard)"), ("aborted", "ann (dashboard)"), ("aborted", "mooring"),
        ]  # fmt: skip
        again = ask(address, f"/api{path}/abort", "POST", body, bearer=TOKEN)
        assert again.status == 409
