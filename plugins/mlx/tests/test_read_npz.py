"""Files of MLX are read exactly as MLX reads them, bfloat16 among them."""

from __future__ import annotations

import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.utils
import numpy as np
import pytest
from mlx import nn

from safetensors_core import ConversionError, Dtype, UnsafeCheckpointError, UnsupportedDtypeError
from safetensors_core.convert import ForeignCheckpoint
from safetensors_mlx._plugin import safetensors_read_checkpoint as read
from safetensors_mlx.framework import MlxFramework
from safetensors_numpy._plugin import safetensors_read_checkpoint as read_with_numpy
from safetensors_numpy.framework import NumpyFramework

SAVERS = pytest.mark.parametrize("save", [mx.savez, mx.savez_compressed])


def model() -> dict[str, mx.array]:
    """Layers as they are trained, and an array of every type and form that MLX saves."""
    layers = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm(2))
    tensors: dict[str, mx.array] = dict(mlx.utils.tree_flatten(layers.parameters()))
    numbers = mx.array([[0.0, -1.5, 3.25], [1e-8, 1e8, float("inf")]])
    for dtype in MlxFramework.dtypes.values():
        name = str(dtype).removeprefix("mlx.core.")
        tensors[name] = mx.abs(numbers[:, :2]).astype(dtype, stream=mx.cpu)
    half = numbers.astype(mx.bfloat16)
    return {
        **tensors,
        "scalar": mx.array(2.5),
        "scalar.half": mx.array(2.5, mx.bfloat16),
        "empty": mx.zeros((0, 3), mx.bfloat16),
        "turned": half.T,
        "turned.cube": mx.arange(24).reshape(2, 3, 4).transpose(2, 0, 1),
        "every second": half[:, ::2],
    }


def assert_same(checkpoint: ForeignCheckpoint | None, tensors: dict[str, Any]) -> None:
    """The same names, dtypes, shapes and bits, by either way of reading."""
    assert checkpoint is not None
    assert set(checkpoint.tensors) == set(tensors)
    for name, stored in checkpoint.tensors.items():
        expected = MlxFramework().to_array(tensors[name])
        for _ in range(2):
            array = stored.read()
            assert NumpyFramework().describe(array) == stored.spec
            assert (array.dtype, array.shape) == (expected.dtype, expected.shape)
            assert array.tobytes() == expected.tobytes()
            if stored.chunks is not None:
                assert b"".join(stored.chunks()) == expected.tobytes()
    checkpoint.close()


@SAVERS
def test_an_archive_with_bfloat16_is_what_mlx_loads(
    tmp_path: Path, save: Callable[..., None]
) -> None:
    path = tmp_path / "model.npz"
    save(str(path), **model())
    checkpoint = read(path)
    assert checkpoint is not None
    assert checkpoint.tensors["bfloat16"].spec.dtype is Dtype.BF16
    assert (checkpoint.framework, checkpoint.format) == ("numpy", "mlx")
    assert_same(checkpoint, mx.load(str(path)))


@SAVERS
def test_an_archive_without_bfloat16_is_left_to_the_numpy_plugin(
    tmp_path: Path, save: Callable[..., None]
) -> None:
    path = tmp_path / "model.npz"
    tensors = {name: a for name, a in model().items() if a.dtype != mx.bfloat16}
    save(str(path), **tensors)
    assert read(path) is None
    assert_same(read_with_numpy(path), mx.load(str(path)))


@pytest.mark.parametrize("name", list(model()))
def test_an_array_alone_is_what_mlx_loads(tmp_path: Path, name: str) -> None:
    path, array = tmp_path / "w.npy", model()[name]
    mx.save(str(path), array)
    readers = [read, read_with_numpy]
    if array.dtype != mx.bfloat16:
        readers.reverse()
    assert_same(readers[0](path), {"w": mx.load(str(path))})
    assert readers[1](path) is None


def test_arrays_without_names_get_those_of_mlx(tmp_path: Path) -> None:
    path = tmp_path / "model.npz"
    mx.savez(str(path), mx.ones(2, mx.bfloat16), mx.zeros(1))
    assert_same(read(path), mx.load(str(path)))


def test_a_gguf_file_is_read_by_the_numpy_plugin(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    path = tmp_path / "model.gguf"
    tensors = {
        name: array
        for name, array in model().items()
        if array.dtype in (mx.float32, mx.float16, mx.int8, mx.int16, mx.int32)
        and array.ndim > 0
        and array.size > 0
    }
    mx.save_gguf(str(path), tensors, {"general.name": "tiny"})
    assert read(path) is None
    assert_same(read_with_numpy(path), mx.load(str(path)))


def test_asking_and_reading_do_not_import_mlx(tmp_path: Path) -> None:
    path = tmp_path / "model.npz"
    mx.savez(str(path), w=mx.ones(2, mx.bfloat16))
    program = (
        "import sys\n"
        "from safetensors_mlx._plugin import safetensors_read_checkpoint as read\n"
        "assert read(sys.executable) is None\n"
        "assert 'numpy' not in sys.modules\n"
        "assert len(read(sys.argv[1]).tensors) == 1\n"
        "assert 'mlx' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], check=True)


@pytest.mark.parametrize("content", [b"", b"PK", b"\x93NUMP", b"\x08\0\0\0\0\0\0\0{}      "])
def test_what_is_no_file_of_these_formats_is_left_to_others(tmp_path: Path, content: bytes) -> None:
    for name in ("model.npz", "model.npy"):
        (tmp_path / name).write_bytes(content)
        assert read(tmp_path / name) is None
    assert read(tmp_path) is None
    assert read(tmp_path / "missing.npz") is None


@SAVERS
def test_a_file_that_is_cut_off_is_refused_at_every_length(
    tmp_path: Path, save: Callable[..., None]
) -> None:
    path = tmp_path / "model.npz"
    save(str(path), w=mx.ones((2, 3), mx.bfloat16), b=mx.zeros(2))
    whole = path.read_bytes()
    for length in range(8, len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ConversionError):
            read(path)
    mx.save(str(tmp_path / "w.npy"), mx.ones((2, 3), mx.bfloat16))
    whole = (tmp_path / "w.npy").read_bytes()
    for length in range(8, len(whole)):
        (tmp_path / "cut.npy").write_bytes(whole[:length])
        with pytest.raises(ConversionError):
            read(tmp_path / "cut.npy")


@SAVERS
def test_a_byte_of_data_that_is_wrong_is_noticed(tmp_path: Path, save: Callable[..., None]) -> None:
    path = tmp_path / "model.npz"
    save(str(path), w=mx.random.normal((200, 500)).astype(mx.bfloat16))
    damaged = bytearray(path.read_bytes())
    damaged[100_000] ^= 0xFF
    path.write_bytes(damaged)
    checkpoint = read(path)
    assert checkpoint is not None
    with pytest.raises(ConversionError):
        checkpoint.tensors["w"].read()
    checkpoint.close()


def add(path: Path, name: str, array: Any) -> None:
    with zipfile.ZipFile(path, "a") as archive, archive.open(name, "w") as file:
        np.save(file, array, allow_pickle=True)


class Command:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return eval, (f"open({str(self.path)!r}, 'w')",)


def test_an_archive_that_would_do_harm_is_refused(tmp_path: Path) -> None:
    path, proof = tmp_path / "model.npz", tmp_path / "proof"
    mx.savez(str(path), w=mx.ones(2, mx.bfloat16))
    add(path, "objects.npy", np.array([Command(proof)], object))
    with pytest.raises(UnsafeCheckpointError, match=r"builtins\.eval") as error:
        read(path)
    assert "\n" not in str(error.value)
    assert not proof.exists()

    mx.savez(str(path), w=mx.ones(2, mx.bfloat16))
    add(path, "../w.npy", np.ones(2))
    with pytest.raises(UnsafeCheckpointError, match="leaves its folder"):
        read(path)
    assert pickle.loads(pickle.dumps(error.value)).location == str(path)


def test_a_dtype_that_the_format_lacks_is_refused_with_the_name(tmp_path: Path) -> None:
    path = tmp_path / "model.npz"
    mx.savez(str(path), w=mx.ones(2, mx.bfloat16))
    add(path, "wide.npy", np.zeros(2, "c16"))
    found = read(path)
    assert found is not None
    assert isinstance(found.refused["wide"], UnsupportedDtypeError)
    assert str(found.refused["wide"]).startswith(f"{path}: tensor 'wide': dtype complex128")
    assert_same(found, {"w": mx.ones(2, mx.bfloat16)})
