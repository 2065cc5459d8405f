"""`safe_open`: what it takes, what it gives, what it refuses."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

BACKENDS = ("mmap", "pread")
METHODS: dict[str, Callable[[Any], Any]] = {
    "keys": lambda f: f.keys(),
    "offset_keys": lambda f: f.offset_keys(),
    "metadata": lambda f: f.metadata(),
    "get_tensor": lambda f: f.get_tensor("weight"),
    "get_tensors": lambda f: f.get_tensors(),
    "get_slice": lambda f: f.get_slice("weight"),
}
WEIGHT = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    tensors: dict[str, np.ndarray[Any, Any]] = {
        "weight": WEIGHT,
        "bias": np.zeros(3, np.float32),
        "step": np.array(7, np.int64),
        "none": np.zeros((0, 3), np.uint8),
    }
    save_file(tensors, tmp_path / "model.safetensors", {"format": "np", "epoch": "3"})
    return tmp_path / "model.safetensors"


def test_names_are_sorted_and_offset_keys_follow_the_file(path: Path) -> None:
    with safe_open(path, "np") as file:
        assert file.keys() == ["bias", "none", "step", "weight"]
        assert file.offset_keys() == ["step", "bias", "weight", "none"]
        assert list(file.get_tensors()) == file.offset_keys()


def test_metadata_is_a_dict_of_strings_or_none(path: Path) -> None:
    with safe_open(path, "np") as file:
        assert file.metadata() == {"format": "np", "epoch": "3"}
    save_file({"a": WEIGHT}, path)
    with safe_open(path, "np") as file:
        assert file.metadata() is None


@pytest.mark.parametrize("backend", BACKENDS)
def test_numpy_arrays_have_dtype_shape_and_values(path: Path, backend: str) -> None:
    with safe_open(path, framework="np", device="cpu", backend=backend) as file:
        found = file.get_tensor("weight")
        assert type(found) is np.ndarray
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, WEIGHT)
        assert file.get_tensor("step").shape == ()
        assert file.get_tensor("step") == 7
        assert file.get_tensor("none").shape == (0, 3)
        assert file.get_tensor(name="bias").flags.writeable


@pytest.mark.parametrize("backend", BACKENDS)
def test_torch_tensors_have_dtype_shape_and_values(path: Path, backend: str) -> None:
    with safe_open(path, framework="pt", backend=backend) as file:
        found = file.get_tensor("weight")
        assert type(found) is torch.Tensor
        assert found.device == torch.device("cpu")
        assert torch.equal(found, torch.from_numpy(WEIGHT))
        assert file.get_tensor("step").shape == ()
        assert file.get_tensor("none").shape == (0, 3)
        assert not found.requires_grad
        found.add_(1)  # memory of its own, or a private map
    with safe_open(path, framework="pt", backend=backend) as file:
        assert torch.equal(file.get_tensor("weight"), torch.from_numpy(WEIGHT))


@pytest.mark.parametrize("framework", ["np", "numpy", "pt", "torch", "pytorch"])
def test_frameworks_have_several_names(path: Path, framework: str) -> None:
    with safe_open(path, framework) as file:
        assert len(file.get_tensor("bias")) == 3


@pytest.mark.parametrize("device", ["cpu", None])
def test_the_cpu_is_a_device_of_every_framework(path: Path, device: str | None) -> None:
    for framework in ("np", "pt"):
        assert safe_open(path, framework, device).get_tensor("bias").shape == (3,)


def test_a_path_may_be_a_string_or_a_path_object(path: Path) -> None:
    assert safe_open(str(path), "np").keys() == safe_open(path, "np").keys()
    assert safe_open(filename=path, framework="np").keys() == safe_open(path, "np").keys()


@pytest.mark.parametrize("name", METHODS)
def test_a_closed_file_refuses(path: Path, name: str) -> None:
    with safe_open(path, "np") as file:
        METHODS[name](file)
    with pytest.raises(SafetensorError, match=r"^File is closed$"):
        METHODS[name](file)


def test_a_file_may_be_closed_twice(path: Path) -> None:
    file = safe_open(path, "np")
    file.__exit__(None, None, None)
    file.__exit__(None, None, None)
    with pytest.raises(SafetensorError, match=r"^File is closed$"):
        file.keys()


def test_an_error_inside_the_block_is_not_swallowed(path: Path) -> None:
    with pytest.raises(KeyError, match="mine"), safe_open(path, "np") as file:
        raise KeyError("mine")
    with pytest.raises(SafetensorError):
        file.keys()


@pytest.mark.parametrize("framework", ["np", "pt"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_tensors_and_slices_outlive_the_file(path: Path, framework: str, backend: str) -> None:
    with safe_open(path, framework, backend=backend) as file:
        tensor, part = file.get_tensor("weight"), file.get_slice("weight")
    del file
    path.unlink()
    assert tensor.tolist() == WEIGHT.tolist()
    assert part.get_shape() == [2, 3]
    assert part[1].tolist() == [3, 4, 5]


@pytest.mark.parametrize("framework", ["np", "pt"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_file_deleted_after_it_was_opened_is_still_read(
    path: Path, framework: str, backend: str
) -> None:
    file = safe_open(path, framework, backend=backend)
    path.unlink()
    assert file.get_tensor("weight").tolist() == WEIGHT.tolist()
    assert file.get_slice("bias")[1:].tolist() == [0, 0]


@pytest.mark.parametrize("take", ["get_tensor", "get_slice"])
def test_an_unknown_name_is_refused_by_name(path: Path, take: str) -> None:
    file = safe_open(path, "np")
    with pytest.raises(SafetensorError, match=r"^File does not contain tensor wieght$"):
        getattr(file, take)("wieght")
    for name, kind in ((None, "'None'"), (1, "'int' object"), (b"bias", "'bytes' object")):
        with pytest.raises(TypeError) as caught:
            getattr(file, take)(name)
        assert str(caught.value) == f"argument 'name': {kind} is not an instance of 'str'"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("framework", ["np", "pt"])
@pytest.mark.parametrize("name", ["nope.safetensors", "no/such/folder/file", ""])
def test_a_missing_file_is_named(framework: str, backend: str, name: str) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        safe_open(name, framework, backend=backend)
    assert str(caught.value) == f"No such file or directory: {name}"
    with pytest.raises(FileNotFoundError, match=r"^No such file or directory: nope\.safetensors$"):
        safe_open(Path("nope.safetensors"), framework, backend=backend)


@pytest.mark.parametrize("name", [".", os.devnull])
def test_what_is_no_regular_file_is_an_os_error(name: str) -> None:
    for framework in ("np", "pt"):
        with pytest.raises(OSError):  # noqa: PT011  # each system words it differently
            safe_open(name, framework)


@pytest.mark.parametrize("framework", ["foo", "", "NP", "Torch", "mxnet"])
def test_an_unknown_framework_is_named(path: Path, framework: str) -> None:
    for filename in (path, "nope.safetensors"):
        with pytest.raises(SafetensorError) as caught:
            safe_open(filename, framework)
        assert str(caught.value) == f"framework {framework} is invalid"


@pytest.mark.parametrize("backend", ["foo", "", "MMAP", "io_uring"])
def test_an_unknown_backend_is_named_with_the_known_ones(path: Path, backend: str) -> None:
    with pytest.raises(SafetensorError) as caught:
        safe_open(path, "np", backend=backend)
    expected = f'backend "{backend}" is invalid (expected one of: "mmap", "pread")'
    assert str(caught.value) == expected


@pytest.mark.parametrize("device", ["foo", "", "CPU", "cuda0", -1, 1.5])
@pytest.mark.parametrize("framework", ["np", "pt"])
def test_an_unknown_device_is_named(path: Path, framework: str, device: object) -> None:
    with pytest.raises(SafetensorError) as caught:
        safe_open(path, framework, device)
    assert str(caught.value) == f"device {device} is invalid"


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:3", "mps", "xpu:1", "npu:2"])
def test_numpy_has_no_accelerators(path: Path, device: str) -> None:
    with pytest.raises(SafetensorError) as caught:
        safe_open(path, "np", device=device)
    assert str(caught.value).startswith(f"Device {device}")
    assert str(caught.value).endswith(" is not supported for framework numpy")


WRONG_TYPES: dict[str, list[tuple[Any, str]]] = {
    "framework": [(None, "'None'"), (1, "'int' object"), (b"np", "'bytes' object")],
    "backend": [(None, "'None'"), (1, "'int' object"), (True, "'bool' object")],
}


@pytest.mark.parametrize("argument", WRONG_TYPES)
def test_an_argument_of_another_type_is_named(path: Path, argument: str) -> None:
    for value, shown in WRONG_TYPES[argument]:
        arguments: dict[str, Any] = {"framework": "np", argument: value}
        with pytest.raises(TypeError) as caught:
            safe_open(path, **arguments)
        assert str(caught.value) == f"argument '{argument}': {shown} is not an instance of 'str'"


@pytest.mark.parametrize("filename", [1, None, 1.5, ["a"]])
def test_what_is_no_path_is_refused_as_python_does(filename: Any) -> None:
    with pytest.raises(TypeError) as caught:
        safe_open(filename, "np")
    assert str(caught.value) == (
        "argument 'filename': expected str, bytes or os.PathLike object, not "
        f"{type(filename).__name__}"
    )


def test_the_signature_is_positional_but_for_the_backend(path: Path) -> None:
    opener: Any = safe_open
    safe_open(path, "np", "cpu", backend="mmap")
    for arguments, named in (
        ((), {}),
        ((path,), {}),
        ((path, "np", "cpu", "mmap"), {}),
        ((path, "np"), {"mode": "r"}),
    ):
        with pytest.raises(TypeError, match="argument"):
            opener(*arguments, **named)


def test_the_same_file_may_be_open_many_times(path: Path) -> None:
    files = [safe_open(path, "np") for _ in range(100)]
    assert all(file.get_tensor("step") == 7 for file in files)


@pytest.mark.parametrize("framework", ["np", "pt"])
def test_tensors_survive_a_save_over_their_file(path: Path, framework: str) -> None:
    file = safe_open(path, framework)
    before = file.get_tensor("weight")
    save_file({"weight": np.ones((2, 3), np.float32)}, path)
    assert before.tolist() == WEIGHT.tolist()
    assert file.get_tensor("weight").tolist() == WEIGHT.tolist()
    assert safe_open(path, framework).get_tensor("weight").tolist() == np.ones((2, 3)).tolist()
