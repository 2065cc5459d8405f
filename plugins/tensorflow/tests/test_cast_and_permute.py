"""Tensors are cast and permuted as TensorFlow and NumPy do it."""

from __future__ import annotations

import itertools
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from safetensors_core import Dtype, InvalidInputError
from safetensors_tensorflow.framework import TensorflowFramework

FRAMEWORK = TensorflowFramework()
# Halfway between neighbours in the narrow types, out of their range, and no numbers. TensorFlow's
# threads take subnormal numbers for zero, so there are none.
TELLING = [
    1.00390625,
    1.01171875,
    1 + 2**-11,
    1 + 3 * 2**-11,
    1e5,
    -1e39,
    3e-7,
    np.inf,
    -np.nan,
    -0.0,
]


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
@pytest.mark.parametrize(
    ("source", "code", "target"),
    [
        (np.float32, Dtype.BF16, ml_dtypes.bfloat16),
        (np.float32, Dtype.F16, np.float16),
        (np.float64, Dtype.F32, np.float32),
        (ml_dtypes.bfloat16, Dtype.F32, np.float32),
    ],
)
def test_cast_rounds_to_nearest_even(source: Any, code: Dtype, target: Any) -> None:
    values = np.array(TELLING, source)
    result = FRAMEWORK.cast(tf.constant(values), code).numpy()
    expected = values.astype(target)
    assert result.dtype == expected.dtype
    numbers = ~np.isnan(expected)
    assert result[numbers].tobytes() == expected[numbers].tobytes()
    assert np.isnan(result[~numbers]).all()


@pytest.mark.parametrize("code", [Dtype.I32, Dtype.F6_E2M3, Dtype.F8_E4M3FNUZ, Dtype.F4])
def test_a_cast_that_tensorflow_cannot_do_is_refused(code: Dtype) -> None:
    with pytest.raises(InvalidInputError, match="TensorFlow"):
        FRAMEWORK.cast(tf.ones(3), code)


def test_integers_are_not_cast() -> None:
    with pytest.raises(InvalidInputError, match="TensorFlow does not convert int32 to F32"):
        FRAMEWORK.cast(tf.constant([1, 2]), Dtype.F32)


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.bool_, ml_dtypes.bfloat16])
def test_permute_is_the_transpose_of_numpy(axes: tuple[int, ...], dtype: Any) -> None:
    values = np.arange(24).reshape(2, 3, 4).astype(dtype)
    result = FRAMEWORK.permute(tf.constant(values), axes).numpy()
    assert result.tobytes() == values.transpose(axes).tobytes()
    assert result.shape == values.transpose(axes).shape


@pytest.mark.parametrize("axes", [(0,), (0, 0), (0, 2), (0, 1, 2)])
def test_what_is_no_order_of_the_dimensions_is_refused(axes: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInputError, match="is no order of 2 dimensions"):
        FRAMEWORK.permute(tf.ones((2, 3)), axes)
