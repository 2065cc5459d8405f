"""Files on HTTP servers, read in ranges."""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

from safetensors_core.errors import InvalidInputError, RemoteError, SafetensorError
from safetensors_core.sources.attempts import Interrupted, retry_after, stall_timeout
from safetensors_core.sources.connection import Connection
from safetensors_core.sources.parts import Part
from safetensors_core.sources.remote_source import RemoteSource
from safetensors_core.sources.urls import shown, shown_within

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession
    from yarl import URL

__all__ = ["HttpSource"]

_REDIRECTS = {301, 302, 303, 307, 308}
_MOST_REDIRECTS = 10
_DENIED = {401, 403}
_MISSING = {404, 410}
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}

# The settings that say how to connect, and nothing of who connects.
_CONNECTION_OPTIONS = ("proxy", "proxy_auth", "proxy_headers", "ssl", "timeout")

# Python reads no numbers of thousands of digits.
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19})")
_NO_RANGE = re.compile(r"bytes \*/([0-9]{1,19})")
# A URL as it goes over the wire. Any other holds characters that must be quoted first.
_QUOTED = re.compile(r"(?:[!#-;=?-Z\[\]_a-z~]|%[0-9A-Fa-f]{2})+")

_BUFFER = 1024 * 1024  # bytes that a connection reads ahead
_SMALL = 64 * 1024  # a body that is read only to keep the connection


class HttpSource(RemoteSource):
    """A file on an HTTP server.

    Requests go through the session of fsspec's HTTP file system, so its options apply:
    `headers`, `client_kwargs` with `auth` or `cookies`, a proxy. Redirects are followed here: to
    another host, port or scheme nothing goes along that the user gave.

    Args:
        url: The URL.
        location: The URL as errors shall show it; by default without user, password and query.
        headers: Headers to send, to this server only.
        storage_options: Options of fsspec's HTTP file system.

    Raises:
        InvalidInputError: What reads HTTP is not installed.

    Example:
        >>> from safetensors_core import read_header
        >>> read_header("https://example.org/model.safetensors")  # doctest: +SKIP
    """

    def __init__(
        self,
        url: str,
        *,
        location: str | None = None,
        headers: Mapping[str, str] | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(shown(url) if location is None else location)
        self._connection = Connection(url, storage_options or {})
        self._headers = dict(headers or {})
        # Where a redirect led. Further requests begin there, until one of them fails.
        self._target: _Target | None = None

    async def _attempt(self, part: Part) -> None:
        import asyncio

        import aiohttp

        known = self._target
        try:
            async with self._follow(part) as (response, target):
                await self._receive(response, part, redirected=target.redirected)
                self._target = target if target.redirected else None
        except BaseException as error:
            if self._target is known:
                self._target = None
            if isinstance(error, (SafetensorError, FileNotFoundError, PermissionError)):
                raise
            if isinstance(error, aiohttp.ClientConnectorCertificateError):
                detail = f"the server's certificate is not valid: {error.certificate_error}"
                raise RemoteError(detail, self.location) from error
            if isinstance(error, ValueError):
                raise InvalidInputError(
                    f"{self.location}: this URL is not valid, or says who you are beside storage "
                    "options that do so, too"
                ) from None  # the text of the error may hold a password
            # The texts of aiohttp's errors hold the URL, so tracebacks do without them.
            if isinstance(error, asyncio.TimeoutError):
                raise Interrupted("the server sent nothing for too long") from None
            if isinstance(error, aiohttp.ClientPayloadError):  # its text is for programmers
                raise Interrupted("the connection broke in the middle of the answer") from None
            if isinstance(error, (aiohttp.ClientError, OSError)):
                raise Interrupted(shown_within(str(error)) or type(error).__name__) from None
            raise

    @contextlib.asynccontextmanager
    async def _follow(self, part: Part) -> AsyncIterator[tuple[ClientResponse, _Target]]:
        """The answer to the request for a part, at the end of all redirects."""
        target = self._target or self._origin()
        for _ in range(_MOST_REDIRECTS + 1):
            async with self._ask(target, part) as response:
                if response.status not in _REDIRECTS:
                    yield response, target
                    return
                target = target.next(response.headers.get("Location", ""), self.location)
                if (response.content_length or _SMALL) < _SMALL:
                    await response.read()
        raise RemoteError(f"there are more than {_MOST_REDIRECTS} redirects", self.location)

    def _origin(self) -> _Target:
        filesystem, url = self._connection.get()
        return _Target(_quoted(url, as_it_is=filesystem.encoded), trusted=True, redirected=False)

    @contextlib.asynccontextmanager
    async def _ask(self, target: _Target, part: Part) -> AsyncIterator[ClientResponse]:
        """The answer of one server."""
        import aiohttp

        filesystem, _ = self._connection.get()
        session: ClientSession = await filesystem.set_session()
        ours = {"Range": f"bytes={part.position}-{part.end - 1}", "Accept-Encoding": "identity"}
        options = {**filesystem.kwargs, "read_bufsize": _BUFFER}
        if "timeout" not in {**filesystem.client_kwargs, **options}:
            seconds = stall_timeout()
            options["timeout"] = aiohttp.ClientTimeout(
                total=None, sock_connect=seconds, sock_read=seconds
            )
        options |= {"allow_redirects": False, "raise_for_status": False}
        if target.redirected:
            options.pop("params", None)  # a redirect names the whole query
        if target.trusted:
            theirs = {**options.pop("headers", {}), **self._headers}
            replaced = {name.lower() for name in ours}
            headers = {k: v for k, v in theirs.items() if k.lower() not in replaced} | ours
            async with self._get(session, target.url, headers, options) as response:
                yield response
            return
        async with _stranger(session, filesystem.client_kwargs) as stranger:
            kept = (*_CONNECTION_OPTIONS, "read_bufsize", "allow_redirects", "raise_for_status")
            options = {name: options[name] for name in kept if name in options}
            if stranger_proxy := _proxy(session, target.url):
                options.setdefault("proxy", stranger_proxy)
            async with self._get(stranger, target.url, ours, options) as response:
                yield response

    def _get(
        self, session: ClientSession, url: URL, headers: dict[str, str], options: dict[str, Any]
    ) -> Any:
        try:
            return session.get(url, headers=headers, **options)
        except TypeError as error:  # no request has been made yet: an option has no such name
            raise InvalidInputError(
                f"{self.location} cannot be read with these storage options: {error}"
            ) from error

    async def _receive(self, response: ClientResponse, part: Part, *, redirected: bool) -> None:
        """Take the bytes of an answer that is what was asked for."""
        if response.status == 416:
            self._take_unsatisfied(response, part)
            return
        if response.status not in {200, 206}:
            self._refuse(response, part, redirected=redirected)
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding.lower() != "identity":
            detail = f"the server sends {encoding} instead of the bytes of the file"
            raise RemoteError(detail, self.location, status=response.status)
        skipped = self._check_range(response, part)
        async for chunk in response.content.iter_any():
            if skipped:
                dropped = min(skipped, len(chunk))
                skipped -= dropped
                chunk = chunk[dropped:]
            part.put(chunk)
            if not part.missing:
                break

    def _check_range(self, response: ClientResponse, part: Part) -> int:
        """Compare the range of an answer with the part, and say how many bytes to leave out."""
        if response.status == 200:
            size = response.content_length
            if size is None or size > self.first_read:
                amount = "all of the file" if size is None else f"all {size:,} bytes"
                detail = (
                    f"the server ignores ranges, and answers with {amount}: download the file "
                    "and open the copy"
                )
                raise RemoteError(detail, self.location, status=200)
            self._saw(size, _version(response))
            part.cut(size)
            return part.position
        text = response.headers.get("Content-Range", "")
        found = _CONTENT_RANGE.fullmatch(text.strip())
        if found is None:
            raise RemoteError(
                f"the server answered the range {text[:100]!r}, which does not say which bytes of "
                "how many these are",
                self.location,
                status=206,
            )
        begin, last, size = map(int, found.groups())
        if begin != part.position or last >= part.end:
            raise RemoteError(
                f"bytes {part.position:,} to {part.end - 1:,} were asked for, and the server "
                f"answered with {begin:,} to {last:,}",
                self.location,
                status=206,
            )
        self._saw(size, _version(response))
        part.cut(size)
        return 0

    def _take_unsatisfied(self, response: ClientResponse, part: Part) -> None:
        """Take what a server says that has no bytes at a position: the file is empty, or shrank."""
        found = _NO_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
        size = int(found[1]) if found else 0
        if size > part.position:
            raise RemoteError("the server refuses ranges of the file", self.location, status=416)
        self._saw(size, _version(response))
        part.cut(size)

    def _refuse(self, response: ClientResponse, part: Part, *, redirected: bool) -> None:
        """Raise what a status means."""
        status = response.status
        if status in _DENIED | _MISSING and redirected and not part.renewed:
            # Signed links expire: the server that gave this one gives another.
            part.renewed = True
            raise Interrupted("the link of a redirect does not work", status=status)
        if status in _MISSING:
            text = f"the server has no such file (HTTP status {status})"
            raise FileNotFoundError(errno.ENOENT, text, self.location)
        if status in _DENIED:
            text = f"the server does not let you read it (HTTP status {status})"
            raise PermissionError(errno.EACCES, text, self.location)
        if status in _TRANSIENT:
            wait = retry_after(response.headers.get("Retry-After"))
            raise Interrupted("the server failed", status=status, wait=wait)
        raise RemoteError("the server does not send the file", self.location, status=status)


class _Target:
    """Where a request goes: `trusted` if nobody but the user chose the server."""

    def __init__(self, url: URL, *, trusted: bool, redirected: bool) -> None:
        self.url = url
        self.trusted = trusted
        self.redirected = redirected

    def next(self, text: str, location: str) -> _Target:
        """Where a redirect leads. Who has left the user's server is never trusted again."""
        if not text:
            raise RemoteError("a redirect does not say where it leads", location)
        try:
            url = self.url.join(_quoted(text))
            origin = url.origin()
        except ValueError:
            raise RemoteError("a redirect leads to what is no URL", location) from None
        if url.scheme not in {"http", "https"} or (self.url.scheme, url.scheme) == (
            "https",
            "http",
        ):
            raise RemoteError(
                f"a redirect leads from {self.url.scheme} to {url.scheme}, which is not safe",
                location,
            )
        trusted = self.trusted and origin == self.url.origin()
        if trusted:
            url = url.with_user(self.url.user).with_password(self.url.password)
        return _Target(url, trusted=trusted, redirected=True)


@contextlib.asynccontextmanager
async def _stranger(
    session: ClientSession, client_options: Mapping[str, Any]
) -> AsyncIterator[ClientSession]:
    """A session with the connections of another one, and nothing that says who its user is."""
    import aiohttp

    kept = {name: client_options[name] for name in _CONNECTION_OPTIONS if name in client_options}
    async with aiohttp.ClientSession(
        connector=session.connector,
        connector_owner=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        **kept,
    ) as stranger:
        yield stranger


def _proxy(session: ClientSession, url: URL) -> str | None:
    """The proxy of the environment, where the user wants that.

    aiohttp would also take passwords from `~/.netrc`, which may have some for any host.
    """
    import urllib.request

    if not session.trust_env or url.host is None or urllib.request.proxy_bypass(url.host):
        return None
    return urllib.request.getproxies().get(url.scheme)


def _quoted(text: str, *, as_it_is: bool = False) -> URL:
    """A URL. What is quoted already stays as it is: signatures are made over the very text."""
    import yarl

    return yarl.URL(text, encoded=as_it_is or _QUOTED.fullmatch(text) is not None)


def _version(response: ClientResponse) -> str | None:
    """What tells the versions of a file apart."""
    etag = response.headers.get("ETag")
    return etag.removeprefix("W/") if etag else response.headers.get("Last-Modified")
