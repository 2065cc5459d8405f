"""Telling the formats by their bytes. Imports nothing heavy."""

from __future__ import annotations

import os
from typing import IO

from safetensors_core.convert import open_archive

__all__ = ["format_of"]

_ZIP = (b"PK\x03\x04", b"PK\x05\x06")

# Fields of an ONNX model before and after its graph, with how protobuf writes them: 0 for a number,
# 2 for what begins with its length. https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
_MODEL_FIELDS = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2, 20: 2, 25: 2, 26: 2}
_GRAPH = 7
_NEWEST_IR = 127


def format_of(path: str | os.PathLike[str]) -> str | None:
    """The format of a file, among those that this plugin reads.

    Args:
        path: The file, or anything else.

    Returns:
        ``"npy"``, ``"npz"``, ``"onnx"``, ``"gguf"``, or None. A zip archive is an npz if it holds
        arrays and nothing else, or arrays and has that ending. ONNX has no signature: what
        begins like a model and leads to a graph is one.

    Raises:
        UnsafeCheckpointError: It is a zip archive that would do harm.
        ConversionError: It is a zip archive that is damaged.
        OSError: It cannot be read.

    Example:
        >>> (tmp_path / "model.bin").write_bytes(b"GGUF...")
        7
        >>> format_of(tmp_path / "model.bin")
        'gguf'
    """
    if not os.path.isfile(path):
        return None
    with open(path, "rb") as file:
        start = file.read(6)
        if start == b"\x93NUMPY":
            return "npy"
        if start.startswith(b"GGUF"):
            return "gguf"
        if start[:4] in _ZIP:
            return "npz" if _holds_arrays(path) else None
        file.seek(0)
        return "onnx" if start[:1] == b"\x08" and _is_model(file, path) else None


def _holds_arrays(path: str | os.PathLike[str]) -> bool:
    with open_archive(path) as archive:
        names = [entry.filename for entry in archive.infolist() if not entry.is_dir()]
    arrays = [name for name in names if name.endswith(".npy")]
    if _ends_with(path, ".npz"):
        return bool(arrays) or not names
    return bool(arrays) and arrays == names


def _is_model(file: IO[bytes], path: str | os.PathLike[str]) -> bool:
    size = os.fstat(file.fileno()).st_size
    while (key := _varint(file)) is not None:
        number, kind = key >> 3, key & 7
        if _MODEL_FIELDS.get(number) != kind:
            return False
        if number == _GRAPH:
            return True
        value = _varint(file)
        if value is None:
            break
        if number == 1 and not 0 < value <= _NEWEST_IR:
            return False
        if kind == 2:
            file.seek(min(file.tell() + value, size))
    # It ends before the graph: cut off, if it is a model at all.
    return _ends_with(path, ".onnx")


def _varint(file: IO[bytes]) -> int | None:
    """A number as protobuf writes it: seven bits to a byte, the lowest first."""
    value = 0
    for shift in range(0, 63, 7):
        byte = file.read(1)
        if not byte:
            return None
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    return None


def _ends_with(path: str | os.PathLike[str], ending: str) -> bool:
    return os.fsdecode(path).lower().endswith(ending)
