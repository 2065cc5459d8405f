"""The storage systems that tests save to, as a plugin of pytest that they ask for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from moto.server import ThreadedMotoServer

from tests.remote.places import BLOCK, Disk, Place


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    """A server that answers as S3 does."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(moto: str) -> Iterator[Place]:
    """An empty bucket."""
    options = {
        "key": "somebody",
        "secret": "s3cr3t",
        "client_kwargs": {"endpoint_url": moto, "region_name": "us-east-1"},
        "default_block_size": BLOCK,
    }
    place = Place("s3://bucket/folder", options)
    place.filesystem.call_s3("create_bucket", Bucket="bucket")
    yield place
    filesystem = place.filesystem
    for upload in place.uploads():
        filesystem.abort_mpu("bucket", upload["Key"], upload["UploadId"])
    filesystem.rm("bucket", recursive=True)


@pytest.fixture
def memory() -> Iterator[Place]:
    """fsspec's own file system, which shows a file as soon as it is opened."""
    place = Place("memory://folder", {})
    yield place
    place.filesystem.store.clear()
    place.filesystem.pseudo_dirs[:] = [""]


@pytest.fixture
def disk(tmp_path: Path) -> Place:
    """A folder on such a file system."""
    (tmp_path / "disk").mkdir()
    fsspec.register_implementation("disk", Disk, clobber=True)
    return Place(f"disk://{tmp_path}/disk", {})


@pytest.fixture(params=["s3", "memory", "disk"])
def place(request: pytest.FixtureRequest) -> Place:
    found: Place = request.getfixturevalue(request.param)
    return found
