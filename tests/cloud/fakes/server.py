"""A local HTTP server that speaks for a service, with faults on order.

A fake derives from `Fake`, and answers in `answer`. It is proven against the vendor's own client before an adapter is
tested on it. `faults` are used up one a request, before the fake looks at the request, or (`after`) when it has done
what was asked and only the answer is lost.
"""

import json
import re
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class Fault:
    """What goes wrong with the next requests that fit. `reset`: the connection breaks; `slow`: seconds of waiting."""

    status: int = 0
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    reset: bool = False
    slow: float = 0.0
    times: int = 1
    path: str = ""  # a regular expression that has to be found in "METHOD /path"
    after: bool = False  # the request is carried out all the same


@dataclass
class Request:
    """`path` without the query, decoded; `query`: the last value of each, `lists`: all; `body`: of JSON, else None."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any
    raw: bytes
    lists: dict[str, list[str]] = field(default_factory=dict)


class Reply(Exception):
    """An answer that ends the handling of a request at once."""

    def __init__(self, status: int, body: Any = None, headers: dict[str, str] | None = None):
        self.status, self.body, self.headers = status, body, headers or {}


class Fake:
    """A service on a free port of 127.0.0.1, from `with` to its end."""

    key: str | None = "test-key"

    def __init__(self):
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.lock = threading.Lock()

    def answer(self, request: Request) -> Any:
        """The body of a 200, or raise Reply."""
        raise NotImplementedError

    def __enter__(self):
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # else each answer with a body waits 40 ms for the client's ACK of its head

            def _handle(self):
                fake._handle(self)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _handle

            def log_message(self, *_):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def asked(self, pattern: str) -> list[Request]:
        """The requests whose "METHOD /path" holds the pattern."""
        return [request for request in self.requests if re.search(pattern, f"{request.method} {request.path}")]

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        raw = self._content(handler)
        try:
            body = json.loads(raw) if raw else None
        except ValueError:
            body = None
        lists = parse_qs(parts.query)
        request = Request(
            handler.command, unquote(parts.path), {k: v[-1] for k, v in lists.items()},
            {name.lower(): value for name, value in handler.headers.items()}, body, raw, lists,
        )  # fmt: skip
        with self.lock:
            self.requests.append(request)
            fault = self._next_fault(request)
        if fault and fault.slow:
            time.sleep(fault.slow)
        if fault and not fault.after and (fault.reset or fault.status):
            return self._fail(handler, fault)
        try:
            with self.lock:
                status, answer, headers = 200, self.answer(request), {}
        except Reply as reply:
            status, answer, headers = reply.status, reply.body, reply.headers
        if fault and fault.after:
            return self._fail(handler, fault)
        self._send(handler, status, answer, headers)

    def _next_fault(self, request: Request) -> Fault | None:
        for fault in self.faults:
            if re.search(fault.path, f"{request.method} {request.path}"):
                fault.times -= 1
                if fault.times <= 0:
                    self.faults.remove(fault)
                return fault
        return None

    def _content(self, handler: BaseHTTPRequestHandler) -> bytes:
        if handler.headers.get("transfer-encoding", "").lower() == "chunked":
            content = b""
            while size := int(handler.rfile.readline().split(b";")[0], 16):
                content += handler.rfile.read(size)
                handler.rfile.readline()
            handler.rfile.readline()
            return content
        return handler.rfile.read(int(handler.headers.get("content-length") or 0))

    def _fail(self, handler: BaseHTTPRequestHandler, fault: Fault) -> None:
        if fault.reset:
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.close_connection = True
            handler.connection.close()
            return
        self._send(handler, fault.status, fault.body, fault.headers)

    def _send(self, handler: BaseHTTPRequestHandler, status: int, body: Any, headers: dict[str, str]) -> None:
        data = body if isinstance(body, bytes) else b"" if body is None and status == 204 else json.dumps(body).encode()
        handler.send_response(status)
        handler.send_header("content-length", str(len(data)))
        if not any(name.lower() == "content-type" for name in headers):
            handler.send_header("content-type", "application/json")
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(data)
