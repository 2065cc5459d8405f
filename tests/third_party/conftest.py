"""The environments of a third party."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import wheels
from tests.third_party.environment import Environment


@pytest.fixture(scope="session")
def third_party(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with core's wheel and its extra `testing`, for all tests of a run.

    Tests that install what could disturb others do it in a layer: see `layer`.
    """
    folder = tmp_path_factory.mktemp("third-party")
    [wheel] = wheels.build(wheels.ROOT / "core", into=folder / "wheels")
    environment = Environment(folder / "environment")
    environment.install(f"{wheel}[testing]")
    return environment


@pytest.fixture
def layer(third_party: Environment, tmp_path: Path) -> Environment:
    """An environment for one test: what it installs there, no other test sees."""
    return third_party.layer(tmp_path / "layer")
