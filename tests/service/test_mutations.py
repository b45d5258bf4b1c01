"""Mutations of the corpus, the same ones each time: see mutations.py for what must hold."""

from __future__ import annotations

import pytest

from mutations import MutatingRecorder, assert_sound, mutate_answers, mutate_requests
from peers import proxy
from recording import recording

REQUESTS, ANSWERS = 25_000, 8_000


@pytest.mark.proof
def test_mutants_of_requests(tmp_path):
    with recording() as recorder, proxy(tmp_path, recorder.url, log_format="parquet") as running:
        assert_sound(running, mutate_requests(running.port, recorder, 1, REQUESTS))


@pytest.mark.proof
def test_mutants_of_answers(tmp_path):
    with (
        recording(MutatingRecorder()) as recorder,
        proxy(tmp_path, recorder.url, "--response-timeout", "3", log_format="parquet") as running,
    ):
        assert_sound(running, mutate_answers(running.port, recorder, 2, ANSWERS))


def test_what_passes_on_everything_is_found_out():
    with recording() as recorder:
        assert mutate_requests(recorder.port, recorder, 3, 500).faults
    with recording(MutatingRecorder()) as recorder:
        assert mutate_answers(recorder.port, recorder, 4, 500).faults
