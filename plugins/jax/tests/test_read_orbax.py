"""Checkpoint folders of Orbax, read for conversion as Orbax itself restores them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import linen, nnx
from flax.training import train_state
from orbax.checkpoint import msgpack_utils

from plugins.jax.tests.foreign import ask, assert_holds, flat, read
from safetensors_core import ConversionError, Dtype, UnsupportedDtypeError, safe_open
from safetensors_jax import save_pytree

TREE = {
    "params": {
        "dense": {"kernel": np.arange(6.0, dtype=np.float32).reshape(2, 3), "bias": np.zeros(3)},
        "scale": np.full(4, 1.5, ml_dtypes.bfloat16),
    }
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model"


def save(path: Path, tree: Any, **options: Any) -> None:
    """Save with one of the layouts that Orbax has: OCDBT or files, Zarr 2 or 3."""
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**options)) as checkpointer:
        checkpointer.save(path, args=ocp.args.PyTreeSave(tree))


def restored(path: Path, **options: Any) -> dict[str, Any]:
    """The arrays as Orbax restores them, by name."""
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**options)) as checkpointer:
        return flat(as_arrays(checkpointer.restore(path)))


def as_arrays(tree: Any) -> Any:
    if isinstance(tree, list | tuple):
        return {str(i): as_arrays(value) for i, value in enumerate(tree)}
    if isinstance(tree, dict):
        return {key: as_arrays(value) for key, value in tree.items()}
    return np.asarray(tree)


def by_name(arrays: dict[str, Any]) -> dict[str, Any]:
    return dict(sorted(arrays.items()))


class Network(linen.Module):  # type: ignore[misc]
    @linen.compact  # type: ignore[untyped-decorator]
    def __call__(self, x: Any) -> Any:
        x = linen.Dense(4, param_dtype=jnp.bfloat16)(x)
        x = linen.BatchNorm(use_running_average=False)(x)
        return linen.Dense(2)(x)


def variables() -> Any:
    return Network().init(jax.random.key(0), jnp.ones((1, 3)))


def trained() -> Any:
    state = train_state.TrainState.create(
        apply_fn=Network().apply, params=variables()["params"], tx=optax.adam(1e-3)
    )
    return state.apply_gradients(grads=jax.tree.map(jnp.ones_like, state.params))


# --- What Orbax writes


def test_variables_of_linen_are_read_as_orbax_restores_them(path: Path) -> None:
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, variables())
        checkpointer.wait_until_finished()
        expected = flat(as_arrays(checkpointer.restore(path)))
    found = read(path)
    assert_holds(found, expected)
    assert_holds(found, by_name(flat(as_arrays(variables()))))
    assert found.tensors["params.Dense_0.kernel"].spec.dtype is Dtype.BF16
    assert "batch_stats.BatchNorm_0.mean" in found.tensors
    assert not found.metadata
    assert not found.left_out


@pytest.mark.parametrize("use_zarr3", [False, True], ids=["zarr", "zarr3"])
@pytest.mark.parametrize("use_ocdbt", [False, True], ids=["files", "ocdbt"])
def test_every_layout_is_read(path: Path, use_ocdbt: bool, use_zarr3: bool) -> None:
    layout = {"use_ocdbt": use_ocdbt, "use_zarr3": use_zarr3}
    tree = {**TREE, "layers": [np.ones(2), {"w": np.ones(1)}], "pair": (np.zeros(1), np.ones(1))}
    save(path, tree, **layout)
    assert (path / "manifest.ocdbt").exists() is use_ocdbt
    found = read(path)
    assert_holds(found, restored(path, **layout))
    assert_holds(found, by_name(flat(as_arrays(tree))))


def test_a_train_state_is_read_without_its_optimizer(path: Path) -> None:
    state = trained()
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, state)
    found = read(path)
    assert_holds(found, by_name(flat({"params": as_arrays(state.params)})))
    assert found.metadata == {"step": "1"}
    assert found.left_out == {"opt_state": "optimizer state"}


def test_the_state_of_the_optimizer_is_read_where_it_is_wanted(path: Path) -> None:
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, trained())
        checkpointer.wait_until_finished()
        expected = flat(as_arrays(checkpointer.restore(path)))
    found = read(path, optimizer=True)
    assert expected.pop("step") == 1
    assert_holds(found, {name: expected[name] for name in found.tensors})
    assert set(expected) - set(found.tensors) <= set(found.left_out)
    assert "opt_state.0.mu.Dense_1.kernel" in found.tensors


def test_the_state_of_nnx_has_the_names_that_save_pytree_gives_it(path: Path) -> None:
    state = nnx.state(nnx.BatchNorm(3, rngs=nnx.Rngs(0)))
    save(path, state)
    assert b'"value"' in (path / "_METADATA").read_bytes()
    save_pytree(state, path.with_suffix(".safetensors"))
    with safe_open(path.with_suffix(".safetensors"), "numpy") as file:
        assert_holds(read(path), {name: file.get_tensor(name) for name in sorted(file.keys())})


@pytest.mark.parametrize(
    "dtype",
    [
        "?", "u1", "i1", "u2", "i2", "f2", "u4", "i4", "f4", "u8", "i8", "f8", "c8",
        ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2,
        ml_dtypes.float8_e4m3fnuz, ml_dtypes.float8_e5m2fnuz, ml_dtypes.float4_e2m1fn,
    ],
    ids=str,
)  # fmt: skip
def test_every_dtype_is_read_bit_for_bit(dtype: Any, path: Path) -> None:
    dtype = np.dtype(dtype)
    codes = np.random.default_rng(0).integers(0, 256, (3, 5, dtype.itemsize), np.uint8)
    if dtype in {np.dtype("?"), np.dtype(ml_dtypes.float4_e2m1fn)}:
        codes &= 1 if dtype == np.dtype("?") else 15
    array = codes.view(dtype)[..., 0]
    save(path, {"w": array, "point": array[0, :1].reshape(())})
    assert_holds(read(path), {"point": array[0, 0], "w": array})


@pytest.mark.parametrize("dtype", [ml_dtypes.int4, np.complex128], ids=str)
def test_a_dtype_that_the_format_lacks_is_refused_with_the_name(dtype: Any, path: Path) -> None:
    save(path, {"params": {"w": np.ones(3, dtype), "fine": np.ones(1)}})
    found = read(path)
    error = found.refused["params.w"]
    assert isinstance(error, UnsupportedDtypeError)
    assert error.tensor == "params.w"
    assert str(error.location).startswith(str(path))
    assert_holds(found, {"params.fine": np.ones(1)})


def test_what_is_no_tensor_is_metadata_or_named_as_left_out(path: Path) -> None:
    tree = {
        "epoch": 7, "rate": 0.5, "best": True, "name": "große Welt", "nothing": None, "empty": {},
        "w": np.ones(1),
    }  # fmt: skip
    save(path, tree)
    found = read(path)
    assert list(found.tensors) == ["w"]
    assert found.metadata == {"epoch": "7", "rate": "0.5", "best": "True", "name": "große Welt"}
    assert found.left_out == {"nothing": "None, not a tensor"}


def test_a_random_key_is_the_data_that_save_pytree_saves(path: Path) -> None:
    key = jax.random.key(3)
    save(path, {"key": key})
    assert_holds(read(path), {"key": np.asarray(jax.random.key_data(key))})


def test_keys_may_hold_slashes_and_dots(path: Path) -> None:
    save(path, {"layer/~/w": np.ones(1), "a.b": {"c": np.zeros(2)}})
    assert_holds(read(path), {"a.b.c": np.zeros(2), "layer/~/w": np.ones(1)})


def test_two_values_of_one_name_are_refused(path: Path) -> None:
    save(path, {"a": {"w": np.ones(1)}, "b": np.ones(1)})
    metadata = json.loads((path / "_METADATA").read_text())
    entries = metadata["tree_metadata"]
    entries["again"] = next(iter(entries.values()))
    (path / "_METADATA").write_text(json.dumps(metadata))
    with pytest.raises(ConversionError, match=r"two values would both be named 'a\.w'"):
        read(path)


def test_arrays_sharded_over_eight_devices_are_read_whole(path: Path) -> None:
    program = f"""
import jax, jax.numpy as jnp, orbax.checkpoint as ocp
from jax.sharding import NamedSharding, PartitionSpec as P
assert jax.device_count() == 8
mesh = jax.make_mesh((4, 2), ("x", "y"))
def put(array, *spec):
    return jax.device_put(array, NamedSharding(mesh, P(*spec)))
w = jnp.arange(128.0).reshape(8, 16)
tree = {{"both": put(w, "x", "y"), "columns": put(w, None, "y"), "whole": put(w)}}
with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save({str(path)!r}, tree)
"""
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)
    w = np.arange(128.0, dtype=np.float32).reshape(8, 16)
    assert_holds(read(path), {"both": w, "columns": w, "whole": w})


# --- Which folder


def test_of_several_steps_the_latest_is_read(path: Path) -> None:
    with ocp.CheckpointManager(path) as manager:
        for step in (9, 10):
            manager.save(step, args=ocp.args.StandardSave({"w": np.full(2, step)}))
    found = read(path)
    assert_holds(found, {"w": np.full(2, 10)})
    assert found.metadata == {"step": "10"}
    for earlier in (path / "9", path / "9" / "default"):
        assert_holds(read(earlier), {"w": np.full(2, 9)})


def test_the_items_of_a_step_are_read_under_their_names(path: Path) -> None:
    with ocp.CheckpointManager(path) as manager:
        items = ocp.args.Composite(
            params=ocp.args.PyTreeSave({"w": np.ones(1)}),
            state=ocp.args.StandardSave({"opt_state": {"mu": np.ones(2)}, "v": np.zeros(1)}),
            about=ocp.args.JsonSave({"epoch": 3, "classes": ["a", "b"]}),
        )
        manager.save(5, args=items, custom_metadata={"author": "me"})
    found = read(path)
    assert_holds(found, {"params.w": np.ones(1), "state.v": np.zeros(1)})
    assert found.metadata == {
        "step": "5", "author": "me", "about.epoch": "3", "about.classes": '["a", "b"]',
    }  # fmt: skip
    assert found.left_out == {"state.opt_state": "optimizer state"}


def test_a_file_of_the_folder_stands_for_it(path: Path) -> None:
    save(path, TREE)
    assert_holds(read(path / "_METADATA"), by_name(flat(TREE)))


def test_a_folder_of_several_models_is_not_one_checkpoint(tmp_path: Path) -> None:
    save(tmp_path / "small", TREE)
    save(tmp_path / "large", TREE)
    assert ask(tmp_path) is None


def test_a_folder_with_a_link_to_itself_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    assert ask(tmp_path) is None


def test_other_folders_are_not_ours(path: Path) -> None:
    path.mkdir()
    assert ask(path) is None
    (path / "_METADATA").write_bytes(b"\x93NUMPY")
    (path / "checkpoint").write_text('model_checkpoint_path: "model-1"')
    (path / "1").mkdir()
    assert ask(path) is None


@pytest.mark.parametrize("described", [True, False])
def test_old_checkpoints_with_a_file_of_small_values_are_read(described: bool, path: Path) -> None:
    save(path, TREE, use_ocdbt=False)
    names = {"dense": {n: f"PLACEHOLDER://params.dense.{n}" for n in ("bias", "kernel")}}
    small = np.arange(4, dtype=np.int32)
    aggregate = {"params": {**names, "scale": small}, "epoch": 3}
    (path / "checkpoint").write_bytes(msgpack_utils.msgpack_serialize(aggregate))
    if not described:
        (path / "_METADATA").unlink()
    found = read(path)
    expected = by_name({**flat(TREE), "params.scale": small})
    assert_holds(found, expected)
    assert found.metadata == ({} if described else {"epoch": "3"})
    if not described:
        theirs = restored(path, use_ocdbt=False)
        assert {name: theirs[name].tobytes() for name in expected} == {
            name: array.tobytes() for name, array in expected.items()
        }


def test_neither_jax_nor_orbax_is_imported(path: Path) -> None:
    save(path, TREE)
    program = (
        "import sys; from safetensors_jax import _plugin; "
        "found = _plugin.safetensors_read_checkpoint(sys.argv[1], False); "
        "assert found.tensors['params.scale'].read()[0] == 1.5; "
        "print({'jax', 'flax', 'msgpack', 'orbax'} & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, str(path)], check=True, capture_output=True, text=True
    )
    assert result.stdout == "set()\n"


def test_what_to_install_is_said_where_tensorstore_is_missing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(path, TREE)
    monkeypatch.setitem(sys.modules, "tensorstore", None)
    with pytest.raises(ConversionError, match=r'pip install "safetensors-jax\[orbax\]"'):
        read(path)
