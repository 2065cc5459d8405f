"""Every dtype that torch and the format share comes back bit for bit, from every function."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from safetensors_core import Dtype, UnsupportedDtypeError, parse_header, safe_open
from safetensors_core import load as load_with
from safetensors_torch import load, load_file, save, save_file

DTYPES = {
    Dtype.BOOL: torch.bool,
    Dtype.F4: torch.float4_e2m1fn_x2,
    Dtype.U8: torch.uint8,
    Dtype.I8: torch.int8,
    Dtype.F8_E5M2: torch.float8_e5m2,
    Dtype.F8_E4M3: torch.float8_e4m3fn,
    Dtype.F8_E8M0: torch.float8_e8m0fnu,
    Dtype.F8_E4M3FNUZ: torch.float8_e4m3fnuz,
    Dtype.F8_E5M2FNUZ: torch.float8_e5m2fnuz,
    Dtype.I16: torch.int16,
    Dtype.U16: torch.uint16,
    Dtype.F16: torch.float16,
    Dtype.BF16: torch.bfloat16,
    Dtype.I32: torch.int32,
    Dtype.U32: torch.uint32,
    Dtype.F32: torch.float32,
    Dtype.C64: torch.complex64,
    Dtype.F64: torch.float64,
    Dtype.I64: torch.int64,
    Dtype.U64: torch.uint64,
}
# Infinities, NaNs that carry a payload, quiet and signalling; zeros and subnormals of both signs.
SPECIAL = {
    4: "00000000 80000000 00000001 807fffff 7f800000 ff800000 7f800001 7fc12345",
    8: "0000000000000000 8000000000000000 0000000000000001 800fffffffffffff "
    "7ff0000000000000 fff0000000000000 7ff0000000000001 7ff8000012345678",
}


def patterns(dtype: torch.dtype) -> torch.Tensor:
    """All bit patterns of a narrow type, the telling ones of a wide one; an even number."""
    if dtype is torch.bool:
        return torch.tensor([False, True])
    width = dtype.itemsize
    if width in SPECIAL:
        numbers = [int(word, 16) for word in SPECIAL[width].split()]
    else:
        numbers = list(range(256**width))
    raw = b"".join(number.to_bytes(width, "little") for number in numbers)
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8).view(dtype)


def bits_of(tensor: torch.Tensor) -> bytes:
    """The bytes of every element in logical order, which tell apart what ``==`` does not."""
    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).tolist())


def assert_same(loaded: torch.Tensor, expected: torch.Tensor) -> None:
    assert (loaded.dtype, loaded.shape) == (expected.dtype, expected.shape)
    assert loaded.is_contiguous()
    assert bits_of(loaded) == bits_of(expected)


def test_every_dtype_of_the_format_but_f6_is_covered() -> None:
    assert set(Dtype) - set(DTYPES) == {Dtype.F6_E2M3, Dtype.F6_E3M2}


@pytest.mark.parametrize("code", DTYPES)
def test_every_bit_pattern_comes_back_from_memory(code: Dtype) -> None:
    tensor = patterns(DTYPES[code])
    data = save({"w": tensor})
    assert parse_header(data).tensors["w"].dtype is code
    assert_same(load(data)["w"], tensor)
    assert_same(load(bytearray(data))["w"], tensor)
    assert_same(load(memoryview(data))["w"], tensor)


@pytest.mark.parametrize("code", DTYPES)
@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_every_bit_pattern_comes_back_from_a_file(
    tmp_path: Path, code: Dtype, backend: Any
) -> None:
    tensor = patterns(DTYPES[code])
    path = tmp_path / "model.safetensors"
    save_file({"w": tensor, "matrix": tensor.clone().reshape(2, -1)}, path)
    loaded = load_file(path, backend=backend)
    assert_same(loaded["w"], tensor)
    assert_same(loaded["matrix"], tensor.reshape(2, -1))
    with safe_open(path, "pt", backend=backend) as file:
        assert_same(file.get_tensor("w"), tensor)
        assert_same(file.get_slice("matrix")[1:], tensor.reshape(2, -1)[1:])
        assert_same(file.get_slice("matrix")[-1], tensor.reshape(2, -1)[1])
        assert file.get_slice("w").get_dtype() == code


@pytest.mark.parametrize("code", DTYPES)
@pytest.mark.parametrize("shape", [(0,), (3, 0, 2), (1,), (1, 1, 2), (2, 3, 4)])
def test_every_dtype_comes_back_in_every_kind_of_shape(code: Dtype, shape: tuple[int, ...]) -> None:
    width = DTYPES[code].itemsize
    count = torch.Size(shape).numel()
    raw = torch.arange(count * width, dtype=torch.uint8) & (1 if code is Dtype.BOOL else 255)
    tensor = raw.view(DTYPES[code]).reshape(shape)
    assert_same(load(save({"w": tensor}))["w"], tensor)


@pytest.mark.parametrize("code", [code for code in DTYPES if code is not Dtype.F4])
def test_every_dtype_comes_back_without_dimensions(code: Dtype) -> None:
    tensor = patterns(DTYPES[code])[-1]
    assert tensor.shape == ()
    assert_same(load(save({"w": tensor}))["w"], tensor)


def test_packed_f4_has_twice_as_many_elements_in_the_file() -> None:
    tensor = torch.arange(12, dtype=torch.uint8).view(torch.float4_e2m1fn_x2).reshape(3, 4)
    data = save({"w": tensor})
    assert parse_header(data).tensors["w"].shape == (3, 8)
    assert data[-12:] == bytes(range(12))
    assert load(data)["w"].shape == (3, 4)


@pytest.mark.parametrize("shape", ["[4,3]", "[8,1]"])
def test_f4_whose_rows_end_inside_a_pair_is_refused_with_its_name(shape: str) -> None:
    nbytes = 6 if shape == "[4,3]" else 4
    header = f'{{"w":{{"dtype":"F4","shape":{shape},"data_offsets":[0,{nbytes}]}}}}'
    data = len(header).to_bytes(8, "little") + header.encode() + bytes(nbytes)
    with pytest.raises(UnsupportedDtypeError, match=r"'w'.*last dimension must be even"):
        load(data)


@pytest.mark.parametrize("code", ["F6_E2M3", "F6_E3M2"])
@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_f6_is_refused_with_tensor_dtype_framework_and_file(
    tmp_path: Path, code: str, backend: Any
) -> None:
    header = f'{{"w":{{"dtype":"{code}","shape":[4],"data_offsets":[0,3]}}}}'
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + bytes(3))
    message = f"{path}: tensor 'w': dtype {code} has no exact equivalent in torch"
    with pytest.raises(UnsupportedDtypeError) as caught:
        load_file(path, backend=backend)
    assert str(caught.value) == message
    with (
        safe_open(path, "torch", backend=backend) as file,
        pytest.raises(UnsupportedDtypeError) as caught,
    ):
        file.get_slice("w")
    assert str(caught.value) == message
    with pytest.raises(UnsupportedDtypeError, match=r"'w'"):
        load_with(path.read_bytes(), "torch", "meta")


@pytest.mark.parametrize("padding", range(1, 8))
@pytest.mark.parametrize("backend", ["mmap", "pread", "memory"])
def test_tensors_at_addresses_that_do_not_suit_their_type_are_read_right(
    tmp_path: Path, padding: int, backend: Any
) -> None:
    numbers = torch.arange(5, dtype=torch.float64)
    halves = torch.arange(3, dtype=torch.bfloat16)
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
    tensors: dict[str, tuple[torch.dtype, list[int]]], content: Any
) -> None:
    made = {}
    for name, (dtype, shape) in tensors.items():
        raw = content.randbytes(torch.Size(shape).numel() * dtype.itemsize * 2)
        if dtype is torch.bool:
            raw = bytes(byte % 2 for byte in raw)
        flat = torch.frombuffer(bytearray(raw + b"\0"), dtype=torch.uint8)[:-1].clone()
        made[name] = flat.view(dtype).reshape(*shape, 2)
    loaded = load(save(made))
    assert set(loaded) == set(made)
    for name, tensor in made.items():
        assert_same(loaded[name], tensor)
