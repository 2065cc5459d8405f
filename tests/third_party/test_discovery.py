"""Plugins that fail, installed by pip beside one that works: who uses that one notices nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import wheels
from tests.third_party import packages
from tests.third_party.environment import COMMAND, Environment
from tests.third_party.packages import BROKEN, BROKEN_LATER

FAULTS = BROKEN | BROKEN_LATER
PRELUDE = """
import json, sys
from safetensors_core import SafetensorError, get_framework, list_plugins, load_file, save_file

def error(name):
    try:
        get_framework(name)
    except SafetensorError as found:
        return f"{type(found).__name__}: {found}"

def check_good():
    import safetensors_good

    save_file({"w": safetensors_good.Tensor(b"abc")}, "model.safetensors")
    for name in ("good", "good-alias"):
        assert load_file("model.safetensors", framework=name)["w"].data == b"abc"

def status():
    return {info.name: info.status for info in list_plugins()}
"""


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheels of all packages of this module."""
    folder = tmp_path_factory.mktemp("packages")
    folders = [packages.good(folder), packages.good(folder, "spare")]
    folders += [fault.write(folder, name) for name, fault in FAULTS.items()]
    for twin in ("one", "two"):
        source = packages.FRAMEWORK.format(name=f"twin_{twin}")
        names = ["twin", f"twin-{twin}"]
        folders.append(packages.write(folder, f"safetensors-twin-{twin}", source, names=names))
    old = packages.write(folder, "st-base", "")
    new = packages.write(folder, "st-base", "def new():\n    pass", version="2.0")
    wheels.build(*folders, old, into=folder / "wheels")
    wheels.build(new, into=folder / "wheels")
    return folder / "wheels"


def put(environment: Environment, shelf: Path, *plugins: str) -> None:
    """Install plugins, and the old version of what one of them requires."""
    stems = [f"safetensors_{name.replace('-', '_')}-" for name in plugins]
    found = [wheel for stem in (*stems, "st_base-1.0-") for wheel in shelf.glob(f"{stem}*.whl")]
    assert len(found) == 1 + len(plugins)
    environment.install(*found, dependencies=False)


def ask(environment: Environment, program: str, **variables: str) -> Any:
    """What a program prints as JSON."""
    return json.loads(environment.program(PRELUDE + program, variables))


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_a_plugin_that_fails_is_told_and_harms_no_other(
    name: str, layer: Environment, shelf: Path
) -> None:
    put(layer, shelf, "good", name)
    asked, status = ask(
        layer,
        f"""
check_good()
asked = error("{name}")
check_good()
print(json.dumps([asked, status()]))
""",
    )
    message = f"plugin '{name}' of safetensors-{name} 1.0 "
    assert asked.startswith(f"PluginError: {message}{FAULTS[name].told}")
    expected = "ok" if name in BROKEN_LATER else asked.removeprefix("PluginError: ")
    assert status == {"good": "ok", name: expected}


def test_a_name_that_two_distributions_claim_is_nobodys(layer: Environment, shelf: Path) -> None:
    put(layer, shelf, "good", "twin-one", "twin-two")
    asked, others = ask(
        layer,
        """
check_good()
others = [get_framework(name).name for name in ("twin-one", "twin-two")]
print(json.dumps([error("twin"), others]))
""",
    )
    assert asked.startswith("PluginError: plugin name 'twin' is claimed by safetensors-twin-")
    assert "safetensors-twin-one 1.0" in asked
    assert "safetensors-twin-two 1.0" in asked
    assert asked.endswith(
        "Uninstall all but one, or name what else one is called in SAFETENSORS_DISABLED_PLUGINS"
    )
    assert others == ["twin_one", "twin_two"]


def test_a_disabled_plugin_is_left_alone(layer: Environment, shelf: Path) -> None:
    put(layer, shelf, "good", "spare")
    program = """
check_good()
print(json.dumps([error("spare"), error("spare-alias"), "safetensors_spare" in sys.modules]))
"""
    message = (
        "PluginError: plugin 'spare' of safetensors-spare 1.0 is disabled by "
        "SAFETENSORS_DISABLED_PLUGINS"
    )
    # `-I` keeps Python from its own variables only.
    found = ask(layer, program, SAFETENSORS_DISABLED_PLUGINS="spare-alias")
    assert found == [message, message, False]
    assert ask(layer, program) == [None, None, True]


def test_a_plugin_that_its_author_works_on_is_found(layer: Environment, tmp_path: Path) -> None:
    folder = packages.good(tmp_path)
    layer.install(folder, editable=True)
    location, status = ask(
        layer,
        """
check_good()
print(json.dumps([sys.modules["safetensors_good"].__file__, status()]))
""",
    )
    assert Path(location).parent == folder
    assert status == {"good": "ok"}


def test_a_framework_that_is_registered_stands_beside_installed_ones(
    layer: Environment, shelf: Path
) -> None:
    put(layer, shelf, "good", "imports")
    names, status = ask(
        layer,
        """
from safetensors_core import Dtype, register_framework
import safetensors_good

class Mine(type(get_framework("good"))):
    name = "imports"

    def is_tensor(self, obj):
        return False

register_framework(Mine())
check_good()
names = [get_framework("imports").name, type(get_framework("imports")).__name__]
print(json.dumps([names, status()]))
""",
    )
    assert names == ["imports", "Mine"]
    # The list shows what is installed.
    assert status["good"] == "ok"
    assert "no driver" in status["imports"]


def test_a_running_process_finds_what_is_installed_later(layer: Environment, shelf: Path) -> None:
    put(layer, shelf, "outdated")
    install = [sys.executable, "-m", "pip", "--python", str(layer.python), "install", "--quiet"]
    [good] = shelf.glob("safetensors_good-*.whl")
    [base] = shelf.glob("st_base-2.0-*.whl")
    before, after, status = ask(
        layer,
        f"""
import os, subprocess
# No build happens here, and these may be relative paths.
pins = ("PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT")
variables = {{name: value for name, value in os.environ.items() if name not in pins}}
before = [sorted(status()), error("good"), error("outdated")]
for wheel in {[str(good), str(base)]}:
    subprocess.run([*{install}, "--no-deps", wheel], env=variables, check=True)
check_good()
print(json.dumps([before, error("outdated"), status()]))
""",
    )
    assert before[0] == ["outdated"]
    assert before[1].startswith("FrameworkNotFoundError: framework 'good' is not installed")
    assert "needs st-base>=2 (1.0 is installed)" in before[2]
    assert after.endswith("plugin 'outdated' of safetensors-outdated 1.0 provides no framework")
    assert status == {"good": "ok", "outdated": "ok"}


def test_the_list_shows_each_of_them_with_its_status(layer: Environment, shelf: Path) -> None:
    names = ["good", "spare", "twin-one", "twin-two", *FAULTS]
    put(layer, shelf, *names)
    disabled = {"SAFETENSORS_DISABLED_PLUGINS": "spare"}
    document = json.loads(layer.run(*COMMAND, "plugins", "--json", variables=disabled))
    statuses = {plugin["name"]: plugin["status"] for plugin in document["plugins"]}
    assert len(document["plugins"]) == len(names)
    assert statuses.pop("good") == statuses.pop("raises") == "ok"
    assert statuses.pop("spare").endswith("is disabled by SAFETENSORS_DISABLED_PLUGINS")
    for twin in ("twin-one", "twin-two"):
        assert statuses.pop(twin) == "ok"
    assert statuses.keys() == BROKEN.keys()
    for name, status in statuses.items():
        told = f"plugin '{name}' of safetensors-{name} 1.0 {BROKEN[name].told}"
        assert status.startswith(told)

    table = layer.run(*COMMAND, "plugins", variables=disabled)
    rows = table.splitlines()
    assert len(rows) == 1 + len(document["plugins"])
    for plugin in document["plugins"]:
        [row] = [row for row in rows if row.startswith(f"{plugin['name']} ")]
        assert plugin["distribution"] in row
        assert plugin["status"] in row
