"""`serialize`, `serialize_file`, `deserialize` and `TensorSpec`: the format, byte by byte."""

from __future__ import annotations

import ctypes
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import (
    SafetensorError,
    TensorSpec,
    deserialize,
    safe_open,
    serialize,
    serialize_file,
)

MEMORY = (ctypes.c_ubyte * 64)(*range(64))
ADDRESS = ctypes.addressof(MEMORY)

DTYPES = {
    "bool": ("BOOL", 1),
    "uint8": ("U8", 1),
    "int8": ("I8", 1),
    "float8_e5m2": ("F8_E5M2", 1),
    "float8_e4m3fn": ("F8_E4M3", 1),
    "float8_e8m0fnu": ("F8_E8M0", 1),
    "float8_e4m3fnuz": ("F8_E4M3FNUZ", 1),
    "float8_e5m2fnuz": ("F8_E5M2FNUZ", 1),
    "int16": ("I16", 2),
    "uint16": ("U16", 2),
    "float16": ("F16", 2),
    "bfloat16": ("BF16", 2),
    "int32": ("I32", 4),
    "uint32": ("U32", 4),
    "float32": ("F32", 4),
    "complex64": ("C64", 8),
    "float64": ("F64", 8),
    "int64": ("I64", 8),
    "uint64": ("U64", 8),
}


def spec(dtype: str = "uint8", shape: Any = (4,), size: int = 4) -> TensorSpec:
    return TensorSpec(dtype=dtype, shape=shape, data_ptr=ADDRESS, data_len=size)


def test_a_spec_has_the_format_s_own_words() -> None:
    for name, (code, size) in DTYPES.items():
        found = spec(name, [2, 3], 6 * size)
        assert (found.dtype, found.shape) == (code, [2, 3])
        assert (found.data_ptr, found.data_len) == (ADDRESS, 6 * size)
    assert repr(TensorSpec(dtype="uint8", shape=[4], data_ptr=0, data_len=4)) == (
        "TensorSpec(dtype='U8', shape=[4], data_ptr=0, data_len=4)"
    )


@pytest.mark.parametrize("shape", [[4], (4,), torch.Size([4]), [np.int64(4)]], ids=repr)
def test_a_shape_is_any_sequence_of_integers(shape: Any) -> None:
    assert spec(shape=shape).shape == [4]


def test_the_shape_of_a_packed_dtype_counts_pairs() -> None:
    assert spec("float4_e2m1fn_x2", [2, 3], 6).shape == [2, 6]
    data = serialize({"a": spec("float4_e2m1fn_x2", [2, 3], 6)})
    assert header(data) == {"a": {"dtype": "F4", "shape": [2, 6], "data_offsets": [0, 6]}}
    with pytest.raises(SafetensorError):
        serialize({"a": spec("float4_e2m1fn_x2", [2, 3], 3)})


@pytest.mark.parametrize(
    "dtype", ["complex128", "F32", "torch.float32", "<f4", "float6_e2m3fn", ""]
)
def test_an_unknown_dtype_is_named_with_the_known_ones(dtype: str) -> None:
    with pytest.raises(SafetensorError) as caught:
        spec(dtype)
    assert str(caught.value) == (
        f'Unknown dtype "{dtype}". Supported dtypes: bool, int8, uint8, int16, uint16, int32, '
        "uint32, int64, uint64, float16, float32, float64, bfloat16, float8_e4m3fn, "
        "float8_e4m3fnuz, float8_e5m2, float8_e5m2fnuz, float8_e8m0fnu, float4_e2m1fn_x2, complex64"
    )


def test_a_spec_takes_its_arguments_by_name_and_keeps_them() -> None:
    make: Any = TensorSpec
    with pytest.raises(TypeError, match="positional argument"):
        make("uint8", [4], ADDRESS, 4)
    with pytest.raises(TypeError, match="'shape', 'data_ptr', and 'data_len'"):
        make(dtype="uint8")
    made: Any = spec()
    for name in ("dtype", "shape", "data_ptr", "data_len"):
        with pytest.raises(AttributeError, match=name):
            setattr(made, name, None)
    made.shape.append(1)
    assert made.shape == [4]


def test_numbers_of_a_spec_are_unsigned_and_of_64_bits() -> None:
    arguments: dict[str, Any] = {"shape": [4], "data_ptr": ADDRESS, "data_len": 4}
    for name in arguments:
        for number, message in (
            (-1, "can't convert negative int to unsigned"),
            (2**64, "int too big to convert"),
        ):
            wrong = arguments | {name: [number] if name == "shape" else number}
            with pytest.raises(OverflowError, match=f"^{message}$"):
                TensorSpec(dtype="uint8", **wrong)
    for wrong in ({"shape": None}, {"shape": [1.0]}, {"data_ptr": None}, {"data_len": 1.5}):
        with pytest.raises(TypeError):
            TensorSpec(dtype="uint8", **(arguments | wrong))


def header(data: bytes) -> Any:
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length])


def test_a_file_is_a_length_a_header_and_the_data() -> None:
    assert serialize({}) == b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "
    assert serialize({}, None) == serialize({})
    assert serialize({"a": spec()}) == (
        b'8\x00\x00\x00\x00\x00\x00\x00{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}   '
        b"\x00\x01\x02\x03"
    )
    assert serialize({"a": spec()}, {"k": "v"}) == (
        b'P\x00\x00\x00\x00\x00\x00\x00{"__metadata__":{"k":"v"},'
        b'"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}  \x00\x01\x02\x03'
    )
    assert serialize(tensor_dict={}, metadata={"a": "b"}) == (
        b' \x00\x00\x00\x00\x00\x00\x00{"__metadata__":{"a":"b"}}      '
    )
    assert serialize({"a": spec()}, {}) == (
        b'H\x00\x00\x00\x00\x00\x00\x00{"__metadata__":{},'
        b'"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}} \x00\x01\x02\x03'
    )


def test_the_data_begins_at_a_multiple_of_8() -> None:
    for length in range(20):
        data = serialize({"n" * length: spec()})
        size = int.from_bytes(data[:8], "little")
        text = data[8 : 8 + size].rstrip(b" ")
        assert size == (len(text) + 7) // 8 * 8
        assert text.endswith(b"}}")
        assert data[8 + size :] == bytes(range(4))


def test_tensors_are_sorted_by_dtype_then_by_name() -> None:
    tensors = {
        "b": spec(),
        "A": spec(),
        "bits": spec("bool"),
        "z": spec("float32", [1]),
        "y": spec("uint64", [0], 0),
        "x": spec("float64", [], 8),
        "f4": spec("float4_e2m1fn_x2", [4]),
    }
    expected = ["y", "x", "z", "A", "b", "f4", "bits"]
    assert list(header(serialize(tensors))) == expected
    assert list(header(serialize(dict(sorted(tensors.items()))))) == expected
    offsets = [entry["data_offsets"] for entry in header(serialize(tensors)).values()]
    assert offsets == [[0, 0], [0, 8], [8, 12], [12, 16], [16, 20], [20, 24], [24, 28]]


@pytest.mark.parametrize("name", ["", "é", 'a"b\\c', "line\nfeed", "\u2028", "\U0001f600", "a/b c"])
def test_names_and_metadata_may_be_any_text(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    serialize_file({name: spec()}, path, {name: name})
    with safe_open(path, "np") as file:
        assert file.keys() == [name]
        assert file.metadata() == {name: name}
        assert file.get_tensor(name).tolist() == [0, 1, 2, 3]


def test_a_lone_surrogate_is_refused() -> None:
    for tensors, metadata in (
        ({"\ud800": spec()}, None),
        ({}, {"\ud800": "a"}),
        ({}, {"a": "\ud800"}),
    ):
        with pytest.raises(ValueError, match="surrogate"):
            serialize(tensors, metadata)


INVALID = "Error while serializing: invalid shape, data type, or offset for tensor"


@pytest.mark.parametrize(("shape", "size"), [([4], 3), ([4], 5), ([], 0), ([0], 1), ([2, 2], 3)])
def test_a_size_that_does_not_fit_the_shape_is_refused(
    shape: list[int], size: int, tmp_path: Path
) -> None:
    with pytest.raises(SafetensorError, match=f"^{INVALID}$"):
        serialize({"a": spec("uint8", shape, size)})
    with pytest.raises(SafetensorError, match=f"^{INVALID}$"):
        serialize_file({"a": spec("uint8", shape, size)}, tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())


NOT_STRINGS: list[tuple[Any, str]] = [
    ({"a": 1}, "'int' object"),
    ({1: "a"}, "'int' object"),
    ({"a": None}, "'None'"),
    ({"a": ["b"]}, "'list' object"),
    ({"a": b"b"}, "'bytes' object"),
    ({"a": {"b": "c"}}, "'dict' object"),
]


@pytest.mark.parametrize(("metadata", "shown"), NOT_STRINGS, ids=repr)
def test_metadata_is_strings_only(metadata: Any, shown: str) -> None:
    with pytest.raises(TypeError) as caught:
        serialize({}, metadata)
    assert str(caught.value) == f"argument 'metadata': {shown} is not an instance of 'str'"


def test_arguments_of_another_type_are_named(tmp_path: Path) -> None:
    call: Any = serialize
    for arguments, message in (
        (([],), "'tensor_dict': 'list' object is not an instance of 'dict'"),
        ((None,), "'tensor_dict': 'None' is not an instance of 'dict'"),
        (({1: spec()},), "'tensor_dict': 'int' object is not an instance of 'str'"),
        (({"a": {}},), "'tensor_dict': 'dict' object is not an instance of 'TensorSpec'"),
        (({}, []), "'metadata': 'list' object is not an instance of 'dict'"),
    ):
        with pytest.raises(TypeError, match=f"^argument {message}$"):
            call(*arguments)
    write: Any = serialize_file
    with pytest.raises(TypeError, match="'bytes' object is not an instance of 'str'"):
        write({}, os.fsencode(tmp_path / "x.safetensors"))
    with pytest.raises(TypeError, match=r"expected str, bytes or os.PathLike object, not int"):
        write({}, 3)


def test_a_file_holds_the_same_bytes(tmp_path: Path) -> None:
    for filename in (tmp_path / "x.safetensors", str(tmp_path / "y.safetensors")):
        serialize_file({"a": spec()}, filename, {"k": "v"})
        assert Path(filename).read_bytes() == serialize({"a": spec()}, {"k": "v"})
    serialize_file(tensor_dict={}, filename=tmp_path / "x.safetensors", metadata=None)
    assert (tmp_path / "x.safetensors").read_bytes() == serialize({})


def test_a_file_that_cannot_be_written_is_a_safetensor_error(tmp_path: Path) -> None:
    reason = "Error while serializing: I/O error: No such file or directory (os error 2)"
    with pytest.raises(SafetensorError) as caught:
        serialize_file({"a": spec()}, tmp_path / "no" / "x.safetensors")
    assert str(caught.value).startswith(reason)
    with pytest.raises(SafetensorError, match=r"^Error while serializing: I/O error: "):
        serialize_file({"a": spec()}, tmp_path)
    assert not list(tmp_path.iterdir())


def test_deserialize_gives_each_tensor_as_bytes() -> None:
    tensors = {"a": spec("uint16", [2]), "b": spec("float32", [0, 7], 0), "c": spec("bool", [], 1)}
    assert sorted(deserialize(serialize(tensors, {"k": "v"})), key=lambda part: part[0]) == [
        ("a", {"dtype": "U16", "shape": [2], "data": bytearray(range(4))}),
        ("b", {"dtype": "F32", "shape": [0, 7], "data": bytearray()}),
        ("c", {"dtype": "BOOL", "shape": [], "data": bytearray(1)}),
    ]
    assert deserialize(bytes=serialize({})) == []
    assert type(deserialize(serialize(tensors))[0][1]["data"]) is bytearray


@pytest.mark.parametrize("data", [bytearray(16), memoryview(bytes(16)), "x", None, 3, np.zeros(9)])
def test_deserialize_takes_bytes_only(data: Any) -> None:
    shown = "'None'" if data is None else f"'{type(data).__name__}' object"
    with pytest.raises(TypeError) as caught:
        deserialize(data)
    assert str(caught.value) == f"argument 'bytes': {shown} is not an instance of 'bytes'"


def test_every_dtype_is_written_and_read() -> None:
    tensors = {name: spec(name, [2], 2 * size) for name, (code, size) in DTYPES.items()}
    found = dict(deserialize(serialize(tensors)))
    for name, (code, size) in DTYPES.items():
        assert found[name] == {"dtype": code, "shape": [2], "data": bytearray(range(2 * size))}
