"""Files in S3: a server that stands in for it, read through s3fs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import s3fs
from moto.server import ThreadedMotoServer

from core.tests.raw import RawFramework, counting, file_bytes
from safetensors_core import (
    ByteSource,
    Dtype,
    HeaderError,
    InvalidInputError,
    Reason,
    load_file,
)
from safetensors_core.errors import FileChangedError, RemoteError
from safetensors_core.plugins import open_source
from safetensors_core.sources.remote import list_names, read_all
from tests.remote.servers import Fault, RangeServer

MIB = 1024 * 1024
TENSORS = {"w": counting(Dtype.F32, 64, 64), "b": counting(Dtype.I16, 9)}


class Bucket:
    """A bucket called `bucket`, and the requests for its objects.

    Attributes:
        options: The storage options that reach it.
        asked: Range and ETag condition of each `get_object` so far.
        methods: The calls of the S3 API so far.
    """

    def __init__(self, endpoint: str) -> None:
        self.options: dict[str, Any] = {
            "key": "user",
            "secret": "secret",
            "endpoint_url": endpoint,
            "client_kwargs": {"region_name": "us-east-1"},
        }
        self.storage = s3fs.S3FileSystem(**self.options, use_listings_cache=False)
        self.asked: list[tuple[str, str | None]] = []
        self.methods: list[str] = []

    def open(self, path: str, **more: Any) -> ByteSource:
        return open_source(f"s3://bucket/{path}", storage_options={**self.options, **more})


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    found = Bucket(endpoint)
    found.storage.call_s3("create_bucket", Bucket="bucket")
    call = s3fs.S3FileSystem._call_s3

    async def noted(self: Any, method: str, *args: Any, **given: Any) -> Any:
        found.methods.append(method)
        if method == "get_object":
            found.asked.append((given["Range"], given.get("IfMatch")))
        return await call(self, method, *args, **given)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", noted)
    yield found
    monkeypatch.undo()
    found.storage.rm("bucket", recursive=True)


def read(source: ByteSource, offset: int, nbytes: int) -> bytes:
    buffer = bytearray(nbytes)
    source.read_into(offset, memoryview(buffer))
    return bytes(buffer)


def test_a_file_is_loaded(bucket: Bucket) -> None:
    bucket.storage.pipe_file("bucket/model.safetensors", file_bytes(TENSORS, None))
    url = "s3://bucket/model.safetensors"
    source = bucket.open("model.safetensors")
    assert source.location == url
    header = source.read_header()
    buffer, infos = source.fetch(header.tensors)
    assert RawFramework().from_buffers(buffer, infos, "cpu") == TENSORS


@pytest.mark.parametrize("options", [{"endpoint": "http://127.0.0.1"}, "anon"])
def test_storage_options_that_do_not_fit_are_named(options: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"storage.options"):
        load_file("s3://bucket/model.safetensors", storage_options=options)


def test_load_file_takes_storage_options(bucket: Bucket) -> None:
    bucket.storage.pipe_file("bucket/model.safetensors", file_bytes(TENSORS, None))
    url = "s3://bucket/model.safetensors"
    assert load_file(url, RawFramework(), storage_options=bucket.options) == TENSORS


def test_a_header_takes_one_request(bucket: Bucket) -> None:
    bucket.storage.pipe_file("bucket/a", file_bytes(TENSORS, None))
    bucket.methods.clear()
    bucket.open("a").read_header()
    assert bucket.methods == ["get_object"]


def test_a_large_object_arrives_whole_in_parts_of_one_version(bucket: Bucket) -> None:
    data = os.urandom(20 * MIB)
    bucket.storage.pipe_file("bucket/a", data)
    source = bucket.open("a")
    assert source.size == len(data)
    bucket.methods.clear()
    bucket.asked.clear()
    assert read(source, 0, len(data)) == data
    assert bucket.methods == ["get_object"] * 3
    etag = bucket.storage.info("bucket/a")["ETag"]
    assert {condition for _, condition in bucket.asked} == {etag}


@pytest.mark.parametrize("size", [MIB, 100])
def test_an_object_that_is_replaced_while_it_is_read_is_an_error(bucket: Bucket, size: int) -> None:
    bucket.storage.pipe_file("bucket/a", os.urandom(MIB))
    source = bucket.open("a")
    assert source.size == MIB
    bucket.storage.pipe_file("bucket/a", os.urandom(size))
    with pytest.raises(FileChangedError, match="s3://bucket/a: it changed while it was read"):
        read(source, 500_000, 100)


def test_a_version_that_was_asked_for_is_read(bucket: Bucket) -> None:
    client = bucket.storage
    client.call_s3(
        "put_bucket_versioning", Bucket="bucket", VersioningConfiguration={"Status": "Enabled"}
    )
    client.pipe_file("bucket/a", b"old" * 100)
    first = client.call_s3("head_object", Bucket="bucket", Key="a")["VersionId"]
    client.pipe_file("bucket/a", b"new" * 100)
    assert read(bucket.open("a"), 0, 3) == b"new"
    assert read(bucket.open(f"a?versionId={first}"), 0, 3) == b"old"
    for version in client.call_s3("list_object_versions", Bucket="bucket")["Versions"]:
        client.call_s3("delete_object", Bucket="bucket", Key="a", VersionId=version["VersionId"])


def test_an_empty_object_is_known_for_one(bucket: Bucket) -> None:
    bucket.storage.touch("bucket/a")
    source = bucket.open("a")
    assert source.size == 0
    with pytest.raises(HeaderError) as caught:
        source.read_header()
    assert caught.value.reason is Reason.EMPTY


def test_a_missing_object_or_bucket_is_not_found(bucket: Bucket) -> None:
    for url in ("s3://bucket/nowhere", "s3://no-such-bucket/a"):
        source = open_source(url, storage_options=bucket.options)
        with pytest.raises(FileNotFoundError) as caught:
            source.read_header()
        assert caught.value.filename == url


def test_names_are_listed_and_small_objects_are_read_whole(bucket: Bucket) -> None:
    for name in ("b", "a", "deeper/c"):
        bucket.storage.pipe_file(f"bucket/folder/{name}", name.encode())
    assert list_names("s3://bucket/folder", bucket.options) == ["a", "b"]
    assert read_all("s3://bucket/folder/deeper/c", bucket.options, limit=100) == b"deeper/c"
    with pytest.raises(FileNotFoundError):
        list_names("s3://bucket/nowhere", bucket.options)


# A storage that fails: the range server answers as S3 does, as long as only bytes are asked for.


def opened(server: RangeServer) -> ByteSource:
    options = {
        "anon": True,
        "endpoint_url": server.url().rstrip("/"),
        "config_kwargs": {"retries": {"max_attempts": 1}},
    }
    return open_source("s3://bucket/a", storage_options=options)


@pytest.fixture
def data(files: Path) -> bytes:
    content = os.urandom(MIB)
    (files / "bucket").mkdir()
    (files / "bucket" / "a").write_bytes(content)
    return content


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("kind", ["cut", "stall"])
def test_a_body_that_breaks_goes_on_from_where_it_broke(
    server: RangeServer, data: bytes, kind: Any
) -> None:
    source = opened(server)
    assert source.size == MIB
    server.reset()
    server.fail_first(Fault(kind), Fault(kind))
    assert read(source, 500_000, 4096) == data[500_000:504_096]
    ranges = [request.headers["range"] for request in server.requests]
    assert ranges == ["bytes=500000-504095", "bytes=502048-504095", "bytes=503072-504095"]


@pytest.mark.usefixtures("impatient")
def test_a_body_that_breaks_each_time_is_an_error(server: RangeServer, data: bytes) -> None:
    source = opened(server)
    assert source.size == len(data)
    server.fault = lambda _: Fault("cut")
    with pytest.raises(RemoteError, match=r"s3://bucket/a: .*tried 5 times"):
        read(source, 500_000, 4096)


@pytest.mark.parametrize("kind", ["whole", "other range"])
def test_other_bytes_than_asked_for_are_refused(
    server: RangeServer, data: bytes, kind: Any
) -> None:
    source = opened(server)
    assert source.size == len(data)
    server.fault = lambda _: Fault(kind)
    with pytest.raises(RemoteError, match="bytes 500,000 to 504,095 were asked for"):
        read(source, 500_000, 4096)


@pytest.mark.parametrize(("status", "kind"), [(403, PermissionError), (500, RemoteError)])
def test_a_refusal_is_an_error_of_this_package_with_the_url(
    server: RangeServer, status: int, kind: type[OSError]
) -> None:
    server.fault = lambda _: Fault("status", status)
    with pytest.raises(kind, match="s3://bucket/a"):
        opened(server).read_header()


def test_missing_credentials_are_refused_with_the_remedy(
    server: RangeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "nothing"))
    options = {"endpoint_url": server.url().rstrip("/"), "anon": False}
    with pytest.raises(PermissionError, match='"anon": True'):
        open_source("s3://bucket/a", storage_options=options).read_header()
