"""Distributions with plugins, and processes in which only they are installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import packaging
import pluggy

import safetensors_core

__all__ = ["STORAGE", "Site"]

PRELUDE = """
import json, sys
sys.path.insert(0, sys.argv[1])
from safetensors_core import *
from safetensors_core.plugins import open_source

def error(call, *arguments):
    try:
        call(*arguments)
    except SafetensorError as found:
        return f"{type(found).__name__}: {found}"

def status():
    return {info.name: info.status for info in list_plugins()}
"""
HOOKS = """
from safetensors_core import hookimpl

api_version = {api_version}
native_package = {package!r}

@hookimpl
def safetensors_framework():
    from {package}_framework import Plugged

    return Plugged()
"""
FRAMEWORK = """
from safetensors_core import Dtype, Framework, TensorSpec

class Plugged(Framework):
    name = {name!r}
    native_package = {package!r}
    api_version = {api_version}
    dtypes = {{Dtype.U8: "bytes"}}

    def is_tensor(self, obj):
        return type(obj).__module__ == {package!r}

    def describe(self, tensor):
        return TensorSpec(Dtype.U8, (len(tensor.data),))

    def to_buffer(self, tensor):
        return tensor.data

    def from_buffers(self, buffer, infos, device):
        return {{name: bytes(buffer[slice(*info.data_offsets)]) for name, info in infos.items()}}
"""
NATIVE = """
class Tensor:
    data = b"abc"
"""
STORAGE = """
from safetensors_core import ByteSource, hookimpl, save

class Stored(ByteSource):
    def __init__(self, location):
        self.location, self.data = location, save({})
        self.size = len(self.data)

    def read_into(self, offset, view):
        view[:] = self.data[offset : offset + len(view)]

@hookimpl
def safetensors_open_source(location, backend):
    return Stored(location) if str(location).startswith("acme://") else None
"""


class Site:
    """A folder of installed distributions, and Python processes that see no others."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for package in (safetensors_core, msgspec, packaging, pluggy):
            home = Path(str(package.__file__)).parent
            (folder / home.name).symlink_to(home, target_is_directory=True)

    def install(
        self,
        distribution: str,
        names: dict[str, str],
        version: str = "1.0",
        requires: Sequence[str] = (),
    ) -> None:
        """Write the metadata of a distribution: its entry points by name, and what it requires."""
        metadata = self.folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        metadata.mkdir()
        fields = ["Metadata-Version: 2.1", f"Name: {distribution}", f"Version: {version}"]
        fields += [f"Requires-Dist: {requirement}" for requirement in requires]
        (metadata / "METADATA").write_text("\n".join([*fields, ""]))
        lines = [f"{name} = {module}" for name, module in names.items()]
        (metadata / "entry_points.txt").write_text("\n".join(["[safetensors_core]", *lines, ""]))

    def module(self, module: str, source: str, **values: Any) -> None:
        """Write a module."""
        (self.folder / f"{module}.py").write_text(source.format(**values) if values else source)

    def framework(
        self, name: str, *aliases: str, api_version: int = 1, requires: Sequence[str] = ()
    ) -> None:
        """Install a plugin for a framework that is installed too: `NAME_native`."""
        package = f"{name}_native"
        values = {"name": name, "package": package, "api_version": api_version}
        self.module(f"{name}_plugin", HOOKS, **values)
        self.module(f"{package}_framework", FRAMEWORK, **values)
        self.module(package, NATIVE)
        names = dict.fromkeys((name, *aliases), f"{name}_plugin")
        self.install(f"safetensors-{name}", names, requires=requires)

    def run(self, program: str, disabled: str = "") -> Any:
        """What a program prints as JSON; it sees these distributions and no others."""
        done = subprocess.run(
            [sys.executable, "-ISc", PRELUDE + textwrap.dedent(program), str(self.folder)],
            env={**os.environ, "SAFETENSORS_DISABLED_PLUGINS": disabled},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)
