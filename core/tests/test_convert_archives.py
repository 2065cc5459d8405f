"""What zip archives of foreign checkpoints may not do."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import pytest

from safetensors_core import ConversionError, UnsafeCheckpointError
from safetensors_core.convert import open_archive


def archive_of(path: Path, *names: str | zipfile.ZipInfo, data: bytes = b"abc") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, data)
    return path


def test_an_archive_that_is_in_order_opens(tmp_path: Path) -> None:
    path = archive_of(tmp_path / "a.zip", "archive/data.pkl", "archive/data/0", "ä b", "archive/")
    with open_archive(path) as archive:
        assert archive.read("archive/data/0") == b"abc"


@pytest.mark.parametrize(
    "name", ["../a", "/a", "a/../../b", "a\\..\\b", "\\a", "c:a", "C:/a", "a//b", "a/..", ""]
)
def test_a_name_that_leaves_the_archive_is_refused(tmp_path: Path, name: str) -> None:
    path = archive_of(tmp_path / "a.zip", "fine", zipfile.ZipInfo(name))
    with pytest.raises(UnsafeCheckpointError, match="which leaves its folder"):
        open_archive(path)


def test_a_name_that_ends_at_a_nul_is_refused(tmp_path: Path) -> None:
    path = archive_of(tmp_path / "a.zip", "abc/X/../d")
    path.write_bytes(path.read_bytes().replace(b"abc/X/", b"abc/\0/"))
    with pytest.raises(UnsafeCheckpointError, match="which leaves its folder"):
        open_archive(path)


def test_a_symbolic_link_is_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    path = archive_of(tmp_path / "a.zip", link, data=b"/etc/passwd")
    with pytest.raises(UnsafeCheckpointError, match="'link' is a symbolic link"):
        open_archive(path)


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_a_name_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsafeCheckpointError, match="holds 'w' twice"):
        open_archive(archive_of(tmp_path / "a.zip", "w", "w"))


def bomb(path: Path, nbytes: int) -> Path:
    """An archive of one entry of zeros."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive,
        archive.open("zeros", "w") as entry,
    ):
        for _ in range(nbytes >> 20):
            entry.write(bytes(1 << 20))
    return path


def test_an_archive_that_expands_without_measure_is_refused(tmp_path: Path) -> None:
    path = archive_of(tmp_path / "a.zip", "zeros")
    claimed = 2**31
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\1\2")
    data[at + 24 : at + 28] = struct.pack("<I", claimed)
    path.write_bytes(data)
    with pytest.raises(UnsafeCheckpointError, match=r"claims to hold 2,147,483,648: a zip bomb"):
        open_archive(path)


def test_weights_that_compress_well_are_no_bomb(tmp_path: Path) -> None:
    with open_archive(bomb(tmp_path / "a.zip", 16 << 20)) as archive:
        assert archive.getinfo("zeros").file_size == 16 << 20


def test_entries_that_overlap_are_refused(tmp_path: Path) -> None:
    path = archive_of(tmp_path / "a.zip", "first", "other", data=bytes(1000))
    data = bytearray(path.read_bytes())
    second = data.rindex(b"PK\1\2")
    data[second + 42 : second + 46] = struct.pack("<I", 0)  # where the first one begins
    path.write_bytes(data)
    with pytest.raises(UnsafeCheckpointError, match="overlap"):
        open_archive(path)


def test_an_encrypted_entry_is_refused(tmp_path: Path) -> None:
    path = archive_of(tmp_path / "a.zip", "w")
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(ConversionError, match="'w' is encrypted"):
        open_archive(path)


def test_every_archive_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    path = archive_of(tmp_path / "a.zip", "w", "v")
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ConversionError):
            open_archive(path)


def test_every_archive_with_one_damaged_byte_opens_or_is_refused(tmp_path: Path) -> None:
    path = archive_of(tmp_path / "a.zip", "w", "v")
    whole = path.read_bytes()
    refused = 0
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        try:
            open_archive(path).close()
        except ConversionError:
            refused += 1
    assert refused > 10
