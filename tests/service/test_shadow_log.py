"""What a batch job logs as a shadow is compared by its own ids."""

from __future__ import annotations

import mooring


def test_what_a_batch_job_logs_as_a_shadow_is_compared_by_its_own_ids(tmp_path):
    log = tmp_path / "log"
    inputs, ids = {"pH": [3.1, 3.3, 3.2]}, ["a", "b", "c"]
    mooring.log(inputs, [5.0, 7.0, 6.0], model="wine", version=1, log=log, request_ids=ids)
    mooring.log(inputs, [5.5, 7.5, 6.5], model="wine", version=2, log=log, request_ids=ids, variant="shadow")
    assert mooring.flush()
    columns = ["client_request_id", "output.prediction"]
    live, shadow = (
        mooring.read_log(log, columns=columns, variant=variant).sort_by("client_request_id").to_pydict()
        for variant in (None, "shadow")
    )
    assert live["output.prediction"] == [5.0, 7.0, 6.0]
    assert shadow == {"client_request_id": ids, "output.prediction": [5.5, 7.5, 6.5]}
