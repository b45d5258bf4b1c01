"""`mooring serve` with TLS and keys, on its port and on its admin port."""

from __future__ import annotations

import json
import shutil
import ssl
from http.client import HTTPSConnection

from certificates import Authority
from supervised import BODY, registered, supervised
from waiting import wait_for


def test_serve_takes_tls_and_keys_and_both_change_while_it_runs(tmp_path):
    store = registered()
    authority = Authority(tmp_path)
    cert, key = authority.issue("server")
    keys = tmp_path / "keys"
    keys.write_text("first-key\n")
    context = ssl.create_default_context(cafile=str(authority.certificate))
    flags = ("--tls-cert", str(cert), "--tls-key", str(key), "--api-key-file", str(keys))
    with supervised(tmp_path / "run", store, *flags) as it:

        def ask(connection: HTTPSConnection, path: str, body: bytes | None = None, key: str = "first-key") -> int:
            headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
            connection.request("POST" if body else "GET", path, body, headers)
            answer = connection.getresponse()
            answer.read()
            return answer.status

        def once(port: int, path: str, body: bytes | None = None, key: str = "first-key") -> int:
            connection = HTTPSConnection("localhost", port, context=context, timeout=60)
            try:
                return ask(connection, path, body, key)
            finally:
                connection.close()

        def shown() -> str:
            return ssl.get_server_certificate(("127.0.0.1", it.port))

        kept = HTTPSConnection("localhost", it.port, context=context, timeout=60)
        assert ask(kept, "/invocations", BODY) == 200
        assert once(it.port, "/ping", key="other") == 401
        assert [once(it.admin_port, path, key="other") for path in ("/readyz", "/stats")] == [200, 401]
        assert once(it.admin_port, "/stats") == 200

        before = shown()
        for new, old in zip(authority.issue("next"), (cert, key), strict=True):
            shutil.copy(new, old)
        keys.write_text("second-key\n")
        wait_for(lambda: shown() != before, it.said)
        wait_for(lambda: once(it.port, "/ping") == 401, it.said)
        assert ask(kept, "/invocations", BODY, "second-key") == 200
        kept.close()
        connection = HTTPSConnection("localhost", it.admin_port, context=context, timeout=60)
        connection.request("GET", "/stats", headers={"Authorization": "Bearer second-key"})
        told = json.loads(connection.getresponse().read())
        connection.close()
        assert told["ledger"]["seen"] == 2
        assert told["unauthorized"] >= 2
        it.end()
