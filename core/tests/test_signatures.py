"""Files that people take for safetensors files are named for what they are."""

from __future__ import annotations

import gzip
import pickle
import re
import struct
import zipfile
from pathlib import Path

import pytest

from core.tests.raw import counting, file_bytes
from safetensors_core import Dtype, HeaderError, Reason, parse_header, read_header

LFS_POINTER = b"""version https://git-lfs.github.com/spec/v1
oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393
size 548118077
"""


def rejection(path: Path) -> HeaderError:
    with pytest.raises(HeaderError) as caught:
        read_header(path)
    return caught.value


def test_a_git_lfs_pointer_names_the_size_and_the_command(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(LFS_POINTER)
    error = rejection(path)
    assert error.reason is Reason.GIT_LFS_POINTER
    assert str(error) == (
        f"{path}: the file is a git-LFS pointer for 548,118,077 bytes, not the file itself; "
        "run: git lfs pull"
    )


@pytest.mark.parametrize(
    "page",
    [
        "<!DOCTYPE html>\n<html><body>Sign in</body></html>",
        "\n  <html lang='en'><head><title>404</title></head></html>",
        "<!doctype HTML><title>x</title>",
        '<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
    ],
)
def test_an_html_page_is_named(page: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_text(page, "utf-8")
    error = rejection(path)
    assert error.reason is Reason.HTML_PAGE
    assert "download it again" in str(error)


@pytest.mark.parametrize("members", [0, 1])
def test_a_zip_archive_is_named(members: int, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(members):
            archive.writestr(f"archive/data.pkl{i}", pickle.dumps({"w": [1.0]}))
    error = rejection(path)
    assert error.reason is Reason.ZIP_ARCHIVE
    assert "zip archive" in str(error)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("content", [{"w": [1.0] * 100}, list(range(5000)), "x" * 300, None])
def test_a_pickle_is_named_with_its_danger(protocol: int, content: object, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(pickle.dumps(content, protocol))
    error = rejection(path)
    assert error.reason is Reason.PICKLE
    assert "can run code" in str(error)


@pytest.mark.parametrize(
    ("name", "beginning"),
    [
        ("GGUF", b"GGUF" + struct.pack("<IQQ", 3, 2, 5) + bytes(64)),
        ("HDF5", b"\x89HDF\r\n\x1a\n" + bytes(64)),
        (".npy", b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', }" + bytes(64)),
        ("gzip", gzip.compress(b"x" * 1000)),
        ("zstd", b"\x28\xb5\x2f\xfd\x04\x58" + bytes(64)),
        ("text", b"404: Not Found"),
        ("text", b"Entry not found, and more text than a name would have\n"),
        ("text", b'{"error": "Invalid credentials in Authorization header"}'),
    ],
)
def test_another_format_is_named(name: str, beginning: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(beginning)
    error = rejection(path)
    assert error.reason is Reason.OTHER_FORMAT
    assert name in str(error)


@pytest.mark.parametrize("length", range(16, 1100, 8))
def test_no_valid_file_is_taken_for_another_format(length: int) -> None:
    # The first byte of a length may be the beginning of a pickle, "P" or "<".
    data = file_bytes({"w": counting(Dtype.U8, 2)}, {"": "x" * length})
    assert parse_header(data).tensors["w"].nbytes == 2


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (301_000_000, "301 MB"),
        (1, "1 byte"),
        (9_999, "9,999 bytes"),
        (12_345, "12.3 kB"),
        (4_100_000_000, "4.1 GB"),
        (7_000_000_000_000, "7.0 TB"),
    ],
)
def test_a_truncated_file_says_how_much_is_missing(size: int, shown: str) -> None:
    text = b'{"w":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}' % (size, size)
    data = len(text).to_bytes(8, "little") + text
    with pytest.raises(HeaderError) as caught:
        parse_header(data)
    assert caught.value.reason is Reason.TRUNCATED
    assert str(caught.value) == (
        f"the file has {len(data):,} bytes and ends {shown} short of what its header describes "
        f"({len(data) + size:,} bytes): the download or copy is incomplete"
    )


def test_bytes_behind_the_last_tensor_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    whole = file_bytes({"w": counting(Dtype.F32, 3)})
    path.write_bytes(whole + bytes(5))
    error = rejection(path)
    assert error.reason is Reason.TRAILING_DATA
    assert re.search(r"5 bytes more than its header describes \(\d+ bytes\)", str(error))


def test_a_file_that_ends_inside_its_header_says_how_long_that_is(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    whole = file_bytes({"w": counting(Dtype.F32, 3)})
    path.write_bytes(whole[:30])
    error = rejection(path)
    assert error.reason is Reason.HEADER_TRUNCATED
    assert f"has 30 bytes and ends inside its header, which needs {len(whole) - 12}" in str(error)
