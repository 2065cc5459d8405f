"""Tensors of the kind that nearly all are: asked all that saving must know in one go."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from operator import add, attrgetter, eq, ge
from typing import Any

import torch

from safetensors_core import PreparedTensors
from safetensors_torch.description import Specs
from safetensors_torch.lending import PLAIN, all_memory
from safetensors_torch.memory import lie_apart

__all__ = ["prepare_ordinary"]

_kind = attrgetter("dtype", "shape")
_is_cpu = attrgetter("is_cpu")
_start = attrgetter("start")
_Tensor: Any = torch.Tensor
_Storage: Any = torch.UntypedStorage

# Tensors, and bytes of them, that are lent at a time: whoever writes them takes a while, and
# meanwhile the memory of others may be replaced.
_MOST = 1024
_NBYTES = 4 * 1024 * 1024


def prepare_ordinary(
    tensors: Mapping[str, torch.Tensor],
    otherwise: Callable[[Iterable[torch.Tensor]], Iterator[memoryview]],
) -> PreparedTensors | None:
    """Tensors that lie on the host one beside the other, each in one piece.

    Each question to torch takes as long as writing a small tensor. So hardly any is asked twice,
    and all of one kind are asked in one loop, which is not one of Python.

    Args:
        tensors: Any tensors by name.
        otherwise: Gives the bytes of tensors whose memory was replaced meanwhile.

    Returns:
        What is to be written, which aliases the tensors; None where one of them is not of that
        kind, or may be none: nothing is said of whether they can be saved.

    Raises:
        UnsupportedDtypeError: The format has no exact equivalent of a dtype.
        InvalidInputError: One is a pair of F4 elements without a dimension.

    Example:
        >>> tensors = {"w": torch.ones(2, dtype=torch.uint8)}
        >>> [list(buffer) for buffer in prepare_ordinary(tensors, iter).buffers(["w"])]
        [[1, 1]]
        >>> prepare_ordinary({"w": torch.ones(2, 2).T}, iter) is None
        True
    """
    values = list(tensors.values())
    kinds = Specs()
    try:
        if not (_in_one_piece(values) and sys.byteorder == "little"):
            return None
        specs = list(map(kinds.__getitem__, map(_kind, values)))
        begins = list(map(_Tensor.data_ptr, values))
        size_of = {id(spec): spec.nbytes for spec in kinds.values()}
        sizes = list(map(size_of.__getitem__, map(id, specs)))
        ends = list(map(add, begins, sizes))
        storages = list(map(_Tensor.untyped_storage, values))
        limits = map(add, map(_Storage.data_ptr, storages), map(_Storage.nbytes, storages))
        if (
            not all(map(ge, limits, ends))  # a storage was made smaller
            or not lie_apart(begins, ends)
            or any(map(_Tensor.is_neg, values))  # to be computed when it is read
            or (any(dtype.is_complex for dtype, _ in kinds) and any(map(_Tensor.is_conj, values)))
        ):
            return None
    except RuntimeError:  # no shape, storage or memory: sparse, nested, zeros, inside of torch.vmap
        return None
    places = dict(zip(tensors, map(slice, begins, ends), strict=True))
    memory = all_memory(storages)
    at_once = max(1, min(_MOST, _NBYTES * len(sizes) // max(1, sum(sizes))))

    def lend(names: list[str]) -> Iterator[memoryview]:
        some, found = [tensors[name] for name in names], [places[name] for name in names]
        # Their memory may have been replaced since it was asked for.
        if all(map(eq, map(_Tensor.data_ptr, some), map(_start, found))):
            return map(memory.__getitem__, found)
        return otherwise(some)

    def buffers(names: Iterable[str]) -> Iterator[memoryview]:
        remaining = iter(names)
        return chain.from_iterable(map(lend, iter(lambda: list(islice(remaining, at_once)), [])))

    return PreparedTensors(specs, buffers)


def _in_one_piece(tensors: Sequence[torch.Tensor]) -> bool:
    """Whether tensors are no subclasses, on the host, and contiguous."""
    return (
        PLAIN.issuperset(map(type, tensors))
        and all(map(_is_cpu, tensors))
        and all(map(_Tensor.is_contiguous, tensors))
    )
