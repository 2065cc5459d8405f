"""Tensors that lie in a block of memory which others share."""

from __future__ import annotations

import torch

from safetensors_torch.views import contiguous_strides

__all__ = ["tensor_in_block"]


def tensor_in_block(
    block: torch.Tensor, begin: int, end: int, dtype: torch.dtype, shape: tuple[int, ...]
) -> torch.Tensor:
    """A tensor over a part of a block.

    To torch it is no view. It has a storage of exactly its own bytes: programs that find tied
    weights by their storages see none, and `torch.save` writes no more than the tensor.

    Args:
        block: Bytes on any device, from the beginning of a storage on. Its memory is released
            with the last tensor over it.
        begin: First byte, a multiple of the size of an element.
        end: Byte after the last one.
        dtype: The tensor's dtype.
        shape: Its shape.

    Example:
        >>> block = torch.zeros(512, dtype=torch.uint8)
        >>> tensor = tensor_in_block(block, 256, 264, torch.float32, (2,))
        >>> tensor, tensor.untyped_storage().nbytes()
        (tensor([0., 0.]), 8)
    """
    storage = block.untyped_storage()[begin:end]
    tensor = torch.empty(0, dtype=dtype, device=block.device)
    return tensor.set_(storage, 0, shape, contiguous_strides(shape))
