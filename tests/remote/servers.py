"""HTTP servers of the tests: files of a folder in ranges, counted, and with faults on demand."""

from __future__ import annotations

import hashlib
import re
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from typing_extensions import Self

_PIECE = 64 * 1024


@dataclass
class Request:
    """A request and what it was answered with.

    Attributes:
        method: `GET` or `HEAD`.
        path: The path as it was sent, with the query.
        headers: The headers that were sent; their names in lower case.
        status: The status of the answer; 0 where there was none.
        sent: Bytes of the body that were handed to the network.
    """

    method: str
    path: str
    headers: dict[str, str]
    status: int = 0
    sent: int = 0


@dataclass(frozen=True)
class Fault:
    """Something that a server does instead of answering as it should.

    Attributes:
        kind: `status`: answers with that status; `drop`: closes the connection unanswered;
            `silence`: never answers; `cut`: closes it in the middle of the body; `stall`: sends
            nothing more from the middle of the body on; `whole`: ignores the range; `other
            range`: answers the range one byte further on; `headers`: answers as it should, but
            for `headers`.
        status: For `status`.
        headers: Headers that come on top of those of the answer, or replace them.
    """

    kind: Literal["status", "drop", "silence", "cut", "stall", "whole", "other range", "headers"]
    status: int = 503
    headers: Mapping[str, str] = field(default_factory=dict)


def redirect(url: str, status: int = 302) -> Fault:
    return Fault("status", status, {"Location": url})


class QuietServer(ThreadingHTTPServer):
    """A server whose clients may leave at any time."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that leaves early is nothing to report."""


class QuietHandler(BaseHTTPRequestHandler):
    """Connections that are kept, and requests that are not printed."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Requests are remembered, not printed."""


class RangeServer:
    """Serves a folder over HTTP/1.1, in ranges, and remembers every request.

    Args:
        folder: Its files are served; their names may contain folders.
        host: The address to listen at. `127.0.0.1` and `localhost` are two hosts to a client.
        tls: Certificate and key, for HTTPS.

    Attributes:
        requests: What was asked and answered, in the order of arrival.
        fault: Asked for each request that arrives; None answers as it should be.
        etags: An ETag to send for a path; others come from the file's size and time stamp.
    """

    def __init__(
        self, folder: Path, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
    ) -> None:
        self.folder = folder
        self.requests: list[Request] = []
        self.fault: Callable[[Request], Fault | None] = lambda _: None
        self.etags: dict[str, str | None] = {}
        self._host = host
        self._server = _Server((host, 0), _Handler)
        self._server.owner = self
        self._scheme = "https" if tls else "http"
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def sent(self) -> int:
        """Bytes of all bodies so far."""
        return sum(request.sent for request in self.requests)

    def url(self, name: str = "", *, host: str | None = None, user: str = "") -> str:
        """The URL of a file, on a host of another name or with `user:password` if asked."""
        return (
            f"{self._scheme}://{user}{'@' if user else ''}{host or self._host}:{self.port}/{name}"
        )

    def reset(self) -> None:
        """Forget the requests so far."""
        self.requests.clear()

    def fail_first(self, *faults: Fault | None) -> None:
        """Let the next requests fail, one after the other, and those after them succeed."""
        waiting = list(faults)
        lock = threading.Lock()

        def next_fault(_: Request) -> Fault | None:
            with lock:
                return waiting.pop(0) if waiting else None

        self.fault = next_fault


class _Server(QuietServer):
    owner: RangeServer


class _Handler(QuietHandler):
    server: _Server

    def do_GET(self) -> None:
        self._serve(with_body=True)

    def do_HEAD(self) -> None:
        self._serve(with_body=False)

    def _serve(self, *, with_body: bool) -> None:
        owner = self.server.owner
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, self.path, headers)
        owner.requests.append(request)
        fault = owner.fault(request)
        kind = fault.kind if fault else ""
        if kind == "drop":
            self.close_connection = True
        elif kind == "silence":
            self._wait_for_the_client_to_leave()
        elif fault and kind == "status":
            self._answer(request, fault.status, {"Content-Length": "0", **fault.headers})
        else:
            self._send_file(request, kind, fault.headers if fault else {}, with_body=with_body)

    def _send_file(
        self, request: Request, kind: str, extra: Mapping[str, str], *, with_body: bool
    ) -> None:
        owner = self.server.owner
        name = unquote(urlsplit(self.path).path).lstrip("/")
        path = owner.folder / name
        if not path.is_file():
            self._answer(request, 404, {"Content-Length": "0", **extra})
            return
        status = path.stat()
        size = status.st_size
        headers = {"Accept-Ranges": "bytes", "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
        text = f"{size}-{status.st_mtime_ns}"
        etag = owner.etags.get(name, f'"{hashlib.sha256(text.encode()).hexdigest()[:16]}"')
        if etag is not None:
            headers["ETag"] = etag
        begin, end, code = 0, size, 200
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
        if asked and kind != "whole":
            begin = int(asked[1]) + (kind == "other range")
            end = min(size, int(asked[2]) + 1 if asked[2] else size)
            if begin >= size:
                headers |= {"Content-Range": f"bytes */{size}", "Content-Length": "0"}
                self._answer(request, 416, {**headers, **extra})
                return
            code = 206
            headers["Content-Range"] = f"bytes {begin}-{end - 1}/{size}"
        headers["Content-Length"] = str(end - begin)
        self._answer(request, code, {**headers, **extra})
        if with_body:
            self._send_body(request, path, begin, end, kind)

    def _send_body(self, request: Request, path: Path, begin: int, end: int, kind: str) -> None:
        stop = begin + (end - begin) // 2 if kind in {"cut", "stall"} else end
        with path.open("rb") as file:
            file.seek(begin)
            while begin < stop:
                piece = file.read(min(_PIECE, stop - begin))
                # Before it is sent: a client that has it all may look at once.
                request.sent += len(piece)
                self.wfile.write(piece)
                begin += len(piece)
        if kind == "cut":
            self.close_connection = True
        elif kind == "stall":
            self._wait_for_the_client_to_leave()

    def _answer(self, request: Request, status: int, headers: Mapping[str, str]) -> None:
        request.status = status
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _wait_for_the_client_to_leave(self) -> None:
        while self.connection.recv(_PIECE):
            pass
        self.close_connection = True
