"""Tensors for checks: made by the plugin from bytes, and turned into bytes again."""

from __future__ import annotations

from math import prod
from typing import Any

from safetensors_core.dtypes import Dtype
from safetensors_core.framework import Framework
from safetensors_core.header import TensorInfo
from safetensors_core.testing.values import bit_patterns

__all__ = ["GRID", "bytes_of", "data_of", "make", "shapes_of"]

#: A shape for checks that need one tensor of several rows and columns, for every dtype.
GRID = (6, 16)


def shapes_of(dtype: Dtype) -> dict[str, tuple[int, ...]]:
    """Shapes that every framework should hold.

    Args:
        dtype: The element type. Types of 4 and 6 bits fill whole bytes, and some frameworks hold
            them in pairs, so their rows are of 8 elements.

    Returns:
        Shapes by name.

    Example:
        >>> shapes_of(Dtype.F32)["scalar"], shapes_of(Dtype.F4)["odd"]
        ((), (3, 5, 8))
    """
    if dtype.bits < 8:
        return {"empty": (0, 8), "one": (8,), "odd": (3, 5, 8), "large": (129, 256)}
    return {
        "scalar": (),
        "empty": (0, 3),
        "empty inside": (2, 0, 3),
        "one": (1,),
        "ones": (1, 1, 1, 1, 1),
        "odd": (3, 5, 7),
        "large": (129, 257),
    }


def data_of(dtype: Dtype, shape: tuple[int, ...], skip: int = 0) -> bytes:
    """Bytes of a tensor with all kinds of elements.

    Args:
        dtype: The element type.
        shape: Shape of the tensor.
        skip: How many elements to leave out in front, a multiple of 4: for tensors that differ.

    Returns:
        As many bytes as it has in a file.

    Example:
        >>> len(data_of(Dtype.BF16, (3, 5)))
        30
    """
    elements = prod(shape)
    data = bit_patterns(dtype, -(-elements // 4) * 4 + skip)[dtype.nbytes(skip) :]
    return data[: dtype.nbytes(elements)]


def make(
    framework: Framework, dtype: Dtype, shape: tuple[int, ...], data: Any = None, at: int = 0
) -> Any:
    """A tensor of a framework.

    Args:
        framework: The framework.
        dtype: The element type.
        shape: Shape of the tensor.
        data: A buffer that holds it; `data_of` in memory of its own by default.
        at: Where the tensor begins in the buffer.

    Returns:
        What the framework makes of it, on its default device.

    Example:
        >>> from safetensors_core import get_framework
        >>> make(get_framework("numpy"), Dtype.U8, (2, 2), b"abcd").tolist()  # np.ndarray
        [[97, 98], [99, 100]]
    """
    buffer = memoryview(bytearray(data_of(dtype, shape)) if data is None else data)
    info = TensorInfo(dtype, shape, (at, at + dtype.nbytes(prod(shape))))
    return framework.from_buffers(buffer, {"w": info}, framework.devices()[0])["w"]


def bytes_of(framework: Framework, tensor: Any) -> bytes:
    r"""The bytes that a file would hold of a tensor.

    Args:
        framework: The tensor's framework.
        tensor: The tensor.

    Returns:
        A copy of what `to_buffer` gives; like core, it does not ask for that of an empty tensor.

    Example:
        >>> from safetensors_core import get_framework
        >>> bytes_of(get_framework("numpy"), np.array([1, 2], np.uint8))
        b'\x01\x02'
    """
    if framework.describe(tensor).nbytes == 0:
        return b""
    return memoryview(framework.to_buffer(tensor)).tobytes()
