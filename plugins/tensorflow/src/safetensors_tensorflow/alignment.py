"""Addresses at which TensorFlow can use memory that is not its own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from safetensors_core import TensorInfo

__all__ = ["ALIGNMENT", "align"]

Array = npt.NDArray[Any]

#: Bytes of which the address of a tensor must be a multiple. TensorFlow is compiled with
#: ``EIGEN_MAX_ALIGN_BYTES=64``: its kernels check the address and end the process where it does
#: not fit. A tensor made from an array at another address is a copy, made by TensorFlow; one
#: that is imported through DLPack is not, and fails in the first kernel.
ALIGNMENT = 64

# Below this, TensorFlow's copy takes memory that the process has already, which is faster.
_LARGE = 256 * 1024
_JOB = 8 * 1024 * 1024  # bytes that one thread copies at a time
_PARALLEL = 2 * _JOB  # below this, starting threads costs more than it saves


def align(arrays: dict[str, Array], buffer: memoryview, infos: Mapping[str, TensorInfo]) -> None:
    """Copy the large arrays that TensorFlow would have to copy, faster than it does.

    Its own copies are made one after the other into memory that is taken page by page; these
    are made by several threads into huge pages where the system has them.

    Args:
        arrays: Arrays over `buffer` by name; those that are copied are replaced.
        buffer: The memory in which they lie.
        infos: Offsets into it by name.

    Example:
        >>> from safetensors_core import Dtype
        >>> buffer = memoryview(bytearray(1 << 20))
        >>> info = TensorInfo(Dtype.U8, (1 << 19,), (1, 1 + (1 << 19)))
        >>> arrays = {"w": np.frombuffer(buffer, np.uint8)[1 : 1 + (1 << 19)]}
        >>> align(arrays, buffer, {"w": info})
        >>> arrays["w"].ctypes.data % ALIGNMENT
        0
    """
    if len(buffer) < _LARGE:
        return
    address = np.frombuffer(buffer, np.uint8).ctypes.data
    copies: list[tuple[Array, Array]] = []
    total = 0
    for name, info in infos.items():
        begin, end = info.data_offsets
        # What is packed in the file has been unpacked elsewhere.
        if end - begin < _LARGE or (address + begin) % ALIGNMENT == 0 or info.dtype.bits < 8:
            continue
        array = arrays[name]
        copy = aligned_empty(end - begin)
        copies.append((copy, array.reshape(-1).view(np.uint8)))
        total += end - begin
        arrays[name] = copy.view(array.dtype).reshape(array.shape)
    if total < _PARALLEL:
        for copy, original in copies:
            np.copyto(copy, original)
        return
    from concurrent.futures import ThreadPoolExecutor

    parts = [
        (copy[begin : begin + _JOB], original[begin : begin + _JOB])
        for copy, original in copies
        for begin in range(0, len(copy), _JOB)
    ]
    pool = ThreadPoolExecutor(min(8, max(2, os.cpu_count() or 1)))
    try:
        # NumPy lets go of the interpreter while it copies.
        for done in [pool.submit(np.copyto, *part) for part in parts]:
            done.result()
    finally:
        pool.shutdown(cancel_futures=True)


def aligned_empty(nbytes: int) -> Array:
    """Memory at an address that suits TensorFlow, its content undefined.

    Args:
        nbytes: Size in bytes.

    Returns:
        An array of bytes, which are freed with the last array over them.

    Example:
        >>> aligned_empty(1000).ctypes.data % ALIGNMENT
        0
    """
    # NumPy asks for huge pages where an array is large.
    spare = np.empty(nbytes + ALIGNMENT, np.uint8)
    begin = -spare.ctypes.data % ALIGNMENT
    return spare[begin : begin + nbytes]
