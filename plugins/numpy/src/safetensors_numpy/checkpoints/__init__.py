"""Readers of foreign checkpoints: `.npy`, `.npz`, ONNX models and GGUF.

| module | what lives there |
|---|---|
| `signatures` | telling the formats by their bytes |
| `stored` | tensors whose bytes lie in a file as they are |
| `npz` | `.npy` and `.npz` |
| `onnx`, `external` | ONNX models, and the files beside them |
| `gguf`, `gguf_header` | GGUF |

Importing the package imports neither NumPy nor the libraries of the formats.
"""

from __future__ import annotations

import os

from safetensors_core import list_plugins
from safetensors_core.convert import ForeignCheckpoint
from safetensors_numpy.checkpoints.signatures import format_of

__all__ = ["format_of", "read_checkpoint"]


def read_checkpoint(path: str | os.PathLike[str]) -> ForeignCheckpoint | None:
    """Read a checkpoint of one of the formats of this package.

    Args:
        path: The file.

    Returns:
        What is in it; None if it is something else, or arrays that the plugin for MLX reads.

    Raises:
        UnsafeCheckpointError: Reading it would run code, or leave its folder.
        ConversionError: It is damaged, or what reads it is not installed.
        OSError: It cannot be read.

    Example:
        >>> np.savez(tmp_path / "model.npz", bias=np.zeros(3, np.float32))
        >>> list(read_checkpoint(tmp_path / "model.npz").tensors)
        ['bias']
    """
    form = format_of(path)
    if form in ("npy", "npz"):
        from safetensors_numpy.checkpoints.npz import holds_void, read_npy, read_npz

        # NumPy does not say what such arrays are. In the files of MLX they are bfloat16.
        if holds_void(path) and _is_usable("mlx"):
            return None
        return read_npz(path) if form == "npz" else read_npy(path)
    if form == "onnx":
        from safetensors_numpy.checkpoints.onnx import read_onnx

        return read_onnx(path)
    if form == "gguf":
        from safetensors_numpy.checkpoints.gguf import read_gguf

        return read_gguf(path)
    return None


def _is_usable(plugin: str) -> bool:
    return any(plugin in info.names and info.status == "ok" for info in list_plugins())
