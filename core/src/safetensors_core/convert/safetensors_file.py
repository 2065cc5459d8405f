"""safetensors files as sources of conversions: other layouts, other dtypes, other names."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from safetensors_core.checkpoint.checksums import METADATA_KEY
from safetensors_core.convert.foreign import ForeignCheckpoint, StoredTensor
from safetensors_core.errors import ConversionError
from safetensors_core.framework import TensorSpec
from safetensors_core.header import TensorInfo
from safetensors_core.plugins import get_framework, list_plugins
from safetensors_core.sources import FileSource

__all__ = ["is_safetensors", "read_safetensors"]

_VIEWS = "safetensors_core.views"  # what the PyTorch plugin notes of such names
_BLOCK = 4 * 1024 * 1024  # bytes


def is_safetensors(path: str) -> bool:
    """Whether a file is a safetensors file, by its name.

    Args:
        path: The file.

    Returns:
        True for names that end with ``.safetensors``.

    Example:
        >>> is_safetensors("model.safetensors"), is_safetensors("model.bin")
        (True, False)
    """
    return path.endswith(".safetensors")


def read_safetensors(path: str) -> ForeignCheckpoint:
    """Open a safetensors file as what is converted.

    Args:
        path: The file.

    Returns:
        Its tensors, of which none is read yet, under all names that the metadata gives them.
        What is not copied as it is needs NumPy, or else another framework that is installed.

    Raises:
        HeaderError: It is not a valid safetensors file.
        ConversionError: Names in it stand for parts of tensors.
        OSError: It cannot be read.

    Example:
        >>> found = read_safetensors(str(model_path))
        >>> list(found.tensors)
        ['bias', 'weight']
        >>> found.close()
    """
    source = FileSource(path)
    try:
        header = source.read_header()
    except BaseException:
        source.close()
        raise
    metadata = dict(header.metadata or {})
    format_name = metadata.pop("format", "")
    metadata.pop(METADATA_KEY, None)  # checksums of this file, not of the next
    if _VIEWS in metadata:
        source.close()
        raise ConversionError(
            "it holds names that stand for parts of other tensors; load it with "
            "safetensors_torch.load_file(..., tied='expand') and save copies",
            path,
        )
    framework = _framework()
    tensors = {
        name: StoredTensor(
            TensorSpec(info.dtype, info.shape),
            partial(_tensor, source, name, info, framework),
            partial(_chunks, source, info),
            key=name,
        )
        for name, info in header.tensors.items()
    }
    for name, kept in list(metadata.items()):
        if kept in header.tensors and name not in header.tensors:
            tensors[name] = tensors[metadata.pop(name)]
    return ForeignCheckpoint(tensors, framework, format_name, metadata, close=source.close)


def _framework() -> str:
    usable = [info.name for info in list_plugins() if info.status == "ok"]
    # NumPy represents every dtype, and what stays as it is needs no framework.
    return "numpy" if "numpy" in usable else next(iter(usable), "numpy")


def _tensor(source: FileSource, name: str, info: TensorInfo, framework: str) -> Any:
    return get_framework(framework).load(source, {name: info}, "cpu")[name]


def _chunks(source: FileSource, info: TensorInfo) -> Iterator[memoryview]:
    begin, end = (source.header.data_start + offset for offset in info.data_offsets)
    while begin < end:
        block = memoryview(bytearray(min(end - begin, _BLOCK)))
        source.read_into(begin, block)
        yield block
        begin += len(block)
