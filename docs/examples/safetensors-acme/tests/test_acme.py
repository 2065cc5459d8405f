"""What is special about acme; what holds for every plugin is checked by the kit."""

from __future__ import annotations

from pathlib import Path

import pytest

import acme
import safetensors_acme
from safetensors_core import (
    InvalidInputError,
    UnsupportedDtypeError,
    get_framework,
    list_plugins,
    load_file,
    safe_open,
    save_file,
)


def test_tensors_come_back_as_they_were(tmp_path: Path) -> None:
    tensors = {
        "matrix": acme.tensor([[1, 2, 3], [4, 5, 6]]),
        "scalar": acme.tensor(7, "int64"),
        "empty": acme.tensor([[], []], "bool"),
        "complex": acme.tensor([1 + 2j], "complex64"),
    }
    safetensors_acme.save_file(tensors, tmp_path / "model.safetensors")
    loaded = safetensors_acme.load_file(tmp_path / "model.safetensors")
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert repr(loaded[name]) == repr(tensor)
        assert loaded[name].shape == tensor.shape


def test_the_functions_of_the_package_are_those_of_core() -> None:
    data = safetensors_acme.save({"w": acme.tensor([1])}, metadata={"made by": "acme"})
    assert safetensors_acme.load(data)["w"].tolist() == [1.0]
    assert b"made by" in data


def test_a_view_is_saved_as_what_it_shows(tmp_path: Path) -> None:
    matrix = acme.tensor([[1, 2, 3], [4, 5, 6]], "int16")
    save_file({"turned": matrix.T, "row": matrix[1], "back": matrix[::-1]}, tmp_path / "views")
    loaded = load_file(tmp_path / "views", framework="ac")
    assert loaded["turned"].tolist() == [[1, 4], [2, 5], [3, 6]]
    assert loaded["row"].tolist() == [4, 5, 6]
    assert loaded["back"].tolist() == [[4, 5, 6], [1, 2, 3]]


def test_a_loaded_tensor_lies_in_the_bytes_that_were_given() -> None:
    data = bytearray(safetensors_acme.save({"w": acme.tensor([1, 2])}))
    tensor = safetensors_acme.load(data)["w"]
    data[-4:] = data[-8:-4]
    assert tensor.tolist() == [1.0, 1.0]


def test_slices_need_no_code_in_the_plugin(tmp_path: Path) -> None:
    save_file({"w": acme.tensor([[1, 2, 3], [4, 5, 6]])}, tmp_path / "model.safetensors")
    with safe_open(tmp_path / "model.safetensors", framework="acme") as file:
        assert file.get_slice("w")[::-1, [2, 0]].tolist() == [[6.0, 4.0], [3.0, 1.0]]


def test_a_dtype_that_the_format_lacks_is_refused() -> None:
    with pytest.raises(UnsupportedDtypeError, match="'w': dtype complex128 has no exact"):
        safetensors_acme.save({"w": acme.tensor([1j], "complex128")})


def test_a_device_that_acme_lacks_is_refused() -> None:
    data = safetensors_acme.save({"w": acme.tensor([1])})
    with pytest.raises(InvalidInputError, match="not 'cuda'"):
        safetensors_acme.load(data, "cuda")


def test_both_names_are_of_one_plugin() -> None:
    [info] = [info for info in list_plugins() if info.name == "acme"]
    assert (info.names, info.status) == (("acme", "ac"), "ok")
    assert get_framework("ac") is get_framework(acme.tensor(0))
