"""Finding the plugin costs nobody anything: its framework is imported when it is asked for."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from safetensors_core import Framework, PluginInfo


def in_a_process(program: str) -> Any:
    """What a program prints as JSON, in an interpreter that has imported nothing yet."""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


LOADED = "import json, sys; print(json.dumps(sorted({n.partition('.')[0] for n in sys.modules})))"


def heavy(framework: Framework, loaded: list[str]) -> list[str]:
    """What should not have been imported."""
    names = {framework.native_package, "numpy", "torch", "jax", "tensorflow", "paddle", "mlx"}
    return sorted(names & set(loaded) - {"builtins"})


def test_the_module_of_the_hooks_imports_nothing_heavy(
    framework: Framework, info: PluginInfo
) -> None:
    loaded = in_a_process(f"import {info.module}\n{LOADED}")
    assert heavy(framework, loaded) == [], (
        f"importing {info.module} imports a framework: import inside the hook"
    )


def test_listing_plugins_imports_nothing_heavy(framework: Framework, info: PluginInfo) -> None:
    program = "import safetensors_core as s\n[i.status for i in s.list_plugins()]\n"
    assert heavy(framework, in_a_process(program + LOADED)) == [], (
        f"{info.module} imports a framework when plugins are listed"
    )


def test_the_command_line_imports_nothing_heavy(framework: Framework, info: PluginInfo) -> None:
    for arguments in (["--help"], ["plugins", "--json"]):
        program = f"from safetensors_core.cli import main\nmain({arguments})\nprint()\n"
        assert heavy(framework, in_a_process(program + LOADED)) == [], (
            f"{info.module} imports a framework when `safetensors-core {arguments[0]}` runs"
        )


def test_the_plugin_can_be_used_by_all_its_names(info: PluginInfo) -> None:
    assert info.status == "ok"
    program = f"names = [s.get_framework(name).name for name in {list(info.names)}]\n"
    found = in_a_process(f"import json, safetensors_core as s\n{program}print(json.dumps(names))")
    assert len(set(found)) == 1


def test_the_plugin_states_what_its_framework_says(framework: Framework, info: PluginInfo) -> None:
    stated = info.native_package or info.name
    assert stated == framework.native_package or framework.native_package in info.names, (
        f"{info.module} should state native_package = {framework.native_package!r}: without it, "
        "tensors do not lead to the plugin until it has been asked for by name"
    )
