"""A real S3 to log into: moto's server behind a switch that can take it off the network."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
from botocore.config import Config

from mooring.demo.processes import running
from ports import reserved_port
from waiting import wait_for

REGION = "us-east-1"
ANYTHING = '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}'
SETTING_UP = 4
"""Calls that moto lets pass before it checks who asks: for the user, its key, its rights and the bucket."""


class Switch:
    """A port of its own in front of another, which can be off: then nobody answers there."""

    def __init__(self, port: int) -> None:
        self._behind = port
        self.port = 0
        self.cut_at = b""
        """What a client may send once more, but whose answer is lost, and the switch is off from then on."""
        self._cutting = False
        self._listening: socket.socket | None = None
        self._connections: set[socket.socket] = set()
        self.on()

    def on(self) -> None:
        self.cut_at, self._cutting = b"", False
        self._listening = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listening,), daemon=True).start()

    def off(self) -> None:
        if self._listening is not None:
            # A thread in accept() would keep it open.
            self._listening.shutdown(socket.SHUT_RDWR)
            self._listening.close()
            self._listening = None
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                client, _ = listening.accept()
                server = socket.create_connection(("127.0.0.1", self._behind))
            except OSError:
                return
            self._connections |= {client, server}
            threading.Thread(target=self._pass, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self._pass, args=(server, client, False), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, asking: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if self._cutting and not asking:
                    self.off()  # it is done there, and nobody hears of it
                    return
                self._cutting = self._cutting or (asking and self.cut_at != b"" and self.cut_at in data)
                target.sendall(data)
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            self._connections.discard(each)


class S3:
    """The store, and what a user of it knows."""

    def __init__(self, port: int) -> None:
        self.switch = Switch(port)
        self._direct = f"http://127.0.0.1:{port}"
        nobody = {"aws_access_key_id": "nobody", "aws_secret_access_key": "nobody"}
        iam = boto3.client("iam", endpoint_url=self._direct, region_name=REGION, **nobody)
        iam.create_user(UserName="mooring")
        key = iam.create_access_key(UserName="mooring")["AccessKey"]
        iam.put_user_policy(UserName="mooring", PolicyName="all", PolicyDocument=ANYTHING)
        self.key, self.secret = key["AccessKeyId"], key["SecretAccessKey"]
        boto3.client("s3", endpoint_url=self._direct, region_name=REGION, **nobody).create_bucket(Bucket="logs")
        self.client: Any = boto3.client(
            "s3",
            endpoint_url=self._direct,
            region_name=REGION,
            aws_access_key_id=self.key,
            aws_secret_access_key=self.secret,
            config=Config(retries={"max_attempts": 1}),
        )

    def env(self, secret: str | None = None) -> dict[str, str]:
        """Return what the environment of a process holds that uses the store."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.switch.port}",
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": secret or self.secret,
            "AWS_REGION": REGION,
        }

    def objects(self, uri: str) -> dict[str, bytes]:
        """Return the objects of a log by their names."""
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
        names = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        return {
            name.removeprefix(f"{prefix}/"): self.client.get_object(Bucket=bucket, Key=name)["Body"].read()
            for name in names
        }

    def ids(self, uri: str, kind: str = "payloads") -> list[str]:
        """Return the request ids of all rows of a log, in no order."""
        return [
            request_id
            for name, data in self.objects(uri).items()
            if name.startswith(f"{kind}/")
            for request_id in pq.ParquetFile(pa.BufferReader(data)).read()["request_id"].to_pylist()
        ]


@contextmanager
def s3_server(directory: Path) -> Iterator[S3]:
    port = reserved_port()
    log = directory / "moto.log"
    command = ["env", f"INITIAL_NO_AUTH_ACTION_COUNT={SETTING_UP}", sys.executable, "-m", "moto.server"]
    with running([*command, "-p", str(port)], directory, log):

        def up() -> bool:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                return True
            return False

        wait_for(up, f"moto does not listen on {port}; see {log}")
        store = S3(port)
        try:
            yield store
        finally:
            store.switch.off()
