"""An S3 server on this machine, and a door in front of it that fails when a test says so."""

from __future__ import annotations

import http.client
import logging
import threading
import urllib.request
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


@contextmanager
def s3_server() -> Iterator[dict[str, Any]]:
    """Serve an empty bucket "bucket"; yields fsspec's storage options. Skips the test where packages are missing."""
    server = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    boto3 = pytest.importorskip("boto3")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    try:
        host, port = moto.get_host_and_port()
        # What other tests put into servers of this process is kept by the package, not by the server.
        urllib.request.urlopen(urllib.request.Request(f"http://{host}:{port}/moto-api/reset", method="POST")).close()
        keys = {"aws_access_key_id": "k", "aws_secret_access_key": "s", "region_name": "us-east-1"}
        boto3.client("s3", endpoint_url=f"http://{host}:{port}", **keys).create_bucket(Bucket="bucket")
        yield {
            "key": "k", "secret": "s", "endpoint_url": f"http://{host}:{port}", "client_kwargs": {"region_name": "us-east-1"},
        }  # fmt: skip
    finally:
        moto.stop()


@dataclass
class Door:
    """What passes on its way to a server."""

    port: int
    """Of the server behind it."""
    faults: deque[tuple[str, str, int]] = field(default_factory=deque)
    """(method, part of the path, status): the first request that fits the first one gets the status in place of an answer."""
    always: list[tuple[str, str, int]] = field(default_factory=list)
    """The same, for all requests that fit."""
    asked: list[tuple[str, str]] = field(default_factory=list)
    """(method, path) of each request."""
    options: dict[str, Any] = field(default_factory=dict)
    """Storage options by protocol, to go through it."""

    def fault(self, method: str, path: str) -> int | None:
        """Return the status that a request gets, None for the server's own answer."""
        self.asked.append((method, path))
        for kind, part, status in self.always:
            if kind == method and part in path:
                return status
        if self.faults and self.faults[0][0] == method and self.faults[0][1] in path:
            return self.faults.popleft()[2]
        return None

    def puts(self) -> list[str]:
        """Return the paths of what was put, in order."""
        return [path.partition("?")[0] for method, path in self.asked if method == "PUT"]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    door: Door

    def log_message(self, *_: Any) -> None:
        pass

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        status = self.door.fault(self.command, self.path)
        if status is not None:
            code = {403: "AccessDenied", 503: "SlowDown"}.get(status, "InternalError")
            answer, headers = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode(), []
        else:
            server = http.client.HTTPConnection("127.0.0.1", self.door.port, timeout=20)
            server.request(self.command, self.path, body, dict(self.headers))
            reply = server.getresponse()
            status, answer, headers = reply.status, reply.read(), reply.getheaders()
            server.close()
        self.send_response(status)
        length = str(len(answer))
        for name, value in headers:
            if name.lower() == "content-length":
                length = value
            elif name.lower() not in ("connection", "transfer-encoding", "date", "server"):
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        pass  # clients that are killed are what the tests are about


@contextmanager
def door_to(options: dict[str, Any]) -> Iterator[tuple[Door, dict[str, Any]]]:
    """Put a door before an S3 server; yields it and the storage options to go through it, without retries of the client's own."""
    door = Door(int(options["endpoint_url"].rpartition(":")[2]))
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"door": door}))
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        through = {**options, "endpoint_url": url, "config_kwargs": {"retries": {"max_attempts": 0}}}
        door.options = {"s3": through}
        yield door, through
    finally:
        server.shutdown()
        server.server_close()
