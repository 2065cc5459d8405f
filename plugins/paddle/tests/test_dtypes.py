"""Every dtype that Paddle and the format share comes back bit for bit, from every function."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from hypothesis import given
from hypothesis import strategies as st

import safetensors_numpy
from safetensors_core import Dtype, UnsupportedDtypeError, get_framework, parse_header, safe_open
from safetensors_core import load as load_with
from safetensors_core import save as save_any
from safetensors_paddle import load, load_file, save, save_file

DTYPES = {
    Dtype.BOOL: paddle.bool,
    Dtype.U8: paddle.uint8,
    Dtype.I8: paddle.int8,
    Dtype.F8_E5M2: paddle.float8_e5m2,
    Dtype.F8_E4M3: paddle.float8_e4m3fn,
    Dtype.I16: paddle.int16,
    Dtype.F16: paddle.float16,
    Dtype.BF16: paddle.bfloat16,
    Dtype.I32: paddle.int32,
    Dtype.F32: paddle.float32,
    Dtype.C64: paddle.complex64,
    Dtype.F64: paddle.float64,
    Dtype.I64: paddle.int64,
}
MISSING = sorted(set(Dtype) - set(DTYPES))
# Infinities, NaNs that carry a payload, quiet and signalling; zeros and subnormals of both signs.
SPECIAL = {
    4: "00000000 80000000 00000001 807fffff 7f800000 ff800000 7f800001 7fc12345",
    8: "0000000000000000 8000000000000000 0000000000000001 800fffffffffffff "
    "7ff0000000000000 fff0000000000000 7ff0000000000001 7ff8000012345678",
}


def width_of(code: Dtype) -> int:
    return code.bits // 8


def patterns(code: Dtype) -> bytes:
    """All bit patterns of a narrow type, the telling ones of a wide one; an even number."""
    if code is Dtype.BOOL:
        return b"\0\1"
    width = width_of(code)
    if width in SPECIAL:
        numbers = [int(word, 16) for word in SPECIAL[width].split()]
    else:
        numbers = list(range(256**width))
    return b"".join(number.to_bytes(width, "little") for number in numbers)


def tensor_of(code: Dtype, raw: bytes, shape: tuple[int, ...]) -> Any:
    """A tensor in memory of Paddle's own, made without this package."""
    tensor = paddle.empty(shape, dtype=DTYPES[code])
    if raw:
        raw_bytes = paddle.to_tensor(np.frombuffer(raw, np.uint8).copy())
        tensor = raw_bytes.view(DTYPES[code]).reshape(shape).clone()
    return tensor


def bits_of(tensor: Any) -> bytes:
    """The bytes of every element in logical order, which tell apart what ``==`` does not."""
    if 0 in tensor.shape:
        return b""
    return bytes(tensor.clone().reshape([-1]).view("uint8").numpy().tobytes())


def assert_same(loaded: Any, code: Dtype, shape: tuple[int, ...], raw: bytes) -> None:
    assert (loaded.dtype, tuple(loaded.shape)) == (DTYPES[code], shape)
    assert loaded.is_contiguous()
    assert loaded.stop_gradient
    assert loaded.place.is_cpu_place()
    assert bits_of(loaded) == raw


def test_the_dtypes_are_those_that_paddle_can_compute_with() -> None:
    assert get_framework("paddle").dtypes == DTYPES
    assert (
        sorted(
            [
                "F4",
                "F6_E2M3",
                "F6_E3M2",
                "F8_E8M0",
                "F8_E4M3FNUZ",
                "F8_E5M2FNUZ",
                "U16",
                "U32",
                "U64",
            ]
        )
        == MISSING
    )


@pytest.mark.parametrize("code", DTYPES)
def test_every_bit_pattern_comes_back_from_memory(code: Dtype) -> None:
    raw = patterns(code)
    shape = (len(raw) // width_of(code),)
    data = save({"w": tensor_of(code, raw, shape)})
    assert parse_header(data).tensors["w"].dtype is code
    assert data.endswith(raw)
    for loaded in (load(data), load(bytearray(data)), load(memoryview(data))):
        assert_same(loaded["w"], code, shape, raw)


@pytest.mark.parametrize("code", DTYPES)
@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_every_bit_pattern_comes_back_from_a_file(
    tmp_path: Path, code: Dtype, backend: Any
) -> None:
    raw = patterns(code)
    half = len(raw) // 2
    count = len(raw) // width_of(code)
    path = tmp_path / "model.safetensors"
    tensors = {
        "w": tensor_of(code, raw, (count,)),
        "matrix": tensor_of(code, raw, (2, count // 2)),
    }
    save_file(tensors, path)
    loaded = load_file(path, backend=backend)
    assert_same(loaded["w"], code, (count,), raw)
    assert_same(loaded["matrix"], code, (2, count // 2), raw)
    with safe_open(path, "paddle", backend=backend) as file:
        assert_same(file.get_tensor("w"), code, (count,), raw)
        assert_same(file.get_slice("matrix")[1:], code, (1, count // 2), raw[half:])
        assert_same(file.get_slice("matrix")[-1], code, (count // 2,), raw[half:])
        assert file.get_slice("w").get_dtype() == code


@pytest.mark.parametrize("code", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (7,), (1, 1, 2), (2, 3, 4)])
def test_every_dtype_comes_back_in_every_kind_of_shape(code: Dtype, shape: tuple[int, ...]) -> None:
    raw = bytes(
        i % (2 if code is Dtype.BOOL else 251) for i in range(code.nbytes(math.prod(shape)))
    )
    data = save({"w": tensor_of(code, raw, shape)})
    assert parse_header(data).tensors["w"].shape == shape
    assert_same(load(data)["w"], code, shape, raw)


@pytest.mark.parametrize("code", DTYPES)
def test_the_bytes_of_a_file_are_those_that_numpy_s_plugin_writes(
    tmp_path: Path, code: Dtype
) -> None:
    raw = patterns(code)[:64]
    array = np.frombuffer(raw, get_framework("numpy").dtypes[code]).reshape(2, -1)
    tensors = {
        "a": tensor_of(code, raw, array.shape),
        "turned": tensor_of(code, raw, array.shape).transpose([1, 0]),
    }
    expected = safetensors_numpy.save({"a": array, "turned": array.T}, {"by": "test"})
    assert save(tensors, {"by": "test"}) == expected
    save_file(tensors, tmp_path / "model.safetensors", {"by": "test"})
    assert (tmp_path / "model.safetensors").read_bytes() == expected


@pytest.mark.parametrize("code", DTYPES)
@pytest.mark.parametrize(
    "index",
    [
        (slice(None, None, -1),),
        (slice(None), slice(None, None, -2)),
        (slice(None, None, -1), slice(4, 1, -1), slice(1, None)),
    ],
    ids=["rows", "every second column", "a part"],
)
def test_views_that_go_backwards_are_saved_as_they_are_seen(
    code: Dtype, index: tuple[slice, ...]
) -> None:
    dtype = get_framework("numpy").dtypes[code]
    raw = np.arange(3 * 5 * 2 * dtype.itemsize, dtype=np.uint8) % (2 if code is Dtype.BOOL else 255)
    array = raw.view(dtype).reshape(3, 5, 2)
    view = tensor_of(code, raw.tobytes(), array.shape)[index]
    assert min(view.strides) < 0
    assert save({"w": view}) == safetensors_numpy.save({"w": array[index]})


@pytest.mark.parametrize("code", MISSING)
@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_what_paddle_lacks_is_refused_with_tensor_dtype_framework_and_file(
    tmp_path: Path, code: Dtype, backend: Any
) -> None:
    nbytes = code.nbytes(8)
    header = f'{{"w":{{"dtype":"{code}","shape":[8],"data_offsets":[0,{nbytes}]}}}}'
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + bytes(nbytes))
    message = f"{path}: tensor 'w': dtype {code} has no exact equivalent in paddle. NumPy has it"
    with pytest.raises(UnsupportedDtypeError) as caught:
        load_file(path, backend=backend)
    assert str(caught.value).startswith(message)
    with (
        safe_open(path, "paddle", backend=backend) as file,
        pytest.raises(UnsupportedDtypeError) as caught,
    ):
        file.get_slice("w")
    assert str(caught.value).startswith(message)
    with pytest.raises(UnsupportedDtypeError, match=r"'w'"):
        load_with(path.read_bytes(), "paddle")


@pytest.mark.parametrize("padding", range(1, 8))
@pytest.mark.parametrize("backend", ["mmap", "pread", "memory"])
def test_tensors_at_addresses_that_do_not_suit_their_type_are_read_right(
    tmp_path: Path, padding: int, backend: Any
) -> None:
    numbers = np.arange(5, dtype="<f8").tobytes()
    halves = bytes.fromhex("803f 0040 4040")
    # By hand: a writer may pad the header to any length, or not at all.
    header = b'{"a":{"dtype":"F64","shape":[5],"data_offsets":[0,40]},'
    header += b'"b":{"dtype":"BF16","shape":[3],"data_offsets":[40,46]}}'
    header += b" " * (-len(header) % 8 + padding)
    data = len(header).to_bytes(8, "little") + header + numbers + halves
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    loaded = load(bytearray(data)) if backend == "memory" else load_file(path, backend=backend)
    assert_same(loaded["a"], Dtype.F64, (5,), numbers)
    assert_same(loaded["b"], Dtype.BF16, (3,), halves)
    assert [tensor.data_ptr() % tensor.element_size() for tensor in loaded.values()] == [0, 0]


def test_types_come_back_where_paddle_has_been_told_to_do_without_views() -> None:
    before = paddle.get_flags("FLAGS_use_stride_kernel")
    codes = [Dtype.BF16, Dtype.F8_E4M3, Dtype.F8_E5M2, Dtype.F32]
    raw = bytes(range(16))
    data = save({code.value: tensor_of(code, raw, (16 // width_of(code),)) for code in codes})
    empty = save({"w": paddle.empty([0, 3], dtype="bfloat16")})
    paddle.set_flags({"FLAGS_use_stride_kernel": False})
    try:
        loaded = load(data)
        assert tuple(load(empty)["w"].shape) == (0, 3)
    finally:
        paddle.set_flags(before)
    for code in codes:
        assert_same(loaded[code.value], code, (16 // width_of(code),), raw)


@given(
    tensors=st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"])).filter(lambda n: n != "__metadata__"),
        st.tuples(st.sampled_from(list(DTYPES)), st.lists(st.integers(0, 4), max_size=4)),
        max_size=6,
    ),
    content=st.randoms(use_true_random=False),
)
def test_any_tensors_under_any_names_come_back(
    tensors: dict[str, tuple[Dtype, list[int]]], content: Any
) -> None:
    made, raws = {}, {}
    for name, (code, shape) in tensors.items():
        raw = content.randbytes(code.nbytes(math.prod(shape)))
        raws[name] = bytes(byte % 2 for byte in raw) if code is Dtype.BOOL else raw
        made[name] = tensor_of(code, raws[name], tuple(shape))
    given_names = list(made)
    data = save(made)
    assert list(made) == given_names
    loaded = load(data)
    assert set(loaded) == set(made)
    for name, (code, shape) in tensors.items():
        assert_same(loaded[name], code, tuple(shape), raws[name])
    numpy_arrays = load_with(data, "numpy")
    assert save_any(numpy_arrays) == data
