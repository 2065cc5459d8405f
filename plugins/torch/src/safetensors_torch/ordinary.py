"""Tensors of the kind that nearly all are: asked all that saving must know in one go."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from operator import add, attrgetter, ge, gt
from typing import Any

import torch

from safetensors_core import PreparedTensors
from safetensors_torch.description import Specs
from safetensors_torch.lending import PLAIN, all_memory

__all__ = ["prepare_ordinary"]

_kind = attrgetter("dtype", "shape")
_is_cpu = attrgetter("is_cpu")
_Tensor: Any = torch.Tensor
_Storage: Any = torch.UntypedStorage


def prepare_ordinary(tensors: Mapping[str, torch.Tensor]) -> PreparedTensors | None:
    """Tensors that lie on the host one beside the other, each in one piece.

    Each question to torch takes as long as writing a small tensor. So none is asked twice, and
    all of one kind are asked in one loop, which is not one of Python.

    Args:
        tensors: Any tensors by name.

    Returns:
        What is to be written, which aliases the tensors; None where one of them is not of that
        kind, or may be none: nothing is said of whether they can be saved.

    Raises:
        UnsupportedDtypeError: The format has no exact equivalent of a dtype.
        InvalidInputError: One is a pair of F4 elements without a dimension.

    Example:
        >>> tensors = {"w": torch.ones(2, dtype=torch.uint8)}
        >>> [list(buffer) for buffer in prepare_ordinary(tensors).buffers(["w"])]
        [[1, 1]]
        >>> prepare_ordinary({"w": torch.ones(2, 2).T}) is None
        True
    """
    values = list(tensors.values())
    if sys.byteorder == "big" or not PLAIN.issuperset(map(type, values)):
        return None
    kinds = Specs()
    try:
        specs = list(map(kinds.__getitem__, map(_kind, values)))
        storages = list(map(_Tensor.untyped_storage, values))
        begins = list(map(_Tensor.data_ptr, values))
        if not (
            all(map(_is_cpu, values))
            and all(map(_Tensor.is_contiguous, values))
            # Else to be computed when it is read.
            and not any(map(_Tensor.is_neg, values))
            and not (_has_complex(kinds) and any(map(_Tensor.is_conj, values)))
            and all(begins)  # else empty, or zeros that are yet to be made
        ):
            return None
    except RuntimeError:  # no shape, storage or address: sparse, nested, inside of torch.vmap
        return None
    sizes = {id(spec): spec.nbytes for spec in kinds.values()}
    ends = list(map(add, begins, map(sizes.__getitem__, map(id, specs))))
    limits = map(add, map(_Storage.data_ptr, storages), map(_Storage.nbytes, storages))
    if not all(map(ge, limits, ends)):  # the storage was made smaller
        return None
    # They lie apart exactly if, in order, each begins after as many have ended as before it begin.
    if any(map(gt, sorted(ends), sorted(begins)[1:])):
        return None
    places = dict(zip(tensors, map(slice, begins, ends), strict=True))
    memory = all_memory(storages)

    def buffers(names: Iterable[str]) -> Iterator[memoryview]:
        return map(memory.__getitem__, map(places.__getitem__, names))

    return PreparedTensors(specs, buffers)


def _has_complex(kinds: Specs) -> bool:
    return any(dtype.is_complex for dtype, _ in kinds)
