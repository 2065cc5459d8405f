"""Floating-point tensors become what somebody asks for while they are loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from core.tests.raw import RawFramework, RawTensor, counting, file_bytes
from core.tests.sharded import FIRST, RAW, TENSORS, checkpoint
from safetensors_core import (
    Dtype,
    InvalidInputError,
    TensorInfo,
    UnsupportedDtypeError,
    load,
    load_file,
    loading,
    safe_open,
)
from safetensors_core.sources import FileSource


class Casting(RawFramework):
    """Makes tensors of another dtype, all zeros, and refuses one pair as real frameworks do."""

    def cast(self, tensor: RawTensor, dtype: Dtype) -> RawTensor:
        if tensor.dtype is Dtype.F8_E5M2:
            raise InvalidInputError(f"no kernel makes {dtype} of {tensor.dtype}")
        nbytes = dtype.nbytes(len(tensor.data) * 8 // tensor.dtype.bits)
        return RawTensor(dtype, tensor.shape, bytes(nbytes))


class Narrow(Casting):
    """Has a few dtypes only."""

    dtypes = {Dtype.F32: "F32", Dtype.I8: "I8"}


CASTING = Casting()
MIXED = {dtype.value: counting(dtype, 2, 4) for dtype in Dtype if dtype is not Dtype.F8_E5M2}


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A file with a tensor of almost every dtype, not in the order of their names."""
    path = tmp_path / "mixed.safetensors"
    path.write_bytes(file_bytes(MIXED))
    return path


@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_floats_are_converted_and_all_others_stay(mixed: Path, backend: Any) -> None:
    loaded = load_file(mixed, CASTING, dtype="bfloat16", backend=backend)
    assert list(loaded) == list(MIXED)
    changed = {name for name, tensor in loaded.items() if tensor != MIXED[name]}
    assert changed == {"F8_E4M3", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F16", "F32", "F64"}
    assert {loaded[name].dtype for name in changed} == {Dtype.BF16}


def test_what_has_the_dtype_already_is_loaded_as_without_it(mixed: Path) -> None:
    loaded = load_file(mixed, CASTING, dtype=Dtype.F32, keys=["F32", "F64"])
    assert loaded["F32"] == MIXED["F32"]
    assert loaded["F64"] == RawTensor(Dtype.F32, (2, 4), bytes(32))


@pytest.mark.parametrize("dtype", ["F16", "half", "float16", "torch.float16", Dtype.F16])
def test_a_dtype_has_the_names_that_users_know(mixed: Path, dtype: Any) -> None:
    assert load_file(mixed, CASTING, keys="F32", dtype=dtype)["F32"].dtype is Dtype.F16


@pytest.mark.parametrize("dtype", ["I8", "F4", "F8_E8M0", "", 16])
def test_what_is_no_floating_point_dtype_is_refused(mixed: Path, dtype: Any) -> None:
    with pytest.raises(InvalidInputError, match="expected a floating-point dtype"):
        load_file(mixed, CASTING, dtype=dtype)
    with pytest.raises(InvalidInputError, match="expected a floating-point dtype"):
        load(mixed.read_bytes(), CASTING, dtype=dtype)


def test_all_files_of_a_checkpoint_are_converted(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path)
    loaded = load_file(folder, CASTING, dtype="F64")
    assert list(loaded) == list(load_file(folder, RAW))
    dtypes = {name: str(tensor.dtype) for name, tensor in loaded.items()}
    assert dtypes == {n: "F64" if t.dtype.startswith("F") else t.dtype for n, t in TENSORS.items()}
    only = load_file(folder, CASTING, dtype="F64", keys=["h.0", "a"])
    assert only == {name: loaded[name] for name in ("h.0", "a")}


def test_tensors_of_an_open_file_are_converted_in_the_order_asked_for(tmp_path: Path) -> None:
    with safe_open(checkpoint(tmp_path), CASTING) as file:
        loaded = file.get_tensors(["a", "wte", "h.0"], dtype="BF16")
    assert [(n, str(t.dtype)) for n, t in loaded.items()] == [
        ("a", "I8"),
        ("wte", "BF16"),
        ("h.0", "BF16"),
    ]


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_a_file_in_memory_is_converted(kind: type[Any]) -> None:
    tensors = {"w": counting(Dtype.F32, 3), "n": counting(Dtype.I64, 2)}
    loaded = load(kind(file_bytes(tensors)), CASTING, dtype="F16")
    assert loaded == {"w": RawTensor(Dtype.F16, (3,), bytes(6)), "n": tensors["n"]}


def test_what_is_converted_is_read_a_window_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[list[str]] = []

    class Watched(FileSource):
        def fetch(
            self, infos: Mapping[str, TensorInfo], alignment: int = 1
        ) -> tuple[memoryview, Mapping[str, TensorInfo]]:
            fetched.append(list(infos))
            return super().fetch(infos, alignment)

    tensors = {f"w{i}": counting(Dtype.F32, 8) for i in range(4)}
    tensors |= {f"n{i}": counting(Dtype.I8, 999) for i in range(4)}
    path = tmp_path / "model.safetensors"
    path.write_bytes(file_bytes(tensors))
    monkeypatch.setattr(loading, "WINDOW", 64)
    with safe_open(path, CASTING) as file:
        file._shards._sources[os.fspath(path)] = watched = Watched(path)
        watched.read_header()
        loaded = file.get_tensors(dtype="F16")
    assert list(loaded) == list(tensors)
    assert sorted(fetched) == [["n0", "n1", "n2", "n3"], ["w0", "w1"], ["w2", "w3"]]


def test_a_tensor_that_cannot_be_converted_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(file_bytes({"good": counting(Dtype.F32), "bad": counting(Dtype.F8_E5M2)}))
    with pytest.raises(InvalidInputError) as caught:
        load_file(path, CASTING, dtype="F64")
    assert str(caught.value) == (
        f"{path}: tensor 'bad' cannot be converted by raw: no kernel makes F64 of F8_E5M2"
    )


def test_a_framework_that_converts_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"'wte' cannot be converted by raw: the plugin"):
        load_file(checkpoint(tmp_path) / FIRST, RAW, dtype="F64")


def test_a_dtype_that_the_framework_lacks_is_refused_before_anything_is_read(
    tmp_path: Path,
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(file_bytes({"n": counting(Dtype.I8), "w": counting(Dtype.F32)}))
    with pytest.raises(UnsupportedDtypeError) as caught:
        load_file(path, Narrow(), dtype="BF16", backend="pread")
    found = (caught.value.tensor, caught.value.location, caught.value.dtype)
    assert found == ("w", str(path), "BF16")
    # Where nothing becomes of that dtype, nothing is refused.
    assert list(load_file(path, Narrow(), dtype="BF16", keys="n")) == ["n"]


def test_an_empty_selection_is_empty(mixed: Path) -> None:
    assert load_file(mixed, CASTING, keys=[], dtype="F16") == {}


@pytest.mark.parametrize("dtype", ["float", float, "int8", "F4", "", 5, "<f2"])
def test_a_name_of_many_meanings_or_none_is_refused(dtype: Any, mixed: Path) -> None:
    with pytest.raises(InvalidInputError, match="expected a floating-point dtype"):
        load_file(mixed, CASTING, dtype=dtype)
