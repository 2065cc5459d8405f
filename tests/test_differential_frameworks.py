"""The same files as the reference implementation writes from the tensors of each framework."""

from __future__ import annotations

import importlib

import pytest

import safetensors_core
from safetensors_core import Dtype, get_framework
from safetensors_core.testing.golden import golden_file

# The reference's module for each framework, and what of ours it cannot save.
REFERENCE = {
    "numpy": ("numpy", {Dtype.F4, Dtype.F6_E2M3, Dtype.F6_E3M2}),
    "torch": ("torch", set()),
    "jax": ("flax", {Dtype.F4}),
    "paddle": ("paddle", set()),
    "tensorflow": ("tensorflow", {Dtype.F4}),
    "mlx": ("mlx", {Dtype.BF16}),
}
pytestmark = pytest.mark.filterwarnings("ignore:.*jax_enable_x64:UserWarning")


@pytest.mark.parametrize("framework", REFERENCE)
def test_files_are_byte_identical(framework: str) -> None:
    name, lacking = REFERENCE[framework]
    reference = importlib.import_module(f"safetensors.{name}")
    for dtype in get_framework(framework).dtypes.keys() - lacking:
        tensors = safetensors_core.load(golden_file(dtype), framework)
        if framework == "tensorflow":  # the reference fails on tensors without dimensions
            del tensors["scalar"]
        # The reference may change the dict that it is given.
        expected = reference.save(dict(tensors), {"dtype": dtype.value})
        assert safetensors_core.save(tensors, {"dtype": dtype.value}) == expected, dtype
