"""Who does the work of the cases: these packages, their peers, and the limits of the machine.

A side is one entry of `SIDES`: what it is called, how it is found, and its call for each task.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any, Literal

from benchmarks import limits, others, ours, peer
from benchmarks.columns import packed_columns, used_columns
from benchmarks.files import Format
from benchmarks.frameworks import FrameworkName
from benchmarks.setting import Call

__all__ = ["SIDES", "Found", "Role", "Side", "find", "side_called"]

Role = Literal["ours", "peer", "limit"]

# Folder of peers that have folders of their own; ``python -m benchmarks peers`` fills it.
PEERS = Path(__file__).resolve().parent / ".peers"


@dataclass(frozen=True, eq=False)
class Side:
    """One who does work.

    Attributes:
        name: As in tables.
        role: A peer does the same work as we. A limit is what the machine can do at most.
        calls: What it does for each task that it can do.
        requirement: The distribution that it needs; empty for what is always there.
        install: What ``pip`` puts into a folder of its own for it; empty for what belongs to the
            environment.
        frameworks: Those whose tensors it handles; empty for all.
        kind: Format of the files that it reads and writes.
    """

    name: str
    role: Role
    calls: Mapping[str, Call]
    requirement: str = ""
    install: tuple[str, ...] = ()
    frameworks: tuple[FrameworkName, ...] = ()
    kind: Format = "safetensors"

    @property
    def folder(self) -> Path:
        """Where it is looked for if the environment has none, or another version of it."""
        return PEERS / self.name.replace(" ", "-")


@dataclass(frozen=True)
class Found:
    """Where a side was found.

    Attributes:
        version: Its version, where it has one.
        folder: What has to be on the search path for it, if anything.
        missing: Why it cannot take part; None if it can.
    """

    version: str | None = None
    folder: str | None = None
    missing: str | None = None


def _columns(package: str) -> dict[str, Call]:
    """What a package with `safe_open` does where columns of a tensor are read."""
    calls: dict[str, Call] = {}
    takers: dict[str, Callable[[str, int], Call]] = {
        "used": used_columns,
        "packed": packed_columns,
    }
    for kind, taker in takers.items():
        calls |= {f"half-{kind}": taker(package, 2), f"eighth-{kind}": taker(package, 8)}
    return calls


_PROGRAM = ours.program("pass")
_LOAD_FILE = ours.program("from safetensors_core import load_file")

_REFERENCE: dict[str, Call] = {
    "open": peer.open_file,
    "header": peer.open_file,
    "load": peer.load,
    "touch": peer.load,
    "owned": peer.load_pread,
    "owned-default": peer.load,
    "device": peer.load_to_device,
    "save": peer.save_unsynced,
    "save-default": peer.save_unsynced,
    "save-durable": peer.save_synced,
    "bytes": peer.save_bytes,
    **_columns("safetensors"),
}

SIDES = [
    Side(
        "ours",
        "ours",
        {
            "open": ours.open_file,
            "header": ours.read_header,
            "metadata": ours.read_metadata(0),
            "metadata-far": ours.read_metadata(0.05),
            "load": ours.load,
            "touch": ours.load,
            "owned": ours.load_owned,
            "owned-default": ours.load_owned,
            "device": ours.load_to_device,
            "save": ours.save_unsynced,
            "save-default": ours.save_durable,
            "save-durable": ours.save_durable,
            "bytes": ours.save_bytes,
            "import-core": ours.program("import safetensors_core"),
            "import-load-file": _LOAD_FILE,
            "import-beside-peer": _LOAD_FILE,
            "list-plugins": ours.list_plugins,
            **_columns("safetensors_core"),
        },
        "safetensors-core",
    ),
    Side(
        "safetensors 0.8.0",
        "peer",
        _REFERENCE | {"import-beside-peer": ours.program("from safetensors import safe_open")},
        "safetensors==0.8.0",
        ("safetensors==0.8.0",),
    ),
    Side(
        "safetensors 0.9.0rc1",
        "peer",
        _REFERENCE,
        "safetensors==0.9.0rc1",
        ("safetensors==0.9.0rc1",),
    ),
    Side(
        "PyTorch",
        "peer",
        {
            "load": others.torch_load_mapped,
            "touch": others.torch_load_mapped,
            "owned": others.torch_load_owned,
            "device": others.torch_load_to_device,
            "save": others.torch_save,
            "bytes": others.torch_save_bytes,
        },
        "torch",
        frameworks=("torch",),
        kind="pt",
    ),
    Side(
        "NumPy",
        "peer",
        {
            "load": others.npz_load,
            "touch": others.npz_load,
            "owned": others.npz_load,
            "save": others.npz_save,
            "bytes": others.npz_save_bytes,
        },
        "numpy",
        frameworks=("numpy",),
        kind="npz",
    ),
    Side(
        "fastsafetensors",
        "peer",
        {"device": others.fastsafetensors_load},
        "fastsafetensors",
        ("fastsafetensors", "typer"),
        ("torch",),
    ),
    Side(
        "instanttensor",
        "peer",
        {"device": others.instanttensor_load},
        "instanttensor",
        ("instanttensor",),
        ("torch",),
    ),
    Side(
        "flashpack",
        "peer",
        {"device": others.flashpack_load},
        "flashpack",
        ("flashpack", "accelerate", "psutil", "pyyaml"),
        ("torch",),
        "flashpack",
    ),
    Side(
        "runai-model-streamer",
        "peer",
        {"device": others.runai_load},
        "runai-model-streamer",
        ("runai-model-streamer", "humanize"),
        ("torch",),
    ),
    Side(
        "huggingface_hub",
        "peer",
        {"metadata": others.read_metadata(0), "metadata-far": others.read_metadata(0.05)},
        "huggingface_hub",
    ),
    Side("empty tensors", "limit", {"load": limits.make_empty}),
    Side("memcpy", "limit", {"bytes": limits.copy_memory}),
    Side("preadv", "limit", {"touch": limits.read_file, "owned": limits.read_file}),
    Side("write", "limit", {"save": limits.write_file}),
    Side(
        "write and fsync",
        "limit",
        {"save-default": limits.write_disk, "save-durable": limits.write_disk},
    ),
    Side("pinned copy", "limit", {"device": limits.copy_to_device}),
    Side(
        "bare Python",
        "limit",
        dict.fromkeys(["import-core", "import-load-file", "list-plugins"], _PROGRAM),
    ),
]


def side_called(name: str) -> Side:
    """The side of a name.

    Args:
        name: As in `SIDES`.

    Returns:
        The side.
    """
    return next(side for side in SIDES if side.name == name)


@functools.cache
def find(side: Side) -> Found:
    """Look for what a side needs, without importing it.

    Args:
        side: The side.

    Returns:
        Where it is, or why it is missing.
    """
    if not side.requirement:
        return Found()
    name, _, wanted = side.requirement.partition("==")
    here = _version(name)
    if here is not None and wanted in {"", here}:
        return Found(here)
    if not side.install:
        return Found(missing=f"{name} is not installed")
    there = _version(name, path=[str(side.folder)])
    if there is not None and wanted in {"", there}:
        return Found(there, str(side.folder))
    return Found(missing="not installed; see: python -m benchmarks peers")


def _version(name: str, **where: Any) -> str | None:
    """Version of the first distribution of a name, which is the one that would be imported."""
    found = next(iter(distributions(name=name, **where)), None)
    # What an interrupted removal leaves has no metadata, whatever its folder is called.
    return found.version if isinstance(found, Distribution) and found.metadata else None
