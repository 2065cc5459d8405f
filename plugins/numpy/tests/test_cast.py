"""Arrays are cast as `ml_dtypes` and NumPy round, and permuted as NumPy does."""

from __future__ import annotations

import itertools
import math
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from safetensors_core import Dtype, InvalidInputError
from safetensors_numpy.framework import NumpyFramework

FRAMEWORK = NumpyFramework()
FLOATS = [dtype for dtype in Dtype if dtype.startswith(("F", "BF"))]


def cast(numbers: list[float], kind: Any, dtype: Dtype) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = FRAMEWORK.cast(np.array(numbers).astype(kind), dtype)
    assert array.dtype == FRAMEWORK.dtypes[dtype]
    return array


def test_f32_is_rounded_to_the_nearest_ties_to_even() -> None:
    step = 2.0**-7  # between numbers of bfloat16 from 1 on
    numbers = [1 + step / 2, 1 + 3 * step / 2, 1 + step * 0.51]
    assert cast(numbers, "f4", Dtype.BF16).tolist() == [1, 1 + 2 * step, 1 + step]
    step = 2.0**-10
    numbers = [1 + step / 2, 1 + 3 * step / 2, 1 + step * 0.51]
    assert cast(numbers, "f4", Dtype.F16).tolist() == [1, 1 + 2 * step, 1 + step]
    assert cast([1 + 2.0**-24, 0.1], "f8", Dtype.F32).tolist() == [1, float(np.float32(0.1))]


def test_what_is_cast_to_more_bits_and_back_is_the_same() -> None:
    every = np.arange(2**16, dtype=np.uint16)
    numbers = every[every & 0x7FFF <= 0x7F80].view(ml_dtypes.bfloat16)  # all but NaN
    wide = FRAMEWORK.cast(numbers, Dtype.F32)
    assert np.array_equal(wide.view(np.uint32), numbers.view(np.uint16).astype(np.uint32) << 16)
    back = FRAMEWORK.cast(wide, Dtype.BF16)
    assert np.array_equal(back.view(np.uint16), numbers.view(np.uint16))


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (Dtype.F16, math.inf),
        (Dtype.F8_E5M2, math.inf),
        (Dtype.F8_E4M3, math.nan),
        (Dtype.F8_E8M0, math.nan),
        (Dtype.F8_E4M3FNUZ, math.nan),
        (Dtype.F8_E5M2FNUZ, math.nan),
        (Dtype.F6_E2M3, 7.5),
        (Dtype.F6_E3M2, 28),
        (Dtype.F4, 6),
    ],
)
def test_what_is_out_of_range_is_what_the_docstring_says(dtype: Dtype, expected: float) -> None:
    [number] = cast([math.inf if dtype is Dtype.F8_E8M0 else 1e30], "f4", dtype).astype("f8")
    assert number == expected or (math.isnan(number) and math.isnan(expected))


@pytest.mark.parametrize(("present", "wanted"), list(itertools.product(FLOATS, FLOATS)))
def test_each_floating_point_type_becomes_each_other(present: Dtype, wanted: Dtype) -> None:
    numbers = [[1.0, 2.0], [4.0, 0.5]]  # which all of them hold
    array = np.array(numbers).astype(FRAMEWORK.dtypes[present]).T
    if present != wanted and Dtype.F8_E8M0 in (present, wanted) and present.bits + wanted.bits < 24:
        with pytest.raises(InvalidInputError, match=f"does not convert {present} to {wanted}"):
            FRAMEWORK.cast(array, wanted)
        return
    result = FRAMEWORK.cast(array, wanted)
    assert result.dtype == FRAMEWORK.dtypes[wanted]
    assert result.astype("f8").tolist() == np.transpose(numbers).tolist()


def test_big_endian_arrays_and_scalars_are_cast() -> None:
    assert cast([1.5], ">f4", Dtype.F16).tolist() == [1.5]
    assert FRAMEWORK.cast(np.float32(1.5), Dtype.F16).shape == ()


@pytest.mark.parametrize(
    ("kind", "dtype"), [("i4", Dtype.F32), ("?", Dtype.F16), ("c8", Dtype.F32), ("f4", Dtype.I32)]
)
def test_what_is_no_floating_point_type_is_not_cast(kind: str, dtype: Dtype) -> None:
    with pytest.raises(InvalidInputError, match="NumPy does not convert"):
        FRAMEWORK.cast(np.zeros(2, kind), dtype)


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
def test_dimensions_are_permuted_as_numpy_does(axes: tuple[int, ...]) -> None:
    array = np.arange(24).reshape(2, 3, 4)
    result = FRAMEWORK.permute(array, axes)
    assert np.array_equal(result, array.transpose(axes))
    assert np.shares_memory(result, array)


@pytest.mark.parametrize("axes", [(), (0,), (0, 0), (0, 2), (-1, 0), (0, 1, 2)])
def test_what_is_no_order_of_the_dimensions_is_refused(axes: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInputError, match="is no order of 2 dimensions"):
        FRAMEWORK.permute(np.zeros((2, 3)), axes)
