"""Where the elements of a tensor lie."""

from __future__ import annotations

from collections.abc import Iterable
from operator import gt
from typing import NamedTuple

import torch

__all__ = ["Region", "Run", "is_wrapper", "lie_apart", "region", "runs"]

_CPU = ("cpu", 0)


class Region(NamedTuple):
    """The bytes from a tensor's first element to its last.

    Attributes:
        space: What the bytes are counted in: a device, or one storage where there are no
            addresses. Regions of different spaces have nothing in common.
        begin: Address of the first byte.
        end: Address of the byte after the last one.

    Example:
        >>> whole = torch.zeros(8)
        >>> region(whole[2:4]).begin - region(whole).begin
        8
    """

    space: tuple[str, int]
    begin: int
    end: int


class Run(NamedTuple):
    """One dimension of a tensor, as far as it matters to where elements lie.

    Attributes:
        size: How many steps there are, more than one.
        stride: How long a step is, in bytes of memory; not zero.
        packed: How long the same step is in a contiguous copy, in bytes.

    Example:
        >>> runs(torch.zeros(4, 2).T)[0]
        Run(size=4, stride=8, packed=4)
    """

    size: int
    stride: int
    packed: int


def is_wrapper(tensor: torch.Tensor) -> bool:
    """Whether a tensor is of a subclass that computes for itself, from data it holds elsewhere.

    Args:
        tensor: Any tensor. Parameters, buffers and subclasses that only add names are none.

    Example:
        >>> is_wrapper(torch.nn.Parameter(torch.zeros(2)))
        False
    """
    return type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__


def lie_apart(begins: Iterable[int], ends: Iterable[int]) -> bool:
    """Whether regions have nothing in common.

    Args:
        begins: Where they begin, in any order.
        ends: Where they end, likewise.

    Example:
        >>> lie_apart([4, 0], [8, 4]), lie_apart([3, 0], [8, 4])
        (True, False)
    """
    # Exactly if, in order, each begins after as many have ended as begin before it.
    return not any(map(gt, sorted(ends), sorted(begins)[1:]))


def region(tensor: torch.Tensor) -> Region | None:
    """The bytes from a tensor's first element to its last.

    Args:
        tensor: A tensor on any device. On ``"meta"``, where there are no addresses, bytes are
            counted from the beginning of the storage. A wrapper shares with itself alone.

    Returns:
        The region; None for a tensor that is empty or whose memory cannot be told.

    Example:
        >>> found = region(torch.zeros(4, 4)[:, 0])
        >>> found.end - found.begin  # three rows of 16 bytes, and one element
        52
    """
    if is_wrapper(tensor):
        return Region(("wrapper", id(tensor)), 0, 1)
    if tensor.layout is not torch.strided or tensor.is_nested:
        return None
    if torch.nn.parameter.is_lazy(tensor) or not tensor.numel():
        return None
    if tensor.is_meta:
        space = ("meta", tensor.untyped_storage()._cdata)
        begin = int(tensor.storage_offset()) * tensor.element_size()
    else:
        # To ask a device for its type takes longer than all the rest.
        space = _CPU if tensor.is_cpu else (tensor.device.type, tensor.device.index or 0)
        begin = tensor.data_ptr()
        if not begin:  # zeros that are yet to be made, or a device that has no addresses
            return None
    if tensor.is_contiguous():
        last = tensor.numel() - 1
    else:
        steps = zip(tensor.shape, tensor.stride(), strict=True)
        last = sum((size - 1) * stride for size, stride in steps)
    return Region(space, begin, begin + (last + 1) * tensor.element_size())


def runs(tensor: torch.Tensor) -> list[Run]:
    """The dimensions of a tensor, longest step first, with those joined that continue each other.

    Args:
        tensor: A strided tensor that is not empty.

    Returns:
        As few runs as describe it; the last one has bytes for elements. A dimension that
        repeats the same elements is left out.

    Example:
        >>> runs(torch.zeros(4, 6)[:, :2])
        [Run(size=4, stride=24, packed=8), Run(size=8, stride=1, packed=1)]
    """
    item = tensor.element_size()
    found = []
    packed = item
    for size, stride in zip(reversed(tensor.shape), reversed(tensor.stride()), strict=True):
        if size > 1 and stride:
            found.append(Run(size, stride * item, packed))
        packed *= size
    found.sort(key=lambda run: -run.stride)
    joined: list[Run] = []
    for run in (*found, Run(item, 1, 1)):
        outer = joined[-1] if joined else None
        if (
            outer
            and outer.stride == run.size * run.stride
            and outer.packed == run.size * run.packed
        ):
            joined[-1] = Run(outer.size * run.size, run.stride, run.packed)
        else:
            joined.append(run)
    return joined
