"""Files on network and user-space file systems, which are read instead of mapped."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.tests import fuse_server
from core.tests.raw import RawFramework, counting, file_bytes
from safetensors_core import Dtype, load_file, read_header, safe_open
from safetensors_core.sources import FileSource, MappedSource, local
from safetensors_core.sources.local import is_network_file, safetensors_open_source

RAW = RawFramework()
TENSORS = {"a": counting(Dtype.F32, 300, 100), "b": counting(Dtype.I16, 7)}
PAGE = 4096


@pytest.fixture(autouse=True)
def no_file_system_known() -> Iterator[None]:
    local._filesystem.cache_clear()
    yield
    local._filesystem.cache_clear()  # the number of a device may be given to another one


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of `TENSORS`."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(file_bytes(TENSORS))
    return path


class Mount:
    """A mounted file system that holds the file.

    Attributes:
        path: The file in it.
    """

    def __init__(self, original: Path, kind: str) -> None:
        self._place = original.with_name("mount")
        self._place.mkdir()
        self._log = original.with_name("log")
        self.path = self._place / fuse_server.NAME
        self._server = subprocess.Popen(
            [sys.executable, fuse_server.__file__, original, self._place, kind, self._log],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._server.stdout is not None
        self.state = self._server.stdout.readline().strip()

    def end(self) -> None:
        """Unmount, and wait for the end of the server."""
        fuse_server.unmount(self._place)
        self._server.communicate(timeout=30)

    def requests(self) -> list[tuple[int, int]]:
        """Offset and size of each read that reached the server."""
        lines = self._log.read_text().splitlines()
        return [(int(offset), int(size)) for offset, size in map(str.split, lines)]


@pytest.fixture
def mounted(path: Path) -> Iterator[Callable[[str], Mount]]:
    mounts: list[Mount] = []

    def mount(kind: str) -> Mount:
        mounts.append(Mount(path, kind))
        if mounts[0].state != "mounted":
            pytest.skip(f"no FUSE file system here: {mounts[0].state or 'the server ended'}")
        return mounts[0]

    try:
        yield mount
    finally:
        for made in mounts:
            made.end()


@pytest.mark.skipif(sys.platform != "linux", reason="FUSE is mounted as Linux does it")
@pytest.mark.parametrize("kind", ["fuse", "fuse.toy"])
def test_a_file_of_a_user_space_file_system_is_read_at_positions(
    kind: str, mounted: Callable[[str], Mount]
) -> None:
    mount = mounted(kind)
    assert is_network_file(mount.path)
    tensors = load_file(mount.path, RAW)
    requests = mount.requests()
    assert str(mount.path) not in Path("/proc/self/maps").read_text()
    mount.end()
    assert tensors == TENSORS  # they own their memory: nothing is there to read from any more
    # The data begins inside a page, where no page fault does.
    start = len(file_bytes(TENSORS)) - sum(len(tensor.data) for tensor in TENSORS.values())
    assert start % PAGE
    assert start in [offset for offset, _ in requests]


@pytest.mark.skipif(sys.platform != "linux", reason="FUSE is mounted as Linux does it")
def test_a_file_of_a_user_space_file_system_is_mapped_on_request(
    mounted: Callable[[str], Mount],
) -> None:
    mount = mounted("fuse")
    with safe_open(mount.path, RAW, backend="mmap") as file:
        tensors = file.get_tensors()
        assert str(mount.path) in Path("/proc/self/maps").read_text()
        assert tensors == TENSORS
    requests = mount.requests()
    assert requests
    assert all(offset % PAGE == 0 for offset, _ in requests)


def table(path: Path, kind: str) -> str:
    """A table of mounts as Linux writes it, with the file system of a file among others."""
    device = path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    return (
        f"21 1 {os.major(device)}:{os.minor(device) + 1} / / rw shared:1 - ext4 /dev/sda1 rw\n"
        f"36 21 {number} /a\\040b /mnt/c\\040d rw,noatime shared:7 master:1 - {kind} host:/a rw\n"
        f"37 36 999:1 / /proc rw - proc proc rw\n"
    )


def backend_on(kind: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> type:
    """Which source the automatic backend takes on a file system."""
    mounts = path.with_name("mountinfo")
    mounts.write_text(table(path, kind))
    monkeypatch.setattr(local, "_MOUNTS", str(mounts))
    assert load_file(path, RAW) == TENSORS
    assert isinstance(safetensors_open_source(path, "mmap"), MappedSource)
    return type(safetensors_open_source(path, "auto"))


@pytest.mark.parametrize(
    "kind",
    [
        *("9p", "beegfs", "ceph", "cifs", "fuse", "fuse.gcsfuse", "fuse.sshfs", "glusterfs"),
        *("gpfs", "lustre", "nfs", "nfs4", "smb3", "virtiofs", "wekafs"),
    ],
)
def test_on_a_network_file_system_files_are_read_at_positions(
    kind: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert backend_on(kind, path, monkeypatch) is FileSource


@pytest.mark.parametrize(
    "kind", ["btrfs", "ext4", "f2fs", "fuseblk", "nfsd", "overlay", "tmpfs", "xfs", "zfs"]
)
def test_on_a_local_file_system_files_are_mapped(
    kind: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert backend_on(kind, path, monkeypatch) is MappedSource


def test_where_there_is_no_table_of_mounts_files_are_mapped(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_MOUNTS", str(path.with_name("missing")))
    assert type(safetensors_open_source(path, "auto")) is MappedSource
    assert read_header(path).tensors.keys() == TENSORS.keys()
