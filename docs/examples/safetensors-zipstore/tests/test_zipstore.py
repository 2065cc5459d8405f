"""safetensors files inside zip archives."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from safetensors_core import (
    ByteSource,
    ClosedFileError,
    Dtype,
    Framework,
    HeaderError,
    InvalidInputError,
    TensorInfo,
    TensorSpec,
    list_plugins,
    load_file,
    read_header,
    register_framework,
    safe_open,
    save,
)
from safetensors_zipstore.source import ZipSource


class Raw(Framework):
    """Tensors that are byte strings: the tests need no framework."""

    name = "raw"
    native_package = "builtins"
    dtypes: Mapping[Dtype, str] = {Dtype.U8: "uint8"}

    def is_tensor(self, obj: object) -> bool:
        return isinstance(obj, bytes)

    def describe(self, tensor: bytes) -> TensorSpec:
        return TensorSpec(Dtype.U8, (len(tensor),))

    def to_buffer(self, tensor: bytes) -> bytes:
        return tensor

    def from_buffers(
        self, buffer: memoryview, infos: Mapping[str, TensorInfo], device: object
    ) -> dict[str, bytes]:
        return {name: bytes(buffer[slice(*info.data_offsets)]) for name, info in infos.items()}


RAW = Raw()
LARGE = bytes(range(256)) * 20_000  # long enough for reads of several threads to overlap


@pytest.fixture(scope="session", autouse=True)
def _raw_is_known() -> None:
    register_framework(RAW)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "models.zip"
    data = save({"small": b"abcdefgh", "odd": b"xyz"}, {"made by": "the test"})
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme.txt", "an archive")
        file.writestr("folder/model.safetensors", data)
        file.writestr("packed.safetensors", data, zipfile.ZIP_DEFLATED)
        file.writestr("broken.safetensors", b"\xff" * 20)
        file.writestr("empty", b"")
    return path


def location(archive: Path, member: str = "folder/model.safetensors") -> str:
    return f"zip://{archive}!/{member}"


def test_a_member_is_loaded(archive: Path) -> None:
    assert load_file(location(archive), RAW) == {"odd": b"xyz", "small": b"abcdefgh"}


@pytest.mark.parametrize("backend", ["auto", "mmap", "pread"])
def test_a_member_is_opened_and_read_in_parts(archive: Path, backend: str) -> None:
    with safe_open(location(archive), RAW, backend=backend) as file:  # type: ignore[arg-type]
        assert file.metadata() == {"made by": "the test"}
        assert file.get_tensor("odd") == b"xyz"
        assert file.get_slice("small")[2:5] == b"cde"
    with pytest.raises(ClosedFileError):
        file.get_tensor("odd")


def test_a_header_is_read_without_a_framework(archive: Path) -> None:
    assert sorted(read_header(location(archive)).tensors) == ["odd", "small"]


def test_the_archive_may_be_relative(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(archive.parent)
    assert load_file("zip://models.zip!/folder/model.safetensors", RAW)["odd"] == b"xyz"


def test_an_archive_behind_other_bytes_is_read(archive: Path) -> None:
    # A program that unpacks itself is such a file.
    archive.write_bytes(b"#!/bin/sh\nexit\n" + archive.read_bytes())
    assert load_file(location(archive), RAW)["odd"] == b"xyz"


def test_the_command_line_knows_the_location(archive: Path) -> None:
    program = "import sys; from safetensors_core.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "inspect", location(archive)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "small" in done.stdout


def test_the_plugin_is_found_and_light() -> None:
    [info] = [info for info in list_plugins() if info.name == "zipstore"]
    assert info.status == "ok"
    program = "import sys, safetensors_zipstore._plugin; sys.exit('zipfile' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_threads_read_at_once(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "large.zip", "w") as file:
        file.writestr("m", save({str(i): LARGE[i:] for i in range(4)}))
    with (
        safe_open(location(tmp_path / "large.zip", "m"), RAW) as model,
        ThreadPoolExecutor(8) as pool,
    ):
        assert all(pool.map(lambda i: model.get_tensor(str(i % 4)) == LARGE[i % 4 :], range(16)))


def test_a_missing_archive_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.zip"):
        load_file(location(tmp_path / "nowhere.zip"), RAW)


def test_a_missing_member_is_not_found(archive: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no such member.*models\.zip!/nowhere"):
        load_file(location(archive, "nowhere"), RAW)


def test_a_folder_is_no_archive(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        load_file(location(tmp_path), RAW)


def test_a_compressed_member_is_refused_with_the_remedy(archive: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"compressed.*zip -0"):
        load_file(location(archive, "packed.safetensors"), RAW)


@pytest.mark.parametrize("member", ["broken.safetensors", "empty"])
def test_a_member_that_is_no_safetensors_file_is_rejected(archive: Path, member: str) -> None:
    with pytest.raises(HeaderError, match=member):
        load_file(location(archive, member), RAW)


@pytest.mark.parametrize("wrong", ["zip://", "zip://a.zip", "zip://!/m", "zip://a.zip!/"])
def test_a_location_without_archive_or_member_is_refused(wrong: str) -> None:
    with pytest.raises(InvalidInputError, match="expected zip://ARCHIVE!/MEMBER"):
        load_file(wrong, RAW)


def test_a_file_that_is_no_archive_is_refused(archive: Path) -> None:
    whole = archive.read_bytes()
    archive.write_bytes(whole[:-10])
    with pytest.raises(InvalidInputError, match="no sound zip archive"):
        load_file(location(archive), RAW)


@pytest.mark.parametrize(("at", "wrong"), [(-30, b"XXXX"), (0, b"another")])
def test_an_archive_with_something_else_in_the_place_is_refused(
    archive: Path, at: int, wrong: bytes
) -> None:
    whole = archive.read_bytes()
    begin = whole.index(b"folder/model") + at
    archive.write_bytes(whole[:begin] + wrong + whole[begin + len(wrong) :])
    with pytest.raises(InvalidInputError, match="no sound zip archive"):
        load_file(location(archive), RAW)


def test_a_member_that_claims_more_bytes_than_there_are_is_refused(archive: Path) -> None:
    whole = bytearray(archive.read_bytes())
    entry = whole.rindex(b"PK\1\2", 0, whole.rindex(b"folder/model"))
    whole[entry + 20 : entry + 28] = (1 << 30).to_bytes(4, "little") * 2
    archive.write_bytes(whole)
    with pytest.raises(InvalidInputError, match=r"models\.zip!/folder.*archive"):
        load_file(location(archive), RAW)


def test_an_archive_that_was_written_to_a_pipe_is_read(archive: Path) -> None:
    class Pipe(io.RawIOBase):
        """Bytes that cannot be written again: sizes then stand behind the data."""

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            return file.write(data)

    with archive.open("wb") as file, zipfile.ZipFile(Pipe(), "w") as streamed:
        streamed.writestr("m", save({"w": b"abc"}))
    assert load_file(location(archive, "m"), RAW) == {"w": b"abc"}


def test_an_archive_that_becomes_shorter_is_an_error_of_the_storage(archive: Path) -> None:
    source: ByteSource = ZipSource(location(archive))
    archive.write_bytes(b"")
    with pytest.raises(OSError, match="shorter"):
        source.read_header()


def test_other_locations_are_left_to_others(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(save({"w": b"abc"}))
    assert load_file(tmp_path / "model.safetensors", RAW) == {"w": b"abc"}
    with pytest.raises(InvalidInputError, match="no installed plugin opens"):
        load_file("zap://a!/b", RAW)
