"""The names of `safetensors.numpy`, served by `safetensors_core`."""

from __future__ import annotations

import os

import numpy as np

from safetensors_core.compat import functions
from safetensors_core.compat.handle import safe_open
from safetensors_core.compat.serialization import (
    TensorSpec,
    deserialize,
    serialize,
    serialize_file,
)
from safetensors_core.compat.settings import is_strict
from safetensors_core.header import parse_header

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

functions.check_plugin("numpy")

_TYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "I64": np.int64,
    "U64": np.uint64,
    "I32": np.int32,
    "U32": np.uint32,
    "I16": np.int16,
    "U16": np.uint16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": bool,
    "C64": np.complex64,
}


def save(tensor_dict: dict[str, np.ndarray], metadata: dict[str, str] | None = None) -> bytes:
    """Save arrays to bytes.

    Args:
        tensor_dict: Arrays by name, in any order of memory.
        metadata: Strings by name to store in the header.

    Returns:
        The bytes of a file.

    Raises:
        SafetensorError: The format has no such dtype.
        TypeError: A name or a metadata value is no string.

    Example:
        >>> len(save({"w": np.zeros(4)}))
        96
    """
    return functions.save(tensor_dict, metadata)


def save_file(
    tensor_dict: dict[str, np.ndarray],
    filename: str | os.PathLike[str],
    metadata: dict[str, str] | None = None,
) -> None:
    """Save arrays to a file.

    Args:
        tensor_dict: Arrays by name, in any order of memory.
        filename: Path of the file.
        metadata: Strings by name to store in the header.

    Raises:
        SafetensorError: The format has no such dtype, or the file cannot be written.
        TypeError: A name or a metadata value is no string, or `filename` is no path.

    Example:
        >>> save_file({"w": np.zeros(4)}, tmp_path / "model.safetensors")
    """
    functions.save_file(tensor_dict, filename, metadata)


def load(data: bytes) -> dict[str, np.ndarray]:
    """Load the arrays of a file that is in memory.

    Args:
        data: The bytes of a file.

    Returns:
        Arrays by name, which own their memory.

    Raises:
        SafetensorError: The bytes are not a valid file.
        TypeError: They are not bytes.

    Example:
        >>> load(save({"w": np.ones(2)}))
        {'w': array([1., 1.])}
    """
    loaded = functions.load(data, "numpy")
    if is_strict():
        for info in parse_header(data).tensors.values():
            _getdtype(str(info.dtype))
    return loaded


def load_file(filename: str | os.PathLike[str], *, backend: str = "mmap") -> dict[str, np.ndarray]:
    """Load the arrays of a file.

    Args:
        filename: Path of the file.
        backend: ``"mmap"`` or ``"pread"``.

    Returns:
        Arrays by name, which own their memory.

    Raises:
        SafetensorError: The file is not valid.
        FileNotFoundError: There is no such file.

    Example:
        >>> load_file(model_path)["bias"]
        array([0., 0., 0.], dtype=float32)
    """
    return functions.load_file(filename, "np", backend=backend)


def _getdtype(dtype_str: str) -> type:
    return _TYPES[dtype_str]
