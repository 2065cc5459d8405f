"""Programs written for the reference's functions call those of every plugin without a change."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import safetensors_core
from tests.frameworks.installed import INSTALLED, sample


@pytest.fixture(params=INSTALLED)
def name(request: pytest.FixtureRequest) -> str:
    """Name of a framework."""
    found: str = request.param
    return found


@pytest.fixture
def plugin(name: str) -> ModuleType:
    return importlib.import_module(f"safetensors_{name}")


@pytest.mark.parametrize(
    ("function", "positional"),
    [
        ("save", "(tensors, metadata=None)"),
        ("save_file", "(tensors, filename, metadata=None)"),
        ("load", "(data, device='cpu')"),
        ("load_file", "(filename, device='cpu')"),
    ],
)
def test_positional_arguments_are_those_of_the_reference_and_a_device(
    name: str, plugin: ModuleType, function: str, positional: str
) -> None:
    parameters = inspect.signature(getattr(plugin, function)).parameters.values()
    shown = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in parameters
        if parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    ]
    if name == "numpy":
        positional = positional.replace("(tensors", "(tensor_dict")
    assert str(inspect.Signature(shown)) == positional


@pytest.mark.parametrize("function", ["save", "save_file", "load", "load_file"])
def test_keyword_only_options_begin_with_those_of_core(plugin: ModuleType, function: str) -> None:
    def options(function: Callable[..., Any]) -> dict[str, Any]:
        parameters = inspect.signature(function).parameters
        return {n: p.default for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY}

    core = options(getattr(safetensors_core, function))
    assert core
    # After them, a plugin may have options of its own.
    assert list(options(getattr(plugin, function)).items())[: len(core)] == list(core.items())


def test_what_fills_tensors_is_called_as_in_core(name: str, plugin: ModuleType) -> None:
    # Arrays of JAX never change.
    assert hasattr(plugin, "load_into") == (name != "jax")
    if hasattr(plugin, "load_into"):
        shown = inspect.signature(plugin.load_into).parameters.values()
        core = inspect.signature(safetensors_core.load_into).parameters.values()
        assert [(p.name, p.kind, p.default) for p in shown] == [
            (p.name, p.kind, p.default) for p in core
        ]


def test_all_public_names_exist_and_are_sorted(plugin: ModuleType) -> None:
    assert plugin.__all__ == sorted(plugin.__all__)
    assert [name for name in plugin.__all__ if not hasattr(plugin, name)] == []


def test_options_reach_core(name: str, plugin: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    tensors = {"w": sample(name)}
    reports: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        reports.append((done, total))

    plugin.save_file(tensors, path, {"by": "test"}, alignment=4096, fsync=False, progress=progress)
    assert reports[-1] == (path.stat().st_size,) * 2
    header = safetensors_core.read_header(path)
    assert header.metadata == {"by": "test"}
    assert header.data_start == 4096
    assert path.read_bytes() == plugin.save(tensors, {"by": "test"}, alignment=4096)
    assert list(plugin.load_file(path, keys="w", backend="pread", progress=progress)) == ["w"]
    assert reports[-1] == (12, 12)
    with pytest.raises(safetensors_core.TensorNotFoundError):
        plugin.load_file(path, keys="v")
    with pytest.raises(safetensors_core.HeaderError):
        plugin.load_file(path, max_header=100)
    with pytest.raises(safetensors_core.HeaderError):
        plugin.load(path.read_bytes(), max_header=100)


def test_core_knows_the_framework_by_its_names_and_by_its_tensors(name: str) -> None:
    [info] = [info for info in safetensors_core.list_plugins() if info.name == name]
    framework = safetensors_core.get_framework(sample(name))
    assert framework.name == name
    assert [safetensors_core.get_framework(n) is framework for n in info.names] == [True] * len(
        info.names
    )
