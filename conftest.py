"""What every test run of this repository shares."""

from __future__ import annotations

import importlib.util
import re
from typing import Any

import pytest
from hypothesis import settings

# A slow machine is no defect: no test here fails because of the time it took.
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")


@pytest.fixture(autouse=True)
def _example_environment(request: pytest.FixtureRequest) -> None:
    """Run an example in an empty folder, and give it the names that it uses but does not make.

    `tmp_path` is that folder. `np` is NumPy. `model_path` is a file of two tensors, `weight` with
    the numbers 0 to 5 and `bias` with zeros, as NumPy would save them.
    """
    if not isinstance(request.node, pytest.DoctestItem):
        return
    # Documentation writes files such as `model.safetensors`: never into the checkout.
    folder = request.getfixturevalue("tmp_path")
    request.getfixturevalue("monkeypatch").chdir(folder)
    namespace: dict[str, Any] = request.node.dtest.globs
    namespace["tmp_path"] = folder

    source = "".join(example.source for example in request.node.dtest.examples)
    if not re.search(r"\b(np\.|model_path\b)", source):
        return
    if importlib.util.find_spec("safetensors_numpy") is None:
        pytest.skip("the example uses the NumPy plugin, which is not installed here")
    # Not at the top: this file serves environments without NumPy too.
    np = importlib.import_module("numpy")
    namespace["np"] = np
    if "model_path" in source:
        tensors = {
            "weight": np.arange(6, dtype=np.float32).reshape(2, 3),
            "bias": np.zeros(3, dtype=np.float32),
        }
        namespace["model_path"] = folder / "example.safetensors"
        save_file = importlib.import_module("safetensors_core").save_file
        save_file(tensors, namespace["model_path"], {"format": "np"})
