"""Environments of versions, made as the controller makes them."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from model_servers import have, ready, servers
from mooring.serving.models import BringError, bring
from versions import NAME, register, registry_with_a_version


@pytest.fixture
def store(tmp_path, monkeypatch) -> Path:
    return registry_with_a_version(tmp_path, monkeypatch)


@pytest.mark.parametrize("manager", ["uv", "virtualenv", "conda"])
def test_an_environment_of_its_own_serves(manager, store, monkeypatch):
    if not shutil.which({"virtualenv": "pyenv"}.get(manager, manager)):
        pytest.skip(f"NOT TESTED: --env-manager {manager}, which is not installed here")
    monkeypatch.setenv("MLFLOW_ENV_ROOT", str(store / "environments"))
    model = bring(NAME, "1", store / "serve", manager)
    assert model.activate
    assert bring(NAME, "1", store / "serve", manager) == model

    async def run():
        async with servers(model) as running:
            [socket] = await ready(running)
            assert (await have(socket)).predictions == [1.5]

    asyncio.run(run())


def test_an_environment_that_can_not_be_made_is_told(store, monkeypatch):
    if not shutil.which("uv"):
        pytest.skip("NOT TESTED: --env-manager uv, which is not installed here")
    monkeypatch.setenv("MLFLOW_ENV_ROOT", str(store / "environments"))
    version = register(store, pip_requirements=["mlflow==0.0.0.1"])
    with pytest.raises(BringError, match=r"can't be made with uv: .*mlflow==0\.0\.0\.1.*--env-manager local"):
        bring(NAME, version, store / "serve", "uv")
