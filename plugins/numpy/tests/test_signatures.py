"""Programs written for the reference's functions call these without a change."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import safetensors_core
import safetensors_numpy

ARRAYS = {"w": np.arange(3, dtype=np.float32)}


@pytest.mark.parametrize(
    ("name", "positional"),
    [
        ("save", "(tensor_dict, metadata=None)"),
        ("save_file", "(tensor_dict, filename, metadata=None)"),
        ("load", "(data, device='cpu')"),
        ("load_file", "(filename, device='cpu')"),
    ],
)
def test_positional_arguments_are_those_of_the_reference_and_a_device(
    name: str, positional: str
) -> None:
    function = getattr(safetensors_numpy, name)
    parameters = inspect.signature(function).parameters.values()
    shown = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in parameters
        if parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    ]
    assert str(inspect.Signature(shown)) == positional


@pytest.mark.parametrize("name", ["save", "save_file", "load", "load_file"])
def test_keyword_only_options_are_those_of_core(name: str) -> None:
    def options(function: Callable[..., Any]) -> dict[str, Any]:
        parameters = inspect.signature(function).parameters
        return {n: p.default for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY}

    core = options(getattr(safetensors_core, name))
    assert options(getattr(safetensors_numpy, name)) == core
    assert core


def test_all_public_names_exist_and_are_sorted() -> None:
    assert safetensors_numpy.__all__ == sorted(safetensors_numpy.__all__)
    assert all(hasattr(safetensors_numpy, name) for name in safetensors_numpy.__all__)


def test_options_reach_core(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    safetensors_numpy.save_file(ARRAYS, path, {"by": "test"}, alignment=4096, fsync=False)
    header = safetensors_core.read_header(path)
    assert header.metadata == {"by": "test"}
    assert header.data_start == 4096
    assert path.read_bytes() == safetensors_numpy.save(ARRAYS, {"by": "test"}, alignment=4096)
    assert list(safetensors_numpy.load_file(path, keys="w", backend="pread")) == ["w"]
    with pytest.raises(safetensors_core.TensorNotFoundError):
        safetensors_numpy.load_file(path, keys="v")
    with pytest.raises(safetensors_core.HeaderError):
        safetensors_numpy.load_file(path, max_header=100)
    with pytest.raises(safetensors_core.HeaderError):
        safetensors_numpy.load(path.read_bytes(), max_header=100)


@pytest.mark.parametrize("alias", ["np", "numpy"])
def test_core_knows_the_framework_by_its_names_and_by_its_arrays(alias: str) -> None:
    framework = safetensors_core.get_framework(alias)
    assert framework is safetensors_core.get_framework(ARRAYS["w"])
    assert framework.name == "numpy"
