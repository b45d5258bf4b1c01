"""The version of the model that the log names, asked of a real registry."""

from __future__ import annotations

import re
import subprocess

import mlflow
import pytest

from mlflow_store import new_store
from mooring.registry.process import question, split_uri
from peers import OK, post, proxy, read_message, upstream
from waiting import PATIENCE, wait_for


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    directory = tmp_path_factory.mktemp("registry")
    uri = new_store(directory)
    client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
    client.create_registered_model("wine")
    for _ in range(2):
        client.create_model_version("wine", source=str(directory))
    client.set_registered_model_alias("wine", "champion", "2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        patch.setattr("mooring.registry.process._SECONDS", PATIENCE)
        yield uri


def ask(uri: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(question(uri), capture_output=True, text=True, timeout=PATIENCE)


@pytest.mark.parametrize(("uri", "version"), [("models:/wine@champion", '"2"'), ("models:/wine/1", '"1"')])
def test_an_alias_and_a_version_are_resolved(registry, uri, version):
    assert ask(uri).stdout.splitlines() == [version]


@pytest.mark.parametrize("uri", ["models:/wine@nobody", "models:/beer/1"])
def test_what_the_registry_does_not_know_is_said(registry, uri):
    asked = ask(uri)
    assert asked.returncode != 0
    assert re.search("not found|no version", asked.stderr.splitlines()[-1])


@pytest.mark.parametrize("uri", ["models:/wine", "models:/@champion", "models:/wine/latest"])
def test_a_uri_without_a_version_is_refused(uri):
    with pytest.raises(ValueError, match="names no version"):
        split_uri(uri)


def test_the_proxy_logs_the_version_of_the_alias(registry, tmp_path):
    def handle(connection):
        with connection.makefile("rb") as file:
            read_message(file)
            connection.sendall(OK.replace(b"200 OK", b"400 Bad Request"))

    with upstream(handle) as server, proxy(tmp_path, server.url, "--model", "models:/wine@champion") as running:
        wait_for(lambda: "is version 2" in running.stderr, "the registry was not asked")
        running.exchange(post())
        [record] = running.records(1)
    assert (record["model"], record["version"]) == ("wine", "2")
