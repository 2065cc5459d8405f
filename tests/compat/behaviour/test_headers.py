"""Files as other programs write them: odd headers that are valid, and those that are not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import SafetensorError, deserialize, safe_open, serialize
from safetensors.numpy import load, load_file, save, save_file
from safetensors.torch import load as load_torch
from safetensors.torch import load_file as load_torch_file

LARGEST = 100_000_000  # bytes of a header


def file_bytes(header: Any, data: bytes = b"", padding: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += padding
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype: str, shape: list[int], *offsets: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": list(offsets)}


@pytest.mark.parametrize("padding", range(9))
def test_data_may_begin_at_any_byte(padding: int, tmp_path: Path) -> None:
    tensors = {
        "f": entry("F32", [2], 0, 8),
        "b": entry("U8", [1], 8, 9),
        "d": entry("F64", [1], 9, 17),
    }
    data = np.array([1, 2], "<f4").tobytes() + b"\x03" + np.array([4], "<f8").tobytes()
    whole = file_bytes(tensors, data, b" " * padding)
    path = tmp_path / "x.safetensors"
    path.write_bytes(whole)
    expected = {"f": [1, 2], "b": [3], "d": [4]}
    for found in (
        load(whole),
        load_file(path),
        load_torch(whole),
        load_torch_file(path),
        load_torch_file(path, backend="pread"),
    ):
        assert {name: tensor.tolist() for name, tensor in found.items()} == expected
    for framework in ("np", "pt"):
        for backend in ("mmap", "pread"):
            file = safe_open(path, framework, backend=backend)
            assert file.get_slice("d")[0:1].tolist() == [4]
            assert file.get_slice("f")[1].tolist() == 2


def test_the_header_may_be_in_any_order_and_spaced() -> None:
    text = b'{ "b" : {"shape":[1], "data_offsets":[1,2],\n"dtype":"U8"},\t"a":'
    text += json.dumps(entry("I8", [1], 0, 1)).encode() + b'\r, "__metadata__" : { "k" : "v" } } '
    assert {
        name: found.tolist() for name, found in load(file_bytes(text, b"\x05\x06")).items()
    } == {
        "a": [5],
        "b": [6],
    }


def test_unknown_fields_are_ignored() -> None:
    header = {"a": entry("U8", [1], 0, 1) | {"note": [1, {"x": None}]}}
    assert load(file_bytes(header, b"\x07"))["a"].tolist() == [7]


def test_metadata_may_be_null_or_empty(tmp_path: Path) -> None:
    empty: dict[str, str] = {}
    for metadata in (None, empty):
        path = tmp_path / "x.safetensors"
        path.write_bytes(file_bytes({"__metadata__": metadata}))
        with safe_open(path, "np") as file:
            assert file.metadata() == metadata
            assert file.keys() == []
            assert file.get_tensors() == {}


def test_tensors_without_elements_may_lie_anywhere() -> None:
    header = {
        "first": entry("F32", [0], 0, 0),
        "w": entry("U8", [2], 0, 2),
        "last": entry("F64", [3, 0], 2, 2),
    }
    found = load(file_bytes(header, b"\x01\x02"))
    assert {name: array.shape for name, array in found.items()} == {
        "first": (0,),
        "w": (2,),
        "last": (3, 0),
    }


@pytest.mark.parametrize("framework", ["np", "pt"])
def test_a_big_header_is_read(framework: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    names = [f"model.layers.{i:05d}.some.long.name.of.a.weight" for i in range(20_000)]
    save_file({name: np.full(1, i, np.int32) for i, name in enumerate(names)}, path)
    with safe_open(path, framework) as file:
        assert file.keys() == names
        assert file.get_tensor(names[12_345]).tolist() == [12_345]
        assert len(file.get_tensors()) == 20_000


def test_a_header_may_be_padded_by_megabytes() -> None:
    header = {"a": entry("U8", [1], 0, 1)}
    assert load(file_bytes(header, b"\x07", b" " * 5_000_000))["a"].tolist() == [7]


def test_metadata_may_be_long(tmp_path: Path) -> None:
    metadata = {"config": "é" * 1_000_000}
    save_file({}, tmp_path / "x.safetensors", metadata)
    assert safe_open(tmp_path / "x.safetensors", "np").metadata() == metadata


GOOD = save({"a": np.arange(4, dtype=np.uint8)})
ONE = entry("U8", [1], 0, 1)
MALFORMED: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "header too small"),
    "seven bytes": (bytes(7), "header too small"),
    "a length of 64 bits": (b"\xff" * 8 + b"{}", "header too large"),
    "a length over the limit": ((LARGEST + 1).to_bytes(8, "little") + b"{}", "header too large"),
    "the limit in a short file": (LARGEST.to_bytes(8, "little") + b"{}", "invalid header length"),
    "a page": (b"<!DOCTYPE html><html></html>", "header too large"),
    "a zip": (b"PK\x03\x04\x00\x00\x08\x08" + bytes(9), "header too large"),
    "a header cut off": (GOOD[:20], "invalid header length"),
    "data cut off": (GOOD[:-1], "incomplete metadata, file not fully covered"),
    "data behind": (GOOD + b"\0", "incomplete metadata, file not fully covered"),
    "data of no tensor": (file_bytes({}, b"\0"), "incomplete metadata, file not fully covered"),
    "a hole": (
        file_bytes({"a": ONE, "b": entry("U8", [1], 2, 3)}, bytes(3)),
        "invalid offset for tensor `b`",
    ),
    "an overlap": (
        file_bytes({"a": entry("U8", [2], 0, 2), "b": entry("U8", [2], 1, 3)}, bytes(3)),
        "invalid offset for tensor `b`",
    ),
    "a late begin": (
        file_bytes({"a": entry("U8", [1], 1, 2)}, bytes(2)),
        "invalid offset for tensor `a`",
    ),
    "too few bytes": (
        file_bytes({"a": entry("F32", [2], 0, 4)}, bytes(4)),
        "invalid shape, data type, or offset for tensor",
    ),
    "a huge shape": (
        file_bytes({"a": entry("F32", [2**40, 2**40], 0, 4)}, bytes(4)),
        "overflow computing buffer size from shape and/or element type",
    ),
    "half a byte": (
        file_bytes({"a": entry("F4", [3], 0, 2)}, bytes(2)),
        (
            "The slice is slicing for subbytes dtypes, and the slice does not end up at a byte "
            "boundary, this is invalid."
        ),
    ),
}
NOT_JSON = {
    "zeros": bytes(8),
    "no object": file_bytes(b"[]"),
    "no end": file_bytes(b"{"),
    "text behind": file_bytes(b"{}x"),
    "an unknown dtype": file_bytes({"a": entry("F128", [1], 0, 16)}, bytes(16)),
    "a negative size": file_bytes({"a": entry("U8", [-1], 0, 1)}, bytes(1)),
    "no offsets": file_bytes({"a": {"dtype": "U8", "shape": [1]}}, bytes(1)),
    "a number as metadata": file_bytes({"__metadata__": {"step": 1}}),
    "a repeated field": file_bytes(
        b'{"a":{"dtype":"U8","dtype":"U8","shape":[0],"data_offsets":[0,0]}}'
    ),
}


def refusals(data: bytes, path: Path) -> dict[str, str]:
    """What every way to read a file says of bytes that are none."""
    path.write_bytes(data)
    found = {}
    readers: dict[str, Callable[[], Any]] = {
        "deserialize": lambda: deserialize(data),
        "numpy.load": lambda: load(data),
        "torch.load": lambda: load_torch(data),
        "numpy.load_file": lambda: load_file(path),
        "torch.load_file": lambda: load_torch_file(path),
        "pread": lambda: load_torch_file(path, backend="pread"),
        "safe_open": lambda: safe_open(path, "np"),
    }
    for name, read in readers.items():
        with pytest.raises(SafetensorError) as caught:
            read()
        found[name] = str(caught.value)
    return found


FROM_BYTES = ("deserialize", "numpy.load", "torch.load")


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_file_is_refused_with_the_reason(name: str, tmp_path: Path) -> None:
    data, reason = MALFORMED[name]
    for reader, message in refusals(data, tmp_path / "x.safetensors").items():
        activity = "deserializing" if reader in FROM_BYTES else "deserializing header"
        assert message == f"Error while {activity}: {reason}", reader


@pytest.mark.parametrize("name", NOT_JSON)
def test_a_header_that_is_not_the_json_of_one_says_so(name: str, tmp_path: Path) -> None:
    for reader, message in refusals(NOT_JSON[name], tmp_path / "x.safetensors").items():
        activity = "deserializing" if reader in FROM_BYTES else "deserializing header"
        assert message.startswith(f"Error while {activity}: invalid JSON in header: "), reader


def test_a_header_that_is_not_utf8_says_so(tmp_path: Path) -> None:
    for reader, message in refusals(file_bytes(b'{"\xff":1}'), tmp_path / "x").items():
        activity = "deserializing" if reader in FROM_BYTES else "deserializing header"
        assert message.startswith(f"Error while {activity}: invalid UTF-8 in header: "), reader


def test_a_header_may_not_be_larger_than_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with path.open("wb") as file:  # sparse: no disk is used
        file.write((LARGEST + 1).to_bytes(8, "little"))
        file.truncate(8 + LARGEST + 1)
    with pytest.raises(
        SafetensorError, match=r"^Error while deserializing header: header too large$"
    ):
        safe_open(path, "np")


def test_a_truncated_file_is_refused_when_it_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": np.zeros(1000)}, path)
    for size in (8007, 4000, 100, 50, 8, 3, 0):
        with path.open("r+b") as file:
            file.truncate(size)
        for framework in ("np", "pt"):
            with pytest.raises(SafetensorError):
                safe_open(path, framework)


def test_dtypes_that_no_framework_has_can_be_listed(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(file_bytes({"a": entry("F6_E2M3", [4], 0, 3)}, bytes(3)))
    with safe_open(path, "pt") as file:
        assert file.keys() == ["a"]
        assert file.metadata() is None
    assert deserialize(path.read_bytes()) == [
        ("a", {"dtype": "F6_E2M3", "shape": [4], "data": bytearray(3)})
    ]


def test_an_empty_file_of_tensors_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(serialize({}))
    assert load_file(path) == load_torch_file(path) == load(serialize({})) == {}
