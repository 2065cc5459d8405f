"""The files that cases read: a checkpoint in the format of each side."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any, Literal, cast, get_args

import numpy as np
import numpy.typing as npt

from benchmarks.checkpoints import Checkpoint, make_arrays

__all__ = ["Format", "main", "path_of", "write_file"]

Format = Literal["safetensors", "npz", "pt", "flashpack"]
Arrays = dict[str, npt.NDArray[Any]]


def path_of(folder: str, checkpoint: Checkpoint, scale: float, kind: Format) -> str:
    """Where `write_file` puts a checkpoint.

    Args:
        folder: The folder of the run.
        checkpoint: Which one.
        scale: As for `benchmarks.checkpoints.shapes`.
        kind: The format.

    Returns:
        A path in the folder.
    """
    return os.path.join(folder, f"{checkpoint}-{scale:g}.{kind}")


def write_file(folder: str, checkpoint: Checkpoint, scale: float, kind: Format) -> None:
    """Write a checkpoint and wait until it is on disk.

    The reference implementation writes safetensors files, except aligned ones, which it cannot.

    Args:
        folder: The folder of the run.
        checkpoint: Which one; a file that exists is left as it is.
        scale: As for `benchmarks.checkpoints.shapes`.
        kind: The format.
    """
    path = path_of(folder, checkpoint, scale, kind)
    if os.path.exists(path):
        return
    arrays = make_arrays(checkpoint, scale)
    if checkpoint == "aligned":
        import safetensors_numpy

        safetensors_numpy.save_file(arrays, path, alignment=64)
    else:
        _WRITERS[kind](arrays, path)
    # Pages that are not on disk yet cannot be dropped from the page cache.
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def _write_safetensors(arrays: Arrays, path: str) -> None:
    import safetensors.numpy

    safetensors.numpy.save_file(arrays, path)


def _write_npz(arrays: Arrays, path: str) -> None:
    np.savez(path, **cast("Any", arrays))


def _write_pt(arrays: Arrays, path: str) -> None:
    import torch

    torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, path)


def _write_flashpack(arrays: Arrays, path: str) -> None:
    import torch

    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    import_module("flashpack").pack_to_file(tensors, path, None)


_WRITERS: dict[Format, Callable[[Arrays, str], None]] = {
    "safetensors": _write_safetensors,
    "npz": _write_npz,
    "pt": _write_pt,
    "flashpack": _write_flashpack,
}


def main(arguments: list[str]) -> None:
    """Write a checkpoint, in a process that ends with what it imported for that.

    Args:
        arguments: Those of `write_file`.
    """
    folder, checkpoint, scale, kind = arguments
    assert checkpoint in get_args(Checkpoint)
    assert kind in get_args(Format)
    write_file(folder, cast("Checkpoint", checkpoint), float(scale), cast("Format", kind))


if __name__ == "__main__":
    main(sys.argv[1:])
