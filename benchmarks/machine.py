"""What a reader must know about the machine to make sense of times."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.frameworks import FRAMEWORKS

__all__ = ["describe_machine"]

_PACKAGES = ["safetensors-core", "safetensors", "msgspec"]


def describe_machine(folder: str, frameworks: Iterable[str]) -> dict[str, Any]:
    """Processor, memory, system, versions, and the file system of a folder.

    Args:
        folder: Where the files of the run lie.
        frameworks: Those of the run's cases; none of them is imported.

    Returns:
        Facts by name, fit for JSON.
    """
    packages = [*_PACKAGES]
    for name in frameworks:
        packages += [f"safetensors-{name}", *FRAMEWORKS[name].packages]
    return {
        "cpu": _field("/proc/cpuinfo", "model name") or platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "gpus": _gpus(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "huge_pages": _chosen("/sys/kernel/mm/transparent_hugepage/enabled"),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "file_system": _file_system(folder),
        "load_average": round(os.getloadavg()[0], 2),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": {name: found for name in packages if (found := _version(name))},
    }


def _gpus() -> list[str]:
    """Models of the GPUs that NVIDIA's driver knows, whether a run uses them or not."""
    files = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    return [model for file in files if (model := _field(str(file), "Model"))]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _field(path: str, name: str) -> str | None:
    for line in _read(path).splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None


def _chosen(path: str) -> str | None:
    """The word in brackets, as the kernel marks the setting in force."""
    found = re.search(r"\[(\w+)\]", _read(path))
    return found[1] if found else None


def _file_system(folder: str) -> str | None:
    device = os.stat(folder).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in _read("/proc/self/mountinfo").splitlines():
        fields, _, kind = line.partition(" - ")
        if fields.split()[2] == number:
            return kind.split()[0]
    return None


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
