"""A web server on this machine that serves ranges and breaks where a test says so."""

from __future__ import annotations

import base64
import hashlib
import re
import socket
import struct
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Site:
    """What the server holds, what it shall do wrong, and what it was asked."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    """By path, without the leading slash."""
    faults: defaultdict[str, deque[Any]] = field(default_factory=lambda: defaultdict(deque))
    """By path, one for each GET: an HTTP status, ("drop", bytes sent before the connection breaks), ("flip", byte)."""
    forbidden: set[str] = field(default_factory=set)
    ranges: bool = True
    etags: bool = True
    md5: bool = False
    seconds_per_piece: float = 0.0
    """Pause after each 16 KiB."""
    asked: list[tuple[str, str, tuple[int, int] | None]] = field(default_factory=list)
    """(method, path, range) of each request."""

    def gets(self, path: str) -> list[tuple[int, int] | None]:
        """Ranges of the GETs of one path."""
        return [span for method, name, span in self.asked if method == "GET" and name == path]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer("HEAD")

    def do_GET(self) -> None:
        self._answer("GET")

    def _answer(self, method: str) -> None:
        path = self.path.lstrip("/").partition("?")[0]
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        span = (int(match[1]), int(match[2]) + 1) if match else None
        self.site.asked.append((method, path, span))
        body = self.site.files.get(path)
        fault = self.site.faults[path].popleft() if method == "GET" and self.site.faults[path] else None
        if path in self.site.forbidden:
            self._refuse(403)
        elif body is None:
            self._refuse(404)
        elif isinstance(fault, int):
            self._refuse(fault)
        else:
            self._send(method, body, span if self.site.ranges else None, fault)

    def _refuse(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, method: str, body: bytes, span: tuple[int, int] | None, fault: Any) -> None:
        part = body if span is None else body[slice(*span)]
        self.send_response(200 if span is None else 206)
        self.send_header("Content-Length", str(len(part)))
        if span is not None:
            self.send_header("Content-Range", f"bytes {span[0]}-{span[1] - 1}/{len(body)}")
        if self.site.etags:
            self.send_header("ETag", f'"{hashlib.md5(body).hexdigest()}"')
        if self.site.md5:
            self.send_header("Content-MD5", base64.b64encode(hashlib.md5(body).digest()).decode())
        self.end_headers()
        if method == "HEAD":
            return
        what, at = fault or ("", 0)
        if what == "flip":
            part = part[:at] + bytes([part[at] ^ 255]) + part[at + 1 :]
        if what == "drop":
            self.wfile.write(part[:at])
            self.wfile.flush()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
            return
        for start in range(0, len(part), 1 << 14):
            self.wfile.write(part[start : start + (1 << 14)])
            time.sleep(self.site.seconds_per_piece)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: Any) -> None:
        pass  # clients that go away are what the tests are about


@contextmanager
def web_server() -> Iterator[Site]:
    """Serve a `Site` on a free port."""
    site = Site()
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"site": site}))
    site.url = f"http://127.0.0.1:{server.server_port}/"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
