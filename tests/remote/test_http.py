"""Files on HTTP servers: what is requested for what is read, and which answers are refused."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from safetensors_core import (
    ByteSource,
    ClosedFileError,
    Dtype,
    HeaderError,
    InvalidInputError,
    Reason,
    TensorInfo,
)
from safetensors_core.errors import FileChangedError, RemoteError
from safetensors_core.header import encode_header
from safetensors_core.plugins import open_source
from safetensors_core.sources.remote import list_names, read_all
from tests.remote.servers import Fault, RangeServer

KIB = 1024
MIB = 1024 * KIB
FIRST = 64 * KIB


def opened(url: str, **options: Any) -> ByteSource:
    return open_source(url, storage_options=options)


def file_with_header(path: Path, size: int) -> None:
    """Write a file of one tensor whose header, with its length, has a size in bytes."""
    text = b'{"w":{"dtype":"U8","shape":[1048576],"data_offsets":[0,1048576]}}'.ljust(size - 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(MIB))


def sparse_file(path: Path, nbytes: int) -> TensorInfo:
    """Write a file with one tensor that takes no space on the disk."""
    info = TensorInfo(Dtype.U8, (nbytes,), (0, nbytes))
    header = encode_header({"w": info}, None)
    path.write_bytes(header)
    os.truncate(path, len(header) + nbytes)
    return info


def random_file(path: Path, nbytes: int) -> bytes:
    data = os.urandom(nbytes)
    path.write_bytes(data)
    return data


def read(source: ByteSource, offset: int, nbytes: int) -> bytes:
    buffer = bytearray(nbytes)
    source.read_into(offset, memoryview(buffer))
    return bytes(buffer)


# What is requested.


def test_nothing_is_requested_before_something_is_read(server: RangeServer) -> None:
    opened(server.url("model.safetensors")).close()
    assert server.requests == []


@pytest.mark.parametrize("first", [FIRST, 8 * KIB, MIB])
@pytest.mark.parametrize("beyond", [-1, 0, 1])
def test_a_header_takes_one_request_if_the_first_read_holds_it_and_two_otherwise(
    server: RangeServer, files: Path, first: int, beyond: int
) -> None:
    file_with_header(files / "a", first + beyond)
    source = opened(server.url("a"))
    source.first_read = first
    source.read_header()
    assert len(server.requests) == (2 if beyond > 0 else 1)
    assert server.sent == first + max(beyond, 0)


def test_the_second_read_of_a_header_asks_for_exactly_the_rest(
    server: RangeServer, files: Path
) -> None:
    info = TensorInfo(Dtype.U8, (MIB,), (0, MIB))
    header = encode_header({"w": info}, {"fill": "x" * 100_000})
    (files / "a").write_bytes(header + bytes(MIB))
    opened(server.url("a")).read_header()
    ranges = [request.headers["range"] for request in server.requests]
    assert ranges == [f"bytes=0-{FIRST - 1}", f"bytes={FIRST}-{len(header) - 1}"]
    assert server.sent == len(header)


def test_what_the_first_read_brought_is_not_requested_again(
    server: RangeServer, files: Path
) -> None:
    data = random_file(files / "a", FIRST + 1)
    source = opened(server.url("a"))
    assert source.size == len(data)
    assert read(source, 10, 1000) == data[10:1010]
    assert read(source, 0, FIRST) == data[:FIRST]
    assert len(server.requests) == 1
    assert read(source, 0, FIRST + 1) == data
    assert len(server.requests) == 2


def test_a_slice_of_8_mib_from_10_gb_moves_less_than_9_mib(
    server: RangeServer, files: Path
) -> None:
    info = sparse_file(files / "a", 10_000_000_000)
    source = opened(server.url("a"))
    source.read_header()
    buffer, _, _ = source.fetch_slice(info, slice(5_000_000_000, 5_000_000_000 + 8 * MIB))
    assert len(buffer) == 8 * MIB
    assert server.sent < 9 * MIB
    assert len(server.requests) == 2


def test_a_large_file_arrives_whole_in_parts_of_8_mib(server: RangeServer, files: Path) -> None:
    data = random_file(files / "a", 50 * MIB + 7)
    source = opened(server.url("a"))
    assert read(source, 0, source.size) == data
    assert len(server.requests) == 1 + 7
    assert server.sent == len(data) + FIRST


def test_ranges_far_apart_are_requested_apart_and_near_ones_together(
    server: RangeServer, files: Path
) -> None:
    data = random_file(files / "a", 2 * MIB)
    source = opened(server.url("a"))
    assert source.size == len(data)
    server.reset()
    wanted = [(offset, memoryview(bytearray(10))) for offset in (10, 100_000, 150_000, MIB)]
    source.read_ranges(wanted)
    for offset, view in wanted:
        assert view == data[offset : offset + 10]
    ranges = [request.headers["range"] for request in server.requests]
    assert sorted(ranges) == ["bytes=100000-150009", f"bytes={MIB}-{MIB + 9}"]


def test_no_more_requests_run_at_once_than_is_set(
    server: RangeServer, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAFETENSORS_REMOTE_CONNECTIONS", "3")
    sparse_file(files / "a", 80 * MIB)
    source = opened(server.url("a"))
    source.read_header()
    lock = threading.Lock()
    together = threading.Barrier(3)
    seen = {"now": 0, "most": 0}

    def count(_: object) -> None:
        with lock:
            seen["now"] += 1
            seen["most"] = max(seen["most"], seen["now"])
        if seen["most"] <= 3 and not together.broken:
            together.wait(10)  # so three do run at once, and a fourth would be seen
        with lock:
            seen["now"] -= 1

    server.fault = count
    source.read_into(0, memoryview(bytearray(72 * MIB)))
    assert seen["most"] == 3


def test_many_threads_read_one_source(server: RangeServer, files: Path) -> None:
    data = random_file(files / "a", 4 * MIB)
    source = opened(server.url("a"))
    offsets = [i * 65_537 % (len(data) - 1000) for i in range(200)]
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda offset: read(source, offset, 1000), offsets))
    assert found == [data[offset : offset + 1000] for offset in offsets]


def test_many_sources_are_read_from_many_threads(server: RangeServer, files: Path) -> None:
    contents = {f"{i}": random_file(files / f"{i}", 100_000 + i) for i in range(40)}

    def whole(name: str) -> bytes:
        source = opened(server.url(name))
        return read(source, 0, source.size)

    with ThreadPoolExecutor(16) as pool:
        assert dict(zip(contents, pool.map(whole, contents), strict=True)) == contents


# The loop of fsspec is a thread, and Python 3.12 warns of forks then. Programs do it all the same.
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_source_that_was_opened_before_a_fork_is_read_after_it(
    server: RangeServer, files: Path
) -> None:
    data = random_file(files / "a", MIB)
    source = opened(server.url("a"))
    assert read(source, 0, 10) == data[:10]
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(sending, read(source, 500_000, 1000))
        finally:
            os._exit(0)
    os.close(sending)
    with os.fdopen(receiving, "rb") as pipe:
        assert pipe.read() == data[500_000:501_000]
    os.waitpid(child, 0)


def test_a_closed_source_is_not_read(server: RangeServer, files: Path) -> None:
    random_file(files / "a", 100)
    source = opened(server.url("a"))
    assert source.size == 100
    source.close()
    with pytest.raises(ClosedFileError):
        read(source, 0, 10)
    unread = opened(server.url("a"))
    unread.close()
    with pytest.raises(ClosedFileError):
        unread.read_header()


def test_a_range_beyond_the_end_is_refused(server: RangeServer, files: Path) -> None:
    random_file(files / "a", 100)
    with pytest.raises(RemoteError, match="bytes 95 to 105 were asked for, and the file has 100"):
        read(opened(server.url("a")), 95, 10)


# Answers that are not what was asked for.


def test_an_empty_file_is_known_for_one(server: RangeServer, files: Path) -> None:
    (files / "a").touch()
    source = opened(server.url("a"))
    assert source.size == 0
    with pytest.raises(HeaderError) as caught:
        source.read_header()
    assert caught.value.reason is Reason.EMPTY
    assert [request.status for request in server.requests] == [416]


def test_a_server_without_ranges_is_refused_before_it_sends_the_file(
    server: RangeServer, files: Path
) -> None:
    sparse_file(files / "a", 1_000_000_000)
    server.fault = lambda _: Fault("whole")
    with pytest.raises(RemoteError, match=r"ranges.*all 1,000,000,0.. bytes: download") as caught:
        opened(server.url("a")).read_header()
    assert caught.value.status == 200
    assert server.sent < 16 * MIB  # what the network took before the connection closed
    assert len(server.requests) == 1


def test_a_server_without_ranges_gives_small_files(server: RangeServer, files: Path) -> None:
    data = random_file(files / "a", FIRST)
    server.fault = lambda _: Fault("whole")
    source = opened(server.url("a"))
    assert read(source, 100, 500) == data[100:600]


@pytest.mark.usefixtures("impatient")
def test_a_small_file_from_a_server_without_ranges_survives_a_broken_connection(
    server: RangeServer, files: Path
) -> None:
    data = random_file(files / "a", 50_000)
    cut = Fault("cut", headers={"Content-Length": "50000"})
    waiting = [cut, Fault("whole")]
    server.fault = lambda _: waiting.pop(0)
    assert read(opened(server.url("a")), 0, 50_000) == data


def test_other_bytes_than_asked_for_are_refused(server: RangeServer, files: Path) -> None:
    random_file(files / "a", MIB)
    server.fault = lambda _: Fault("other range")
    with pytest.raises(RemoteError, match=r"bytes 0 to 65,535 were asked for.*1 to 65,535"):
        opened(server.url("a")).read_header()


@pytest.mark.parametrize(
    "text", ["", "bytes 0-9/*", "octets 0-9/99", "bytes 0-9", f"bytes 0-9/{'9' * 5000}"]
)
def test_a_range_that_does_not_say_what_it_is_of_is_refused(
    server: RangeServer, files: Path, text: str
) -> None:
    random_file(files / "a", MIB)
    server.fault = lambda _: Fault("headers", headers={"Content-Range": text})
    with pytest.raises(RemoteError, match="does not say which bytes"):
        opened(server.url("a")).read_header()


def test_compressed_answers_are_refused_and_not_asked_for(server: RangeServer, files: Path) -> None:
    random_file(files / "a", MIB)
    server.fault = lambda _: Fault("headers", headers={"Content-Encoding": "gzip"})
    with pytest.raises(RemoteError, match="sends gzip instead of the bytes"):
        opened(server.url("a")).read_header()
    assert server.requests[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize(
    ("status", "kind", "text"),
    [
        (404, FileNotFoundError, "no such file"),
        (410, FileNotFoundError, "no such file"),
        (401, PermissionError, "does not let you read"),
        (403, PermissionError, "does not let you read"),
        (400, RemoteError, "does not send the file"),
        (501, RemoteError, "does not send the file"),
    ],
)
def test_a_refusal_has_its_error_and_is_not_repeated(
    server: RangeServer, status: int, kind: type[OSError], text: str
) -> None:
    server.fault = lambda _: Fault("status", status)
    url = server.url("a?X-Amz-Signature=secret", user="me:secret")
    with pytest.raises(kind, match=text) as caught:
        opened(url).read_header()
    assert server.url("a") in str(caught.value)
    assert "secret" not in str(caught.value)
    assert len(server.requests) == 1


# Files that change.


@pytest.mark.parametrize("name", ["ETag", "Last-Modified"])
def test_a_file_that_changes_while_it_is_read_is_an_error(
    server: RangeServer, files: Path, name: str
) -> None:
    random_file(files / "a", MIB)
    server.etags["a"] = None if name == "Last-Modified" else '"1"'
    source = opened(server.url("a"))
    assert source.size == MIB
    value = '"2"' if name == "ETag" else "Fri, 02 Jan 2026 00:00:00 GMT"
    server.fault = lambda _: Fault("headers", headers={name: value})
    with pytest.raises(FileChangedError, match="changed while it was read"):
        read(source, 500_000, 10)


def test_a_file_that_grows_or_shrinks_while_it_is_read_is_an_error(
    server: RangeServer, files: Path
) -> None:
    for size in (2 * MIB, 600_000, 100):
        random_file(files / "a", MIB)
        server.etags["a"] = '"always the same"'
        source = opened(server.url("a"))
        assert source.size == MIB
        random_file(files / "a", size)
        with pytest.raises(FileChangedError, match=f"had 1,048,576 bytes and now has {size:,}"):
            read(source, 500_000, 10)


def test_a_weak_etag_names_the_same_version(server: RangeServer, files: Path) -> None:
    data = random_file(files / "a", MIB)
    server.etags["a"] = '"1"'
    source = opened(server.url("a"))
    assert source.size == MIB
    server.etags["a"] = 'W/"1"'
    assert read(source, 500_000, 10) == data[500_000:500_010]


# Small files whole, and lists of files.


def test_a_small_file_is_read_whole_in_one_request(server: RangeServer, files: Path) -> None:
    data = random_file(files / "index.json", 3 * MIB)
    assert read_all(server.url("index.json"), None, limit=10 * MIB) == data
    assert len(server.requests) == 1


def test_a_file_above_the_limit_is_refused_before_it_is_read(
    server: RangeServer, files: Path
) -> None:
    sparse_file(files / "index.json", 1_000_000_000)
    for fault in (None, Fault("whole")):
        server.reset()
        server.fail_first(fault)
        with pytest.raises((InvalidInputError, RemoteError), match=r"1,000,000,0.. bytes"):
            read_all(server.url("index.json"), None, limit=1000)
        assert len(server.requests) == 1
        assert server.sent < 16 * MIB


def test_a_file_as_large_as_the_limit_is_read(server: RangeServer, files: Path) -> None:
    data = random_file(files / "index.json", 1000)
    assert read_all(server.url("index.json"), None, limit=1000) == data
    with pytest.raises(InvalidInputError, match="has 1,000 bytes, and at most 999 are read"):
        read_all(server.url("index.json"), None, limit=999)


def test_an_http_server_lists_nothing(server: RangeServer) -> None:
    assert list_names(server.url("folder/"), None) is None
    assert server.requests == []
