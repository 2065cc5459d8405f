"""Devices as JAX spells them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from safetensors_core import InvalidInputError, load_file, safe_open
from safetensors_jax import load, save, save_file
from safetensors_jax.devices import find_target


def has_gpu() -> bool:
    try:
        return bool(jax.local_devices(backend="gpu"))
    except RuntimeError:
        return False


needs_gpu = pytest.mark.skipif(not has_gpu(), reason="needs a GPU that JAX can use")
needs_no_gpu = pytest.mark.skipif(has_gpu(), reason="JAX has a GPU")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with two tensors."""
    tensors = {"w": jnp.arange(12.0).reshape(3, 4), "b": jnp.arange(3, dtype=jnp.int8)}
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


# A platform is no device: whoever names none leaves the array to be used with any other.
@pytest.mark.parametrize(
    ("device", "committed"),
    [("cpu", False), ("cpu:0", True), (jax.local_devices(backend="cpu")[0], True)],
)
@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_the_host_has_several_names(path: Path, device: Any, committed: bool, backend: Any) -> None:
    with safe_open(path, "jax", device, backend=backend) as file:
        arrays = [
            file.get_tensor("w"),
            file.get_slice("w")[:],
            load(path.read_bytes(), device)["w"],
        ]
    for array in arrays:
        assert {d.platform for d in array.devices()} == {"cpu"}
        assert array.committed is committed
        assert np.array_equal(array, np.arange(12.0).reshape(3, 4))


def test_without_a_device_arrays_go_where_jax_puts_its_own(path: Path) -> None:
    loaded = load_file(path, "jax", None)["w"]
    own = jax.device_put(np.zeros(1))
    assert loaded.sharding == own.sharding
    assert loaded.committed is own.committed is False
    for default in ("cpu", jax.local_devices(backend="cpu")[0]):
        with jax.default_device(default):
            loaded = load_file(path, "jax", None)["w"]
        assert {d.platform for d in loaded.devices()} == {"cpu"}


def test_names_may_have_devices_of_their_own(path: Path) -> None:
    device = jax.local_devices(backend="cpu")[0]
    loaded = load_file(path, "jax", {"w": device, "not in the file": "cpu:0"})
    assert loaded["w"].committed
    assert not loaded["b"].committed
    assert save(loaded) == path.read_bytes()


@pytest.mark.parametrize(
    "device",
    [
        *("nonsense", "", "cpu:", "cpu:x", "cpu:-1", "cpu:9999", "cpu:" + "9" * 5000),
        *(0, 1.5, [0], object, b"cpu"),
    ],
)
@pytest.mark.parametrize("place", [lambda d: d, lambda d: {"w": d}], ids=["all", "by name"])
def test_what_is_no_device_is_refused(path: Path, device: Any, place: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"device .* cannot be used: ."):
        load_file(path, "jax", place(device))
    with pytest.raises(InvalidInputError, match=r"device .* cannot be used: ."):
        load(path.read_bytes(), place(device))


@needs_no_gpu
@pytest.mark.parametrize("device", ["gpu", "cuda", "cuda:1", "rocm"])
def test_a_platform_that_is_not_there_is_refused_by_its_name(path: Path, device: Any) -> None:
    with pytest.raises(InvalidInputError) as caught:
        load_file(path, "jax", device)
    assert str(caught.value).startswith(f"device {device!r} cannot be used: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_a_device_is_refused_before_any_data_is_read(tmp_path: Path, backend: Any) -> None:
    nbytes = 1 << 40  # more than any test machine could read or hold
    header = b'{"w":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}' % (nbytes, nbytes)
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    try:
        with path.open("r+b") as file:
            file.truncate(8 + len(header) + nbytes)
    except OSError as error:
        pytest.skip(f"this file system has no files of 1 TiB with holes: {error.strerror}")
    mesh = jax.sharding.Mesh(jax.devices()[:1], "x")
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "x"))
    for device in ("cpu:9999", {"w": "nonsense"}, sharding):
        with pytest.raises(InvalidInputError):
            load_file(path, "jax", device, backend=backend)


def test_a_sharding_that_names_no_devices_is_refused(path: Path) -> None:
    mesh = jax.sharding.AbstractMesh((1,), ("x",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    with pytest.raises(InvalidInputError, match="names no devices"):
        load_file(path, "jax", sharding)


@needs_gpu
@pytest.mark.parametrize("device", ["gpu", "gpu:0", "cuda:0"])
@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_arrays_come_to_a_gpu_and_back(path: Path, device: Any, backend: Any) -> None:
    loaded = load_file(path, "jax", device, backend=backend)
    assert {d.platform for array in loaded.values() for d in array.devices()} == {"gpu"}
    assert np.array_equal(loaded["w"], np.arange(12.0).reshape(3, 4))
    with safe_open(path, "jax", device, backend=backend) as file:
        assert file.get_slice("w")[1, ::-1].tolist() == [7, 6, 5, 4]
    assert save(loaded) == path.read_bytes()


def test_a_place_is_found_once_and_taken_as_it_is() -> None:
    target = find_target("cpu:0")
    assert target == find_target(jax.local_devices(backend="cpu")[0])
