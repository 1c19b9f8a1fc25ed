"""A server on this machine that behaves as file servers and the Hugging Face Hub do, and as they fail."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from unittest import mock

COMMIT = "a" * 40


@dataclass
class Server:
    """What is served, and how.

    Attributes:
        files: contents by their paths.
        status: paths that are answered by an error.
        moved: paths that are answered by a redirect, and where to.
        limit: bytes after which each connection breaks off; None: none does.
        ranges: whether parts of a file are given.
        sizes: whether the answer to a Range states the whole file's size.
        chunked: whether bodies come in chunks, without a length.
        etag: what tells a file's version; None: its digest; "": nothing does.
        headers: further headers of every answer.
        requests: method, path and Range of every request.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    status: dict[str, int] = field(default_factory=dict)
    moved: dict[str, str] = field(default_factory=dict)
    limit: int | None = None
    ranges: bool = True
    sizes: bool = True
    chunked: bool = False
    etag: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)

    def asked(self, method: str = "GET") -> list[str | None]:
        """The Range of every request by `method`."""
        return [span for kind, _, span in self.requests if kind == method]


@contextlib.contextmanager
def serve() -> Iterator[Server]:
    """Serve on a free port of 127.0.0.1 as long as the context lasts."""
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            path, span = self.path.partition("?")[0], self.headers.get("Range")
            server.requests.append((self.command, path, span))
            if path in server.moved:
                return self._head(302, {"Location": server.moved[path], "Content-Length": "0"})
            if path in server.status or path not in server.files:
                return self._head(server.status.get(path, 404), {"Content-Length": "0"})
            data = server.files[path]
            etag = f'"{hashlib.sha256(data).hexdigest()}"' if server.etag is None else server.etag
            facts = {"ETag": etag} if etag else {}
            start = int(span.removeprefix("bytes=").rstrip("-")) if span and server.ranges else 0
            if start and self.headers.get("If-Range", etag) != etag:
                start = 0
            if start >= len(data) > 0:
                return self._head(416, {"Content-Range": f"bytes */{len(data)}", "Content-Length": "0"})
            if start:
                size = len(data) if server.sizes else "*"
                facts["Content-Range"] = f"bytes {start}-{len(data) - 1}/{size}"
            body = data[start:]
            length = (
                {"Transfer-Encoding": "chunked"} if server.chunked else {"Content-Length": str(len(body))}
            )
            self._head(206 if start else 200, length | facts)
            if self.command == "GET":
                if server.chunked:
                    self.wfile.write(f"{len(body):x}\r\n".encode())
                self.wfile.write(body if server.limit is None else body[: server.limit])
                self.close_connection = True

        do_HEAD = do_GET

        def _head(self, status, headers):
            self.send_response(status)
            for name, value in (headers | server.headers).items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *args):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    server.url = f"http://127.0.0.1:{http.server_port}"
    try:
        with mock.patch.dict(os.environ, no_proxy="127.0.0.1", NO_PROXY="127.0.0.1"):
            yield server
    finally:
        http.shutdown()
        http.server_close()
