"""Reading every byte of a result, and telling whether two results are the same."""

from __future__ import annotations

import hashlib
import io
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from benchmarks.frameworks import handling
from benchmarks.setting import Setting

__all__ = [
    "of_bytes",
    "of_metadata",
    "of_names",
    "of_nothing",
    "of_npz",
    "of_pt",
    "of_saved_file",
    "of_tensor",
    "of_tensors",
    "touch",
]


def touch(tensors: Any, framework: str) -> int:
    """Read every byte of some tensors: the same sum, made the same way, for both sides.

    Args:
        tensors: Tensors by name, each of whole 8-byte words.
        framework: Theirs.

    Returns:
        The sum of their 8-byte words, modulo 2 to the 64.
    """
    view = handling(framework).array

    def add(tensor: Any) -> int:
        array = view(tensor)
        # A slice is read where it lies: packing it first would read it twice.
        words = array.reshape(-1) if array.flags.c_contiguous else array
        return int(np.add.reduce(words.view(np.uint64), axis=None))

    return sum(map(add, tensors.values())) % (1 << 64)


def of_tensors(setting: Setting, tensors: Any) -> str:
    """Names, dtypes, shapes and content of tensors in one string.

    The content by a checksum and not by its sum: parts that were read to each other's places
    have the same sum.
    """
    if setting.device != "cpu":
        tensors = {name: tensor.cpu() for name, tensor in tensors.items()}
    view = handling(setting.framework).array
    return _digest(
        f"{name} {tensor.dtype} {tuple(tensor.shape)} "
        f"{zlib.crc32(np.ascontiguousarray(view(tensor)).data):08x}"
        for name, tensor in sorted(tensors.items())
    )


def of_tensor(setting: Setting, tensor: Any) -> str:
    """Dtype, shape and content of one tensor in one string."""
    return of_tensors(setting, {"": tensor})


def of_names(_setting: Setting, opened: Any) -> str:
    """The names in a file that was opened, or in its header."""
    names = opened.keys() if hasattr(opened, "keys") else opened.tensors
    return _digest(sorted(names))


def of_metadata(_setting: Setting, found: Any) -> str:
    """What the headers of a repository say of its tensors."""
    headers = found.files if hasattr(found, "files") else found.files_metadata
    return _digest(
        f"{file} {name} {info.dtype} {list(info.shape)} {list(info.data_offsets)}"
        for file, header in sorted(headers.items())
        for name, info in sorted(header.tensors.items())
    )


def of_saved_file(setting: Setting, _result: None) -> str:
    """Content of the file that was saved."""
    with open(setting.target, "rb") as file:
        return of_bytes(setting, file.read())


def of_bytes(_setting: Setting, data: bytes) -> str:
    """Size and checksum of bytes."""
    return f"{len(data)} {zlib.crc32(data):08x}"


def of_npz(setting: Setting, data: bytes | None) -> str:
    """The same as `of_bytes` of the safetensors file of the arrays that ``numpy.savez`` wrote.

    Args:
        setting: Where they were saved, if not to bytes.
        data: What was written, or None for the file.
    """
    with np.load(setting.target if data is None else io.BytesIO(data)) as arrays:
        return _of_arrays(setting, dict(arrays))


def of_pt(setting: Setting, data: bytes | None) -> str:
    """The same as `of_bytes` of the safetensors file of the tensors that ``torch.save`` wrote.

    Args:
        setting: Where they were saved, if not to bytes.
        data: What was written, or None for the file.
    """
    import torch

    tensors = torch.load(setting.target if data is None else io.BytesIO(data), weights_only=True)
    return _of_arrays(setting, {name: tensor.numpy() for name, tensor in tensors.items()})


def of_nothing(_setting: Setting, _result: object) -> str:
    """Nothing: the result is that the call came to its end."""
    return ""


def _of_arrays(setting: Setting, arrays: Any) -> str:
    import safetensors.numpy

    return of_bytes(setting, safetensors.numpy.save(arrays))


def _digest(lines: Iterable[str]) -> str:
    return hashlib.blake2b("\n".join(lines).encode(), digest_size=16).hexdigest()
