"""Checkpoints of Flax, read for conversion: what Flax wrote, and what nobody should believe."""

from __future__ import annotations

import pickle
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import flax
import flax.serialization
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from flax import linen, nnx
from flax.training import train_state

from plugins.jax.tests.foreign import assert_holds, flat, read, stored
from safetensors_core import Dtype, UnsupportedDtypeError, safe_open
from safetensors_jax import _plugin, save_pytree
from safetensors_numpy.framework import NumpyFramework


class Network(linen.Module):  # type: ignore[misc]
    @linen.compact  # type: ignore[untyped-decorator]
    def __call__(self, x: Any) -> Any:
        x = linen.Dense(4, param_dtype=jnp.bfloat16)(x)
        x = linen.BatchNorm(use_running_average=False)(x)
        return linen.Dense(2)(x)


X = jnp.linspace(-1.0, 1.0, 12).reshape(4, 3)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.msgpack"


def trained() -> Any:
    variables = Network().init(jax.random.key(0), X)
    state = train_state.TrainState.create(
        apply_fn=Network().apply, params=variables["params"], tx=optax.adam(1e-3)
    )
    return state.apply_gradients(grads=jax.tree.map(jnp.ones_like, state.params))


# --- What Flax writes


def test_variables_of_linen_are_read_as_flax_reads_them(path: Path) -> None:
    variables = Network().init(jax.random.key(0), X)
    path.write_bytes(flax.serialization.to_bytes(variables))
    found = read(path)
    assert_holds(found, flat(flax.serialization.from_bytes(variables, path.read_bytes())))
    assert "batch_stats.BatchNorm_0.mean" in found.tensors
    assert "params.Dense_0.kernel" in found.tensors
    assert found.tensors["params.Dense_0.kernel"].spec.dtype is Dtype.BF16
    assert not found.metadata
    assert not found.left_out


def test_a_train_state_is_read_without_its_optimizer(path: Path) -> None:
    state = trained()
    path.write_bytes(flax.serialization.to_bytes(state))
    found = read(path)
    restored = flax.serialization.from_bytes(state, path.read_bytes())
    assert_holds(found, flat({"params": restored.params}))
    assert found.metadata == {"step": "1"}
    assert found.left_out == {"opt_state": "optimizer state"}


def test_the_state_of_the_optimizer_is_read_where_it_is_wanted(path: Path) -> None:
    state = trained()
    path.write_bytes(flax.serialization.to_bytes(state))
    found = read(path, optimizer=True)
    expected = flat(flax.serialization.msgpack_restore(path.read_bytes()))
    del expected["step"]
    assert_holds(found, expected)
    assert "opt_state.0.mu.Dense_1.kernel" in found.tensors
    assert not found.left_out


def test_a_step_that_is_an_array_is_a_tensor(path: Path) -> None:
    path.write_bytes(flax.serialization.to_bytes(trained().replace(step=jnp.int32(7))))
    found = read(path)
    assert found.tensors["step"].read() == 7
    assert not found.metadata


def test_the_state_of_nnx_has_the_names_that_save_pytree_gives_it(path: Path) -> None:
    state = nnx.state(nnx.BatchNorm(3, rngs=nnx.Rngs(0)))
    path.write_bytes(flax.serialization.to_bytes(nnx.to_pure_dict(state)))
    assert_holds(read(path), flat(jax.tree.map(np.asarray, nnx.to_pure_dict(state))))
    save_pytree(state, path.with_suffix(".safetensors"))
    with safe_open(path.with_suffix(".safetensors"), "numpy") as file:
        assert_holds(read(path), {name: file.get_tensor(name) for name in sorted(file.keys())})


def test_what_partitioned_wraps_is_under_the_name_of_its_box(path: Path) -> None:
    boxed = {"w": linen.Partitioned(jnp.ones(2), names=("x",)), "value": jnp.zeros(1)}
    path.write_bytes(flax.serialization.to_bytes(boxed))
    found = read(path)
    assert set(found.tensors) == {"w", "value"}


@pytest.mark.parametrize("dtype", list(NumpyFramework.dtypes.values()), ids=str)
def test_every_dtype_of_the_format_is_read_bit_for_bit(dtype: np.dtype[Any], path: Path) -> None:
    codes = np.random.default_rng(0).integers(0, 256, (3, 5, dtype.itemsize), np.uint8)
    bits = {np.dtype("?"): 1, **{d: c.bits for c, d in NumpyFramework.dtypes.items() if c.bits < 8}}
    if dtype in bits:
        codes &= (1 << bits[dtype]) - 1
    array = codes.view(dtype)[..., 0]
    tree = {"w": array, "scalar": array[1, 1], "empty": array[:0], "point": np.asarray(array[0, 0])}
    path.write_bytes(flax.serialization.msgpack_serialize(tree))
    found = read(path)
    assert_holds(found, flat(flax.serialization.msgpack_restore(path.read_bytes())))
    assert_holds(found, dict(sorted(tree.items())))


@pytest.mark.parametrize("dtype", [ml_dtypes.int4, ml_dtypes.float8_e4m3, np.complex128, "U3"])
def test_a_dtype_that_the_format_lacks_is_refused_with_the_name(dtype: Any, path: Path) -> None:
    tree = {"params": {"w": np.zeros(3, dtype), "fine": np.ones(1)}}
    path.write_bytes(flax.serialization.msgpack_serialize(tree))
    found = read(path)
    error = found.refused["params.w"]
    assert isinstance(error, UnsupportedDtypeError)
    assert (error.tensor, error.location) == ("params.w", str(path))
    assert_holds(found, {"params.fine": np.ones(1)})


def test_a_dtype_of_the_optimizer_does_not_matter_where_it_is_left_out(path: Path) -> None:
    tree = {"params": {"w": np.ones(1)}, "opt_state": {"0": np.zeros(3, ml_dtypes.int4)}}
    path.write_bytes(flax.serialization.msgpack_serialize(tree))
    found = read(path)
    assert_holds(found, {"params.w": np.ones(1)})


def test_an_array_in_chunks_is_one_tensor(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", 64)
    tree = {"params": {"w": np.arange(60.0).reshape(3, 4, 5), "b": np.arange(3.0)}}
    path.write_bytes(flax.serialization.msgpack_serialize(tree))
    assert b"__msgpack_chunked_array__" in path.read_bytes()
    found = read(path)
    assert_holds(found, flat(flax.serialization.msgpack_restore(path.read_bytes())))
    assert found.tensors["params.w"].read().tolist() == tree["params"]["w"].tolist()


def test_what_is_no_tensor_is_metadata_or_named_as_left_out(path: Path) -> None:
    tree = {
        "epoch": -3,
        "far": [2**40, -(2**40)],
        "rate": 0.5,
        "name": "große Welt",
        "best": True,
        "nothing": None,
        "z": 1 + 2j,
        "raw": b"abc",
        "long": "x" * 100_000,
        "empty": {},
        "w": np.ones(1),
    }
    path.write_bytes(flax.serialization.msgpack_serialize(tree))
    found = read(path)
    assert list(found.tensors) == ["w"]
    assert found.metadata == {
        "epoch": "-3",
        "far.0": str(2**40),
        "far.1": str(-(2**40)),
        "rate": "0.5",
        "name": "große Welt",
        "best": "True",
    }
    assert found.left_out == {
        "nothing": "None, not a tensor",
        "z": "a complex number",
        "raw": "bytes, not a tensor",
        "long": "a text of 100,000 bytes",
    }


def test_wide_trees_and_long_arrays_are_read(path: Path) -> None:
    tree = {
        "layers": {str(i): np.full(i, i % 7, np.uint8) for i in range(300)},
        "list": [np.ones(1)] * 20,
        "long": np.zeros(70_000, np.uint8),
    }
    path.write_bytes(flax.serialization.msgpack_serialize(tree))
    found = read(path)
    restored = flax.serialization.msgpack_restore(path.read_bytes())
    assert_holds(found, flat(flax.serialization.to_state_dict(restored)))


def test_memory_is_one_tensor(path: Path) -> None:
    tree = {f"w{i}": np.zeros(2**21, np.float64) for i in range(4)}  # 16 MiB each
    path.write_bytes(flax.serialization.msgpack_serialize(tree))
    del tree
    tracemalloc.start()
    found = read(path)
    opened = tracemalloc.get_traced_memory()[1]
    for tensor in stored(found).values():
        tensor.read()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert opened < 2**20
    assert peak < 34 * 2**20  # a tensor, and a chunk of it on its way


def test_neither_jax_nor_flax_is_imported(path: Path) -> None:
    path.write_bytes(flax.serialization.msgpack_serialize({"w": np.ones(1)}))
    program = (
        "import sys; from safetensors_jax import _plugin; "
        "found = _plugin.safetensors_read_checkpoint(sys.argv[1], False); "
        "assert found.tensors['w'].read() == 1; "
        "print({'jax', 'flax', 'msgpack', 'tensorstore'} & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, str(path)], check=True, capture_output=True, text=True
    )
    assert result.stdout == "set()\n"


# --- Whose files are whose


def test_a_checkpoint_is_known_without_its_ending(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint_100"
    path.write_bytes(flax.serialization.to_bytes(trained()))
    found = read(path)
    assert "params.Dense_0.kernel" in found.tensors


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04" + bytes(60),
        pickle.dumps({"w": 1}),
        b'{"w": 1}',
        b"\x89HDF\r\n\x1a\n" + bytes(60),
        b"GGUF" + bytes(60),
        b"\x93NUMPY\x01\x00" + bytes(60),
        struct.pack("<Q", 2) + b"{}",
    ],
)
def test_other_files_are_not_ours_whatever_their_name(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    assert _plugin.safetensors_read_checkpoint(path, False) is None


def test_msgpack_of_another_program_is_not_ours_without_the_ending(tmp_path: Path) -> None:
    path = tmp_path / "settings.bin"
    path.write_bytes(flax.serialization.msgpack_serialize({"w": [1, 2], "name": "x"}))
    assert _plugin.safetensors_read_checkpoint(path, False) is None


def test_a_folder_and_a_missing_file_are_not_ours(tmp_path: Path) -> None:
    assert _plugin.safetensors_read_checkpoint(tmp_path, False) is None
    assert _plugin.safetensors_read_checkpoint(tmp_path / "none.msgpack", False) is None
