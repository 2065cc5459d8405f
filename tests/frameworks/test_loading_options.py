"""What every framework can do while it loads: convert, fill what exists, and tell how far it is."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import pytest

from safetensors_core import (
    Dtype,
    InvalidInputError,
    StateDictError,
    TensorInfo,
    get_framework,
    load,
    load_file,
    load_into,
    save,
)
from safetensors_core.header import encode_header
from tests.frameworks.installed import INSTALLED

# 1.0 and -2.5 as each dtype has them, little-endian.
VALUES = {
    Dtype.F16: b"\x00\x3c\x00\xc1",
    Dtype.BF16: b"\x80\x3f\x20\xc0",
    Dtype.F32: b"\x00\x00\x80\x3f\x00\x00\x20\xc0",
}
OTHERS = {Dtype.I32: b"\x01\x00\x00\x00\x02\x00\x00\x00", Dtype.U8: b"\x01\x02"}


def file_of(values: dict[Dtype, bytes]) -> bytes:
    """A file with a tensor of two elements for each dtype, called by its code."""
    infos: dict[str, TensorInfo] = {}
    end = 0
    for dtype, data in values.items():
        infos[dtype.value] = TensorInfo(dtype, (2,), (end, end + len(data)))
        end += len(data)
    return encode_header(infos, None) + b"".join(values.values())


@pytest.fixture(params=INSTALLED)
def name(request: pytest.FixtureRequest) -> str:
    """Name of a framework."""
    found: str = request.param
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(file_of(VALUES | OTHERS))
    return path


def fillable(name: str, data: bytes) -> dict[str, Any]:
    """Tensors of a file in memory, in whatever the framework has that can change."""
    tensors = load(bytearray(data), name)
    if name == "tensorflow":
        tf = sys.modules["tensorflow"]
        return {key: tf.Variable(tensor) for key, tensor in tensors.items()}
    return tensors


def bits(tensors: dict[str, Any]) -> dict[str, bytes]:
    return {key: bytes(get_framework(value).to_buffer(value)) for key, value in tensors.items()}


@pytest.mark.parametrize(("dtype", "backend"), list(itertools.product(VALUES, ["mmap", "pread"])))
def test_floating_point_tensors_become_the_dtype_asked_for(
    name: str, path: Path, dtype: Dtype, backend: Any
) -> None:
    loaded = load_file(path, name, dtype=dtype, backend=backend)
    expected = {key.value: VALUES[dtype] for key in VALUES}
    assert bits(loaded) == expected | {key.value: data for key, data in OTHERS.items()}
    assert list(loaded) == list(load_file(path, name))
    assert bits(load(path.read_bytes(), name, dtype=dtype.value)) == bits(loaded)


def test_tensors_on_a_device_are_converted_there(name: str, path: Path) -> None:
    framework = get_framework(name)
    device = framework.devices()[-1]
    loaded = load_file(path, name, device, dtype="F16")
    plain = load_file(path, name, device)
    assert framework.device_of(loaded["F32"]) == framework.device_of(plain["F32"])
    assert bits(loaded)["F32"] == VALUES[Dtype.F16]


@pytest.mark.parametrize("backend", ["auto", "mmap", "pread"])
def test_tensors_that_exist_are_filled(name: str, path: Path, backend: Any) -> None:
    tensors = fillable(name, file_of({dtype: bytes(len(v)) for dtype, v in CONTENT.items()}))
    if name == "jax":
        with pytest.raises(InvalidInputError, match="jax cannot be filled"):
            load_into(tensors, path, backend=backend)
        return
    reports: list[tuple[int, int]] = []
    result = load_into(tensors, path, backend=backend, progress=lambda *r: reports.append(r))
    assert result == ([], [])
    assert bits(tensors) == {dtype.value: data for dtype, data in CONTENT.items()}
    assert reports[-1] == (sum(map(len, CONTENT.values())),) * 2


CONTENT = VALUES | OTHERS
CHANGING = [name for name in INSTALLED if name != "jax"]


@pytest.mark.parametrize("name", CHANGING)
def test_tensors_of_another_floating_point_dtype_are_filled_with_what_they_can_hold(
    name: str, path: Path
) -> None:
    of_others = zip(VALUES, [*list(VALUES)[1:], Dtype.F16], strict=True)
    tensors = {}
    for key, dtype in of_others:
        tensors[key.value] = fillable(name, file_of({dtype: bytes(len(VALUES[dtype]))}))[dtype]
    assert load_into(tensors, path, strict=False) == ([], ["I32", "U8"])
    assert bits(tensors) == {
        "F16": VALUES[Dtype.BF16],
        "BF16": VALUES[Dtype.F32],
        "F32": VALUES[Dtype.F16],
    }


@pytest.mark.parametrize("name", CHANGING)
def test_what_does_not_fit_changes_nothing(name: str, path: Path) -> None:
    for wrong in ({Dtype.F32: VALUES[Dtype.F32]}, {Dtype.I32: b"\x09\x00\x00\x00" * 2}):
        [other] = fillable(name, file_of(wrong)).values()
        tensors = fillable(name, file_of({Dtype.F16: bytes(4)})) | {"U8": other}
        with pytest.raises(InvalidInputError, match=r"tensor 'U8' is U8 in the file and .32 here"):
            load_into(tensors, path, strict=False)
        assert bits(tensors)["F16"] == bytes(4)


@pytest.mark.parametrize("name", CHANGING)
def test_names_that_do_not_match_change_nothing(name: str, path: Path) -> None:
    tensors = fillable(name, file_of({Dtype.F16: bytes(4)}))
    with pytest.raises(StateDictError, match="unexpected 'BF16', 'F32', 'I32', 'U8'"):
        load_into(tensors, path)
    [other] = fillable(name, file_of({Dtype.F16: bytes(4)})).values()
    with pytest.raises(StateDictError, match="missing 'other'"):
        load_into(tensors | {"other": other}, path)
    assert bits(tensors)["F16"] == bytes(4)


@pytest.mark.parametrize("name", CHANGING)
def test_one_tensor_under_two_names_is_filled_by_either(name: str, path: Path) -> None:
    [tensor] = fillable(name, file_of({Dtype.F16: bytes(4)})).values()
    assert load_into({"F16": tensor, "tied": tensor}, path, strict=False)[0] == []
    assert bits({"": tensor})[""] == VALUES[Dtype.F16]
    with pytest.raises(InvalidInputError, match="share memory"):
        load_into({"F16": tensor, "BF16": tensor}, path, strict=False)


@pytest.mark.parametrize("name", CHANGING)
def test_what_was_filled_is_saved_as_the_file_was(name: str, path: Path) -> None:
    tensors = fillable(name, file_of({dtype: bytes(len(v)) for dtype, v in CONTENT.items()}))
    load_into(tensors, path)
    assert save(tensors) == save(load_file(path, name))
