"""The conformance kit: one command that proves a plugin correct.

``python -m safetensors_core.testing acme`` runs every check on the plugin called `acme` and prints
a report card. It takes what the plugin claims (dtypes, aliasing, devices) from its `Framework`,
and needs the extra ``testing``. What follows the name is passed on to pytest.

| module | what lives there |
|---|---|
| `runner` | the command |
| `pytest_plugin`, `report_card` | what the checks get from pytest, and what they print |
| `samples`, `golden`, `malformed` | tensors and files: made, fixed by hashes, and wrong |
| `values`, `observation` | what bits mean, and what can be seen of a tensor from outside |

Importing this package imports neither pytest nor Hypothesis.
"""

from safetensors_core.testing.golden import golden_file, golden_hash
from safetensors_core.testing.malformed import MALFORMED, Malformed
from safetensors_core.testing.runner import main

__all__ = ["MALFORMED", "Malformed", "golden_file", "golden_hash", "main"]
