"""A server of the tests that answers as the Hugging Face Hub does, over folders of this machine."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from tests.remote.servers import QuietHandler, QuietServer, Request

if TYPE_CHECKING:
    import pytest
    from typing_extensions import Self

COMMIT = "0123456789abcdef0123456789abcdef01234567"

_PIECE = 64 * 1024
_REPOSITORY = r"(?P<repository>[\w.-]+(?:/[\w.-]+)?)"
_RESOLVE = re.compile(
    rf"/(?P<kind>datasets/|spaces/|){_REPOSITORY}/resolve/(?P<rev>[^/]+)/(?P<path>.+)"
)
_API = re.compile(
    rf"/api/(?P<kind>models/|datasets/|spaces/){_REPOSITORY}"
    r"(?:/(?P<call>revision|tree|paths-info)/(?P<rev>[^/]+)(?:/(?P<path>.+))?)?"
)


def log_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let huggingface_hub be online, with nobody logged in and an empty cache in a folder."""
    from huggingface_hub import constants

    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "token"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


class HubServer:
    """The Hub's addresses for files and their listings, over HTTP/1.1.

    Args:
        folder: A repository is the folder `org/name` in it, a dataset `datasets/org/name`. Its
            files are those of the branch `main` and of the commit `COMMIT`; another revision is a
            folder `org/name@revision` with the slashes of the revision as `%2F`.
        contents: The server that files are to be read from, as the Hub sends readers of large
            files to another host; None to serve them here.

    Attributes:
        requests: What was asked for and answered, in the order of arrival.
        private: Repositories that need `token`, and do not exist for others.
        gated: Repositories that show what files there are, but need `token` to read them.
        token: The one that opens them.
        renamed: New names of repositories by their old ones, to which readers are sent.
        latency: Seconds from each request to its answer, for those who measure.
    """

    def __init__(self, folder: Path, contents: HubServer | None = None) -> None:
        self.folder = folder
        self.contents = contents
        self.requests: list[Request] = []
        self.private: set[str] = set()
        self.gated: set[str] = set()
        self.token = "hf_right"
        self.renamed: dict[str, str] = {}
        self.latency = 0.0
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.owner = self
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
    def url(self) -> str:
        """What a client takes as its endpoint."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def host_url(self) -> str:
        """The same server as another host, to which nobody sends what is for this one."""
        return f"http://localhost:{self._server.server_address[1]}"

    @property
    def options(self) -> dict[str, Any]:
        """Storage options of a client that nobody is logged in with."""
        return {"endpoint": self.url, "token": False}

    @property
    def read(self) -> list[str]:
        """The files that were asked for, in the order of arrival."""
        found = (_RESOLVE.fullmatch(urlsplit(request.path).path) for request in self.requests)
        return [unquote(match["path"]) for match in found if match]

    @property
    def sent(self) -> int:
        """Bytes of all bodies so far."""
        return sum(request.sent for request in self.requests)


class _Server(QuietServer):
    owner: HubServer


class _Handler(QuietHandler):
    server: _Server

    def do_GET(self) -> None:  # noqa: N802  # so http.server calls it
        self._serve()

    def do_HEAD(self) -> None:  # noqa: N802  # so http.server calls it
        self._serve()

    def do_POST(self) -> None:  # noqa: N802  # so http.server calls it
        self._serve(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def _serve(self, body: bytes = b"") -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self._request = Request(self.command, self.path, headers)
        self.server.owner.requests.append(self._request)
        if self.server.owner.latency:
            time.sleep(self.server.owner.latency)
        path = urlsplit(self.path).path
        wants_file = _RESOLVE.fullmatch(path)
        match = wants_file or _API.fullmatch(path)
        if match is None:
            self._refuse(404, "", "there is no such address")
            return
        name = match["kind"].removeprefix("models/") + match["repository"]
        if name in self.server.owner.renamed:
            new = self.path.replace(name, self.server.owner.renamed[name], 1)
            self._answer(307, {"Location": new, "Content-Length": "0"})
            return
        may_read = headers.get("authorization") == f"Bearer {self.server.owner.token}"
        folder = self._revision(name, unquote(match["rev"] or "main"))
        if name in self.server.owner.private and not may_read:
            folder = None
        elif name in self.server.owner.gated and wants_file and not may_read:
            self._refuse(403 if "authorization" in headers else 401, "GatedRepo", "It is gated")
            return
        elif folder is None and self._revision(name, "main"):
            self._refuse(404, "RevisionNotFound", "Invalid rev id")
            return
        if folder is None:
            status = 404 if "authorization" in headers else 401
            self._refuse(status, "RepoNotFound", "Repository not found")
            return
        if wants_file:
            self._resolve(folder, match)
        else:
            self._answer_api(folder, match, body)

    def _revision(self, name: str, revision: str) -> Path | None:
        if revision not in {"main", COMMIT}:
            name += "@" + revision.replace("/", "%2F")
        folder = self.server.owner.folder / name
        return folder if folder.is_dir() else None

    def _answer_api(self, folder: Path, match: re.Match[str], body: bytes) -> None:
        owner, call = self.server.owner, match["call"]
        if call == "tree":
            below = folder / unquote(match["path"] or "")
            self._send_json([_entry(path, folder) for path in sorted(below.iterdir())])
        elif call == "paths-info":
            paths = [folder / name for name in json.loads(body)["paths"]]
            self._send_json([_entry(path, folder) for path in paths if path.exists()])
        else:
            name = match["repository"]
            siblings = [{"rfilename": path.name} for path in folder.iterdir() if path.is_file()]
            known = {"private": name in owner.private, "gated": name in owner.gated}
            self._send_json({"id": name, "sha": COMMIT, "siblings": siblings, **known})

    def _resolve(self, folder: Path, match: re.Match[str]) -> None:
        owner = self.server.owner
        path = folder / unquote(match["path"])
        if not path.is_file():
            self._refuse(404, "EntryNotFound", "Entry not found")
            return
        headers = {"X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        size, etag = path.stat().st_size, _etag(path)
        if owner.contents is not None:
            headers |= {"X-Linked-Size": str(size), "X-Linked-Etag": etag}
            headers["Location"] = f"{owner.contents.host_url}{self.path}?Signature=secret"
            self._answer(302, headers | {"Content-Length": "0"})
            return
        begin, end, status = 0, size, 200
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self._request.headers.get("range", ""))
        if asked:
            begin, end = int(asked[1]), min(size, int(asked[2]) + 1 if asked[2] else size)
            status = 206
            headers["Content-Range"] = f"bytes {begin}-{end - 1}/{size}"
        self._answer(status, headers | {"ETag": etag, "Content-Length": str(end - begin)})
        if self.command == "HEAD":
            return
        with path.open("rb") as file:
            file.seek(begin)
            while begin < end:
                piece = file.read(min(_PIECE, end - begin))
                # Counted first: a client that has it all may look at the count at once.
                self._request.sent += len(piece)
                self.wfile.write(piece)
                begin += len(piece)

    def _send_json(self, document: object) -> None:
        body = json.dumps(document).encode()
        self._answer(200, {"Content-Type": "application/json", "Content-Length": str(len(body))})
        self._request.sent += len(body)
        self.wfile.write(body)

    def _refuse(self, status: int, code: str, message: str) -> None:
        headers = {"X-Error-Message": message, "Content-Length": "0"}
        self._answer(status, headers | ({"X-Error-Code": code} if code else {}))

    def _answer(self, status: int, headers: Mapping[str, str]) -> None:
        self._request.status = status
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


def _entry(path: Path, folder: Path) -> dict[str, Any]:
    kind = "directory" if path.is_dir() else "file"
    known = {"type": kind, "path": path.relative_to(folder).as_posix(), "oid": "0" * 40}
    return known | {"size": path.stat().st_size if kind == "file" else 0}


def _etag(path: Path) -> str:
    status = path.stat()
    text = f"{status.st_size}-{status.st_mtime_ns}"
    return f'"{hashlib.sha256(text.encode()).hexdigest()}"'
