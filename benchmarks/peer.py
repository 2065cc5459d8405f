"""What is timed of the reference implementation, call for call like `benchmarks.ours`."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from typing import Any

from benchmarks.devices import arrived
from benchmarks.frameworks import FRAMEWORKS
from benchmarks.setting import Setting, call


def _module(setting: Setting) -> Any:
    return import_module(FRAMEWORKS[setting.framework].peer)


@call("safe_open(path)")
def open_file(setting: Setting) -> Callable[[], Any]:
    """Open a file for a framework."""
    from safetensors import safe_open

    return lambda: safe_open(setting.path, setting.framework)


@call("load_file(path)")
def load(setting: Setting) -> Callable[[], Any]:
    """Load a file as users do without thinking about it."""
    load_file = _module(setting).load_file
    return setting.finished(lambda: load_file(setting.path))


@call('load_file(path, backend="pread")')
def load_pread(setting: Setting) -> Callable[[], Any]:
    """Load a file into memory that the tensors own."""
    load_file = _module(setting).load_file
    return setting.finished(lambda: load_file(setting.path, backend="pread"))


@call("load_file(path, device)")
def load_to_device(setting: Setting) -> Callable[[], Any]:
    """Load a file to a device, and wait until all is there."""
    from safetensors.torch import load_file

    return arrived(lambda: load_file(setting.path, setting.device), setting.device)


@call("save_file(tensors, path)")
def save_unsynced(setting: Setting) -> Callable[[], Any]:
    """Save a file, which reaches the disk some time later."""
    save_file = _module(setting).save_file
    tensors = setting.tensors()
    return lambda: save_file(tensors, setting.target)


@call("save_file(tensors, path), then fsync of file and folder")
def save_synced(setting: Setting) -> Callable[[], Any]:
    """Save a file and wait until it and its name are on disk."""
    save_file = _module(setting).save_file
    tensors = setting.tensors()

    def save_and_sync() -> None:
        save_file(tensors, setting.target)
        for path in (setting.target, setting.folder):
            fd = os.open(path, os.O_RDONLY)
            os.fsync(fd)
            os.close(fd)

    return save_and_sync


@call("save(tensors)")
def save_bytes(setting: Setting) -> Callable[[], Any]:
    """Save to bytes."""
    save = _module(setting).save
    tensors = setting.tensors()
    return lambda: save(tensors)
