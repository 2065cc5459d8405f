"""safetensors files for acme.

The functions, and their options, are those of `safetensors_core` with acme as the framework.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import safetensors_core

if TYPE_CHECKING:
    import acme

__all__ = ["load", "load_file", "save", "save_file"]


def save(tensors: dict[str, acme.Tensor], **options: Any) -> bytes:
    """The bytes of a file that holds some tensors.

    Example:
        >>> import acme
        >>> len(save({"w": acme.tensor([1, 2])}))
        72
    """
    return safetensors_core.save(tensors, **options)


def save_file(
    tensors: dict[str, acme.Tensor], filename: str | os.PathLike[str], **options: Any
) -> None:
    """Write tensors to a file, whole or not at all.

    Example:
        >>> import acme
        >>> save_file({"w": acme.tensor([1, 2])}, "model.safetensors")
    """
    safetensors_core.save_file(tensors, filename, **options)


def load(data: Any, device: str = "cpu", **options: Any) -> dict[str, acme.Tensor]:
    """The tensors of a file that is in memory.

    Example:
        >>> import acme
        >>> load(save({"w": acme.tensor([1, 2])}))
        {'w': acme.tensor([1.0, 2.0], 'float32')}
    """
    return safetensors_core.load(data, "acme", device, **options)


def load_file(
    filename: str | os.PathLike[str], device: str = "cpu", **options: Any
) -> dict[str, acme.Tensor]:
    """The tensors of a file.

    Example:
        >>> import acme
        >>> save_file({"w": acme.tensor([1, 2])}, "model.safetensors")
        >>> load_file("model.safetensors", keys=["w"])
        {'w': acme.tensor([1.0, 2.0], 'float32')}
    """
    return safetensors_core.load_file(filename, "acme", device, **options)
