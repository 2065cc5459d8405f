"""The plugin of the toy format as an entry point finds it, and a fixture that installs it.

The environment variables TOY_SIGNAL and TOY_TENSOR end the process by a signal as soon as that
tensor is read.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar

import pytest

from core.tests.toy_checkpoints import ToyFramework, ToyPlugin
from safetensors_core import API_VERSION, hookimpl
from safetensors_core.convert import load_pickle

__all__ = ["PICKLED", "install_toy"]

#: How a file of the toy format begins that is a pickle, and not JSON.
PICKLED = b"pickled toy\n"

api_version = API_VERSION
native_package = "core"


class Plugged(ToyFramework):
    """Found by what the tests' tensors are imported from."""

    native_package: ClassVar[str] = "core"


class Names(list[str]):
    """What was read, with a signal once the tensor is read that the environment names."""

    def append(self, name: str) -> None:
        super().append(name)
        if name == os.environ.get("TOY_TENSOR"):
            os.kill(os.getpid(), int(os.environ["TOY_SIGNAL"]))


plugin = ToyPlugin()
plugin.read = Names()


@hookimpl
def safetensors_framework() -> ToyFramework:
    return Plugged()


@hookimpl
def safetensors_read_checkpoint(path: str, optimizer: bool) -> Any:
    with open(path, "rb") as file:
        if file.read(len(PICKLED)) == PICKLED:
            return iter(load_pickle(file, path).items())
    return plugin.safetensors_read_checkpoint(path, optimizer)


def install_toy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the commands that a test runs find this module as a plugin."""
    info = folder / "safetensors_toy-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: safetensors-toy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[safetensors_core]\ntoy = {__name__}\n")
    root = Path(__file__).parents[2]
    places = [str(folder), str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(places))
