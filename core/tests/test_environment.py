"""The environment that proves that core needs no framework really has none."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os

import pytest

pytestmark = pytest.mark.skipif(
    os.environ.get("SAFETENSORS_EXPECT_NO_FRAMEWORK") != "1",
    reason="only an environment made without frameworks can promise that there are none",
)

FRAMEWORKS = ("jax", "ml_dtypes", "mlx", "numpy", "paddle", "tensorflow", "torch")


@pytest.mark.parametrize("module", FRAMEWORKS)
def test_no_framework_can_be_imported(module: str) -> None:
    assert importlib.util.find_spec(module) is None


def test_no_plugin_is_installed() -> None:
    assert not importlib.metadata.entry_points(group="safetensors_core")
