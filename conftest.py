"""What every test run of this repository shares."""

from __future__ import annotations

import importlib.util
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# A slow machine is no defect: no test here fails because of the time it took.
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")

# A shell starts what runs in the background deaf to interrupts, and so would be the processes that
# tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The names by which examples know a framework: what they import, and the plugin they need.
FRAMEWORKS = {
    "np": ("numpy", "safetensors_numpy"),
    "torch": ("torch", "safetensors_torch"),
    "jax": ("jax", "safetensors_jax"),
    "jnp": ("jax.numpy", "safetensors_jax"),
    "tf": ("tensorflow", "safetensors_tensorflow"),
    "paddle": ("paddle", "safetensors_paddle"),
    "mx": ("mlx.core", "safetensors_mlx"),
}

# The example plugins of the documentation: its pages import them, and nobody installs them here.
EXAMPLES = sorted(Path(__file__).parent.glob("docs/examples/*/src"))

# TensorFlow loaded before Paddle ends the process; the other order works.
if importlib.util.find_spec("paddle") and importlib.util.find_spec("tensorflow"):
    importlib.import_module("paddle")


@pytest.fixture(autouse=True)
def _example_environment(request: pytest.FixtureRequest) -> None:
    """Run an example in an empty folder, and give it the names that it uses but does not make.

    `tmp_path` is that folder; `np`, `torch`, `jax`, `jnp`, `tf`, `paddle` and `mx` are the
    frameworks as their users import them. `model_path` is a file of two
    tensors, `weight` with the numbers 0 to 5 and `bias` with zeros, as NumPy would save them.
    Pages about the example plugins can import these.
    """
    if not isinstance(request.node, pytest.DoctestItem):
        return
    # Documentation writes files such as `model.safetensors`: never into the checkout.
    folder = request.getfixturevalue("tmp_path")
    request.getfixturevalue("monkeypatch").chdir(folder)
    namespace: dict[str, Any] = request.node.dtest.globs
    namespace["tmp_path"] = folder

    source = "".join(example.source for example in request.node.dtest.examples)
    if re.search(r"^(?:import acme|from safetensors_zipstore)\b", source, re.MULTILINE):
        for example in EXAMPLES:
            request.getfixturevalue("monkeypatch").syspath_prepend(example)
    if "import fsspec" in source and importlib.util.find_spec("fsspec") is None:
        pytest.skip("the example uses fsspec, which is not installed here")
    uses_file = "model_path" in source
    for name, (framework, plugin) in FRAMEWORKS.items():
        if re.search(rf"\b{name}\.", source) or (uses_file and name == "np"):
            if importlib.util.find_spec(plugin) is None:
                pytest.skip(f"the example uses {plugin}, which is not installed here")
            namespace[name] = importlib.import_module(framework)
    if uses_file:
        np = namespace["np"]
        tensors = {
            "weight": np.arange(6, dtype=np.float32).reshape(2, 3),
            "bias": np.zeros(3, dtype=np.float32),
        }
        namespace["model_path"] = folder / "example.safetensors"
        save_file = importlib.import_module("safetensors_core").save_file
        save_file(tensors, namespace["model_path"], {"format": "np"})
