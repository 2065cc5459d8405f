"""Host memory of many tensors, lent to whoever writes it."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence

import torch

__all__ = ["PLAIN", "all_memory", "lend"]

#: Classes whose tensors are what they seem to be: no subclass has a say in what they hold.
PLAIN = frozenset({torch.Tensor, torch.nn.Parameter})

_ALL_MEMORY = ctypes.c_char * sys.maxsize


def all_memory(owner: object) -> memoryview:
    """The memory of the process, of which parts can be lent. An address is an index into it.

    Args:
        owner: What lives as long as the last part that somebody holds.

    Example:
        >>> tensor = torch.tensor([7], dtype=torch.uint8)
        >>> all_memory(tensor)[tensor.data_ptr()]
        7
    """
    memory = _ALL_MEMORY.from_address(0)
    memory.owner = owner  # type: ignore[attr-defined]
    return memoryview(memory).cast("B")


def lend(tensors: Sequence[torch.Tensor]) -> list[memoryview | None]:
    """The memory of tensors, where it holds their bytes as a file would.

    The buffer protocol without NumPy, which torch does not require. One object stands for the
    memory of all tensors, and each gets its part of it: an object for each would take three times
    as long.

    Args:
        tensors: Strided tensors on any devices.

    Returns:
        A buffer for each, which keeps all of them alive; None for one that is not contiguous on
        the host, is empty, or is to be computed when it is read.

    Example:
        >>> [view and view.nbytes for view in lend([torch.zeros(2), torch.zeros(4)[::2]])]
        [8, None]
    """
    begins = [
        tensor.data_ptr()
        if type(tensor) in PLAIN
        and tensor.is_cpu
        and tensor.is_contiguous()
        and not tensor.is_conj()
        and not tensor.is_neg()
        else 0
        for tensor in tensors
    ]
    if sys.byteorder == "big" or not any(begins):
        return [None] * len(tensors)
    memory = all_memory(list(tensors))
    return [
        memory[begin : begin + tensor.nbytes] if begin else None
        for begin, tensor in zip(begins, tensors, strict=True)
    ]
