"""The names of `safetensors.flax`, served by `safetensors_core`."""

from __future__ import annotations

import os

import jax

from safetensors_core.compat import functions
from safetensors_core.compat.handle import safe_open

__all__ = ["load", "load_file", "safe_open", "save", "save_file"]

functions.check_plugin("jax")


def save(tensors: dict[str, jax.Array], metadata: dict[str, str] | None = None) -> bytes:
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
        >>> len(save({"w": jnp.zeros(4)}))
        80
    """
    return functions.save(tensors, metadata)


def save_file(
    tensors: dict[str, jax.Array],
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
        >>> save_file({"w": jnp.zeros(4)}, tmp_path / "model.safetensors")
    """
    functions.save_file(tensors, filename, metadata)


def load(data: bytes) -> dict[str, jax.Array]:
    """Load the arrays of a file that is in memory.

    Args:
        data: The bytes of a file.

    Returns:
        Arrays by name, which own their memory.

    Raises:
        SafetensorError: The bytes are not a valid file, or hold a dtype that JAX lacks.
        TypeError: They are not bytes.

    Example:
        >>> load(save({"w": jnp.zeros(4)}))["w"].shape
        (4,)
    """
    return functions.load(data, "jax")


def load_file(filename: str | os.PathLike[str], *, backend: str = "mmap") -> dict[str, jax.Array]:
    """Load the arrays of a file.

    Args:
        filename: Path of the file.
        backend: ``"mmap"`` or ``"pread"``.

    Returns:
        Arrays by name, which own their memory.

    Raises:
        SafetensorError: The file is not valid, or holds a dtype that JAX lacks.
        FileNotFoundError: There is no such file.

    Example:
        >>> save_file({"w": jnp.zeros(4)}, tmp_path / "model.safetensors")
        >>> load_file(tmp_path / "model.safetensors")["w"].shape
        (4,)
    """
    return functions.load_file(filename, "flax", backend=backend)
