"""Tensors of CUDA devices on their way to a file: copied to the host in groups, ahead of need."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from operator import attrgetter
from typing import Any, NamedTuple

import torch

from safetensors_core.sources import allocate
from safetensors_core.transfer import download, neighbours

__all__ = ["bytes_on_host", "groups", "staged_buffers"]

Buffers = Callable[[Sequence[torch.Tensor]], Iterable[memoryview]]

_nbytes: Callable[[torch.Tensor], int] = attrgetter("nbytes")
_device: Callable[[torch.Tensor], torch.device] = attrgetter("device")


class Group(NamedTuple):
    """Tensors of one device that are copied to the host together.

    Attributes:
        stream: The stream of CUDA on which the program uses them; None for another device.
        tensors: The tensors.

    Example:
        >>> Group(None, [torch.zeros(2)]).stream is None
        True
    """

    stream: Any
    tensors: list[torch.Tensor]


def staged_buffers(tensors: Iterable[torch.Tensor], lent: Buffers) -> Iterator[memoryview]:
    """The bytes of tensors, those behind the ones in use copied from their device meanwhile.

    Args:
        tensors: Tensors on any devices, not empty.
        lent: Gives the bytes of tensors that are not on CUDA devices.

    Returns:
        A buffer for each, in the same order.

    Example:
        >>> from safetensors_torch.framework import TorchFramework
        >>> lent = TorchFramework().to_buffers
        >>> [list(view) for view in staged_buffers([torch.ones(2, dtype=torch.uint8)], lent)]
        [[1, 1]]
    """
    return download(groups(tensors), partial(_to_host, lent))


def groups(tensors: Iterable[torch.Tensor]) -> Iterator[Group]:
    """Neighbours on one device that have up to 16 MiB together; a larger tensor is one alone.

    Args:
        tensors: The tensors.

    Yields:
        Them all, in the same order.

    Example:
        >>> [len(group.tensors) for group in groups([torch.zeros(1), torch.zeros(1)])]
        [2]
    """
    for present in neighbours(tensors, _nbytes, _device):
        device = present[0].device
        # Asked for here: the thread that copies has a current stream of its own.
        stream = torch.cuda.current_stream(device) if device.type == "cuda" else None
        yield Group(stream, present)
        del present  # whoever takes the group keeps it


def _to_host(lent: Buffers, group: Group) -> Iterable[memoryview]:
    if group.stream is None:
        return lent(group.tensors)
    with torch.cuda.stream(group.stream):
        return bytes_on_host(group.tensors)


def bytes_on_host(tensors: Sequence[torch.Tensor]) -> list[memoryview]:
    """Copies of tensors of one device, made with one copy to the host.

    Args:
        tensors: Tensors that are not empty.

    Returns:
        For each its bytes in C order, in memory that they share.

    Example:
        >>> list(map(list, bytes_on_host([torch.tensor([1], dtype=torch.int16)] * 2)))
        [[1, 0], [1, 0]]
    """
    flat = [_flat(tensor) for tensor in tensors]
    memory = allocate(sum(map(len, flat)))
    host = torch.frombuffer(memory, dtype=torch.uint8)
    host.copy_(flat[0] if len(flat) == 1 else torch.cat(flat))
    buffers, begin = [], 0
    for part in flat:
        buffers.append(memory[begin : begin + len(part)])
        begin += len(part)
    return buffers


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of a tensor on its device."""
    plain = tensor.detach().resolve_conj().resolve_neg()
    if plain._is_zerotensor():  # all zeros, at no address
        plain = torch.zeros(plain.shape, dtype=plain.dtype, device=plain.device)
    plain = plain.contiguous()
    # Not by reshape(): a dimension of one element may have any stride, and keeps it.
    return plain.as_strided((plain.numel(),), (1,)).view(torch.uint8)
