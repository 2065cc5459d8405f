"""What zip archives and pickles of foreign checkpoints may not do."""

from __future__ import annotations

import copyreg
import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from safetensors_core import ConversionError, UnsafeCheckpointError
from safetensors_core.convert import load_pickle, open_archive


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


class Malicious:
    """Would run a command where it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_malicious_pickle_is_refused_by_name_and_not_run(tmp_path: Path, protocol: int) -> None:
    trace = tmp_path / "trace"
    data = pickle.dumps({"w": Malicious(f"touch {trace}")}, protocol)
    with pytest.raises(UnsafeCheckpointError) as caught:
        load_pickle(io.BytesIO(data), "m.bin")
    assert str(caught.value) == (
        f"m.bin: its pickle asks for '{os.system.__module__}.system', which weights do not need; "
        "nothing of it was run"
    )
    assert not trace.exists()


def test_a_registered_extension_is_refused_by_name() -> None:
    copyreg.add_extension("os", "system", 77)
    try:
        with pytest.raises(UnsafeCheckpointError, match=r"'os\.system'"):
            load_pickle(io.BytesIO(b"\x82\x4d(S'true'\ntR."), "m.bin")
    finally:
        copyreg.remove_extension("os", "system", 77)


def test_a_persistent_object_is_refused() -> None:
    with pytest.raises(ConversionError, match="its pickle cannot be read"):
        load_pickle(io.BytesIO(b"Pabc\n."), "m.bin")


def test_what_is_allowed_takes_the_place_of_what_is_asked_for() -> None:
    data = pickle.dumps(Malicious("ls"))
    allowed = {(os.system.__module__, "system"): str.upper}
    assert load_pickle(io.BytesIO(data), "m.bin", allowed) == "LS"


def test_every_pickle_that_is_cut_short_is_refused() -> None:
    whole = pickle.dumps({"w": [1, 2.5, b"abc", "text", None, (True,)]})
    for length in range(len(whole)):
        with pytest.raises(ConversionError):
            load_pickle(io.BytesIO(whole[:length]), "m.bin")


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x04Nr\xff\xff\xff\x7f0.",  # kept in place 2**31 - 1: a table of 32 GiB
        b"\x80\x04Np4294967296\n.",
        b"\x80\x04\x8e" + b"\xff" * 7 + b"\x0f.",  # 2**60 bytes
        b"\x80\x04\x95" + b"\xff" * 7 + b"\x0fN.",
        b"\x80\x04B\xff\xff\xff\xff.",
        b"\x80\x04p\xe4\n.",
    ],
)
def test_a_pickle_that_claims_more_than_it_has_is_refused_before_memory_is_taken(
    data: bytes,
) -> None:
    with pytest.raises(ConversionError, match="its pickle"):
        load_pickle(io.BytesIO(data), "m.bin")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_what_needs_no_global_is_read_in_each_protocol(protocol: int) -> None:
    shared = ["ü", 2**70, -1.5, True, None]
    value = {"a": shared, "b": (shared, {1: "x" * 300}), "c": [{}, (), "\n"]}
    file = io.BytesIO(b"before" + pickle.dumps(value, protocol) + b"behind")
    file.seek(6)
    assert load_pickle(file, "m.bin") == value
