"""The numbers that the framework sees in a tensor are those that the bits stand for."""

from __future__ import annotations

from typing import Any

import pytest

from safetensors_core import Dtype, Framework
from safetensors_core.testing.observation import seen
from safetensors_core.testing.samples import make
from safetensors_core.testing.values import bit_patterns, numbers, same


def looked_into(framework: Framework, dtype: Dtype, data: bytes, shape: tuple[int, ...]) -> Any:
    """The numbers in a tensor, or the end of the check where they cannot be seen."""
    tensor = make(framework, dtype, shape, bytearray(data))
    try:
        found = seen(tensor)
    # What a framework raises where it has no such conversion is its own.
    except Exception as error:  # noqa: BLE001
        pytest.skip(f"numbers of {dtype}: tolist() raises {type(error).__name__}")
    if found is None:
        pytest.skip("numbers: tensors have neither tolist() nor numpy()")
    if found and isinstance(found[0], (bytes, str, list, tuple)):
        pytest.skip(f"numbers of {dtype}: tolist() gives {type(found[0]).__name__}")
    return found


def test_the_numbers_are_those_of_the_format(framework: Framework, byte_dtype: Dtype) -> None:
    data = bit_patterns(byte_dtype, 64)
    found = looked_into(framework, byte_dtype, data, (64,))
    expected = numbers(byte_dtype, data)
    wrong = [i for i in range(64) if not same(found[i : i + 1], expected[i : i + 1])]
    if wrong:
        first, width = wrong[0], byte_dtype.bits // 8
        bits = data[first * width : (first + 1) * width][::-1].hex()
        pytest.fail(
            f"{byte_dtype}, bits {bits}: the tensor holds {found[first]!r}, the format means "
            f"{expected[first]!r}. See dtypes, and the order of bytes"
        )


def test_the_numbers_stand_in_c_order(framework: Framework, byte_dtype: Dtype) -> None:
    data = bit_patterns(byte_dtype, 24)
    found = looked_into(framework, byte_dtype, data, (2, 3, 4))
    assert same(found, numbers(byte_dtype, data)), (
        "elements stand in another order: the last dimension is the one that changes fastest"
    )
