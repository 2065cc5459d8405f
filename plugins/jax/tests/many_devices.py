"""Loads onto eight devices, each a function; run by `test_sharding.py` in a process of its own.

The number of devices must be set before JAX begins to work, so no test can change it.
"""

from __future__ import annotations

import functools
import json
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import safetensors_core
import safetensors_numpy
from safetensors_core import InvalidInputError, safe_open
from safetensors_core.sources import FileSource
from safetensors_jax import load, load_file, load_pytree, save, save_file, save_pytree, shards

W = np.arange(16 * 24, dtype=np.float32).reshape(16, 24)


@functools.cache
def specs() -> dict[str, jax.sharding.Sharding]:
    """Shardings over eight devices that suit `W`; not made where this is only imported."""
    line = Mesh(np.array(jax.devices()), ("x",))
    grid = Mesh(np.array(jax.devices()).reshape(2, 4), ("a", "b"))
    return {
        "rows": NamedSharding(line, P("x")),
        "columns": NamedSharding(line, P(None, "x")),
        "replicated": NamedSharding(line, P()),
        "both": NamedSharding(grid, P("a", "b")),
        "swapped": NamedSharding(grid, P("b", "a")),
        "rows over both": NamedSharding(grid, P(("a", "b"))),
        "rows, each on four": NamedSharding(grid, P("a")),
        "columns, each on two": NamedSharding(grid, P(None, "b")),
        "one device": jax.sharding.SingleDeviceSharding(jax.devices()[5]),
    }


class Spy:
    """Records which bytes of the data are read, and how often."""

    def __init__(self, path: Path) -> None:
        self.counts = np.zeros(path.stat().st_size, np.int64)
        self.original = FileSource.read_ranges

    def __enter__(self) -> None:
        def read_ranges(source: FileSource, ranges: Sequence[tuple[int, memoryview]]) -> None:
            for offset, view in ranges:
                self.counts[offset : offset + len(view)] += 1
            self.original(source, ranges)

        FileSource.read_ranges = read_ranges  # type: ignore[assignment,method-assign]

    def __exit__(self, *error: object) -> None:
        FileSource.read_ranges = self.original  # type: ignore[method-assign]


def written(folder: Path, tensors: dict[str, Any]) -> Path:
    path = folder / "model.safetensors"
    safetensors_numpy.save_file(tensors, path, alignment=64, fsync=False)
    return path


def same(array: jax.Array, expected: np.ndarray[Any, Any], sharding: Any) -> None:
    assert array.sharding == sharding, array.sharding
    assert array.dtype == expected.dtype
    assert np.asarray(array).tobytes() == expected.tobytes()
    for shard in array.addressable_shards:
        assert np.asarray(shard.data).tobytes() == expected[shard.index].tobytes()


def all_shardings_give_the_same_values(folder: Path) -> None:
    path = written(folder, {"w": W, "b": np.arange(8, dtype=np.int16)})
    for sharding in specs().values():
        for backend in ("mmap", "pread"):
            same(load_file(path, {"w": sharding}, backend=backend)["w"], W, sharding)
            with safe_open(path, "jax", {"w": sharding}, backend=backend) as file:
                same(file.get_tensor("w"), W, sharding)
                same(file.get_tensors(["b", "w"])["w"], W, sharding)
        same(load(path.read_bytes(), {"w": sharding})["w"], W, sharding)


def all_types_are_sharded_bit_for_bit(folder: Path) -> None:
    types = [np.bool_, ml_dtypes.float4_e2m1fn, ml_dtypes.bfloat16, ml_dtypes.float8_e8m0fnu]
    types += [np.int8, np.float64, np.uint64, np.int64, np.complex64]
    rng = np.random.default_rng(1)
    masks = {np.bool_: 1, ml_dtypes.float4_e2m1fn: 15}
    tensors = {}
    for i, dtype in enumerate(types):
        raw = rng.integers(0, 256, 16 * 24 * np.dtype(dtype).itemsize, dtype=np.uint8)
        tensors[f"{i}"] = (raw & masks.get(dtype, 255)).view(dtype).reshape(16, 24)
    path = written(folder, tensors)
    for sharding in specs().values():
        for backend in ("mmap", "pread"):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                loaded = load_file(path, sharding, backend=backend)
            assert len(caught) == 1, caught
            assert all(f"'{i}'" in str(caught[0].message) for i in (5, 6, 7))
            for name, array in loaded.items():
                same(array, tensors[name], sharding)
            assert save(loaded, alignment=64) == path.read_bytes()


def every_byte_is_read_once(folder: Path) -> None:
    path = written(folder, {"w": W})
    start = safetensors_core.read_header(path).data_start
    for name, sharding in specs().items():
        spy = Spy(path)
        with spy:
            load_file(path, sharding, backend="pread")
        assert set(spy.counts[start:]) == {1}, name


def only_the_parts_of_this_process_are_read(folder: Path) -> None:
    # What a second process would do, whose devices hold these rows.
    path = written(folder, {"w": W})
    start = safetensors_core.read_header(path).data_start
    info = safetensors_core.read_header(path).tensors["w"]
    source = FileSource(path)
    source.read_header()
    spy = Spy(path)
    with spy:
        boxes: set[shards.Box] = {((4, 6), (0, 24)), ((6, 8), (0, 24))}
        parts = shards._read_boxes(source, info, boxes)
    for (rows, _), part in parts.items():
        assert np.array_equal(part, W[slice(*rows)])
    read = np.flatnonzero(spy.counts[start:])
    assert (read[0], read[-1] + 1, len(read)) == (4 * 96, 8 * 96, 4 * 96)


def columns_that_lie_far_apart_are_read_alone(folder: Path) -> None:
    wide = np.arange(4 * 50_000, dtype=np.int32).reshape(4, 50_000)
    path = written(folder, {"w": wide})
    header = safetensors_core.read_header(path)
    source = FileSource(path)
    source.read_header()
    spy = Spy(path)
    with spy:
        boxes: set[shards.Box] = {((0, 4), (10_000, 15_000)), ((0, 4), (15_000, 20_000))}
        parts = shards._read_boxes(source, header.tensors["w"], boxes)
    for (_, columns), part in parts.items():
        assert np.array_equal(part, wide[:, slice(*columns)])
    read = spy.counts[header.data_start :].reshape(4, 200_000)
    assert (read[:, 40_000:80_000] == 1).all()
    assert read.sum() == 4 * 40_000


def shards_of_a_mapped_file_borrow_its_memory(folder: Path) -> None:
    if not Path("/proc/self/maps").exists():
        return  # only Linux lists its maps
    path = written(folder, {"w": np.arange(8 * 64, dtype=np.float32).reshape(8, 64)})
    array = load_file(path, specs()["rows"], backend="mmap")["w"]
    lines = Path("/proc/self/maps").read_text().splitlines()
    [bounds] = [line.split()[0].split("-") for line in lines if str(path) in line]
    start = int(bounds[0], 16) + safetensors_core.read_header(path).data_start
    for i, shard in enumerate(array.addressable_shards):
        assert shard.data.unsafe_buffer_pointer() == start + i * 256


def what_does_not_divide_is_refused_by_name_before_it_is_read(folder: Path) -> None:
    path = written(folder, {"fits": W, "odd": np.zeros((9, 2), np.float32)})
    for sharding in (specs()["rows"], specs()["columns"], specs()["both"]):
        spy = Spy(path)
        message = r"'odd' of shape \[9, 2\] cannot be sharded"
        with spy, pytest.raises(InvalidInputError, match=message):
            load_file(path, sharding, backend="pread")
        assert not spy.counts.any()
    with (
        safe_open(path, "jax", specs()["rows"]) as file,
        pytest.raises(InvalidInputError, match=r"model\.safetensors: tensor 'odd' .* be sharded"),
    ):
        file.get_slice("odd")[:3]


def sums_that_are_not_made_yet_are_refused(folder: Path) -> None:
    # Each device would hold a summand: loaded whole on all of them, the sum would be too large.
    kinds = (jax.sharding.AxisType.Explicit,)
    mesh = jax.make_mesh((8,), ("x",), axis_types=kinds)
    unreduced = NamedSharding(mesh, P(None, None, unreduced={"x"}))
    with pytest.raises(InvalidInputError, match=r"'w' of shape .* cannot be sharded: .*unreduced"):
        load_file(written(folder, {"w": W}), unreduced)
    with jax.set_mesh(mesh):
        left = jax.device_put(W, NamedSharding(mesh, P(None, "x")))
        right = jax.device_put(W.T, NamedSharding(mesh, P("x")))
        array = jax.jit(lambda a, b: jnp.dot(a, b, out_sharding=unreduced))(left, right)
        with pytest.raises(InvalidInputError, match=r"tensor 'w': .* jax\.sharding\.reshard"):
            save({"w": array})
        summed = jax.sharding.reshard(array, P())
    assert np.array_equal(safetensors_numpy.load(save({"w": summed}))["w"], W @ W.T)


def slices_are_sharded(folder: Path) -> None:
    path = written(folder, {"w": W})
    for backend in ("mmap", "pread"):
        with safe_open(path, "jax", specs()["rows"], backend=backend) as file:
            same(file.get_slice("w")[8:, ::2], W[8:, ::2], specs()["rows"])


def sharded_arrays_are_saved_as_whole_ones(folder: Path) -> None:
    expected = safetensors_numpy.save({"w": W})
    for sharding in specs().values():
        array = jax.device_put(W, sharding)
        assert save({"w": array}) == expected
        save_file({"w": array}, folder / "saved.safetensors", fsync=False)
        assert (folder / "saved.safetensors").read_bytes() == expected


def arrays_without_a_device_mix_with_sharded_ones(folder: Path) -> None:
    path = written(folder, {"w": W})
    sharded = load_file(path, specs()["rows"])["w"]
    for device in (None, "cpu"):
        assert np.array_equal(load_file(path, device)["w"] + sharded, W + W)


def trees_come_back_on_the_shardings_of_the_template(folder: Path) -> None:
    tree = {"w": jax.device_put(W, specs()["both"]), "b": jnp.arange(8.0), "c": jnp.ones(3)}
    path = folder / "tree.safetensors"
    save_pytree(tree, path)
    described = {
        "w": jax.ShapeDtypeStruct((16, 24), jnp.float32, sharding=specs()["columns"]),
        "b": jax.ShapeDtypeStruct((8,), jnp.float32, sharding=specs()["rows"]),
        "c": jax.ShapeDtypeStruct((3,), jnp.float32),
    }
    start = safetensors_core.read_header(path).data_start
    spy = Spy(path)
    with spy:
        loaded = load_pytree(path, described, backend="pread")
    assert set(spy.counts[start:]) == {1}
    same(loaded["w"], W, specs()["columns"])
    same(loaded["b"], np.arange(8, dtype=np.float32), specs()["rows"])
    assert not loaded["c"].committed
    same(load_pytree(path, tree)["w"], W, specs()["both"])
    same(load_pytree(path, tree, device="cpu:3")["w"], W, load_file(path, "cpu:3")["w"].sharding)
    same(load_pytree(path, device={"w": specs()["rows"]})["w"], W, specs()["rows"])


CASES: list[Callable[[Path], None]] = [
    all_shardings_give_the_same_values,
    all_types_are_sharded_bit_for_bit,
    arrays_without_a_device_mix_with_sharded_ones,
    columns_that_lie_far_apart_are_read_alone,
    every_byte_is_read_once,
    only_the_parts_of_this_process_are_read,
    sharded_arrays_are_saved_as_whole_ones,
    shards_of_a_mapped_file_borrow_its_memory,
    slices_are_sharded,
    sums_that_are_not_made_yet_are_refused,
    trees_come_back_on_the_shardings_of_the_template,
    what_does_not_divide_is_refused_by_name_before_it_is_read,
]


def main() -> None:
    """Run all cases and print what became of each: nothing, or its traceback."""
    assert jax.device_count() == 8
    warnings.simplefilter("error")
    results = {}
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            try:
                case(Path(folder))
                results[case.__name__] = ""
            except Exception:  # noqa: BLE001  # the test shows it
                results[case.__name__] = traceback.format_exc()
    sys.stdout.write(json.dumps(results))


if __name__ == "__main__":
    main()
