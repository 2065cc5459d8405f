"""The examples of the reference's five API pages: each function of each framework's module."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SHAPES = {"embedding": (512, 1024), "attention": (256, 256)}
ZEROS: dict[str, tuple[str, Callable[[Any, tuple[int, ...]], Any]]] = {
    "numpy": ("numpy", lambda np, shape: np.zeros(shape)),
    "torch": ("torch", lambda torch, shape: torch.zeros(shape)),
    "flax": ("jax.numpy", lambda jnp, shape: jnp.zeros(shape)),
    "tensorflow": ("tensorflow", lambda tf, shape: tf.zeros(shape)),
    "paddle": ("paddle", lambda paddle, shape: paddle.zeros(shape)),
}


@pytest.mark.parametrize("name", ZEROS)
def test_a_page_s_examples_work(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    native, zeros = ZEROS[name]
    if importlib.util.find_spec(native.split(".")[0]) is None:
        pytest.skip(f"{native} is not installed here")
    monkeypatch.chdir(tmp_path)
    framework = importlib.import_module(native)
    module: Any = importlib.import_module(f"safetensors.{name}")
    Path("my_folder").mkdir()
    path = "./my_folder/bert.safetensors"

    module.save_file({key: zeros(framework, shape) for key, shape in SHAPES.items()}, path)
    data = module.save({key: zeros(framework, shape) for key, shape in SHAPES.items()})

    assert Path(path).read_bytes() == data
    for loaded in (module.load_file(path), module.load(data)):
        assert {key: tuple(tensor.shape) for key, tensor in loaded.items()} == SHAPES
        assert not np.asarray(loaded["attention"]).any()
        assert type(loaded["attention"]) is type(zeros(framework, (1,)))


@pytest.mark.parametrize("name", ["torch", "paddle"])
def test_the_modules_with_devices_take_one(name: str, tmp_path: Path) -> None:
    native, zeros = ZEROS[name]
    if importlib.util.find_spec(native) is None:
        pytest.skip(f"{native} is not installed here")
    module: Any = importlib.import_module(f"safetensors.{name}")
    framework = importlib.import_module(native)
    module.save_file({"a": zeros(framework, (2, 2))}, tmp_path / "x.safetensors")
    assert module.load_file(tmp_path / "x.safetensors", device="cpu")["a"].shape == (2, 2)
