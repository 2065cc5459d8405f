"""Run the program of a client in a process of its own, on the reference or on this project."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from enum import Enum
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
# What only one client can share an environment with stands in a folder beside the others:
# see `clients` in tox.ini.
SHELF = Path(sys.prefix) / "shelf"


class Side(str, Enum):
    """Whose package a program gets when it imports safetensors."""

    REFERENCE = "reference"
    OURS = "ours"


@dataclass(frozen=True)
class Client:
    """A library that stores weights as safetensors: its distributions, and what the program needs.

    The first distribution is the client; the version of each is part of the report.
    """

    program: str
    distributions: tuple[str, ...]
    on_shelf: bool = False

    def versions(self) -> list[tuple[str, str]]:
        """Name and version of each distribution."""
        path = [str(SHELF)] if self.on_shelf else sys.path
        return [
            (name, next(iter(metadata.distributions(name=name, path=path))).version)
            for name in self.distributions
        ]


CLIENTS = (
    Client("transformers", ("transformers",)),
    Client("diffusers", ("diffusers",)),
    Client("accelerate", ("accelerate",)),
    Client("peft", ("peft",)),
    Client("timm", ("timm", "torchvision"), on_shelf=True),
    Client("sentence_transformers", ("sentence-transformers",)),
    Client("huggingface_hub", ("huggingface_hub",)),
    Client("onnx_safetensors", ("onnx-safetensors", "onnx")),
    Client("safestructures", ("safestructures",)),
    Client("torch", ("torch",)),
    Client("flax", ("flax", "optax", "jax")),
    Client("keras", ("keras", "tensorflow-cpu")),
    Client("paddle", ("paddlepaddle",)),
    Client("mlx", ("mlx",)),
)


class ProgramFailedError(Exception):
    """A program ended with an error, or used the wrong side."""


@dataclass(frozen=True)
class Run:
    """What one run of a program left behind.

    `files` maps the path of each file that it wrote to the hash of its bytes, and
    `peak_memory` is in bytes.
    """

    folder: Path
    results: dict[str, Any]
    seconds: dict[str, float]
    files: dict[str, str]
    peak_memory: int


def run(client: Client, side: Side, folder: Path) -> Run:
    """Run the program of a client; `folder` is made, and holds the files that it wrote.

    Raises:
        ProgramFailedError: If it did not end well, or did not use the side that was asked for.
    """
    # Clients write the path of a model into their files, so it is the same on both sides.
    output = folder.with_name("output")
    output.mkdir()
    log = folder.with_name(f"{folder.name}.log")
    with log.open("w+b") as printing:
        process = subprocess.Popen(
            command(client, side, output),
            cwd=ROOT,
            env=environment(client, folder),
            stdin=subprocess.DEVNULL,
            stdout=printing,
            stderr=subprocess.STDOUT,
        )
        # `wait4`, because it alone tells the peak memory of this one process.
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    output.rename(folder)
    printed = log.read_text("utf-8", errors="replace").splitlines()
    if process.returncode != 0:
        raise ProgramFailedError(_ended(client, side, process.returncode, printed))
    record = json.loads(next(line for line in reversed(printed) if line.startswith('{"results"')))
    _check_implementation(client, side, record["implementation"])
    return Run(folder, record["results"], record["seconds"], hashes(folder), usage.ru_maxrss * 1024)


def command(client: Client, side: Side, folder: Path) -> list[str]:
    """The command line of one run."""
    launcher = ["-m", "safetensors_core.compat"] if side is Side.OURS else []
    program = f"tests.clients.programs.{client.program}"
    return [sys.executable, *launcher, "-m", program, str(folder)]


def environment(client: Client, folder: Path) -> dict[str, str]:
    """The variables of one run: offline, on the CPU, with nothing left to chance."""
    # Caches that a user has at home would make results depend on the machine.
    home = folder.with_name(f"{folder.name}.home")
    home.mkdir(exist_ok=True)
    paths = [str(SHELF)] if client.on_shelf else []
    return {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "1",
        "JAX_PLATFORMS": "cpu",
        "KERAS_BACKEND": "tensorflow",
        # Threads that wait for each other at the end of a computation hide the times of files.
        "OMP_NUM_THREADS": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONPATH": os.pathsep.join([*paths, *filter(None, [os.environ.get("PYTHONPATH")])]),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TRANSFORMERS_OFFLINE": "1",
    }


def hashes(folder: Path) -> dict[str, str]:
    """The hash of each file below a folder, by its path from there."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _check_implementation(client: Client, side: Side, modules: dict[str, str]) -> None:
    """Which files were imported as `safetensors`: all of one side, none of the other."""
    reference = str(metadata.distribution("safetensors").locate_file("safetensors"))
    foreign = {
        name: file
        for name, file in modules.items()
        if Path(file).is_relative_to(reference) != (side is Side.REFERENCE)
    }
    if not modules or foreign:
        raise ProgramFailedError(
            f"{client.program} shall run on {side.value}, but it imported {foreign or 'nothing'}"
        )


def _ended(client: Client, side: Side, code: int, printed: list[str]) -> str:
    tail = "\n".join(printed[-40:])
    return f"{client.program} on {side.value} ended with {code}:\n{tail}"
