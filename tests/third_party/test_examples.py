"""The example plugins of the documentation, installed as those of anybody else."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from tests import wheels
from tests.third_party.environment import COMMAND, Environment

EXAMPLES = wheels.ROOT / "docs" / "examples"
TUTORIAL = (wheels.ROOT / "docs" / "plugin-authors" / "first-plugin.md").read_text("utf-8")
NAMES = ["safetensors-acme", "safetensors-zipstore"]
# A run of pytest that takes no settings from around, and leaves nothing behind.
PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", "-W", "error")


@pytest.fixture(scope="module")
def examples(third_party: Environment, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with core's wheel and those of the examples."""
    environment = third_party.layer(tmp_path_factory.mktemp("examples") / "environment")
    # With what they depend on: a core that they do not allow ends this.
    environment.install(*[EXAMPLES / name for name in NAMES])
    return environment


def test_nothing_comes_from_the_checkout(third_party: Environment, examples: Environment) -> None:
    modules = "safetensors_core", "acme", "safetensors_acme", "safetensors_zipstore"
    program = f"import {', '.join(modules)}\nfor module in ({', '.join(modules)}):\n"
    found = examples.program(f"{program}    print(module.__file__)").splitlines()
    assert len(found) == len(modules)
    assert not any(Path(line).is_relative_to(wheels.ROOT) for line in found)
    assert Path(found[0]).is_relative_to(third_party.site)
    assert all(Path(line).is_relative_to(examples.site) for line in found[1:])


def test_the_examples_are_found_as_usable(examples: Environment) -> None:
    printed = examples.run(*COMMAND, "plugins", "--json")
    found = {plugin["name"]: plugin for plugin in json.loads(printed)["plugins"]}
    assert list(found) == ["acme", "zipstore"]
    assert found["acme"]["aliases"] == ["ac"]
    assert {plugin["distribution"] for plugin in found.values()} == set(NAMES)
    assert {plugin["status"] for plugin in found.values()} == {"ok"}


def card(text: str) -> list[str]:
    """The lines of a report card, without what changes from one release of the kit to the next."""
    lines = text[text.index("= report card: ") :].splitlines()[1:]
    beyond = [line for line in lines if not re.match(r"=* ?\d+ (?:passed|failed)", line)]
    return [re.sub(r"\d+", "N", " ".join(line.split())) for line in beyond]


def listing(words: str) -> str:
    """The one block of the tutorial that holds some words."""
    blocks = re.findall(r"^```\w+\n(.*?)^```$", TUTORIAL, re.DOTALL | re.MULTILINE)
    [found] = [block for block in blocks if words in block]
    return str(found)


def test_the_example_of_a_framework_passes_the_conformance_kit(examples: Environment) -> None:
    printed = examples.run("-m", "safetensors_core.testing", "acme")
    assert "report card: acme, safetensors-acme 1.0.0, contract version 1" in printed
    assert card(printed)[-1] == "No check failed."
    assert card(printed) == card(listing("report card: acme")), "the tutorial shows another card"


def test_a_mistake_shows_on_the_card_as_in_the_tutorial(layer: Environment, tmp_path: Path) -> None:
    wrong = tmp_path / "safetensors-acme"
    shutil.copytree(EXAMPLES / "safetensors-acme", wrong)
    module = wrong / "src" / "safetensors_acme" / "framework.py"
    right = module.read_text("utf-8")
    assert right.count("return tensor.contiguous()") == 1
    module.write_text(right.replace("tensor.contiguous()", "tensor.memory"), "utf-8")
    layer.install(wrong)
    assert layer.run(*COMMAND, "plugins") in listing("$ safetensors-core plugins")
    [words] = re.findall(r'`-k "([^"]*)"`', TUTORIAL)
    printed = layer.run("-m", "safetensors_core.testing", "acme", "-k", words, status=1)
    assert listing("Failed:") in printed
    [identity] = re.findall(r'testing acme "(.*)"', TUTORIAL)
    printed = layer.run("-m", "safetensors_core.testing", "acme", identity, status=1)
    assert re.search(r"\b1 failed in", printed)


@pytest.mark.parametrize("name", NAMES)
def test_the_own_tests_of_an_example_pass(examples: Environment, name: str, tmp_path: Path) -> None:
    # Outside the checkout, whose settings they must not need.
    tests = shutil.copytree(
        EXAMPLES / name / "tests", tmp_path / name, ignore=shutil.ignore_patterns("__pycache__")
    )
    examples.run(*PYTEST, "-c", "/dev/null", "--rootdir", tmp_path, tests)


def test_the_examples_in_their_docstrings_run(examples: Environment) -> None:
    packages = ["acme", "safetensors_acme", "safetensors_zipstore"]
    printed = examples.run(*PYTEST, "-c", "/dev/null", "--doctest-modules", "--pyargs", *packages)
    assert re.search(r"\b\d+ passed", printed)


def test_a_model_is_saved_and_loaded_as_the_readmes_say(examples: Environment) -> None:
    saving, reading = [
        "\n".join(re.findall(r"^```python\n(.*?)^```$", readme, re.DOTALL | re.MULTILINE))
        for readme in [(EXAMPLES / name / "README.md").read_text("utf-8") for name in NAMES]
    ]
    assert examples.program(saving) == "acme.tensor([[1.0, 2.0], [3.0, 4.0]], 'float32')\n"
    # What the readme does with the program `zip`.
    packing = "with zipfile.ZipFile('models.zip', 'w') as z: z.write('model.safetensors')"
    examples.program(f"import zipfile\n{packing}")
    assert "Dtype.F32" in examples.program(reading)
    location = "zip://models.zip!/model.safetensors"
    program = f"""
import safetensors_core
with safetensors_core.safe_open({location!r}, framework="acme") as file:
    print(file.get_slice("weight")[:, 1].tolist())
print(safetensors_core.load_file({location!r}, framework="ac")["weight"].tolist())
"""
    assert examples.program(program) == "[2.0, 4.0]\n[[1.0, 2.0], [3.0, 4.0]]\n"
    assert "[2, 2]" in examples.run(*COMMAND, "inspect", location)
