"""What conversions of files ask of the framework: other dtypes, other orders of dimensions."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from safetensors_core import Dtype, InvalidInputError
from safetensors_jax.framework import JaxFramework
from safetensors_jax.placement import exact

JAX = JaxFramework()

VALUES = np.concatenate(
    [
        np.random.default_rng(0).standard_normal(1000),
        [0.0, -0.0, 1e-45, -1e-40, 6e-8, 65504, 65520, 3.4e38, 1e300, np.inf, -np.inf],
        1 + np.arange(-8, 8) * 2.0**-9,  # halfway between neighbours in BF16
    ]
)


def array(values: Any) -> jax.Array:
    with exact(values.dtype.itemsize == 8):
        return jnp.asarray(values)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (np.float32, Dtype.BF16),
        (np.float32, Dtype.F16),
        (np.float64, Dtype.F32),
        (np.float64, Dtype.BF16),
        (np.float32, Dtype.F64),
        (ml_dtypes.bfloat16, Dtype.F32),
        (np.float16, Dtype.F32),
        (np.float32, Dtype.F8_E4M3),
        (np.float32, Dtype.F8_E5M2),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_a_cast_rounds_as_jax_does_with_64_bits_allowed(source: Any, target: Dtype) -> None:
    values = VALUES.astype(source)
    with jax.enable_x64(True):
        expected = np.asarray(jnp.asarray(values).astype(JAX.dtypes[target]))
    cast = JAX.cast(array(values), target)
    assert JAX.describe(cast).dtype is target
    assert np.asarray(cast).tobytes() == expected.tobytes()


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
@pytest.mark.parametrize("target", [Dtype.BF16, Dtype.F16])
def test_a_cast_rounds_to_the_nearest_and_on_a_tie_to_the_even(target: Dtype) -> None:
    values = VALUES.astype(np.float32)
    expected = values.astype(JAX.dtypes[target])
    assert np.asarray(JAX.cast(array(values), target)).tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("values", "target"),
    [
        (np.arange(3, dtype=np.int32), Dtype.F32),
        (np.ones(3, np.float32), Dtype.I32),
        (np.ones(3, np.float32), Dtype.BOOL),
        (np.ones(3, np.complex64), Dtype.F32),
        (np.ones(3, np.float32), Dtype.C64),
        (np.ones(3, np.float32), Dtype.F6_E2M3),
    ],
)
def test_what_is_no_cast_between_floating_point_types_is_refused(
    values: Any, target: Dtype
) -> None:
    with pytest.raises(InvalidInputError, match=f"does not convert {values.dtype} to {target}"):
        JAX.cast(array(values), target)


@pytest.mark.parametrize("dtype", list(JAX.dtypes.values()), ids=str)
def test_a_permutation_is_that_of_numpy(dtype: np.dtype[Any]) -> None:
    codes = np.arange(24 * dtype.itemsize, dtype=np.uint8) % 2
    values = codes.view(dtype).reshape(2, 3, 4)
    for axes in itertools.permutations(range(3)):
        permuted = JAX.permute(array(values), axes)
        assert permuted.dtype == dtype
        assert permuted.shape == values.transpose(axes).shape
        assert np.asarray(permuted).tobytes() == values.transpose(axes).tobytes()


def test_a_scalar_has_one_order() -> None:
    assert JAX.permute(jnp.float32(3), ()).shape == ()
