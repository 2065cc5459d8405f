"""Copying arrays to where a framework can use their memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from safetensors_core import TensorInfo
from safetensors_core.sources import allocate
from safetensors_core.threads import share_work

__all__ = ["align"]

_JOB = 4 * 1024 * 1024  # bytes that one thread copies at a time
_PARALLEL = 4 * _JOB  # below this, starting threads costs more than it saves


def align(
    arrays: dict[str, npt.NDArray[Any]],
    buffer: memoryview,
    infos: Mapping[str, TensorInfo],
    alignment: int,
    *,
    at_least: int,
) -> None:
    """Copy the arrays that do not begin where a framework needs them to, faster than it would.

    XLA and TensorFlow copy them one after the other, on one thread, into memory that is taken
    page by page: 150 to 700 ms for 545 MB on two cores. Several threads and huge pages, where
    the system has them, take 60 to 80.

    Args:
        arrays: Contiguous arrays over `buffer` by name; those that are copied are replaced.
        buffer: The memory in which they lie.
        infos: Their offsets into it by name.
        alignment: Bytes of which an address must be a multiple.
        at_least: Size in bytes below which the framework's own copy is as fast.

    Example:
        >>> from safetensors_core import Dtype
        >>> buffer = memoryview(bytearray(1 << 20))
        >>> info = TensorInfo(Dtype.U8, (1 << 19,), (1, 1 + (1 << 19)))
        >>> arrays = {"w": np.frombuffer(buffer, np.uint8)[1 : 1 + (1 << 19)]}
        >>> align(arrays, buffer, {"w": info}, 4096, at_least=1)
        >>> arrays["w"].ctypes.data % 4096
        0
    """
    if len(buffer) < at_least:
        return
    # An array takes longer to tell its own address.
    address = np.frombuffer(buffer, np.uint8).ctypes.data
    jobs = []
    for name, info in infos.items():
        begin, end = info.data_offsets
        nbytes = end - begin
        # What is packed in the file has been unpacked elsewhere.
        if nbytes < at_least or (address + begin) % alignment == 0 or info.dtype.bits < 8:
            continue
        original = arrays[name]
        copy = np.frombuffer(allocate(nbytes, alignment), np.uint8)
        flat = original.reshape(-1).view(np.uint8)
        jobs += [(copy[i : i + _JOB], flat[i : i + _JOB]) for i in range(0, nbytes, _JOB)]
        arrays[name] = copy.view(original.dtype).reshape(original.shape)
    if sum(len(copy) for copy, _ in jobs) < _PARALLEL:
        for job in jobs:
            np.copyto(*job)
    else:
        # NumPy lets go of the interpreter while it copies; from a map, it waits for the disk.
        share_work(lambda job: np.copyto(*job), jobs)
