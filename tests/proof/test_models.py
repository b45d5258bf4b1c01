"""Environments of versions, made as the controller makes them."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from model_servers import gone, have, pid_of, ready, servers, until
from mooring.serving.models import BringError, bring
from versions import NAME, register, registry_with_a_version


@pytest.fixture
def store(tmp_path, monkeypatch) -> Path:
    return registry_with_a_version(tmp_path, monkeypatch)


@pytest.mark.parametrize("manager", ["uv", "virtualenv", "conda"])
def test_an_environment_of_its_own_serves_with_few_variables_and_is_ended_with_all_that_it_started(
    manager, store, monkeypatch
):
    if not shutil.which({"virtualenv": "pyenv"}.get(manager, manager)):
        pytest.skip(f"NOT TESTED: --env-manager {manager}, which is not installed here")
    monkeypatch.setenv("MLFLOW_ENV_ROOT", str(store / "environments"))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("MOORING_UI_TOKEN", "secret")
    monkeypatch.setenv("BLOCK_SIGTERM", "1")
    model = bring(NAME, "1", store / "serve", manager)
    assert model.activate
    assert bring(NAME, "1", store / "serve", manager) == model

    async def started(socket: str, daemon: Path) -> list[int]:
        await have(socket, f"daemon {daemon}")
        return [await pid_of(socket), int(await asyncio.to_thread(daemon.read_text))]

    async def run():
        async with servers(model, timeout=2.0, serve_environment=("BLOCK_*",)) as running:
            [socket] = await ready(running)
            assert (await have(socket)).predictions == [1.5]
            names = set((await have(socket, "environment")).predictions)
            assert {"PATH", "BLOCK_SIGTERM"} <= names
            assert not names & {"AWS_SECRET_ACCESS_KEY", "MOORING_UI_TOKEN"}
            first = await started(socket, store / "first")
            running.take_out("1", socket)  # as one that hangs
            [socket] = await ready(running)
            second = await started(socket, store / "second")
            await until(lambda: all(map(gone, first)), "the one that hung, or what it started, goes on")
            await running.close(grace=0.3)
            assert all(map(gone, second))

    asyncio.run(run())


def test_an_environment_that_can_not_be_made_is_told(store, monkeypatch):
    if not shutil.which("uv"):
        pytest.skip("NOT TESTED: --env-manager uv, which is not installed here")
    monkeypatch.setenv("MLFLOW_ENV_ROOT", str(store / "environments"))
    version = register(store, pip_requirements=["mlflow==0.0.0.1"])
    with pytest.raises(BringError, match=r"can't be made with uv: .*mlflow==0\.0\.0\.1.*--env-manager local"):
        bring(NAME, version, store / "serve", "uv")
