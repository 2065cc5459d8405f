"""What the tests of this folder rely on: an environment that knows wheels and no checkout."""

from __future__ import annotations

from pathlib import Path

from tests import wheels
from tests.third_party.environment import COMMAND, Environment

WHERE = "import safetensors_core; print(safetensors_core.__file__)"


def test_core_is_the_wheel_that_was_built_here(third_party: Environment) -> None:
    location = Path(third_party.program(WHERE).strip())
    assert location.is_relative_to(third_party.site)
    assert not location.is_relative_to(wheels.ROOT)


def test_a_layer_sees_what_lies_below_it(third_party: Environment, layer: Environment) -> None:
    assert third_party.program(WHERE) == layer.program(WHERE)
    assert layer.run(*COMMAND, "--version").startswith("safetensors-core ")
