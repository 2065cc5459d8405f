"""Tensors that lie in a block of memory which others share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from safetensors_torch.views import contiguous_strides

__all__ = ["Part", "tensors_in_blocks"]

#: Number of the block, first byte in it, byte after the last one, dtype and shape.
Part = tuple[int, int, int, torch.dtype, tuple[int, ...]]


def tensors_in_blocks(
    blocks: Sequence[torch.Tensor], parts: Iterator[Part]
) -> Iterator[torch.Tensor]:
    """Tensors over parts of blocks.

    To torch they are no views. Each has a storage of exactly its own bytes: programs that find
    tied weights by their storages see none, and `torch.save` writes no more than the tensor.

    Args:
        blocks: Bytes on one device, each from the beginning of its storage on. The memory of a
            block is released with the last tensor over it.
        parts: Where each tensor lies, at a multiple of the size of an element, and what it is.

    Yields:
        The tensors.

    Example:
        >>> block = torch.zeros(512, dtype=torch.uint8)
        >>> [tensor] = tensors_in_blocks([block], iter([(0, 256, 264, torch.float32, (2,))]))
        >>> tensor, tensor.untyped_storage().nbytes()
        (tensor([0., 0.]), 8)
    """
    storages = [block.untyped_storage() for block in blocks]
    empty = torch.empty
    strides: dict[tuple[int, ...], tuple[int, ...]] = {}
    for number, begin, end, dtype, shape in parts:
        steps = strides.get(shape)
        if steps is None:
            steps = strides[shape] = contiguous_strides(shape)
        tensor = empty(0, dtype=dtype, device=blocks[number].device)
        yield tensor.set_(storages[number][begin:end], 0, shape, steps)
