"""The numbers that the framework sees in a tensor are those that the bits stand for."""

from __future__ import annotations

from math import prod

import pytest

from safetensors_core import Dtype, Framework
from safetensors_core.testing.observation import seen
from safetensors_core.testing.samples import make
from safetensors_core.testing.values import bit_patterns, numbers, same


def check(framework: Framework, dtype: Dtype, shape: tuple[int, ...]) -> None:
    """Compare the numbers that are seen in a tensor with those that its bits stand for."""
    count = prod(shape)
    data = bit_patterns(dtype, count)
    expected = numbers(dtype, data)
    shown = list(seen(make(framework, dtype, shape, bytearray(data))))
    if not shown:
        pytest.skip(f"numbers of {dtype}: tensors show them neither by tolist() nor by numpy()")
    if any(same(found, expected) for found in shown):
        return
    found = shown[0]
    assert len(found) == count, f"{dtype}: the tensor shows {len(found)} numbers, not {count}"
    wrong = [i for i in range(count) if not same(found[i : i + 1], expected[i : i + 1])]
    first, width = wrong[0], dtype.bits // 8
    bits = data[first * width : (first + 1) * width][::-1].hex()
    pytest.fail(
        f"{dtype}: {len(wrong)} of {count} numbers are wrong; of the bits {bits} the tensor makes "
        f"{found[first]!r}, the format means {expected[first]!r}. See dtypes, the order of bytes "
        "and that of dimensions, and what the framework computes to show them"
    )


def test_the_numbers_are_those_of_the_format(framework: Framework, byte_dtype: Dtype) -> None:
    check(framework, byte_dtype, (64,))


def test_the_numbers_stand_in_c_order(framework: Framework, byte_dtype: Dtype) -> None:
    check(framework, byte_dtype, (2, 3, 4))
