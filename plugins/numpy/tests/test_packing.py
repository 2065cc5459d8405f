"""Elements of 4 and 6 bits: several to a byte in the file, one to a byte in an array."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safetensors_core import InvalidInputError, parse_header
from safetensors_numpy import load, save
from safetensors_numpy.packing import pack, unpack

BITS = pytest.mark.parametrize("bits", [4, 6])


def as_one_number(elements: list[int], bits: int) -> bytes:
    """The definition: each element takes the next higher bits of one long number."""
    number = sum(element << (i * bits) for i, element in enumerate(elements))
    return number.to_bytes((len(elements) * bits + 7) // 8, "little")


@BITS
@given(elements=st.lists(st.integers(0, 255), max_size=40))
def test_packing_puts_each_element_above_the_one_before(bits: int, elements: list[int]) -> None:
    low = [element & ((1 << bits) - 1) for element in elements]
    packed = pack(np.array(elements, np.uint8), bits)
    assert packed.tobytes() == as_one_number(low, bits)
    assert unpack(packed, bits, len(elements)).tolist() == low


@BITS
def test_all_pairs_of_neighbours_come_back(bits: int) -> None:
    values = np.arange(1 << bits, dtype=np.uint8)
    pairs = np.stack(np.meshgrid(values, values), -1).reshape(-1)
    assert np.array_equal(unpack(pack(pairs, bits), bits, pairs.size), pairs)


@BITS
def test_all_packed_bytes_come_back(bits: int) -> None:
    packed = np.resize(np.arange(256, dtype=np.uint8), 768)
    assert np.array_equal(pack(unpack(packed, bits, 768 * 8 // bits), bits), packed)


@BITS
def test_strided_elements_are_packed_in_their_order(bits: int) -> None:
    grid = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert np.array_equal(pack(grid.T, bits), pack(grid.T.copy(), bits))


@pytest.mark.parametrize(
    ("dtype", "code", "expected"),
    [
        # 1, -1, 0.5, 6 in each type, after the tables of the OCP Microscaling specification.
        (ml_dtypes.float4_e2m1fn, "F4", [0b0010, 0b1010, 0b0001, 0b0111]),
        (ml_dtypes.float6_e2m3fn, "F6_E2M3", [0b001000, 0b101000, 0b000100, 0b011100]),
        (ml_dtypes.float6_e3m2fn, "F6_E3M2", [0b001100, 0b101100, 0b001000, 0b010110]),
    ],
)
def test_numbers_have_the_bits_of_the_specification(
    dtype: Any, code: str, expected: list[int]
) -> None:
    data = save({"w": np.array([1, -1, 0.5, 6]).astype(dtype)})
    header = parse_header(data)
    assert header.tensors["w"].dtype == code
    assert header.tensors["w"].shape == (4,)
    assert data[header.data_start :] == as_one_number(expected, 4 if code == "F4" else 6)
    assert load(data)["w"].astype(float).tolist() == [1, -1, 0.5, 6]


def test_unpacked_arrays_are_writable_and_their_own() -> None:
    data = bytearray(save({"w": np.ones(4, ml_dtypes.float4_e2m1fn)}))
    array = load(data)["w"]
    array[:] = 2
    assert load(data)["w"].astype(float).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("dtype", "count"), [("float4_e2m1fn", 3), ("float6_e2m3fn", 2), ("float6_e3m2fn", 5)]
)
def test_elements_that_do_not_fill_whole_bytes_are_refused(dtype: str, count: int) -> None:
    array = np.zeros(count, getattr(ml_dtypes, dtype))
    with pytest.raises(InvalidInputError, match=r"tensor 'w': F\d.* does not fill whole bytes"):
        save({"w": array})
