"""Checkpoints of Flax: msgpack with arrays in it, read an array at a time."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from functools import partial
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from safetensors_core import ConversionError, TensorSpec
from safetensors_core.convert import ForeignCheckpoint, StoredTensor
from safetensors_jax.checkpoints.message_pack import Other, PackedArray, parse_flax
from safetensors_jax.checkpoints.trees import Leaf, find_dtype, plain_text, sort_leaves
from safetensors_numpy.framework import NumpyFramework

__all__ = ["flax_leaves", "read_flax"]

_CHUNK = 16 * 2**20  # bytes


def read_flax(path: str | os.PathLike[str], optimizer: bool = False) -> ForeignCheckpoint:
    r"""Read a file that `flax.serialization.to_bytes` or `msgpack_serialize` made.

    Neither Flax nor the library `msgpack` is needed. Both would hold the whole file in memory;
    here arrays stay in it until they are read, and memory is that of a chunk of 16 MiB, or of one
    tensor where it is F4 or F6.

    Args:
        path: The file.
        optimizer: Whether `opt_state` is wanted, too.

    Returns:
        Its arrays under the keys of the tree, joined with dots, to be read as arrays of NumPy.
        Those of a dtype that the format lacks are refused.

    Raises:
        ConversionError: It is damaged.
        OSError: It cannot be read.

    Example:
        >>> path = tmp_path / "model.msgpack"
        >>> _ = path.write_bytes(b"\x81\xa1w\xc7\x0d\x01\x93\x91\x02\xa5uint8\xc4\x02ab")
        >>> found = read_flax(path)
        >>> found.tensors["w"].spec
        TensorSpec(dtype=<Dtype.U8: 'U8'>, shape=(2,))
        >>> found.close()
    """
    location = os.fsdecode(path)
    file = open(path, "rb")  # noqa: SIM115  # whoever asked closes it, through `close`
    try:
        contents = sort_leaves(flax_leaves(file, location), optimizer, location)
    except BaseException:
        file.close()
        raise
    return ForeignCheckpoint(
        contents.tensors,
        framework="numpy",
        format="flax",
        metadata=contents.metadata,
        left_out=contents.left_out,
        refused=contents.refused,
        close=file.close,
    )


def flax_leaves(file: IO[bytes], location: str) -> Iterator[Leaf]:
    r"""All values of a file, of which no array is read yet.

    Args:
        file: Open for reading; tensors are read from it later.
        location: The file as errors show it.

    Returns:
        The values, in the order of the file.

    Raises:
        ConversionError: It is damaged.

    Example:
        >>> path = tmp_path / "model.msgpack"
        >>> _ = path.write_bytes(b"\x81\xa4step\x03")
        >>> with open(path, "rb") as file:
        ...     [leaf.path for leaf in flax_leaves(file, str(path))]
        [('step',)]
    """
    tree = parse_flax(file, os.fstat(file.fileno()).st_size, location)
    return _leaves(tree, (), partial(_stored, file, location))


def _leaves(tree: Any, path: tuple[str, ...], stored: Any) -> Iterator[Leaf]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _leaves(value, (*path, key), stored)
    elif isinstance(tree, PackedArray):
        yield Leaf(path, tensor=partial(stored, tree))
    elif isinstance(tree, Other):
        yield Leaf(path, reason=tree.description)
    else:
        yield Leaf(path, plain=plain_text(tree), reason="None, not a tensor")


def _stored(file: IO[bytes], location: str, array: PackedArray, name: str) -> StoredTensor:
    """A tensor that can be read, once its bytes were counted."""
    code = find_dtype(array.dtype, name, location)
    dtype = NumpyFramework.dtypes[code]
    found, needed = (
        sum(length for _, length in array.pieces),
        math.prod(array.shape) * dtype.itemsize,
    )
    if found != needed:
        raise ConversionError(
            f"tensor {name!r} of shape {list(array.shape)} and dtype {array.dtype} needs "
            f"{needed:,} bytes, and has {found:,}",
            location,
        )
    chunks = partial(_chunks, file, location, array)

    def read() -> npt.NDArray[Any]:
        data = np.empty(needed, np.uint8)
        at = 0
        for chunk in chunks():
            data[at : at + len(chunk)] = np.frombuffer(chunk, np.uint8)
            at += len(chunk)
        return data.view(dtype).reshape(array.shape)

    # Types below a byte take one here, and are packed in a safetensors file.
    whole = code.bits >= 8
    return StoredTensor(TensorSpec(code, array.shape), read, chunks if whole else None)


def _chunks(file: IO[bytes], location: str, array: PackedArray) -> Iterator[bytes]:
    for begin, length in array.pieces:
        end = begin + length
        while begin < end:
            file.seek(begin)
            chunk = file.read(min(_CHUNK, end - begin))
            if not chunk:
                raise ConversionError("the file became shorter while it was read", location)
            yield chunk
            begin += len(chunk)
