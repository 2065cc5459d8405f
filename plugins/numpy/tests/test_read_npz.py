"""`.npy` and `.npz` files are read bit by bit as NumPy reads them, and nothing of them is run."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes  # gives NumPy the names of its types
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safetensors_core import (
    ConversionError,
    Dtype,
    SafetensorError,
    UnsafeCheckpointError,
    UnsupportedDtypeError,
)
from safetensors_core.convert import ForeignCheckpoint, StoredTensor
from safetensors_numpy._plugin import safetensors_read_checkpoint
from safetensors_numpy.checkpoints import format_of
from safetensors_numpy.checkpoints.npz import holds_void, read_npy, read_npz

Array = npt.NDArray[Any]
Content = Callable[[StoredTensor], tuple[Array, bytes]]


def opened(path: Path) -> ForeignCheckpoint:
    found = safetensors_read_checkpoint(path)
    assert found is not None
    assert (found.framework, found.format) == ("numpy", "np")
    return found


def read_whole(path: Path) -> None:
    found = safetensors_read_checkpoint(path)
    if found is not None:
        with contextlib.closing(found):
            for _, tensor in found:
                tensor.read()


def assert_same(content: Content, found: ForeignCheckpoint, expected: dict[str, Array]) -> None:
    assert list(found.tensors) == list(expected)
    for name, array in expected.items():
        read, data = content(found.tensors[name])
        assert read.shape == array.shape
        assert read.dtype == array.dtype.newbyteorder("<")
        assert data == array.astype(read.dtype).tobytes()


def npy(array: Array) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


WIDE = ("u2", "i2", "f2", "u4", "i4", "f4", "c8", "u8", "i8", "f8")
KINDS = ["?", "u1", "i1", *(order + kind for order in "<>" for kind in WIDE)]


@pytest.fixture
def arrays() -> dict[str, Array]:
    values = np.random.default_rng(0).integers(-100, 100, (3, 4))
    made = {f"layer/{kind}": values.astype(kind) for kind in KINDS}
    made["fortran"] = np.asfortranarray(values.astype("<f4").reshape(3, 2, 2))
    made["fortran, big-endian"] = np.asfortranarray(values.astype(">c8"))
    made["scalar"] = np.array(7, np.float32)
    made["empty"] = np.zeros((2, 0, 3), np.int16)
    made["strided"] = values[::2, ::3]
    made["not a number"] = np.frombuffer(struct.pack("<2I", 0x7FC00001, 0xFFA00000), "<f4")
    return made


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_is_read_as_numpy_reads_it(
    content: Content, tmp_path: Path, arrays: dict[str, Array], save: Any
) -> None:
    path = tmp_path / "model.npz"
    save(path, **arrays)
    found = opened(path)
    with np.load(path) as loaded:
        assert_same(content, found, dict(loaded.items()))
    found.close()


def test_an_npy_is_one_tensor_named_as_its_file(
    content: Content, tmp_path: Path, arrays: dict[str, Array]
) -> None:
    for number, array in enumerate(arrays.values()):
        path = tmp_path / f"w.{number}.npy"
        np.save(path, array)
        assert_same(content, opened(path), {f"w.{number}": np.load(path)})


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_each_version_of_npy_is_read(
    content: Content, tmp_path: Path, version: tuple[int, int]
) -> None:
    array = np.arange(6.0).reshape(2, 3)
    with open(tmp_path / "w.npy", "wb") as file:
        np.lib.format.write_array(file, array, version=version)
    assert_same(content, opened(tmp_path / "w.npy"), {"w": array})


def test_what_lies_in_c_order_comes_in_chunks_and_all_else_whole(tmp_path: Path) -> None:
    array = np.arange(12, dtype="<f4").reshape(3, 4)
    np.savez(tmp_path / "a.npz", c=array, fortran=array.T, big=array.astype(">f4"))
    found = opened(tmp_path / "a.npz")
    assert [name for name, tensor in found if tensor.chunks is None] == ["fortran", "big"]
    found.close()


def test_a_large_array_comes_in_many_chunks(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 255, 9 * 2**20, np.uint8)
    np.savez_compressed(tmp_path / "a.npz", w=array)
    found = opened(tmp_path / "a.npz")
    chunks = list(found.tensors["w"].chunks())  # type: ignore[misc]
    assert len(chunks) > 2
    assert b"".join(chunks) == array.tobytes()
    found.close()


def test_the_bytes_decide_what_a_file_is_and_not_its_name(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(npy(np.zeros(2)))
    (tmp_path / "b.bin").write_bytes(npy(np.zeros(2)))
    np.savez(tmp_path / "c.npz", w=np.zeros(2))
    (tmp_path / "c.npz").rename(tmp_path / "c.npy")
    assert [format_of(path) for path in sorted(tmp_path.iterdir())] == ["npy", "npy", "npz"]


@pytest.mark.parametrize("data", [b"", b"\x93NUM", b"\x80\x02}q.", b"not an archive" * 10])
@pytest.mark.parametrize("name", ["w.npy", "w.npz"])
def test_what_only_has_the_name_of_a_file_of_numpy_is_none(
    tmp_path: Path, name: str, data: bytes
) -> None:
    (tmp_path / name).write_bytes(data)
    assert safetensors_read_checkpoint(tmp_path / name) is None


def test_folders_pipes_and_what_does_not_exist_are_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npy")
    for path in (tmp_path, tmp_path / "pipe.npy", tmp_path / "missing.npz"):
        assert safetensors_read_checkpoint(path) is None


def test_an_archive_of_something_else_is_none(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.npz", "w") as archive:
        archive.writestr("archive/data.pkl", b"")
    assert safetensors_read_checkpoint(tmp_path / "model.npz") is None
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as archive:
        archive.writestr("w.npy", npy(np.zeros(2)))
        archive.writestr("config.json", b"{}")
    assert safetensors_read_checkpoint(tmp_path / "model.zip") is None


def test_what_is_no_array_in_an_npz_is_left_out_and_listed(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.npz", "w") as archive:
        archive.writestr("w.npy", npy(np.zeros(2)))
        archive.writestr("config.json", b"{}")
    found = opened(tmp_path / "model.npz")
    assert list(found.tensors) == ["w"]
    assert found.left_out == {"config.json": "no array of NumPy"}
    found.close()


class Creates:
    """A pickle of it makes a file, if it is run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.path}'",)


class Evaluates(Creates):
    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (f"open({str(self.path)!r}, 'w')",)


@pytest.mark.parametrize(("kind", "named"), [(Creates, "system"), (Evaluates, "builtins.eval")])
@pytest.mark.parametrize("archived", [False, True])
def test_a_pickle_that_would_run_code_is_refused_by_the_name_of_what_it_asks_for(
    tmp_path: Path, kind: Any, named: str, archived: bool
) -> None:
    path = tmp_path / ("model.npz" if archived else "model.npy")
    # The arrays and numbers of NumPy beside it need globals of their own, which hide nothing.
    values: list[Any] = [np.float32(1), np.zeros(2), kind(tmp_path / "it ran")]
    array = np.array([*values, None], dtype=object)
    if archived:
        np.savez(path, fine=np.zeros(2), w=array)
    else:
        np.save(path, array)
    with pytest.raises(UnsafeCheckpointError, match=named) as caught:
        safetensors_read_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_harmless_objects_are_no_tensors(tmp_path: Path) -> None:
    array = np.array([{"lr": np.float64(0.1)}, np.zeros(2), "text", None], dtype=object)
    np.savez(tmp_path / "a.npz", state=array, fine=np.zeros(2))
    found = opened(tmp_path / "a.npz")
    error = str(found.refused["state"])
    assert error.startswith(f"{tmp_path / 'a.npz'}: tensor 'state': dtype object")
    assert "Objects are not tensors; nothing of its pickle was run" in error
    assert list(found.tensors) == ["fine"]
    found.close()


@pytest.mark.parametrize("dtype", ["c16", "g", "U3", "S3", "V3", "M8[s]", "m8[s]", "f4,i4"])
def test_a_type_that_the_format_has_not_is_refused_by_name(
    tmp_path: Path, content: Content, dtype: str
) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, fine=np.zeros(2), w=np.zeros(2, dtype))
    np.save(tmp_path / "w.npy", np.zeros(2, dtype))
    for file, others in ((path, ["fine"]), (tmp_path / "w.npy", [])):
        found = opened(file)
        (error,) = found.refused.values()
        assert isinstance(error, UnsupportedDtypeError)
        assert (error.tensor, error.dtype) == ("w", str(np.dtype(dtype)))
        assert error.location == str(file)
        assert list(found.tensors) == others
        for tensor in found.tensors.values():
            assert content(tensor)[1] == bytes(16)
        found.close()


@pytest.fixture
def void_files(tmp_path: Path) -> tuple[Path, Path, Array]:
    array = np.arange(6, dtype=ml_dtypes.bfloat16).reshape(2, 3)
    np.savez(tmp_path / "a.npz", fine=np.zeros(2), w=array)
    np.save(tmp_path / "w.npy", array)
    return tmp_path / "a.npz", tmp_path / "w.npy", array


def test_bfloat16_is_read_where_the_caller_knows_that_it_is(
    content: Content,
    void_files: tuple[Path, Path, Array],
) -> None:
    npz, npy_file, array = void_files
    for found in (read_npz(npz, void=Dtype.BF16), read_npy(npy_file, void=Dtype.BF16)):
        read, _ = content(found.tensors["w"])
        assert read.dtype == array.dtype
        assert read.tobytes() == array.tobytes()
        found.close()


def test_two_bytes_that_numpy_does_not_know_are_refused_where_nobody_knows_them(
    void_files: tuple[Path, Path, Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAFETENSORS_DISABLED_PLUGINS", "mlx")
    for path, others in zip(void_files[:2], (["fine"], []), strict=True):
        assert holds_void(path)
        found = opened(path)
        error = str(found.refused["w"])
        assert error.startswith(f"{path}: tensor 'w': dtype |V2 ")
        assert "plugin for MLX" in error
        assert list(found.tensors) == others
        found.close()


def test_names_that_leave_the_archive_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("../w.npy", npy(np.zeros(2)))
    with pytest.raises(UnsafeCheckpointError, match=r"'\.\./w\.npy', which leaves its folder"):
        safetensors_read_checkpoint(tmp_path / "a.npz")


def with_header(text: str, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + data


def header(shape: str, descr: str = "'<f4'") -> str:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}"


DAMAGED = {
    "fewer bytes than the shape": with_header(header("(3,)"), bytes(8)),
    "more bytes than the shape": with_header(header("(3,)"), bytes(16)),
    "a second array": npy(np.zeros(2)) + npy(np.zeros(2)),
    "an exabyte": with_header(header("(2**60,)".replace("2**60", str(2**60))), bytes(8)),
    "more elements than 64 bits count": with_header(header(f"({2**62}, {2**62})")),
    "a huge dimension beside none": with_header(header(f"({2**70}, 0)")),
    "a negative dimension": with_header(header("(-1,)"), bytes(4)),
    "too many dimensions": with_header(header("(" + "1," * 65 + ")"), bytes(4)),
    "no dtype": with_header(header("(1,)", "'<f9000000000'"), bytes(4)),
    "no literal": with_header("__import__('os').getcwd()"),
    "nested too deeply": with_header("(" * 9000),
    "nested signs": with_header(header("(" + "-" * 9000 + "1,)")),
    "a header longer than the file": b"\x93NUMPY\x01\x00\xff\xff{",
    "an unknown version": b"\x93NUMPY\x09\x00" + bytes(64),
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED)
@pytest.mark.parametrize("archived", [False, True])
def test_a_damaged_header_is_refused(tmp_path: Path, data: bytes, archived: bool) -> None:
    path = tmp_path / "w.npy"
    path.write_bytes(data)
    if archived:
        path = tmp_path / "w.npz"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("w.npy", data)
    with pytest.raises(ConversionError, match="tensor 'w'") as caught:
        safetensors_read_checkpoint(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", ["STORED", "DEFLATED", "BZIP2", "LZMA"])
def test_a_changed_byte_of_an_archive_is_noticed_when_the_tensor_is_read(
    tmp_path: Path, method: str
) -> None:
    array = np.random.default_rng(0).standard_normal(20000)
    path = tmp_path / "w.npz"
    with zipfile.ZipFile(path, "w", getattr(zipfile, f"ZIP_{method}")) as archive:
        archive.writestr("w.npy", npy(array))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ConversionError, match="'w"):
        read_whole(path)


def test_an_array_that_was_cut_off_after_it_was_opened_is_noticed(tmp_path: Path) -> None:
    np.save(tmp_path / "w.npy", np.zeros(100))
    found = opened(tmp_path / "w.npy")
    os.truncate(tmp_path / "w.npy", 500)
    with pytest.raises(ConversionError, match="tensor 'w' ends 428 bytes too early"):
        found.tensors["w"].read()


@pytest.fixture(scope="module")
def small_files(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("small")
    np.savez(folder / "a.npz", w=np.arange(4), b=np.zeros(2, "f4"), o=np.array([None, "x"]))
    np.savez_compressed(folder / "b.npz", w=np.arange(40), b=np.zeros((9, 2), "f4").T)
    np.save(folder / "c.npy", np.arange(4.0))
    np.save(folder / "d.npy", np.array([np.zeros(2), {}], dtype=object))
    return [path.read_bytes() for path in sorted(folder.iterdir())]


def test_every_prefix_of_a_file_is_refused_or_not_recognised(
    tmp_path: Path, small_files: list[bytes]
) -> None:
    path = tmp_path / "w.npz"
    for data in small_files:
        for length in range(0, len(data), 1 + len(data) // 400):
            path.write_bytes(data[:length])
            try:
                assert safetensors_read_checkpoint(path) is None
            except SafetensorError as error:
                assert str(path) in str(error)  # noqa: PT017


@given(st.data())
def test_no_change_to_a_file_gets_another_error_than_ours(
    tmp_path_factory: pytest.TempPathFactory, small_files: list[bytes], data: st.DataObject
) -> None:
    content = bytearray(data.draw(st.sampled_from(small_files)))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "changed.npz"
    path.write_bytes(content)
    try:
        read_whole(path)
    except SafetensorError as error:
        assert str(path) in str(error)  # noqa: PT017  # a change may do no harm


def test_a_damaged_header_shows_nothing_of_python(tmp_path: Path) -> None:
    path = tmp_path / "w.npy"
    path.write_bytes(with_header("__import__('os').getcwd()"))
    with pytest.raises(ConversionError) as caught:
        safetensors_read_checkpoint(path)
    assert str(caught.value) == f"{path}: tensor 'w': its header is damaged"


def test_a_damaged_pickle_of_objects_is_refused(tmp_path: Path) -> None:
    text = header("(1,)", "'|O'")
    (tmp_path / "w.npy").write_bytes(with_header(text, pickle.dumps([1, 2, 3])[:-4]))
    with pytest.raises(ConversionError, match="pickle"):
        safetensors_read_checkpoint(tmp_path / "w.npy")
