"""Slices of a file mean what they mean in NumPy, whatever stands in the brackets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safetensors_core import InvalidInputError, SliceError, TensorSlice, safe_open
from safetensors_jax import save_file

SHAPE = (4, 3, 6)
GRID = np.arange(72, dtype=np.int32).reshape(SHAPE)


@pytest.fixture(params=["mmap", "pread"])
def grid(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TensorSlice]:
    """The numbers 0 to 71 in a file, in three dimensions."""
    path = tmp_path / "model.safetensors"
    save_file({"w": jnp.asarray(GRID)}, path)
    with safe_open(path, "jax", backend=request.param) as file:
        yield file.get_slice("w")


CASES: dict[str, tuple[Any, Any]] = {
    "all": (..., ...),
    "no index": ((), ()),
    "row": (2, 2),
    "row from the end": (-1, -1),
    "element": ((1, -1, 5), (1, -1, 5)),
    "rows": (slice(1, 3), slice(1, 3)),
    "past the end": (slice(2, 100), slice(2, 100)),
    "nothing": (slice(3, 1), slice(3, 1)),
    "steps": ((..., slice(None, None, 2)), (..., slice(None, None, 2))),
    "backwards": ((slice(None, None, -1),) * 3, (slice(None, None, -1),) * 3),
    "new axes": ((None, 1, None), (None, 1, None)),
    "list": ([3, 0, 3], [3, 0, 3]),
    "no rows": ([], []),
    "two lists": (([0, 1], [2, 0]), ([0, 1], [2, 0])),
    "mask as a list": ([False, True, False, True], [1, 3]),
    "integers of jax": (jnp.array([2, 0]), [2, 0]),
    "bytes of jax": (jnp.array([2, 0], jnp.uint8), [2, 0]),
    "an integer of jax": (jnp.int32(2), 2),
    "no integers of jax": (jnp.zeros(0, jnp.int32), []),
    "mask of jax": (jnp.array([True, False, False, True]), [0, 3]),
    "mask of elements": (jnp.asarray(GRID % 7 == 0), GRID % 7 == 0),
    "columns of jax": ((..., jnp.array([5, 0])), (..., [5, 0])),
    "integers of numpy": (np.array([[2, 0], [1, 1]]), [[2, 0], [1, 1]]),
}


@pytest.mark.parametrize("case", CASES)
def test_an_index_means_what_it_means_in_numpy(grid: TensorSlice, case: str) -> None:
    index, plain = CASES[case]
    part = grid[index]
    # A list of lists would be read as a tuple by old versions of NumPy.
    expected = GRID[np.array(plain) if case == "integers of numpy" else plain]
    assert isinstance(part, jax.Array)
    assert part.shape == expected.shape
    assert np.array_equal(np.asarray(part), expected)


@pytest.mark.parametrize("index", [4, (0, 3), (0, 0, 0, 0), [4], [True], 1.5, "w", (..., ...)])
def test_an_index_that_does_not_fit_is_refused_with_file_tensor_and_shape(
    grid: TensorSlice, index: Any
) -> None:
    with pytest.raises(SliceError, match=r"model\.safetensors: tensor 'w' of shape \[4, 3, 6\]: ."):
        grid[index]


@given(
    index=st.tuples(*(st.integers(-size, size - 1) | st.slices(size) for size in SHAPE)),
    backend=st.sampled_from(["mmap", "pread"]),
)
def test_any_index_gives_what_numpy_gives(
    tmp_path_factory: pytest.TempPathFactory, index: Any, backend: Any
) -> None:
    path = tmp_path_factory.getbasetemp() / "any-index-jax.safetensors"
    if not path.exists():
        save_file({"w": jnp.asarray(GRID)}, path, fsync=False)
    with safe_open(path, "jax", backend=backend) as file:
        assert np.array_equal(np.asarray(file.get_slice("w")[index]), GRID[index])


@pytest.mark.parametrize("dtype", [ml_dtypes.float4_e2m1fn, ml_dtypes.float8_e8m0fnu, np.bool_])
@pytest.mark.parametrize("backend", ["mmap", "pread"])
@pytest.mark.parametrize("case", CASES)
def test_rare_types_are_indexed_like_any_other(
    tmp_path: Path, dtype: Any, backend: Any, case: str
) -> None:
    index, plain = CASES[case]
    path = tmp_path / "model.safetensors"
    array = (GRID % 2 if dtype is np.bool_ else GRID % 16).astype(np.uint8).view(dtype)
    save_file({"w": jax.device_put(array)}, path, fsync=False)
    with safe_open(path, "jax", backend=backend) as file:
        part = file.get_slice("w")[index]
    expected = array[np.array(plain) if case == "integers of numpy" else plain]
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
