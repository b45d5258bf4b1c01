"""What the controller has others do: each resource has a thread, and whatever hangs in one delays no other."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace

import pytest

from mooring.registry.client import TrackingError
from mooring.serving.context import ControllerContext
from mooring.serving.records import Records
from mooring.serving.start import Start
from mooring.settings import ServeSettings
from mooring.state.database import StateError
from mooring.state.leases import LeaseLost
from mooring.state.rollouts import RolloutError


def raising(error: Exception) -> None:
    raise error


async def made(not_kept) -> ControllerContext:
    start = Start(settings=ServeSettings(model="wine"), alias="champion")
    return ControllerContext(start, Records(start, ()), SimpleNamespace(write=lambda data: None), not_kept)


def test_what_hangs_in_one_thread_delays_no_other():
    async def run() -> None:
        context = await made(raising)
        released = threading.Event()
        hanging = [context.run(resource, released.wait) for resource in ("registry", "files", "alerts")]
        try:
            assert await context.run("state", int, "3") == 3
            assert not any(one.done() for one in hanging)
        finally:
            released.set()
        assert await asyncio.gather(*hanging) == [True, True, True]

    asyncio.run(run())


def test_a_resource_is_given_its_work_in_order_whether_or_not_somebody_awaits_it():
    async def run() -> None:
        context, done, released = await made(raising), [], threading.Event()
        async with context.tasks:
            context.write(released.wait)
            for number in range(5):
                context.write(done.append, number)
            last = context.run("state", done.append, "last")
            assert done == []
            released.set()
            await context.written()
            assert done == [0, 1, 2, 3, 4, "last"]
            assert last.done()

    asyncio.run(run())


@pytest.mark.parametrize(
    "error", [LeaseLost("another has it"), RolloutError("it has gone on"), StateError("locked")]
)
def test_who_writes_is_told_why_the_state_did_not_take_it_and_what_comes_later_is_written(error):
    async def run() -> None:
        told, done = [], []
        context = await made(told.append)
        async with context.tasks:
            context.write(raising, error)
            context.write(done.append, 1)
        assert (told, done) == ([error], [1])

    asyncio.run(run())


def test_what_may_as_well_fail_is_logged_and_any_other_error_ends_all(caplog):
    async def run() -> None:
        context = await made(raising)
        async with context.tasks:
            context.attempt("registry", raising, TrackingError("MLflow is away"))
            await context.run("registry", int)
            context.attempt("registry", raising, ZeroDivisionError("a mistake"))

    with pytest.raises(ExceptionGroup) as raised:
        asyncio.run(run())
    assert "MLflow is away" in caplog.text
    assert [type(error) for error in raised.value.exceptions] == [ZeroDivisionError]
