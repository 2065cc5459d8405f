"""The names of `safetensors.paddle`, served by `safetensors_core`."""

from __future__ import annotations

import os
from typing import Any

import paddle

from safetensors_core.compat import functions
from safetensors_core.compat.handle import safe_open
from safetensors_core.compat.serialization import (
    TensorSpec,
    deserialize,
    serialize,
    serialize_file,
)
from safetensors_core.dtypes import Dtype

__all__ = [
    "TensorSpec",
    "deserialize",
    "load",
    "load_file",
    "safe_open",
    "save",
    "save_file",
    "serialize",
    "serialize_file",
]

functions.check_plugin("paddle")

_TYPES = {
    "F64": paddle.float64,
    "F32": paddle.float32,
    "F16": paddle.float16,
    "BF16": paddle.bfloat16,
    "I64": paddle.int64,
    "I32": paddle.int32,
    "I16": paddle.int16,
    "I8": paddle.int8,
    "U8": paddle.uint8,
    "BOOL": paddle.bool,
    "F8_E4M3": paddle.float8_e4m3fn,
    "F8_E5M2": paddle.float8_e5m2,
}
_SIZE = {dtype: Dtype(code).bits // 8 for code, dtype in _TYPES.items()} | {paddle.complex64: 8}


def save(tensors: dict[str, paddle.Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """Save tensors to bytes.

    Args:
        tensors: Tensors by name. Not changed.
        metadata: Strings by name to store in the header.

    Returns:
        The bytes of a file.

    Raises:
        SafetensorError: The format has no such dtype.
        TypeError: A name or a metadata value is no string.

    Example:
        >>> len(save({"w": paddle.zeros([4])}))
        80
    """
    return functions.save(tensors, metadata)


def save_file(
    tensors: dict[str, paddle.Tensor],
    filename: str | os.PathLike[str],
    metadata: dict[str, str] | None = None,
) -> None:
    """Save tensors to a file.

    Args:
        tensors: Tensors by name. Not changed.
        filename: Path of the file.
        metadata: Strings by name to store in the header.

    Raises:
        SafetensorError: The format has no such dtype, or the file cannot be written.
        TypeError: A name or a metadata value is no string, or `filename` is no path.

    Example:
        >>> save_file({"w": paddle.zeros([4])}, tmp_path / "model.safetensors")
    """
    functions.save_file(tensors, filename, metadata)


def load(data: bytes, device: Any = "cpu") -> dict[str, paddle.Tensor]:
    """Load the tensors of a file that is in memory.

    Args:
        data: The bytes of a file.
        device: Where the tensors shall live, as Paddle spells it.

    Returns:
        Tensors by name, which own their memory.

    Raises:
        SafetensorError: The bytes are not a valid file, or hold a dtype that Paddle lacks.
        TypeError: They are not bytes.

    Example:
        >>> load(save({"w": paddle.zeros([4])}))["w"].shape
        paddle.Size([4])
    """
    return functions.load(data, "paddle", device)


def load_file(
    filename: str | os.PathLike[str], device: Any = "cpu", *, backend: str = "mmap"
) -> dict[str, paddle.Tensor]:
    """Load the tensors of a file.

    Args:
        filename: Path of the file.
        device: Where the tensors shall live, as Paddle spells it.
        backend: ``"mmap"`` or ``"pread"``.

    Returns:
        Tensors by name, which own their memory.

    Raises:
        SafetensorError: The file is not valid, or holds a dtype that Paddle lacks.
        FileNotFoundError: There is no such file.

    Example:
        >>> save_file({"w": paddle.zeros([4])}, tmp_path / "model.safetensors")
        >>> load_file(tmp_path / "model.safetensors")["w"].shape
        paddle.Size([4])
    """
    return functions.load_file(filename, "paddle", device, backend=backend)


def _getdtype(dtype_str: str) -> paddle.dtype:
    return _TYPES[dtype_str]
