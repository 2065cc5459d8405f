"""Every dtype that MLX and the format share comes back bit for bit, from every function."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import ml_dtypes
import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import safetensors_numpy
from safetensors_core import Dtype, UnsupportedDtypeError, parse_header, safe_open
from safetensors_mlx import framework as plugin
from safetensors_mlx import load, load_file, save, save_file

DTYPES = {
    Dtype.BOOL: mx.bool_,
    Dtype.U8: mx.uint8,
    Dtype.I8: mx.int8,
    Dtype.I16: mx.int16,
    Dtype.U16: mx.uint16,
    Dtype.F16: mx.float16,
    Dtype.BF16: mx.bfloat16,
    Dtype.I32: mx.int32,
    Dtype.U32: mx.uint32,
    Dtype.F32: mx.float32,
    Dtype.C64: mx.complex64,
    Dtype.F64: mx.float64,
    Dtype.I64: mx.int64,
    Dtype.U64: mx.uint64,
}
LACKING = {
    Dtype.F4: 4,
    Dtype.F6_E2M3: 3,
    Dtype.F6_E3M2: 3,
    Dtype.F8_E5M2: 4,
    Dtype.F8_E4M3: 4,
    Dtype.F8_E8M0: 4,
    Dtype.F8_E4M3FNUZ: 4,
    Dtype.F8_E5M2FNUZ: 4,
}
# Infinities, NaNs that carry a payload, quiet and signalling; zeros and subnormals of both signs.
SPECIAL = {
    4: "00000000 80000000 00000001 807fffff 7f800000 ff800000 7f800001 7fc12345",
    8: "0000000000000000 8000000000000000 0000000000000001 800fffffffffffff "
    "7ff0000000000000 fff0000000000000 7ff0000000000001 7ff8000012345678",
}


def from_bits(raw: bytes, dtype: mx.Dtype, shape: tuple[int, ...]) -> mx.array:
    """An array with given bits, made by MLX alone."""
    if not raw:
        return mx.zeros(shape, dtype=dtype, stream=mx.cpu)
    octets = mx.array(np.frombuffer(raw, np.uint8))
    return octets.view(dtype, stream=mx.cpu).reshape(shape, stream=mx.cpu)


def patterns(dtype: mx.Dtype) -> mx.array:
    """All bit patterns of a narrow type, the telling ones of a wide one; an even number."""
    if dtype == mx.bool_:
        return mx.array([False, True])
    width = dtype.size
    if width in SPECIAL:
        numbers = [int(word, 16) for word in SPECIAL[width].split()]
    else:
        numbers = list(range(256**width))
    raw = b"".join(number.to_bytes(width, "little") for number in numbers)
    return from_bits(raw, dtype, (len(numbers),))


def bits_of(array: mx.array) -> bytes:
    """The bytes of every element in logical order, which tell apart what ``==`` does not."""
    if not array.size:
        return b""
    flat = mx.contiguous(array, stream=mx.cpu).reshape(-1, stream=mx.cpu)
    octets: Any = flat.view(mx.uint8, stream=mx.cpu)
    return bytes(octets)


def assert_same(loaded: mx.array, expected: mx.array) -> None:
    assert type(loaded) is mx.array
    assert (loaded.dtype, loaded.shape) == (expected.dtype, expected.shape)
    assert bits_of(loaded) == bits_of(expected)


@pytest.fixture(params=["together", "one by one"])
def both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small tensors as they are read, and as if they were large."""
    if request.param == "one by one":
        monkeypatch.setattr(plugin, "_BATCH", 1)


def test_each_dtype_of_the_format_is_covered_or_lacking() -> None:
    assert set(Dtype) == set(DTYPES) | set(LACKING)


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("code", DTYPES)
def test_every_bit_pattern_comes_back_from_memory(code: Dtype) -> None:
    array = patterns(DTYPES[code])
    data = save({"w": array})
    assert parse_header(data).tensors["w"].dtype is code
    assert_same(load(data)["w"], array)
    assert_same(load(bytearray(data))["w"], array)
    assert_same(load(memoryview(data))["w"], array)


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("code", DTYPES)
@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_every_bit_pattern_comes_back_from_a_file(
    tmp_path: Path, code: Dtype, backend: Any
) -> None:
    array = patterns(DTYPES[code])
    path = tmp_path / "model.safetensors"
    save_file({"w": array, "matrix": array.reshape(2, -1)}, path)
    loaded = load_file(path, backend=backend)
    assert_same(loaded["w"], array)
    assert_same(loaded["matrix"], array.reshape(2, -1))
    with safe_open(path, "mlx", backend=backend) as file:
        assert_same(file.get_tensor("w"), array)
        assert_same(file.get_slice("matrix")[1:], array.reshape(2, -1)[1:])
        assert_same(file.get_slice("matrix")[-1], array.reshape(2, -1)[1])
        assert_same(file.get_slice("w")[-1], array[-1])
        assert_same(file.get_slice("w")[::-2], array[::-2])
        assert file.get_slice("w").get_dtype() == code


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("code", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (1, 1, 1), (7,), (2, 3, 5)])
def test_every_dtype_comes_back_in_every_kind_of_shape(code: Dtype, shape: tuple[int, ...]) -> None:
    count = math.prod(shape) * DTYPES[code].size
    raw = bytes(i * 37 % (2 if code is Dtype.BOOL else 256) for i in range(count))
    array = from_bits(raw, DTYPES[code], shape)
    data = save({"w": array})
    assert parse_header(data).tensors["w"].shape == shape
    assert_same(load(data)["w"], array)


@pytest.mark.parametrize("code", DTYPES)
def test_a_file_is_the_one_that_numpy_would_write_of_the_same_bits(code: Dtype) -> None:
    raw = bytes(i % 2 for i in range(48)) if code is Dtype.BOOL else bytes(range(200, 248))
    array = from_bits(raw, DTYPES[code], (2, 48 // DTYPES[code].size // 2))
    name = str(DTYPES[code]).rpartition(".")[2]
    kind = ml_dtypes.bfloat16 if code is Dtype.BF16 else np.dtype(name)
    same = np.frombuffer(raw, kind).reshape(array.shape)
    assert save({"w": array}, {"k": "v"}) == safetensors_numpy.save({"w": same}, {"k": "v"})


def test_mlx_reads_what_is_written_and_the_other_way_round(tmp_path: Path) -> None:
    # Its own functions for the format have no float64.
    arrays = {str(code): patterns(d) for code, d in DTYPES.items() if code is not Dtype.F64}
    ours, theirs = tmp_path / "ours.safetensors", tmp_path / "theirs.safetensors"
    save_file(arrays, ours)
    mx.save_safetensors(str(theirs), arrays)
    read: Any = mx.load(str(ours))
    for loaded in (read, load_file(theirs)):
        assert loaded.keys() == arrays.keys()
        for name, array in arrays.items():
            assert_same(loaded[name], array)


@pytest.mark.parametrize("code", DTYPES)
def test_types_of_64_bits_are_not_narrowed_and_can_be_computed_with(code: Dtype) -> None:
    array = mx.array([1, 0, 1]).astype(DTYPES[code], stream=mx.cpu)
    loaded = load(save({"w": array}))["w"]
    assert loaded.dtype == DTYPES[code]
    total = mx.sum(loaded.astype(mx.float64, stream=mx.cpu), stream=mx.cpu)
    assert total.item() == 2


@pytest.mark.parametrize("code", LACKING)
@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_a_dtype_that_mlx_lacks_is_refused_with_tensor_dtype_framework_and_file(
    tmp_path: Path, code: Dtype, backend: Any
) -> None:
    nbytes = LACKING[code]
    elements = nbytes * 8 // code.bits
    header = f'{{"w":{{"dtype":"{code}","shape":[{elements}],"data_offsets":[0,{nbytes}]}}}}'
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + bytes(nbytes))
    message = f"{path}: tensor 'w': dtype {code} has no exact equivalent in mlx"
    with pytest.raises(UnsupportedDtypeError) as caught:
        load_file(path, backend=backend)
    assert str(caught.value).startswith(message)
    with (
        safe_open(path, "mlx", backend=backend) as file,
        pytest.raises(UnsupportedDtypeError) as caught,
    ):
        file.get_slice("w")
    assert str(caught.value).startswith(message)


def test_the_remedy_for_floats_of_8_bits_works() -> None:
    numbers = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn)
    numbers = numbers[~np.isnan(numbers)]  # which MLX 0.32.0 took for numbers
    data = safetensors_numpy.save({"w": numbers})
    with pytest.raises(UnsupportedDtypeError, match=r"from_fp8\(\)"):
        load(data)
    array = mx.array(safetensors_numpy.load(data)["w"].view("u1"))
    np.testing.assert_array_equal(
        np.array(mx.from_fp8(array, mx.float32)), numbers.astype(np.float32)
    )


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("padding", range(1, 8))
@pytest.mark.parametrize("backend", ["mmap", "pread", "memory"])
def test_tensors_at_addresses_that_do_not_suit_their_type_are_read_right(
    tmp_path: Path, padding: int, backend: Any
) -> None:
    numbers = mx.arange(5).astype(mx.float64, stream=mx.cpu)
    halves = mx.arange(3, dtype=mx.bfloat16)
    # By hand: a writer may pad the header to any length, or not at all.
    header = b'{"a":{"dtype":"F64","shape":[5],"data_offsets":[0,40]},'
    header += b'"b":{"dtype":"BF16","shape":[3],"data_offsets":[40,46]}}'
    header += b" " * (-len(header) % 8 + padding)
    data = len(header).to_bytes(8, "little") + header + bits_of(numbers) + bits_of(halves)
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    loaded = load(bytearray(data)) if backend == "memory" else load_file(path, backend=backend)
    assert_same(loaded["a"], numbers)
    assert_same(loaded["b"], halves)


@given(
    tensors=st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"])).filter(lambda n: n != "__metadata__"),
        st.tuples(st.sampled_from(list(DTYPES.values())), st.lists(st.integers(0, 4), max_size=3)),
        max_size=6,
    ),
    content=st.randoms(use_true_random=False),
)
def test_any_tensors_under_any_names_come_back(
    tensors: dict[str, tuple[mx.Dtype, list[int]]], content: Any
) -> None:
    made = {}
    for name, (dtype, shape) in tensors.items():
        raw = content.randbytes(math.prod(shape) * dtype.size)
        if dtype == mx.bool_:
            raw = bytes(byte % 2 for byte in raw)
        made[name] = from_bits(raw, dtype, tuple(shape))
    loaded = load(save(made))
    assert set(loaded) == set(made)
    for name, array in made.items():
        assert_same(loaded[name], array)
