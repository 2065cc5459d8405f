"""Slices of a file by arrays of JAX, of rare types, and on devices.

The conformance kit checks every other index, with every dtype.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from safetensors_core import InvalidInputError, safe_open
from safetensors_jax import save_file

GRID = np.arange(72, dtype=np.int32).reshape(4, 3, 6)
MATRIX = np.array([[2, 0], [1, 1]])

# Arrays, and what they stand for.
ARRAYS: dict[str, tuple[Any, Any]] = {
    "integers": (jnp.array([2, 0]), [2, 0]),
    "bytes": (jnp.array([2, 0], jnp.uint8), [2, 0]),
    "one integer": (jnp.int32(2), 2),
    "no integers": (jnp.zeros(0, jnp.int32), []),
    "a matrix": (jnp.asarray(MATRIX), MATRIX),
    "a matrix of NumPy": (MATRIX, MATRIX),
    "on the last axis": ((..., jnp.array([5, 0])), (..., [5, 0])),
    "rows by a mask": (jnp.array([True, False, False, True]), [0, 3]),
    "elements by a mask": (jnp.asarray(GRID % 7 == 0), GRID % 7 == 0),
}
# The kit takes types of less than a byte for packed, and asks only for their whole rows.
ELEMENTS: dict[str, tuple[Any, Any]] = {
    name: (index, index)
    for name, index in {
        "an element": (1, -1, 5),
        "a column": (..., 5),
        "every second column": (..., slice(None, None, 2)),
        "backwards everywhere": (slice(None, None, -1),) * 3,
        "columns by a list": (..., [5, 0, 5]),
    }.items()
}
CASES = ARRAYS | ELEMENTS


@pytest.mark.parametrize(
    "dtype", [np.int32, np.bool_, ml_dtypes.float4_e2m1fn, ml_dtypes.float8_e8m0fnu]
)
@pytest.mark.parametrize("backend", ["mmap", "pread"])
@pytest.mark.parametrize("case", CASES)
def test_arrays_are_an_index_and_rare_types_have_elements(
    tmp_path: Path, dtype: Any, backend: Any, case: str
) -> None:
    index, same = CASES[case]
    path = tmp_path / "model.safetensors"
    if dtype is np.int32:
        array = GRID
    else:
        array = (GRID % (2 if dtype is np.bool_ else 16)).astype(np.uint8).view(dtype)
    save_file({"w": jax.device_put(array)}, path, fsync=False)
    with safe_open(path, "jax", backend=backend) as file:
        part = file.get_slice("w")[index]
    expected = array[same]
    assert isinstance(part, jax.Array)
    assert (part.dtype, part.shape) == (expected.dtype, expected.shape)
    assert np.asarray(part).tobytes() == expected.tobytes()


def test_a_slice_can_be_put_on_a_device_and_sharded(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"w": jnp.asarray(GRID)}, path)
    mesh = jax.sharding.Mesh(jax.devices()[:1], "x")
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    for device in ("cpu:0", None, sharding):
        with safe_open(path, "jax", device) as file:
            part = file.get_slice("w")[1:, ::2]
        assert np.array_equal(np.asarray(part), GRID[1:, ::2])
        assert part.committed is (device is not None)
        if device is sharding:
            assert part.sharding == sharding


def test_a_slice_has_no_name_to_look_up_in_a_mapping(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"w": jnp.asarray(GRID)}, path)
    with (
        safe_open(path, "jax", {"w": "cpu"}) as file,
        pytest.raises(InvalidInputError, match="not in a slice"),
    ):
        file.get_slice("w")[0]
