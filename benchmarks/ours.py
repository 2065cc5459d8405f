"""What is timed of these packages.

Every function imports and makes what the call needs; only the call that it returns is timed.
"""

from __future__ import annotations

import atexit
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.devices import arrived
from benchmarks.setting import Call, Setting, call


def _module(setting: Setting) -> Any:
    return import_module(f"safetensors_{setting.framework}")


@call("safe_open(path)")
def open_file(setting: Setting) -> Callable[[], Any]:
    """Open a file for a framework."""
    from safetensors_core import safe_open

    return lambda: safe_open(setting.path, setting.framework)


@call("read_header(path)")
def read_header(setting: Setting) -> Callable[[], Any]:
    """Read a header without a framework."""
    import safetensors_core

    return lambda: safetensors_core.read_header(setting.path)


@call("load_file(path)")
def load(setting: Setting) -> Callable[[], Any]:
    """Load a file as users do without thinking about it."""
    load_file = _module(setting).load_file
    return setting.finished(lambda: load_file(setting.path))


@call('load_file(path, backend="pread")')
def load_owned(setting: Setting) -> Callable[[], Any]:
    """Load a file into memory that the tensors own."""
    load_file = _module(setting).load_file
    return setting.finished(lambda: load_file(setting.path, backend="pread"))


@call("load_file(path, device=device)")
def load_to_device(setting: Setting) -> Callable[[], Any]:
    """Load a file to a device, and wait until all is there."""
    from safetensors_torch import load_file

    return arrived(lambda: load_file(setting.path, device=setting.device), setting.device)


@call("save_file(tensors, path, fsync=False)")
def save_unsynced(setting: Setting) -> Callable[[], Any]:
    """Save a file with the reference's promise."""
    save_file = _module(setting).save_file
    tensors = setting.tensors()
    return lambda: save_file(tensors, setting.target, fsync=False)


@call("save_file(tensors, path)")
def save_durable(setting: Setting) -> Callable[[], Any]:
    """Save a file that is on disk when the call returns."""
    save_file = _module(setting).save_file
    tensors = setting.tensors()
    return lambda: save_file(tensors, setting.target)


@call("save(tensors)")
def save_bytes(setting: Setting) -> Callable[[], Any]:
    """Save to bytes."""
    save = _module(setting).save
    tensors = setting.tensors()
    return lambda: save(tensors)


def read_metadata(latency: float) -> Call:
    """Read the headers of a repository of the Hub.

    Args:
        latency: Seconds from each request to its answer.

    Returns:
        The side of a case.
    """

    @call('read_metadata("bigscience/bloom")')
    def read_headers(_setting: Setting) -> Callable[[], Any]:
        import safetensors_core
        from benchmarks.hub import start_hub

        options = {"endpoint": start_hub(latency), "token": False}
        return lambda: safetensors_core.read_metadata(
            "hf://bigscience/bloom", storage_options=options
        )

    return read_headers


def program(code: str) -> Call:
    """Run a Python program from start to end in a process of its own.

    Args:
        code: The program.

    Returns:
        The side of a case.
    """

    @call(f"python -c {code!r}")
    def run_program(_setting: Setting) -> Callable[[], Any]:
        # -I: neither the current folder nor PYTHON* variables decide what is imported.
        command = [sys.executable, "-I", "-c", code]
        return lambda: subprocess.run(command, check=True)

    return run_program


@call("safetensors-core plugins, with ten more installed")
def list_plugins(_setting: Setting) -> Callable[[], Any]:
    """List plugins on the command line, in a process of its own."""
    site = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, site, ignore_errors=True)
    for number in range(10):
        module = f"plugin_{number}"
        (site / f"{module}.py").write_text("from safetensors_core import hookimpl\n")
        metadata = site / f"safetensors_{module}-1.0.dist-info"
        metadata.mkdir()
        fields = ["Metadata-Version: 2.1", f"Name: safetensors-plugin-{number}", "Version: 1.0"]
        fields.append("Requires-Dist: safetensors-core>=0.1.0")
        (metadata / "METADATA").write_text("\n".join([*fields, ""]))
        entry = f"[safetensors_core]\nplugin-{number} = {module}\n"
        (metadata / "entry_points.txt").write_text(entry)
    code = f"import sys; sys.path.insert(0, {str(site)!r}); "
    code += "from safetensors_core.cli import main; sys.exit(main(['plugins']))"
    command = [sys.executable, "-I", "-c", code]
    return lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
