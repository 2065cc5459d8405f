"""A web server of a folder that answers range requests, as the Hub does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote


class Handler(BaseHTTPRequestHandler):
    """Files of `folder` by path, whole or a range of bytes; `sent` notes how many bytes."""

    folder: Path
    sent: list[int]

    def do_GET(self) -> None:  # the name that the base class calls
        self._answer()

    def do_HEAD(self) -> None:  # the name that the base class calls
        self._answer()

    def _answer(self) -> None:
        path = self.folder / unquote(self.path.split("?")[0]).lstrip("/")
        if not path.is_file():
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data = path.read_bytes()
        size = len(data)
        wanted = self.headers.get("Range")
        if wanted:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            begin, end = int(first), min(int(last or size - 1) + 1, size)
            data = data[begin:end]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{size}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{path.name}-{size}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()
        if self.command == "GET":
            self.sent.append(len(data))
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # its name there
        """Nothing: what was asked is in `sent`."""


@contextmanager
def serving(folder: Path) -> Iterator[tuple[str, list[int]]]:
    """Serve a folder while the block runs.

    Yields:
        The address of the folder, and the number of bytes of each answer so far.
    """
    sent: list[int] = []
    handler = type("FolderHandler", (Handler,), {"folder": folder, "sent": sent})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", sent
        finally:
            server.shutdown()
            thread.join()
