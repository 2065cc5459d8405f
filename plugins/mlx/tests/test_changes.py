"""`cast` rounds as MLX does, and `permute` orders dimensions as NumPy does."""

from __future__ import annotations

import itertools

import mlx.core as mx
import numpy as np
import pytest

from safetensors_core import Dtype, InvalidInputError
from safetensors_mlx.framework import MlxFramework

MLX = MlxFramework()
FLOATS = [Dtype.F16, Dtype.BF16, Dtype.F32, Dtype.F64]
NUMBERS = [0.0, -0.0, 1.3, -2.7, 1e-30, 65519.0, 65520.0, 3e38, float("inf"), float("nan")]


@pytest.mark.parametrize(("source", "target"), list(itertools.product(FLOATS, FLOATS)))
def test_a_cast_rounds_as_mlx_does(source: Dtype, target: Dtype) -> None:
    tensor = mx.array(NUMBERS).astype(MLX.dtypes[source], stream=mx.cpu)
    result = MLX.cast(tensor, target)
    assert MLX.describe(result).dtype is target
    expected = tensor.astype(MLX.dtypes[target], stream=mx.cpu)
    assert bytes(MLX.to_buffer(result)) == bytes(MLX.to_buffer(expected))


def test_a_cast_rounds_to_nearest_and_ties_to_even() -> None:
    halfway = mx.array([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20])
    assert MLX.cast(halfway, Dtype.BF16).tolist() == [1, 1 + 2**-6, 1 + 2**-7]
    double = MLX.from_array(np.array([1 + 2**-24, 1 + 3 * 2**-24]), None)
    assert MLX.cast(double, Dtype.F32).tolist() == [1, 1 + 2**-22]


@pytest.mark.parametrize("dtype", [Dtype.I32, Dtype.F8_E4M3, Dtype.C64, Dtype.BOOL])
def test_a_cast_to_what_is_no_float_of_mlx_is_refused(dtype: Dtype) -> None:
    with pytest.raises(InvalidInputError, match=f"MLX does not convert F32 to {dtype}"):
        MLX.cast(mx.ones(2), dtype)
    with pytest.raises(InvalidInputError, match="MLX does not convert I32 to F32"):
        MLX.cast(mx.array([1]), Dtype.F32)


@pytest.mark.parametrize("dtype", MLX.dtypes)
def test_permute_is_the_transpose_of_numpy(dtype: Dtype) -> None:
    for shape in [(), (3,), (2, 3), (2, 3, 4), (0, 3), (2, 1, 3, 2)]:
        size = int(np.prod(shape))
        tensor = mx.arange(size).reshape(shape).astype(MLX.dtypes[dtype], stream=mx.cpu)
        before = MLX.to_array(tensor).copy()
        for axes in itertools.permutations(range(len(shape))):
            result = MLX.to_array(MLX.permute(tensor, axes))
            expected = before.transpose(axes)
            assert result.shape == expected.shape
            assert result.tobytes() == expected.tobytes()


@pytest.mark.parametrize("axes", [(0,), (0, 0), (0, 2), (-1, 0), (0, 1, 2)])
def test_permute_refuses_what_is_no_order(axes: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInputError, match="is no order of 2 dimensions"):
        MLX.permute(mx.ones((2, 3)), axes)
