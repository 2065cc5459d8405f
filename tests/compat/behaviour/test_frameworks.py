"""The four functions of each framework's module, and `safe_open` with its name."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

A = np.arange(6, dtype=np.float32).reshape(2, 3)
COMMON = ("bool", "uint8", "int8", "int16", "int32", "float16", "float32")


class Case(NamedTuple):
    """What the tests must know of a framework."""

    module: str
    native: str
    make: Callable[[Any, np.ndarray[Any, Any]], Any]
    dtypes: tuple[str, ...]
    bf16_in_files: bool = True  # one side cannot read BF16 with MLX


CASES = {
    "flax": Case("flax", "jax.numpy", lambda jnp, array: jnp.asarray(array), (*COMMON, "uint32")),
    "tf": Case(
        "tensorflow",
        "tensorflow",
        lambda tf, array: tf.constant(array),
        (*COMMON, "int64"),
    ),
    "paddle": Case("paddle", "paddle", lambda pd, array: pd.to_tensor(array), (*COMMON, "int64")),
    "mlx": Case("mlx", "mlx.core", lambda mx, array: mx.array(array), (*COMMON, "int64"), False),
}


class Framework:
    """A framework and its module of `safetensors`."""

    def __init__(self, name: str) -> None:
        self.case = CASES[name]
        for package in (self.case.native.split(".")[0], "safetensors"):
            if importlib.util.find_spec(package) is None:
                pytest.skip(f"{package} is not installed here")
        self.name = name
        self.native = importlib.import_module(self.case.native)
        self.module: Any = importlib.import_module(f"safetensors.{self.case.module}")

    def tensor(self, array: np.ndarray[Any, Any]) -> Any:
        return self.case.make(self.native, array)


@pytest.fixture(params=CASES)
def framework(request: pytest.FixtureRequest) -> Framework:
    return Framework(request.param)


def host(tensor: Any) -> np.ndarray[Any, Any]:
    return np.array(tensor)


def test_tensors_come_back_from_bytes_and_files(framework: Framework, tmp_path: Path) -> None:
    module, path = framework.module, tmp_path / "x.safetensors"
    for dtype in framework.case.dtypes:
        array = A.astype(dtype)
        module.save_file({"a": framework.tensor(array)}, path)
        data = module.save({"a": framework.tensor(array)})
        assert data == path.read_bytes() == safetensors.numpy.save({"a": array})
        for found in (module.load(data), module.load_file(path)):
            assert list(found) == ["a"]
            assert type(found["a"]) is type(framework.tensor(array))
            assert host(found["a"]).dtype == array.dtype
            np.testing.assert_array_equal(host(found["a"]), array)


def test_metadata_and_paths_are_taken(framework: Framework, tmp_path: Path) -> None:
    module = framework.module
    for path in (tmp_path / "x.safetensors", str(tmp_path / "y.safetensors")):
        tensors = {"a": framework.tensor(A)}  # some modules of the reference change it
        module.save_file(tensors=tensors, filename=path, metadata={"k": "v"})
        assert safe_open(path, "np").metadata() == {"k": "v"}
        np.testing.assert_array_equal(host(module.load_file(filename=path)["a"]), A)
    tensors = {"a": framework.tensor(A)}
    assert module.save(tensors, {"k": "v"}) == safetensors.numpy.save({"a": A}, {"k": "v"})
    tensors = {"a": framework.tensor(A)}
    with pytest.raises(TypeError, match="'int' object is not an instance of 'str'"):
        module.save(tensors, {"k": 1})


def test_the_functions_have_their_documented_arguments(framework: Framework) -> None:
    for name, arguments in (
        ("save", ["tensors", "metadata"]),
        ("save_file", ["tensors", "filename", "metadata"]),
        ("load", ["data"]),
        ("load_file", ["filename"]),
    ):
        found = list(inspect.signature(getattr(framework.module, name)).parameters)
        assert found[: len(arguments)] == arguments


def test_scalars_and_tensors_without_elements_come_back(framework: Framework) -> None:
    for shape in ((), (0,), (0, 3), (2, 0)):
        array = np.ones(shape, np.float32)
        found = framework.module.load(safetensors.numpy.save({"a": array}))["a"]
        assert tuple(found.shape) == shape


def test_wrong_files_are_refused(framework: Framework, tmp_path: Path) -> None:
    module, path = framework.module, tmp_path / "x.safetensors"
    with pytest.raises(FileNotFoundError, match=r"^No such file or directory: nope$"):
        module.load_file("nope")
    path.write_bytes(b"")
    with pytest.raises(SafetensorError, match=r"deserializing header: header too small$"):
        module.load_file(path)
    with pytest.raises(SafetensorError, match=r"deserializing: header too small$"):
        module.load(b"")
    with pytest.raises(TypeError, match=r"^argument 'bytes': 'str' object is not an instance"):
        module.load("text")
    tensors = {"a": framework.tensor(A)}
    with pytest.raises(SafetensorError, match=r"^Error while serializing: I/O error: "):
        module.save_file(tensors, tmp_path / "no" / "x.safetensors")


@pytest.mark.parametrize("name", CASES)
def test_safe_open_gives_tensors_of_the_framework(name: str, tmp_path: Path) -> None:
    framework, path = Framework(name), tmp_path / "x.safetensors"
    safetensors.numpy.save_file({"a": A, "b": np.zeros(3, np.int32)}, path, {"k": "v"})
    kind = type(framework.tensor(A))
    with safe_open(path, framework=name) as file:
        assert file.keys() == ["a", "b"]
        assert file.metadata() == {"k": "v"}
        assert type(file.get_tensor("a")) is kind
        np.testing.assert_array_equal(host(file.get_tensor("a")), A)
        part = file.get_slice("a")
        assert part.get_shape() == [2, 3]
        assert part.get_dtype() == "F32"
        for index in ((slice(0, 1),), (slice(None), 1), (slice(1, 2), slice(0, 2))):
            assert type(part[index]) is kind
            np.testing.assert_array_equal(host(part[index]), A[index])
    with pytest.raises(SafetensorError, match=r"^File is closed$"):
        file.get_tensor("a")


@pytest.mark.parametrize("name", ["flax", "tf", "mlx"])
def test_both_backends_index_by_the_rules_of_the_format(name: str, tmp_path: Path) -> None:
    framework, path = Framework(name), tmp_path / "x.safetensors"
    safetensors.numpy.save_file({"a": A}, path)
    for backend in ("mmap", "pread"):
        part = safe_open(path, framework.name, backend=backend).get_slice("a")
        np.testing.assert_array_equal(host(part[..., -1]), A[..., -1])
        with pytest.raises(SafetensorError) as caught:
            part[:, 20]
        assert str(caught.value) == (
            "Error during slicing [:, 20] with shape [2, 3]: "
            "index 20 out of bounds for tensor dimension #1 of size 3"
        )
        with pytest.raises(SafetensorError, match=r"^Unsupported slice index at position 0"):
            part[None]


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.bf16_in_files])
def test_bfloat16_is_read_from_files(name: str, tmp_path: Path) -> None:
    framework, path = Framework(name), tmp_path / "x.safetensors"
    safetensors.torch.save_file({"a": torch.from_numpy(A).bfloat16()}, path)
    for found in (
        framework.module.load_file(path)["a"],
        safe_open(path, name).get_tensor("a"),
        safe_open(path, name).get_slice("a")[:],
    ):
        assert "bfloat16" in str(found.dtype).lower()
        cast = framework.native.cast if name == "tf" else type(found).astype
        np.testing.assert_array_equal(host(cast(found, "float32")), A)


def test_an_accelerator_is_refused_where_the_framework_cannot_name_it(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    safetensors.numpy.save_file({"a": A}, path)
    for name in ("np", "numpy"):
        with pytest.raises(SafetensorError, match=r"^Device cuda:1 is not supported for framework"):
            safe_open(path, name, "cuda:1")
