"""From `safetensors-core new-plugin` to a plugin that keeps the contract, as its author goes."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from tests.third_party.environment import COMMAND, Environment

KIT = ("-m", "safetensors_core.testing", "widget")

WIDGETS = """
import struct


class Tensor:
    def __init__(self, data, dtype, shape):
        self.data, self.dtype, self.shape = data, dtype, shape

    def tolist(self):
        return [value for [value] in struct.iter_unpack("<" + self.dtype, self.data)]
"""
PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "widgets"
version = "1.0"

[tool.hatch.build.targets.wheel]
packages = ["widgets"]
"""

# What the author writes: the place that is marked, and what takes its place.
IMPORT = """\
import widgets.core

from safetensors_core import InvalidInputError
"""
METHODS = {
    "is_tensor": "return isinstance(obj, widgets.core.Tensor)",
    "describe": """
        dtype = next(code for code, name in self.dtypes.items() if name == tensor.dtype)
        return TensorSpec(dtype, tensor.shape)
    """,
    "to_buffer": "return memoryview(tensor.data)",
    "from_buffers": """
        if device != "cpu":
            raise InvalidInputError(f"widgets are on the host, not on {device!r}")
        tensors = {}
        for name, info in infos.items():
            begin, end = info.data_offsets
            data = bytes(buffer[begin:end])
            tensors[name] = widgets.core.Tensor(data, self.dtypes[info.dtype], info.shape)
        return tensors
    """,
}
DTYPES = '{Dtype.U8: "B", Dtype.I16: "h", Dtype.F32: "f", Dtype.BOOL: "?"}'

PROGRAM = """
import sys
from safetensors_core import list_plugins, load_file, save_file
assert "ok" in [info.status for info in list_plugins() if info.name == "widget"]
assert "widgets" not in sys.modules
import widgets.core
tensor = widgets.core.Tensor(bytes(range(6)), "B", (2, 3))
save_file({"w": tensor}, "model.safetensors")
loaded = load_file("model.safetensors", "widget")["w"]
assert (loaded.tolist(), loaded.dtype, loaded.shape) == ([0, 1, 2, 3, 4, 5], "B", (2, 3))
"""


@pytest.fixture
def widgets(tmp_path: Path) -> Path:
    """The folder of the distribution of a framework."""
    package = tmp_path / "widgets" / "widgets"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "core.py").write_text(WIDGETS, encoding="utf-8")
    (package.parent / "pyproject.toml").write_text(PYPROJECT, encoding="utf-8")
    return package.parent


def generate(layer: Environment) -> Path:
    """The folder of a new plugin, made by the command of the wheel."""
    made = layer.run(*COMMAND, "new-plugin", "widget", "--framework", "widgets.core", "--json")
    return layer.work / str(json.loads(made)["path"])


def fill_in(plugin: Path) -> None:
    path = plugin / "src" / "safetensors_widget" / "framework.py"
    text = path.read_text("utf-8")

    def replace(pattern: str, body: str) -> None:
        nonlocal text
        text, count = re.subn(pattern, lambda found: found[1] + body, text, flags=re.MULTILINE)
        assert count == 1, pattern

    replace(r"^()# FILL IN the import .*\n# .*\n", IMPORT)
    replace(r"^()    # FILL IN every type .*\n( +# .*\n)+", "")
    replace(r"(\bdtypes: .* = )\{\}$", DTYPES)
    replace(r"(\baliases_on_save: .* = )False$", "True")
    for name, body in METHODS.items():
        replace(rf'()raise NotImplementedError\("to fill in: {name}"\)  # FILL IN', body.strip())
    assert text.count("FILL IN") == 1  # in the sentence that says what the mark is
    path.write_text(text, encoding="utf-8")


def listed(layer: Environment) -> dict[str, str]:
    """The status of each installed plugin."""
    plugins = json.loads(layer.run(*COMMAND, "plugins", "--json"))["plugins"]
    return {plugin["name"]: plugin["status"] for plugin in plugins}


def causes(card: str) -> set[str]:
    """The first lines of what went wrong, from a report card."""
    failed = card.partition("\nFailed:\n")[2].partition("\nAbout ")[0]
    return set(re.findall(r"^    (?:Failed: )?(\S.*)", failed, re.MULTILINE))


def test_a_new_plugin_goes_from_the_command_to_a_clean_report_card(
    layer: Environment, widgets: Path
) -> None:
    plugin = generate(layer)
    layer.install(widgets)
    layer.install(plugin, editable=True, dependencies=False)
    assert listed(layer)["widget"] == "ok"

    card = layer.run(*KIT, status=1)
    assert causes(card) == {
        "dtypes is empty: list what the framework represents exactly",
        "NotImplementedError: to fill in: is_tensor",
        "NotImplementedError: to fill in: from_buffers",
    }

    fill_in(plugin)
    assert "No check failed." in layer.run(*KIT)
    layer.run("-m", "pytest", plugin)
    layer.program(PROGRAM)


def test_what_is_left_to_fill_in_is_said_by_name(layer: Environment, widgets: Path) -> None:
    plugin = generate(layer)
    path = plugin / "src" / "safetensors_widget" / "framework.py"
    text = path.read_text("utf-8")
    path.write_text(text.replace("= {}", '= {Dtype.U8: "B"}'), encoding="utf-8")
    layer.install(widgets, plugin, dependencies=False)
    found = causes(layer.run(*KIT, status=1))
    # The other two take tensors, and nothing makes those yet.
    names = {"from_buffers", "is_tensor"}
    assert found == {f"NotImplementedError: to fill in: {name}" for name in names}


def test_the_wheel_of_a_new_plugin_is_complete(layer: Environment, widgets: Path) -> None:
    layer.install(widgets, generate(layer), dependencies=False)
    package = layer.site / "safetensors_widget"
    names = {path.name for path in package.iterdir() if path.is_file()}
    assert names == {"__init__.py", "_plugin.py", "framework.py", "py.typed"}
    metadata = (layer.site / "safetensors_widget-0.1.0.dist-info" / "METADATA").read_text("utf-8")
    required = re.findall(r"^Requires-Dist: ([\w-]+)", metadata, re.MULTILINE)
    assert set(required) == {"widgets", "safetensors-core"}
    assert listed(layer)["widget"] == "ok"


def test_linters_find_nothing_in_a_new_plugin(layer: Environment) -> None:
    layer.install("mypy", "ruff")
    plugin = generate(layer)
    layer.run("-m", "ruff", "check", "--isolated", plugin)
    layer.run("-m", "ruff", "format", "--isolated", "--check", plugin)
    layer.run("-m", "mypy", "--strict", "--config-file=", plugin / "src", plugin / "tests")


def test_the_commands_that_are_shown_work(layer: Environment, widgets: Path) -> None:
    layer.install(widgets)
    arguments = ("widget", "--framework", "widgets", "--folder", layer.work, "--json")
    made = layer.run(*COMMAND, "new-plugin", *arguments)
    install, check, _ = map(shlex.split, json.loads(made)["commands"])
    assert install[:5] == ["python", "-m", "pip", "install", "-e"]
    layer.install(install[5], editable=True)
    assert check == ["python", *KIT]
    assert listed(layer)["widget"] == "ok"
