"""Files of `mlx.core.savez` and `mlx.core.save` that NumPy alone would not understand."""

from __future__ import annotations

import dataclasses
import os

from safetensors_core import Dtype
from safetensors_core.convert import ForeignCheckpoint
from safetensors_numpy.checkpoints.npz import holds_void, read_npy, read_npz

__all__ = ["read_bfloat16"]


def read_bfloat16(path: str | os.PathLike[str], *, archive: bool) -> ForeignCheckpoint | None:
    """Read a file in which MLX has saved bfloat16, for which NumPy's formats have no name.

    MLX writes two bytes per element of a type that says no more, and takes such for bfloat16.
    A chunk of a tensor is in memory at a time; of one that is not in C order, the whole tensor.

    Args:
        path: The file.
        archive: Whether it is an `.npz`, by its bytes; else it is an `.npy`.

    Returns:
        Its tensors, as NumPy arrays; None if none is of such a type. Arrays of types that the
        safetensors format has not are refused.

    Raises:
        UnsafeCheckpointError: It would do harm.
        ConversionError: It is damaged.
        OSError: It cannot be read.

    Example:
        >>> mx.savez(tmp_path / "a.npz", w=mx.ones((2, 3), dtype=mx.bfloat16))
        >>> found = read_bfloat16(tmp_path / "a.npz", archive=True)
        >>> found.tensors["w"].spec
        TensorSpec(dtype=<Dtype.BF16: 'BF16'>, shape=(2, 3))
        >>> found.close()
    """
    if not holds_void(path):
        return None
    read = read_npz if archive else read_npy
    return dataclasses.replace(read(path, Dtype.BF16), format="mlx")
