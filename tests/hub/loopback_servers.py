"""HTTP servers on the loopback that note every request, and misbehave where a test tells them to."""

from __future__ import annotations

import json
import re
import socketserver
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

from typing_extensions import Self


@dataclass(frozen=True)
class Request:
    """One request as it was answered; `sent` counts the bytes of the answer's body."""

    server: str
    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    body: bytes
    status: int
    sent: int

    def __str__(self) -> str:
        return f"{self.method} {self.server}{self.path} {self.status}"

    @property
    def token(self) -> str | None:
        return self.headers.get("authorization", "").removeprefix("Bearer ") or None


@dataclass
class Fault:
    """How to misbehave at requests whose `METHOD SERVER/path` matches, `times` times.

    The body is cut after `cut_after` bytes, or is `body`; or the answer is `status` alone. It comes after `delay_s`
    seconds. `then` runs before the client has the answer's last byte.
    """

    match: str
    status: int | None = None
    cut_after: int | None = None
    body: bytes | None = None
    delay_s: float = 0.0
    headers: Mapping[str, str | None] = field(default_factory=dict)
    ignore_range: bool = False
    then: Callable[[], object] | None = None
    times: float = float("inf")


@dataclass
class Answer:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of_json(cls, content: object, status: int = 200) -> Answer:
        return cls(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    @classmethod
    def error(cls, status: int, code: str | None, message: str, **headers: str) -> Answer:
        answer = cls.of_json({"error": message}, status)
        codes = {"X-Error-Code": code} if code else {}
        answer.headers.update(codes, **{"X-Error-Message": message}, **headers)
        return answer


class LoopbackServers:
    """Servers of one mind, each with a port of its own, serving while the block runs.

    Every answer closes its connection, so that a server which was stopped serves nobody.

    Attributes:
        ports: by the server's name.
        requests: every request answered so far.
        faults: the first that matches a request and is not used up decides.
        broken: exceptions of the servers themselves, which a test must not pass over.
        stopping: set once they stop.
    """

    def __init__(self, *names: str) -> None:
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.broken: list[BaseException] = []
        self.lock = threading.RLock()
        self.stopping = threading.Event()
        self._servers = {name: _Server(self, name) for name in names}
        self.ports = {name: server.server_port for name, server in self._servers.items()}

    def __enter__(self) -> Self:
        for server in self._servers.values():
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Refuse connections from now on."""
        self.stopping.set()
        for server in self._servers.values():
            server.shutdown()
            server.server_close()

    def answer(self, request: Request) -> Answer:
        """What a server that behaves says to a request, whose `status` and `sent` are not known yet."""
        raise NotImplementedError

    def take_fault(self, request: str) -> Fault:
        """The fault that is due at a request, or one that does nothing."""
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and re.search(fault.match, request):
                    fault.times -= 1
                    return fault
        return Fault("")


class _Server(ThreadingHTTPServer):
    daemon_threads = False

    def __init__(self, owner: LoopbackServers, name: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.owner, self.name = owner, name

    def server_bind(self) -> None:
        """Without asking a name server what the loopback is called."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, ConnectionError):  # a client may hang up
            self.owner.broken.append(error)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        owner, server = self.server.owner, self.server.name
        url = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = b"".join(self._chunks())
        asked = Request(server, self.command, url.path, parse_qs(url.query), headers, body, 0, 0)
        fault = owner.take_fault(f"{self.command} {server}{url.path}")
        if fault.delay_s:
            owner.stopping.wait(fault.delay_s)
        if fault.status is not None:
            answer = Answer.error(fault.status, None, "the server does not feel well")
        else:
            with owner.lock:
                answer = owner.answer(asked)
            answer = answer if fault.ignore_range else _in_range(answer, headers.get("range"))
        if fault.body is not None:
            answer.body = fault.body
        content = b"" if self.command == "HEAD" else answer.body[: fault.cut_after]
        with owner.lock:
            owner.requests.append(replace(asked, status=answer.status, sent=len(content)))
        if fault.then is not None:
            fault.then()
        self._send(answer, content, fault.headers)

    do_HEAD = do_POST = do_PUT = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads it."""

    def _send(self, answer: Answer, content: bytes, changed: Mapping[str, str | None]) -> None:
        self.send_response(answer.status)
        sent = {**answer.headers, "Content-Length": str(len(answer.body)), "Connection": "close", **changed}
        for name, value in sent.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def _chunks(self) -> Iterator[bytes]:
        """The request's body, which clients may send in pieces."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            yield self.rfile.read(int(self.headers.get("Content-Length") or 0))
            return
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()


def _in_range(answer: Answer, asked: str | None) -> Answer:
    """The end of a file that a client has the beginning of."""
    match = re.fullmatch(r"bytes=(\d+)-", asked or "")
    if match is None or answer.status != 200:
        return answer
    start, whole = int(match[1]), len(answer.body)
    if start >= whole:
        return Answer.error(416, None, "Range not satisfiable", **{"Content-Range": f"bytes */{whole}"})
    of_range = {"Content-Range": f"bytes {start}-{whole - 1}/{whole}"}
    return Answer(206, answer.body[start:], {**answer.headers, **of_range})
