"""Every array that NumPy can hold comes back bit for bit, however it lies in memory."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from safetensors_core import Dtype, parse_header, safe_open
from safetensors_numpy import load, load_file, save, save_file

Array = npt.NDArray[Any]

DTYPES: dict[Dtype, Any] = {
    Dtype.BOOL: np.bool_,
    Dtype.F4: ml_dtypes.float4_e2m1fn,
    Dtype.F6_E2M3: ml_dtypes.float6_e2m3fn,
    Dtype.F6_E3M2: ml_dtypes.float6_e3m2fn,
    Dtype.U8: np.uint8,
    Dtype.I8: np.int8,
    Dtype.F8_E5M2: ml_dtypes.float8_e5m2,
    Dtype.F8_E4M3: ml_dtypes.float8_e4m3fn,
    Dtype.F8_E8M0: ml_dtypes.float8_e8m0fnu,
    Dtype.F8_E4M3FNUZ: ml_dtypes.float8_e4m3fnuz,
    Dtype.F8_E5M2FNUZ: ml_dtypes.float8_e5m2fnuz,
    Dtype.I16: np.int16,
    Dtype.U16: np.uint16,
    Dtype.F16: np.float16,
    Dtype.BF16: ml_dtypes.bfloat16,
    Dtype.I32: np.int32,
    Dtype.U32: np.uint32,
    Dtype.F32: np.float32,
    Dtype.C64: np.complex64,
    Dtype.F64: np.float64,
    Dtype.I64: np.int64,
    Dtype.U64: np.uint64,
}
# Infinities, NaNs that carry a payload, quiet and signalling; zeros and subnormals of both signs.
SPECIAL = {
    Dtype.F16: "0000 8000 0001 83ff 7c00 fc00 7c01 7e01 ffff",
    Dtype.BF16: "0000 8000 0001 807f 7f80 ff80 7f81 7fc1 ffff",
    Dtype.F32: "00000000 80000000 00000001 807fffff 7f800000 ff800000 7f800001 7fc12345 ffffffff",
    Dtype.F64: "0000000000000000 8000000000000000 0000000000000001 800fffffffffffff "
    "7ff0000000000000 fff0000000000000 7ff0000000000001 7ff8000012345678 ffffffffffffffff",
}


def bits_of(array: Array) -> list[int]:
    """The bits of every element in logical order, which tell apart what ``==`` does not."""
    native = np.ascontiguousarray(array)
    if not native.dtype.isnative:
        native = native.byteswap().view(native.dtype.newbyteorder("="))
    width = native.dtype.itemsize
    parts = native.reshape(-1).view(np.uint8).reshape(-1, width)
    numbers: list[int] = [int.from_bytes(row.tobytes(), "little") for row in parts]
    return numbers


def every_pattern(code: Dtype) -> Array:
    """All bit patterns of a narrow type, the telling ones of a wide one."""
    dtype = np.dtype(DTYPES[code])
    if code is Dtype.BOOL:
        return np.array([False, True] * 4)
    if dtype.itemsize == 1:
        return np.arange(1 << code.bits, dtype=np.uint8).view(dtype)
    if dtype.itemsize == 2:
        return np.arange(1 << 16, dtype=np.uint16).view(dtype)
    if code in SPECIAL:
        patterns = [int(word, 16) for word in SPECIAL[code].split()]
        return np.array(patterns, f"u{dtype.itemsize}").view(dtype)
    if code is Dtype.C64:
        return np.repeat(every_pattern(Dtype.F32), 2).view(dtype)
    info = np.iinfo(dtype)
    return np.array([info.min, info.max, 0, 1, info.max // 3], dtype)


def round_trip(array: Array) -> Array:
    data = save({"w": array})
    loaded = load(data)["w"]
    assert loaded.shape == array.shape
    assert loaded.dtype == array.dtype.newbyteorder("=")
    assert loaded.flags.c_contiguous
    return loaded


def test_every_dtype_of_the_format_is_covered() -> None:
    assert list(DTYPES) == list(Dtype)


@pytest.mark.parametrize("code", DTYPES)
@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_every_bit_pattern_of_every_dtype_comes_back(
    tmp_path: Path, code: Dtype, backend: Any
) -> None:
    array = every_pattern(code)
    path = tmp_path / "model.safetensors"
    save_file({"w": array, "reshaped": array[: array.size // 2 * 2].reshape(2, -1)}, path)
    assert parse_header(path.read_bytes()).tensors["w"].dtype is code
    loaded = load_file(path, backend=backend)
    assert loaded["w"].dtype == array.dtype
    assert bits_of(loaded["w"]) == bits_of(array) == bits_of(round_trip(array))
    assert loaded["reshaped"].shape == (2, array.size // 2)
    with safe_open(path, "numpy", backend=backend) as file:
        assert bits_of(file.get_tensor("w")) == bits_of(array)
        assert bits_of(file.get_slice("w")[1::2]) == bits_of(array[1::2])
        assert bits_of(file.get_slice("w")[::-1]) == bits_of(array[::-1])
        one = file.get_slice("reshaped")[1, -1]
    assert (one.shape, one.dtype) == ((), array.dtype)
    assert bits_of(one) == bits_of(array[: array.size // 2 * 2][-1:])


@pytest.mark.parametrize(
    ("code", "shape"),
    [
        (code, shape)
        for code in DTYPES
        for shape in [(), (0,), (3, 0, 2), (1,), (1, 1, 1), (4,), (2, 3, 4)]
        if math.prod(shape) * code.bits % 8 == 0  # the format stores whole bytes only
    ],
)
def test_every_dtype_comes_back_in_every_kind_of_shape(code: Dtype, shape: tuple[int, ...]) -> None:
    array = np.resize(every_pattern(code), shape).astype(DTYPES[code], copy=False)
    assert bits_of(round_trip(array)) == bits_of(array)


@pytest.mark.parametrize("code", [code for code in DTYPES if np.dtype(DTYPES[code]).itemsize > 1])
def test_every_bit_pattern_survives_the_change_from_big_endian(code: Dtype) -> None:
    array = every_pattern(code)
    big = array.byteswap().view(array.dtype.newbyteorder(">"))
    assert bits_of(round_trip(big)) == bits_of(array)


@pytest.mark.parametrize("name", ["longlong", "ulonglong", "intc", "uintc", "long", "ulong"])
def test_other_names_of_an_integer_type_are_that_type(name: str) -> None:
    array = np.arange(5).astype(name)
    assert round_trip(array).tolist() == [0, 1, 2, 3, 4]


class Subclass(np.ndarray):
    """An array that calls itself something else."""


def as_field(array: Array) -> Array:
    """The array as one field of records, with other bytes between its elements."""
    records = np.zeros(array.shape, [("x", "u1"), ("y", array.dtype), ("z", "u2")])
    records["y"] = array
    return records["y"]


VIEWS: dict[str, Any] = {
    "every second": lambda a: a[::2],
    "every second column": lambda a: a[..., ::2],
    "backwards": lambda a: a[::-1],
    "backwards in every direction": lambda a: a[(slice(None, None, -1),) * a.ndim],
    "transposed": lambda a: a.T,
    "axes moved": lambda a: np.moveaxis(a, 0, -1),
    "inner part": lambda a: a[1:-1, 1:-1],
    "one column": lambda a: a[:, 1],
    "Fortran order": np.asfortranarray,
    "broadcast": lambda a: np.broadcast_to(a, (3, *a.shape)),
    "broadcast from one": lambda a: np.broadcast_to(a[0, 0], (5, 7)),
    "diagonal": np.diagonal,
    "windows": lambda a: np.lib.stride_tricks.sliding_window_view(a, (2, 2)),
    "read-only": lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
    "subclass": lambda a: a.view(Subclass),
    "field of records": as_field,
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("dtype", ["<u1", "<i4", ">f4", "<f8", ">c8"])
def test_an_array_is_saved_as_it_reads_however_it_lies_in_memory(view: str, dtype: str) -> None:
    array = VIEWS[view](np.arange(48).reshape(6, 8).astype(dtype))
    expected = np.array(array.tolist(), array.dtype).reshape(array.shape)
    assert bits_of(round_trip(array)) == bits_of(expected)


def test_an_array_that_begins_at_an_odd_address_is_saved_right() -> None:
    array = np.frombuffer(bytes(range(33)), "<f8", offset=1)
    assert bits_of(round_trip(array)) == bits_of(array)


def test_a_scalar_is_saved_as_an_array_without_dimensions() -> None:
    assert load(save({"w": np.float32(1.5)}))["w"].shape == ()
    assert load(save({"w": np.float32(1.5)}))["w"] == 1.5


def test_mapped_memory_and_subclasses_are_arrays(tmp_path: Path) -> None:
    mapped = np.memmap(tmp_path / "raw", np.float32, "w+", shape=(3,))
    mapped[:] = [1, 2, 3]
    assert load(save({"w": mapped}))["w"].tolist() == [1, 2, 3]


WIDE = st.sampled_from([np.dtype(d) for c, d in DTYPES.items() if c.bits >= 8])
ARRAYS = WIDE.flatmap(
    lambda dtype: hnp.arrays(np.uint8, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0)).map(
        # Random bytes as elements; those of a boolean are 0 and 1.
        lambda raw: (
            (raw % 2 if dtype.kind == "b" else np.repeat(raw[..., None], dtype.itemsize, -1))
            .copy()
            .view(dtype)
            .reshape(raw.shape)
        )
    )
)


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), ARRAYS, max_size=5))
def test_any_arrays_under_any_names_come_back(arrays: dict[str, Array]) -> None:
    arrays.pop("__metadata__", None)
    before = {name: (id(array), array.tobytes()) for name, array in arrays.items()}
    loaded = load(save(arrays))
    assert {n: (a.shape, a.dtype, bits_of(a)) for n, a in loaded.items()} == {
        n: (a.shape, a.dtype, bits_of(a)) for n, a in arrays.items()
    }
    assert {name: (id(array), array.tobytes()) for name, array in arrays.items()} == before


@given(data=st.data(), shape=hnp.array_shapes(min_dims=1, max_dims=3, max_side=8))
def test_any_view_of_an_array_comes_back(data: st.DataObject, shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape), dtype=">i4").reshape(shape)
    view = array[data.draw(hnp.basic_indices(shape, allow_newaxis=True))]
    assert np.array_equal(round_trip(np.asarray(view)), view)


@given(data=st.data(), shape=hnp.array_shapes(min_dims=1, max_dims=3, max_side=8))
@pytest.mark.parametrize("code", [Dtype.F4, Dtype.BF16, Dtype.F32])
def test_any_slice_is_what_the_same_index_gives_on_the_array(
    tmp_path_factory: pytest.TempPathFactory,
    code: Dtype,
    data: st.DataObject,
    shape: tuple[int, ...],
) -> None:
    shape = (*shape, 2)
    array = np.arange(np.prod(shape)).astype(np.uint8) & ((1 << min(code.bits, 8)) - 1)
    array = array.view(DTYPES[code]) if code is Dtype.F4 else array.astype(DTYPES[code])
    array = array.reshape(shape)
    index = data.draw(hnp.basic_indices(shape, allow_newaxis=True))
    path = tmp_path_factory.getbasetemp() / "sliced.safetensors"
    save_file({"w": array}, path, fsync=False)
    for backend in ("mmap", "pread"):
        with safe_open(path, "numpy", backend=backend) as file:
            part = file.get_slice("w")[index]
        assert isinstance(part, np.ndarray)
        assert part.shape == np.asarray(array[index]).shape
        assert bits_of(part) == bits_of(np.asarray(array[index]))
