"""What cannot be saved or loaded is refused by the tensor's name, before the file is touched."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from safetensors_core import Dtype, InvalidInputError, SafetensorError, get_framework
from safetensors_jax import load, save, save_file


def donated() -> jax.Array:
    array = jnp.arange(3.0)
    jax.jit(lambda x: x + 1, donate_argnums=0)(array)
    return array


def deleted() -> jax.Array:
    array = jnp.arange(3.0)
    array.delete()
    return array


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "donated": (donated, "donated or deleted"),
    "deleted": (deleted, "donated or deleted"),
    "a key": (lambda: jax.random.key(0), r"jax\.random\.key_data"),
    "keys": (lambda: jax.random.split(jax.random.key(0)), r"jax\.random\.key_data"),
    "a description": (lambda: jax.ShapeDtypeStruct((2,), jnp.float32), "ShapeDtypeStruct"),
    "a list": (lambda: [1.0, 2.0], "list"),
    "a number": (lambda: 1.0, "float"),
    "nothing": (lambda: None, "NoneType"),
}


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A file that is there already."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"the old file")
    return path


def assert_untouched(target: Path) -> None:
    assert target.read_bytes() == b"the old file"
    assert os.listdir(target.parent) == [target.name]


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_saved_is_refused_with_its_name(target: Path, case: str) -> None:
    make, message = REFUSED[case]
    with pytest.raises(SafetensorError, match=rf"tensor 'layer\.7': .*{message}"):
        save_file({"fine": jnp.zeros(3), "layer.7": make()}, target)
    assert_untouched(target)


@pytest.mark.parametrize("transform", [jax.jit, jax.vmap, jax.grad])
def test_an_array_that_is_being_traced_is_refused(target: Path, transform: Any) -> None:
    def function(x: jax.Array) -> jax.Array:
        save_file({"w": x}, target)
        return x.sum()

    with pytest.raises(InvalidInputError, match="tensor 'w': a traced array has no values"):
        transform(function)(jnp.ones(3))
    assert_untouched(target)


def test_an_array_with_parts_in_other_processes_is_refused_with_the_remedy() -> None:
    # Stands for an array of several processes, which one process cannot make.
    array = SimpleNamespace(
        dtype=np.dtype(np.float32),
        is_deleted=lambda: False,
        is_fully_addressable=False,
        is_fully_replicated=False,
    )
    with pytest.raises(InvalidInputError, match=r"process_allgather.*addressable_shards"):
        get_framework("jax").describe(array)


@pytest.mark.parametrize("obj", [np.zeros(1), 1.0, None, "jax", [1], jax.numpy, jax.Array, dict])
def test_what_is_no_array_of_jax_is_not_taken_for_one(obj: object) -> None:
    assert not get_framework("jax").is_tensor(obj)


def test_describing_moves_no_data() -> None:
    array = jnp.arange(6.0).reshape(2, 3)
    spec = get_framework("jax").describe(array)
    assert (spec.dtype, spec.shape) == (Dtype.F32, (2, 3))
    assert array._npy_value is None  # type: ignore[attr-defined]


@pytest.mark.parametrize("shape", [[0, 2**62, 2**62], [2**63, 0], [1] * 65])
def test_a_shape_that_no_array_can_have_is_refused_with_its_name(shape: list[int]) -> None:
    nbytes = 4 if 0 not in shape else 0
    entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, nbytes]}
    header = json.dumps({"layer.7": entry}).encode()
    data = len(header).to_bytes(8, "little") + header + bytes(nbytes)
    with pytest.raises(SafetensorError, match=r"tensor 'layer\.7'"):
        load(data)


def test_an_empty_dict_is_a_file() -> None:
    assert load(save({})) == {}
    assert load(save({}), None) == {}
