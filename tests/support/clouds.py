"""Stores that speak the protocols of Azure and of Google, on this machine."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest

from mooring.demo.processes import running
from ports import reserved_port
from waiting import PATIENCE, wait_for

AZURITE = "azurite@3.35.0"  # the last that Node 20 runs
ACCOUNT = "mooring"
KEY = base64.b64encode(b"the key of the tests' account").decode()
WRONG = base64.b64encode(b"another").decode()
TOKEN = "the-token-of-the-tests"


class Cloud(NamedTuple):
    """A store, and what the environment of a process holds that uses it: rightly, and with wrong credentials."""

    scheme: str
    env: dict[str, str]
    wrong: dict[str, str]
    unreachable: dict[str, str]

    def uri(self, name: str, bucket: str = "logs") -> str:
        return f"{self.scheme}://{bucket}/{name}"


# Azure: Microsoft's own emulator, a program for Node.


def azurite() -> Path:
    """Return the emulator, installed beside the tests' Python if it is not yet there; skip where that can't be."""
    directory = Path(sys.prefix) / "azurite"
    program = directory / "node_modules" / ".bin" / "azurite-blob"
    if program.exists():
        return program
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("az:// is not tested: Node and npm, which Azurite needs, are not installed")
    directory.mkdir(exist_ok=True)
    command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(directory), AZURITE]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
        reason = done.stderr
    except subprocess.TimeoutExpired:
        reason = "it takes too long"
    if not program.exists():
        pytest.skip(f"az:// is not tested: npm can't install {AZURITE}: {reason}")
    return program


def make_container(port: int, name: str) -> None:
    """Make a container as Azure's shared keys have it signed."""
    path, version, date = f"/{ACCOUNT}/{name}", "2023-11-03", formatdate(usegmt=True)
    fields = f"x-ms-date:{date}\nx-ms-version:{version}"
    text = "PUT" + "\n" * 12 + f"{fields}\n/{ACCOUNT}{path}\nrestype:container"
    signature = hmac.digest(base64.b64decode(KEY), text.encode(), hashlib.sha256)
    headers = {
        "Authorization": f"SharedKey {ACCOUNT}:{base64.b64encode(signature).decode()}",
        "x-ms-date": date,
        "x-ms-version": version,
        "Content-Length": "0",
    }
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection.request("PUT", f"{path}?restype=container", headers=headers)
    answer = connection.getresponse()
    assert answer.status == 201, answer.read()
    connection.close()


@contextmanager
def azure(directory: Path) -> Iterator[Cloud]:
    command = ["env", f"AZURITE_ACCOUNTS={ACCOUNT}:{KEY}", str(azurite())]
    command += ["--blobHost", "127.0.0.1", "--blobPort", "0", "--location", str(directory)]
    log = directory / "azurite.log"
    with running([*command, "--skipApiVersionCheck", "--disableTelemetry"], directory, log):
        pattern = r"successfully listens on http://127\.0\.0\.1:(\d+)"
        wait_for(lambda: re.search(pattern, log.read_text()) is not None, f"Azurite does not start; see {log}")
        port = int(re.search(pattern, log.read_text())[1])
        make_container(port, "logs")
        env = {
            "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": KEY,
            "AZURE_STORAGE_ENDPOINT": f"http://127.0.0.1:{port}/{ACCOUNT}",
        }
        nowhere = f"http://127.0.0.1:{reserved_port()}/{ACCOUNT}"
        yield Cloud(
            "az",
            env,
            env | {"AZURE_STORAGE_ACCOUNT_KEY": WRONG},
            env | {"AZURE_STORAGE_ENDPOINT": nowhere},
        )


# Google: obstore speaks its XML API. gcp-storage-emulator overwrites where it should refuse, leaves out ETag and
# Last-Modified, and has no lists there. So this stands in for it, after https://cloud.google.com/storage/docs/xml-api:
# what obstore asks for, and no more.


class Bucket(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    objects: dict[str, bytes]
    lock: threading.Lock

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if (name := self.allowed()) is None:
            return
        with self.lock:
            if self.headers["x-goog-if-generation-match"] == "0" and name in self.objects:
                self.refuse(412, "PreconditionFailed")
                return
            self.objects[name] = data
        self.answer(200)

    def do_GET(self) -> None:
        if (name := self.allowed()) is None:
            return
        if not name:
            self.answer(200, self.listed().encode())
        elif name not in self.objects:
            self.refuse(404, "NoSuchKey")
        else:
            data, asked = self.objects[name], re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers["Range"] or "")
            if asked is None:
                self.answer(200, data)
                return
            start = int(asked[1]) if asked[1] else max(0, len(data) - int(asked[2]))
            end = min(int(asked[2]) + 1, len(data)) if asked[1] and asked[2] else len(data)
            self.answer(206, data[start:end], {"Content-Range": f"bytes {start}-{end - 1}/{len(data)}"})

    def do_HEAD(self) -> None:
        self.do_GET()

    def listed(self) -> str:
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        entries, prefixes = "", set()
        for name in sorted(name for name in self.objects if name.startswith(prefix)):
            below, found, _ = name[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
            if found:
                prefixes.add(prefix + below + delimiter)
                continue
            size, at = len(self.objects[name]), "2026-01-01T00:00:00Z"
            entries += f"<Contents><Key>{escape(name)}</Key><LastModified>{at}</LastModified>"
            entries += f"<ETag>1</ETag><Size>{size}</Size></Contents>"
        for name in sorted(prefixes):
            entries += f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>"
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>"

    def allowed(self) -> str | None:
        """Return the object's name, empty for the bucket; None if the request is answered already."""
        bucket, _, name = unquote(urlsplit(self.path).path).lstrip("/").partition("/")
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            self.refuse(401, "AuthenticationRequired")
        elif bucket != "logs":
            self.refuse(404, "NoSuchBucket")
        else:
            return name
        return None

    def refuse(self, status: int, code: str) -> None:
        self.answer(status, f"<Error><Code>{code}</Code></Error>".encode())

    def answer(self, status: int, body: bytes = b"", fields: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (fields or {}).items():
            self.send_header(name, value)
        self.send_header("ETag", '"1"')
        self.send_header("x-goog-generation", "1")
        self.send_header("Last-Modified", formatdate(0, usegmt=True))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else body)

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def google(directory: Path) -> Iterator[Cloud]:
    handler = type("Handler", (Bucket,), {"objects": {}, "lock": threading.Lock()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        env = {"GOOGLE_BASE_URL": f"http://127.0.0.1:{server.server_port}", "GOOGLE_BEARER_TOKEN": TOKEN}
        nowhere = f"http://127.0.0.1:{reserved_port()}"
        yield Cloud("gs", env, env | {"GOOGLE_BEARER_TOKEN": "x"}, env | {"GOOGLE_BASE_URL": nowhere})
    finally:
        server.shutdown()
        server.server_close()
