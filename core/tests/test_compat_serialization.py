"""`serialize`, `serialize_file`, `deserialize` and `TensorSpec`: tensors as bytes in memory."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from safetensors_core import Dtype, SafetensorError, parse_header
from safetensors_core.compat.serialization import (
    _DTYPES,
    TensorSpec,
    deserialize,
    serialize,
    serialize_file,
)

# The memory that the specifications point to.
MEMORY = (ctypes.c_ubyte * 64)(*range(64))


def spec(dtype: str, *shape: int, nbytes: int) -> TensorSpec:
    address = ctypes.addressof(MEMORY)
    return TensorSpec(dtype=dtype, shape=shape, data_ptr=address, data_len=nbytes)


@pytest.mark.parametrize(("name", "dtype"), _DTYPES.items())
def test_every_dtype_comes_back_with_its_bytes(name: str, dtype: Dtype) -> None:
    nbytes = max(6 * dtype.bits // 8, 6)
    [(tensor, found)] = deserialize(serialize({"w": spec(name, 2, 3, nbytes=nbytes)}))
    shape = [2, 6] if dtype is Dtype.F4 else [2, 3]
    data = bytearray(range(nbytes))
    assert (tensor, found) == ("w", {"shape": shape, "dtype": dtype.value, "data": data})


def test_a_specification_of_pairs_counts_elements() -> None:
    pairs = spec("float4_e2m1fn_x2", 2, 3, nbytes=6)
    assert (pairs.dtype, pairs.shape, pairs.data_len) == ("F4", [2, 6], 6)
    assert "dtype='F4', shape=[2, 6]" in repr(pairs)


def test_tensors_are_given_in_the_order_of_the_file() -> None:
    data = serialize(
        {
            "small": spec("uint8", 3, nbytes=3),
            "b": spec("int64", nbytes=8),
            "a": spec("int64", 0, 2, nbytes=0),
        }
    )
    assert [name for name, _ in deserialize(data)] == ["a", "b", "small"]
    assert parse_header(data).data_start % 8 == 0


def test_a_file_has_the_same_bytes(tmp_path: Path) -> None:
    tensors = {"w": spec("int16", 2, 2, nbytes=8)}
    serialize_file(tensors, tmp_path / "model.safetensors", {"b": "1", "a": "2"})
    data = (tmp_path / "model.safetensors").read_bytes()
    assert data == serialize(tensors, {"a": "2", "b": "1"})
    assert parse_header(data).metadata == {"a": "2", "b": "1"}


def test_what_is_given_back_can_be_changed() -> None:
    data = serialize({"w": spec("uint8", 2, nbytes=2)})
    [(_, found)] = deserialize(data)
    found["data"][0] = 9
    [(_, again)] = deserialize(data)
    assert again["data"] == bytearray([0, 1])


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"dtype": "float128"}, SafetensorError),
        ({"dtype": "F32"}, SafetensorError),
        ({"dtype": 1}, TypeError),
        ({"shape": [-1]}, OverflowError),
        ({"shape": [1 << 64]}, OverflowError),
        ({"shape": [1.5]}, TypeError),
        ({"shape": 3}, TypeError),
        ({"data_ptr": -1}, OverflowError),
        ({"data_len": -1}, OverflowError),
        ({"data_len": None}, TypeError),
    ],
    ids=str,
)
def test_a_specification_that_is_none_is_refused(
    arguments: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        TensorSpec(**{"dtype": "uint8", "shape": [1], "data_ptr": 1, "data_len": 1, **arguments})


def test_a_specification_takes_keywords_only() -> None:
    with pytest.raises(TypeError):
        TensorSpec("uint8", [1], 1, 1)  # type: ignore[call-arg]


def test_a_specification_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        spec("uint8", 1, nbytes=1).data_len = 2  # type: ignore[misc]


def to_file(folder: Path) -> Callable[[dict[str, Any]], Any]:
    return lambda tensors: serialize_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize("nbytes", [0, 5, 7, 64])
def test_a_length_that_is_not_that_of_dtype_and_shape_is_refused(
    nbytes: int, tmp_path: Path
) -> None:
    for save in (serialize, to_file(tmp_path)):
        with pytest.raises(SafetensorError, match="invalid shape, data type, or offset for tensor"):
            save({"w": spec("int16", 3, nbytes=nbytes)})
    assert list(tmp_path.iterdir()) == []


def test_bytes_at_no_address_are_refused() -> None:
    nowhere = TensorSpec(dtype="uint8", shape=[8], data_ptr=0, data_len=8)
    with pytest.raises(SafetensorError, match="'w': 8 bytes at no address"):
        serialize({"w": nowhere})


def test_no_bytes_need_no_address() -> None:
    empty = TensorSpec(dtype="uint8", shape=[0], data_ptr=0, data_len=0)
    [(_, found)] = deserialize(serialize({"w": empty}))
    assert found == {"shape": [0], "dtype": "U8", "data": bytearray()}


@pytest.mark.parametrize(
    "tensors", [None, [], {1: None}, {"w": {"dtype": "uint8"}}, {"w": b"data"}], ids=str
)
def test_what_are_no_specifications_by_name_is_a_type_error(tensors: Any, tmp_path: Path) -> None:
    for save in (serialize, to_file(tmp_path)):
        with pytest.raises(TypeError, match=r"argument 'tensor_dict': .* is not an instance of"):
            save(tensors)


@pytest.mark.parametrize("metadata", [{"a": 1}, {1: "a"}, ["a"], "a"], ids=str)
def test_metadata_is_strings_by_name(metadata: Any) -> None:
    with pytest.raises(TypeError, match=r"argument 'metadata': .* is not an instance of"):
        serialize({}, metadata)


@pytest.mark.parametrize("data", [bytearray(16), memoryview(bytes(16)), "text", None], ids=str)
def test_only_bytes_are_taken_apart(data: Any) -> None:
    with pytest.raises(TypeError, match=r"argument 'bytes': .* is not an instance of 'bytes'"):
        deserialize(data)


def test_bytes_that_are_no_file_are_refused() -> None:
    with pytest.raises(SafetensorError, match=r"^Error while deserializing: header too small$"):
        deserialize(b"")
