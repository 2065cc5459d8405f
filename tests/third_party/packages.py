"""Packages of a third party, as folders to build: one plugin that works, and many that do not."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

__all__ = ["BROKEN", "BROKEN_LATER", "FRAMEWORK", "Fault", "good", "write"]

PYPROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "{distribution}"
version = "{version}"
dependencies = {requires}

[project.entry-points.safetensors_core]
{entries}

[tool.hatch.build.targets.wheel]
only-include = {modules}
"""
HOOK = """
from safetensors_core import hookimpl

@hookimpl
def {hook}():
    {body}
"""
FRAMEWORK = """
from safetensors_core import Dtype, Framework, TensorSpec, hookimpl

class Tensor:
    def __init__(self, data):
        self.data = bytes(data)

class Flat(Framework):
    name = "{name}"
    native_package = "safetensors_{name}"
    dtypes = {{Dtype.U8: "byte"}}

    def is_tensor(self, obj):
        return isinstance(obj, Tensor)

    def describe(self, tensor):
        return TensorSpec(Dtype.U8, (len(tensor.data),))

    def to_buffer(self, tensor):
        return tensor.data

    def from_buffers(self, buffer, infos, device):
        return {{name: Tensor(buffer[slice(*i.data_offsets)]) for name, i in infos.items()}}

@hookimpl
def safetensors_framework():
    return Flat()

native_package = "safetensors_{name}"
"""


def write(
    parent: Path,
    distribution: str,
    source: str,
    *,
    names: Sequence[str] = (),
    version: str = "1.0",
    requires: Sequence[str] = (),
    target: str | None = None,
) -> Path:
    """Write a package of one module.

    Args:
        parent: Where its folder goes.
        distribution: Its name; the module is called like it, with underscores.
        source: What the module holds.
        names: The names of its plugin; none if it has no plugin.
        version: Its version.
        requires: What it requires.
        target: What its entry points name; its module if None.

    Returns:
        The folder.
    """
    module = distribution.replace("-", "_")
    folder = parent / f"{distribution}-{version}"
    folder.mkdir(parents=True)
    (folder / f"{module}.py").write_text(textwrap.dedent(source), encoding="utf-8")
    text = PYPROJECT.format(
        distribution=distribution,
        version=version,
        requires=json.dumps(requires),
        entries="\n".join(f'{name} = "{target or module}"' for name in names),
        modules=json.dumps([f"{module}.py"]),
    )
    (folder / "pyproject.toml").write_text(text, encoding="utf-8")
    return folder


def good(parent: Path, name: str = "good", *, requires: Sequence[str] = ()) -> Path:
    """Write a plugin that works, called `name` and `name-alias`, with its framework."""
    source = FRAMEWORK.format(name=name)
    requires = ["safetensors-core", *requires]
    names = [name, f"{name}-alias"]
    return write(parent, f"safetensors-{name}", source, names=names, requires=requires)


class Fault(NamedTuple):
    """What is wrong with a plugin, and what the error must begin with, after whose it is."""

    told: str
    source: str = ""
    requires: Sequence[str] = ()
    target: str | None = None

    def write(self, parent: Path, name: str) -> Path:
        """Write the plugin, called `name`."""
        return write(
            parent,
            f"safetensors-{name}",
            self.source,
            names=[name],
            requires=self.requires,
            target=self.target,
        )


#: Plugins that cannot be used, by name.
BROKEN = {
    "imports": Fault(
        "is broken: RuntimeError: no driver. Reinstall it or set "
        "SAFETENSORS_DISABLED_PLUGINS=imports",
        "raise RuntimeError('no driver')",
    ),
    "exits": Fault(
        "is broken: SystemExit: 3. Reinstall it or set SAFETENSORS_DISABLED_PLUGINS=exits",
        "raise SystemExit(3)",
    ),
    "misspelled": Fault(
        "is broken: its function 'safetensors_framwork' is marked as the answer to a hook, and no "
        "hook is called 'safetensors_framwork'. Did you mean 'safetensors_framework'? Correct the "
        "name or set SAFETENSORS_DISABLED_PLUGINS=misspelled",
        HOOK.format(hook="safetensors_framwork", body="return None"),
    ),
    "newer": Fault(
        "needs version 99 of the plugin contract, this safetensors-core has 1. "
        "Try: pip install --upgrade safetensors-core",
        "api_version = 99",
    ),
    "older": Fault(
        "was written for version 0 of the plugin contract, this safetensors-core needs 1 or newer. "
        "Try: pip install --upgrade safetensors-older",
        "api_version = 0",
    ),
    "lacking": Fault(
        'needs st-nowhere[fast]>=2 (not installed). Try: pip install "st-nowhere[fast]>=2"',
        "import st_nowhere",
        requires=["st-nowhere[fast]>=2; os_name != ''"],
    ),
    "outdated": Fault(
        'needs st-base>=2 (1.0 is installed). Try: pip install "st-base>=2"',
        "import st_base\nst_base.new()",
        requires=["st-base>=2"],
    ),
    "old-core": Fault(
        "was made for an older safetensors-core: it needs safetensors-core<0.1, and ",
        "raise AssertionError",
        requires=["safetensors-core<0.1"],
    ),
    "no-module": Fault(
        "is broken: ModuleNotFoundError: No module named 'st_no_such_module'. Reinstall it or set "
        "SAFETENSORS_DISABLED_PLUGINS=no-module",
        target="st_no_such_module",
    ),
}
#: Plugins whose fault shows when their framework is asked for, and not in the list.
BROKEN_LATER = {
    "raises": Fault(
        "is broken: KeyError: 'x'. Reinstall it or set SAFETENSORS_DISABLED_PLUGINS=raises",
        HOOK.format(hook="safetensors_framework", body="return {}['x']"),
    ),
}
