"""The names of `safetensors.mlx`, served by `safetensors_core`."""

from __future__ import annotations

import os

import mlx.core as mx

from safetensors_core.compat import functions
from safetensors_core.compat.handle import safe_open

__all__ = ["load", "load_file", "safe_open", "save", "save_file"]

functions.check_plugin("mlx")


def save(tensors: dict[str, mx.array], metadata: dict[str, str] | None = None) -> bytes:
    """Save arrays to bytes.

    Args:
        tensors: Arrays by name. Not changed.
        metadata: Strings by name to store in the header.

    Returns:
        The bytes of a file.

    Raises:
        SafetensorError: The format has no such dtype.
        TypeError: A name or a metadata value is no string.

    Example:
        >>> len(save({"w": mx.zeros(4)}))
        80
    """
    return functions.save(tensors, metadata)


def save_file(
    tensors: dict[str, mx.array],
    filename: str | os.PathLike[str],
    metadata: dict[str, str] | None = None,
) -> None:
    """Save arrays to a file.

    Args:
        tensors: Arrays by name. Not changed.
        filename: Path of the file.
        metadata: Strings by name to store in the header.

    Raises:
        SafetensorError: The format has no such dtype, or the file cannot be written.
        TypeError: A name or a metadata value is no string, or `filename` is no path.

    Example:
        >>> save_file({"w": mx.zeros(4)}, tmp_path / "model.safetensors")
    """
    functions.save_file(tensors, filename, metadata)


def load(data: bytes) -> dict[str, mx.array]:
    """Load the arrays of a file that is in memory.

    Args:
        data: The bytes of a file.

    Returns:
        Arrays by name, which own their memory.

    Raises:
        SafetensorError: The bytes are not a valid file, or hold a dtype that MLX lacks.
        TypeError: They are not bytes.

    Example:
        >>> load(save({"w": mx.zeros(4)}))["w"].shape
        (4,)
    """
    return functions.load(data, "mlx")


def load_file(filename: str | os.PathLike[str], *, backend: str = "mmap") -> dict[str, mx.array]:
    """Load the arrays of a file.

    Args:
        filename: Path of the file.
        backend: ``"mmap"`` or ``"pread"``.

    Returns:
        Arrays by name, which own their memory.

    Raises:
        SafetensorError: The file is not valid, or holds a dtype that MLX lacks.
        FileNotFoundError: There is no such file.

    Example:
        >>> save_file({"w": mx.zeros(4)}, tmp_path / "model.safetensors")
        >>> load_file(tmp_path / "model.safetensors")["w"].shape
        (4,)
    """
    return functions.load_file(filename, "mlx", backend=backend)
