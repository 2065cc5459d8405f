"""The plugin keeps the contract: the checks that safetensors-core ships."""

from safetensors_core.testing import main


def test_the_plugin_passes_the_conformance_kit() -> None:
    assert main(["acme"]) == 0
