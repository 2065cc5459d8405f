"""NumPy's indexing on torch tensors."""

from __future__ import annotations

from typing import Any

import torch

from safetensors_core import SliceError

__all__ = ["apply_index"]

# Types of the same width for which torch has every kernel that indexing takes.
_CARRIERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def apply_index(
    tensor: torch.Tensor, index: tuple[Any, ...], shape: tuple[int, ...]
) -> torch.Tensor:
    """Index a tensor as NumPy would.

    torch has no slices with negative steps, takes arrays of uint8 for masks, and cannot index
    its rarer types at all; none of that is visible here.

    Args:
        tensor: The tensor.
        index: An index without Ellipsis.
        shape: Its shape in the file, where a packed type is longer than in torch.

    Returns:
        The result, a view where torch gives one.

    Raises:
        SliceError: The index splits elements that torch packs into one.

    Example:
        >>> apply_index(torch.arange(4), (slice(None, None, -1),), (4,))
        tensor([3, 2, 1, 0])
    """
    if tensor.dtype is torch.float4_e2m1fn_x2:
        index = _halve_last(index, shape)
    dtype = tensor.dtype
    carried = tensor if dtype.is_complex else tensor.view(_CARRIERS[dtype.itemsize])
    items: list[Any] = []
    axis = 0
    # NumPy broadcasts integers beside arrays; torch would take their axes out first.
    beside_arrays = any(isinstance(item, list) or hasattr(item, "shape") for item in index)
    for item in index:
        if beside_arrays and isinstance(item, int) and not isinstance(item, bool):
            item = [item]
        if isinstance(item, slice) and item.step is not None and item.step < 0:
            rows = range(*item.indices(carried.shape[axis]))
            ascending = slice(rows[-1], rows[0] + 1, -rows.step) if rows else slice(0, 0)
            selection = (*[slice(None)] * axis, ascending)
            carried = carried[selection].flip(axis)
            item = slice(None)
        elif isinstance(item, list) or hasattr(item, "shape"):
            item = _as_tensor(item)
        items.append(item)
        axis += _axes(item)
    result = carried[tuple(items)]
    return result if dtype.is_complex else result.view(dtype)


def _as_tensor(item: Any) -> torch.Tensor:
    """An index array as torch takes it: booleans for a mask, 64-bit integers otherwise."""
    if isinstance(item, torch.Tensor):
        host: torch.Tensor = item.cpu()  # where the tensor is that it indexes
        return host if host.dtype is torch.bool else host.to(torch.int64)
    if isinstance(item, list):
        leaf: Any = item
        while isinstance(leaf, list):
            leaf = leaf[0] if leaf else None
        return torch.tensor(item, dtype=torch.bool if isinstance(leaf, bool) else torch.int64)
    # What tolist() gives of an empty array has neither its type nor all of its shape.
    dtype = torch.bool if "bool" in str(item.dtype) else torch.int64
    return torch.tensor(item.tolist(), dtype=dtype).reshape(tuple(item.shape))


def _axes(item: Any) -> int:
    if item is None or isinstance(item, bool):
        return 0
    if isinstance(item, torch.Tensor) and item.dtype is torch.bool:
        return item.ndim
    return 1


def _halve_last(index: tuple[Any, ...], shape: tuple[int, ...]) -> tuple[Any, ...]:
    """Convert the index of the last axis from elements to the pairs that torch stores."""
    axis = 0
    for position, item in enumerate(index):
        if item is not None and axis == len(shape) - 1:
            if isinstance(item, slice):
                start, stop, step = item.indices(shape[-1])
                if step == 1 and start % 2 == 0 and stop % 2 == 0:
                    pairs = slice(start // 2, max(start, stop) // 2)
                    return (*index[:position], pairs, *index[position + 1 :])
            raise SliceError(
                "torch stores F4 in pairs: along the last dimension, only a slice of step 1 "
                "between even positions can be taken"
            )
        axis += _axes(item if not isinstance(item, list) else _as_tensor(item))
    return index
