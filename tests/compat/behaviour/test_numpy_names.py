"""`safetensors.numpy`: saving and loading arrays."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import SafetensorError, safe_open
from safetensors.numpy import _TYPES, _getdtype, load, load_file, save, save_file

DTYPES = [
    *("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"),
    *("float16", "float32", "float64", "complex64"),
]
A = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (0,), (2, 3), (3, 0, 2), (1, 2, 3, 4)], ids=repr)
def test_arrays_come_back_from_bytes_and_files(
    dtype: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    tensor = np.asarray(
        rng.integers(0, 2, shape) if dtype == "bool" else rng.integers(0, 99, shape)
    )
    tensor = tensor.astype(dtype)
    data = save({"tensor": tensor})
    save_file({"tensor": tensor}, tmp_path / "x.safetensors")
    assert (tmp_path / "x.safetensors").read_bytes() == data
    for found in (
        load(data),
        load_file(tmp_path / "x.safetensors"),
        load_file(tmp_path / "x.safetensors", backend="pread"),
    ):
        assert list(found) == ["tensor"]
        assert found["tensor"].dtype == tensor.dtype
        assert found["tensor"].shape == shape
        np.testing.assert_array_equal(found["tensor"], tensor)


def test_the_bytes_are_exact() -> None:
    assert save({"a": A}, metadata={"a": "b"}) == (
        b'X\x00\x00\x00\x00\x00\x00\x00{"__metadata__":{"a":"b"},'
        b'"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}      ' + A.tobytes()
    )
    assert save({}) == b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "
    assert save(tensor_dict={"a": A}) == save({"a": A}, None)


@pytest.mark.parametrize("dtype", ["i2", "u4", "f2", "f4", "f8", "c8", "i8"])
def test_big_endian_arrays_are_saved_as_little_endian(dtype: str) -> None:
    big, little = A.astype(f">{dtype}"), A.astype(f"<{dtype}")
    assert save({"a": big}) == save({"a": little})
    assert big.dtype.str == f">{dtype}"
    np.testing.assert_array_equal(load(save({"a": big}))["a"], little)


def test_saving_leaves_the_dict_and_its_arrays_alone(tmp_path: Path) -> None:
    array = A.copy()
    tensors, metadata = {"b": array, "a": array}, {"k": "v"}
    save(tensors, metadata)
    save_file(tensors, tmp_path / "x.safetensors", metadata)
    assert list(tensors) == ["b", "a"]
    assert tensors["a"] is array
    assert metadata == {"k": "v"}
    np.testing.assert_array_equal(array, A)


def test_loaded_arrays_are_writable_and_apart(tmp_path: Path) -> None:
    save_file({"a": A, "b": A}, tmp_path / "x.safetensors")
    for found in (load_file(tmp_path / "x.safetensors"), load(save({"a": A, "b": A}))):
        found["a"][:] = -1
        np.testing.assert_array_equal(found["b"], A)
    np.testing.assert_array_equal(load_file(tmp_path / "x.safetensors")["a"], A)


@pytest.mark.parametrize(
    "dtype", ["complex128", "longdouble", "object", "datetime64[s]", "S3", "U3"]
)
def test_a_dtype_that_the_format_lacks_is_refused(dtype: str, tmp_path: Path) -> None:
    with pytest.raises(SafetensorError, match=r'^Unknown dtype ".*Supported dtypes: bool, int8, '):
        save({"a": np.zeros(2, dtype)})
    with pytest.raises(SafetensorError, match=r'^Unknown dtype "'):
        save_file({"a": np.zeros(2, dtype)}, tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())


def test_the_dtypes_have_the_format_s_names() -> None:
    assert {name: np.dtype(dtype).name for name, dtype in _TYPES.items()} == {
        **{f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
        **{f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
        **{f"F{bits}": f"float{bits}" for bits in (16, 32, 64)},
        "C64": "complex64",
        "BOOL": "bool",
    }
    assert np.dtype(_getdtype("F16")) == np.float16
    with pytest.raises(KeyError, match="F128"):
        _getdtype("F128")


@pytest.mark.parametrize("data", ["x", None, bytearray(16), memoryview(bytes(16))])
def test_load_takes_bytes_only(data: Any) -> None:
    with pytest.raises(TypeError, match=r"^argument 'bytes': .* is not an instance of 'bytes'$"):
        load(data)


def test_load_file_takes_what_safe_open_takes(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": A}, str(path))
    for found in (load_file(str(path)), load_file(filename=path), load_file(path, backend="pread")):
        np.testing.assert_array_equal(found["a"], A)
    with pytest.raises(SafetensorError, match=r'^backend "foo" is invalid'):
        load_file(path, backend="foo")
    with pytest.raises(FileNotFoundError, match=r"^No such file or directory: nope$"):
        load_file("nope")


def test_metadata_is_stored_and_must_be_strings(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": A}, path, metadata={"framework": "np", "note": ""})
    with safe_open(path, "np") as file:
        assert file.metadata() == {"framework": "np", "note": ""}
    wrong: Any = {"step": 1}
    with pytest.raises(TypeError, match="'int' object is not an instance of 'str'"):
        save_file({"a": A}, path, wrong)
    names: Any = {1: A}
    with pytest.raises(TypeError, match="'int' object is not an instance of 'str'"):
        save(names)


def test_a_named_temporary_file_can_be_written_and_read() -> None:
    with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
        save_file({"a": A}, file.name)
        np.testing.assert_array_equal(load_file(file.name)["a"], A)
    with tempfile.NamedTemporaryFile() as file:
        file.write(save({"a": A}))
        file.flush()
        np.testing.assert_array_equal(load_file(file.name)["a"], A)
        np.testing.assert_array_equal(safe_open(file.name, "np").get_slice("a")[1], A[1])


def test_a_save_replaces_the_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": np.zeros(1000)}, path)
    save_file({"a": A}, path)
    assert path.read_bytes() == save({"a": A})
    assert os.listdir(tmp_path) == ["x.safetensors"]
    assert stat.S_IMODE(path.stat().st_mode) & stat.S_IRUSR


def test_what_is_no_array_is_refused() -> None:
    for wrong in ({"a": 1}, {"a": "text"}, {"a": None}, {"a": [1, 2]}):
        tensors: Any = wrong
        with pytest.raises((TypeError, AttributeError, SafetensorError)):
            save(tensors)
    not_a_dict: Any = [A]
    with pytest.raises((TypeError, AttributeError)):
        save(not_a_dict)


def test_arrays_are_loaded_in_the_order_of_the_file(tmp_path: Path) -> None:
    tensors: dict[str, np.ndarray[Any, Any]] = {
        "b": A,
        "a": A,
        "c": np.zeros(1),
        "d": np.zeros(1, np.uint8),
    }
    save_file(tensors, tmp_path / "x.safetensors")
    assert list(load_file(tmp_path / "x.safetensors")) == ["c", "a", "b", "d"]
