"""Redirects: who is told what, which links are remembered, and where they may not lead."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from safetensors_core import ByteSource, InvalidInputError
from safetensors_core.errors import RemoteError
from safetensors_core.plugins import open_source
from tests.remote.servers import Fault, RangeServer, Request, redirect

MIB = 1024 * 1024

pytestmark = pytest.mark.usefixtures("impatient")


@pytest.fixture
def data(files: Path) -> bytes:
    content = os.urandom(MIB)
    (files / "a").write_bytes(content)
    return content


@pytest.fixture
def other(files: Path) -> Iterator[RangeServer]:
    """A second server with the same files, under another origin."""
    with RangeServer(files) as running:
        yield running


def read(source: ByteSource, offset: int, nbytes: int) -> bytes:
    buffer = bytearray(nbytes)
    source.read_into(offset, memoryview(buffer))
    return bytes(buffer)


def to(url: str) -> Any:
    return lambda _: redirect(url)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed(
    server: RangeServer, other: RangeServer, data: bytes, status: int
) -> None:
    server.fault = lambda _: redirect(other.url("a"), status)
    assert read(open_source(server.url("b")), 500_000, 100) == data[500_000:500_100]


def secrets(url: str) -> tuple[str, dict[str, Any]]:
    """A URL and storage options that give away the user in each way there is."""
    options = {
        "headers": {"X-Api-Key": "secret-1", "cookie": "session=secret-2"},
        "cookies": {"token": "secret-3"},
        "params": {"key": "secret-4"},
        "client_kwargs": {
            "headers": {"X-Session": "secret-5", "User-Agent": "secret-6"},
            "cookies": {"jar": "secret-7"},
        },
    }
    return url, options


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_nothing_of_the_user_reaches_another_host_or_port(
    server: RangeServer, other: RangeServer, data: bytes, host: str
) -> None:
    # One address with two names is two hosts; so is one name with two ports.
    target = server if host == "localhost" else other
    link = target.url("a?signature=of-the-server", host=host)

    def fault(request: Request) -> Fault | None:
        return redirect(link) if request.path.startswith("/private") else None

    server.fault = fault
    url, options = secrets(server.url("private", user="me:secret-8"))
    source = open_source(url, storage_options=options)
    assert read(source, 500_000, 100) == data[500_000:500_100]
    mine = [request for request in server.requests if request.path.startswith("/private")]
    theirs = [r for r in server.requests + other.requests if r.path.startswith("/a")]
    assert mine
    sent = str(mine[0].headers) + mine[0].path
    assert [f"secret-{i}" for i in range(1, 8) if f"secret-{i}" not in sent] == []
    assert mine[0].headers["authorization"].startswith("Basic ")
    assert len(theirs) == 2
    for request in theirs:
        assert request.path == "/a?signature=of-the-server"
        assert "secret" not in str(request.headers)
        assert not {"authorization", "cookie", "x-api-key", "x-session"} & request.headers.keys()


def test_authorization_goes_to_the_users_server_only(
    server: RangeServer, other: RangeServer, data: bytes
) -> None:
    server.fault = to(other.url("a"))
    options = {"headers": {"Authorization": "Bearer secret"}}
    source = open_source(server.url("b"), storage_options=options)
    assert read(source, 500_000, 100) == data[500_000:500_100]
    assert {request.headers.get("authorization") for request in server.requests} == {
        "Bearer secret"
    }
    assert {request.headers.get("authorization") for request in other.requests} == {None}


def test_credentials_of_the_netrc_file_reach_no_other_host(
    server: RangeServer,
    other: RangeServer,
    data: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "netrc").write_text("default login me password secret\n", "utf-8")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    server.fault = to(other.url("a"))
    options = {"client_kwargs": {"trust_env": True}}
    assert open_source(server.url("b"), storage_options=options).size == len(data)
    assert "authorization" in server.requests[0].headers
    assert "authorization" not in other.requests[0].headers


def test_who_was_sent_away_and_back_is_not_trusted_again(
    server: RangeServer, other: RangeServer, data: bytes
) -> None:
    server.fault = lambda r: redirect(other.url("back")) if r.path == "/start" else None
    other.fault = to(server.url("a"))
    options = {"headers": {"Authorization": "Bearer secret"}}
    source = open_source(server.url("start"), storage_options=options)
    assert source.size == len(data)
    seen = {request.path: request.headers.get("authorization") for request in server.requests}
    assert seen == {"/start": "Bearer secret", "/a": None}


def test_credentials_go_along_on_the_same_server(server: RangeServer, data: bytes) -> None:
    server.fault = lambda r: redirect("/a") if r.path == "/b" else None
    options = {"headers": {"X-Api-Key": "secret"}}
    source = open_source(server.url("b", user="me:secret"), storage_options=options)
    assert source.size == len(data)
    assert [request.path for request in server.requests] == ["/b", "/a"]
    for request in server.requests:
        assert request.headers["x-api-key"] == "secret"
        assert request.headers["authorization"].startswith("Basic ")


def test_what_a_redirect_leads_to_is_asked_directly_from_then_on(
    server: RangeServer, other: RangeServer, data: bytes
) -> None:
    server.fault = to(other.url("a"))
    source = open_source(server.url("b"))
    for offset in (200_000, 400_000, 600_000):
        assert read(source, offset, 100) == data[offset : offset + 100]
    assert len(server.requests) == 1
    assert len(other.requests) == 4


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_link_that_expired_is_asked_for_again(
    server: RangeServer, other: RangeServer, data: bytes, status: int
) -> None:
    links = iter(["a?link=1", "a?link=2"])
    server.fault = lambda _: redirect(other.url(next(links)))
    source = open_source(server.url("b"))
    assert source.size == len(data)
    other.fault = lambda r: Fault("status", status) if r.path.endswith("1") else None
    assert read(source, 500_000, 100) == data[500_000:500_100]
    assert [request.path for request in other.requests] == ["/a?link=1", "/a?link=1", "/a?link=2"]


def test_a_new_link_that_is_refused_too_is_an_error(
    server: RangeServer, other: RangeServer
) -> None:
    server.fault = to(other.url("a?signature=secret"))
    other.fault = lambda _: Fault("status", 403)
    with pytest.raises(PermissionError, match="does not let you read it") as caught:
        open_source(server.url("b")).read_header()
    assert server.url("b") in str(caught.value)
    assert "secret" not in str(caught.value)
    assert (len(server.requests), len(other.requests)) == (2, 2)


def test_a_link_to_a_server_that_has_gone_is_asked_for_again(
    server: RangeServer, files: Path, data: bytes
) -> None:
    with RangeServer(files) as gone:
        server.fault = to(gone.url("a"))
        source = open_source(server.url("b"))
        assert source.size == len(data)
        gone.fault = lambda _: Fault("drop")
        server.fault = lambda r: redirect("/a") if r.path == "/b" else None
        assert read(source, 500_000, 100) == data[500_000:500_100]


def test_the_query_of_a_link_is_sent_as_it_was_given(
    server: RangeServer, other: RangeServer, data: bytes
) -> None:
    query = "sig=a%2Fb%2bc%3D&x=%7Ey&empty="
    server.fault = to(other.url(f"a?{query}"))
    assert open_source(server.url("b")).size == len(data)
    assert open_source(other.url(f"a?{query}")).size == len(data)
    assert {request.path for request in other.requests} == {f"/a?{query}"}


def test_a_name_that_must_be_quoted_is_quoted(server: RangeServer, files: Path) -> None:
    for name in ("größe 100%.safetensors", "a{b}|c.safetensors"):
        (files / name).write_bytes(b"x" * 17)
        assert open_source(server.url(name)).size == 17


def test_ten_redirects_are_followed_and_eleven_are_not(server: RangeServer, data: bytes) -> None:
    def fault(request: Request) -> Fault | None:
        left = int(request.path.removeprefix("/")) if request.path != "/a" else 0
        return redirect(f"/{left - 1}" if left > 1 else "/a") if left else None

    server.fault = fault
    assert open_source(server.url("10")).size == len(data)
    with pytest.raises(RemoteError, match="more than 10 redirects"):
        open_source(server.url("11")).read_header()


@pytest.mark.parametrize("target", ["", "file:///etc/passwd", "ftp://localhost/a", "http://["])
def test_a_redirect_that_cannot_be_followed_is_an_error(server: RangeServer, target: str) -> None:
    server.fault = to(target)
    with pytest.raises(RemoteError, match="redirect"):
        open_source(server.url("b")).read_header()
    assert len(server.requests) == 1


def test_credentials_that_are_given_twice_are_refused_and_not_shown(server: RangeServer) -> None:
    options = {"headers": {"Authorization": "Bearer secret"}}
    with pytest.raises(InvalidInputError, match="who you are") as caught:
        open_source(server.url("a", user="me:secret"), storage_options=options).read_header()
    assert "secret" not in str(caught.value)
    assert server.requests == []


@pytest.mark.parametrize("url", ["http://me:secret@host:port/a", "http://[secret/a", "http://"])
def test_a_url_that_is_not_valid_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(InvalidInputError, match="not valid") as caught:
        open_source(url).read_header()
    assert "secret" not in str(caught.value)
