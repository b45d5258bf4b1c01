"""A million mutations of the corpus, others each time: a failure names the seed of its own."""

from __future__ import annotations

import secrets

from mutations import MutatingRecorder, assert_sound, mutate_answers, mutate_requests
from peers import proxy
from recording import recording

REQUESTS, ANSWERS = 800_000, 200_000


def test_mutants_of_requests(tmp_path):
    with recording() as recorder, proxy(tmp_path, recorder.url, log_format="parquet") as running:
        assert_sound(running, mutate_requests(running.port, recorder, secrets.randbits(40), REQUESTS))


def test_mutants_of_answers(tmp_path):
    with (
        recording(MutatingRecorder()) as recorder,
        proxy(tmp_path, recorder.url, "--response-timeout", "3", log_format="parquet") as running,
    ):
        assert_sound(running, mutate_answers(running.port, recorder, secrets.randbits(40), ANSWERS))
