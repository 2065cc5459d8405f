"""How one tensor lies within another one, so that it can be dropped and made again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from safetensors_torch.memory import Run, is_wrapper, region, runs

__all__ = ["View", "contiguous_strides", "view_within"]


class View(NamedTuple):
    """A view of a contiguous tensor. Shape, strides and offset are in elements of its dtype.

    Attributes:
        shape: The view's shape.
        stride: Its strides.
        offset: Where it begins in the contiguous tensor.
        dtype: Its dtype; None where it is that of the contiguous tensor.

    Example:
        >>> column = View((2,), (3,), 1)
        >>> column.of(torch.arange(6.0).reshape(2, 3))
        tensor([1., 4.])
    """

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int = 0
    dtype: torch.dtype | None = None

    @classmethod
    def whole(cls, shape: Sequence[int]) -> View:
        """The view that is all of a contiguous tensor.

        Args:
            shape: The tensor's shape.

        Example:
            >>> View.whole((2, 3))
            View(shape=(2, 3), stride=(3, 1), offset=0, dtype=None)
        """
        return cls(tuple(shape), contiguous_strides(shape))

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """The view of a tensor.

        Args:
            tensor: A contiguous tensor in which the view fits.

        Returns:
            A tensor that shares the memory of the other; the tensor itself where the view is
            all of it.

        Example:
            >>> View((2, 2), (0, 1)).of(torch.ones(2))
            tensor([[1., 1.],
                    [1., 1.]])
        """
        if self == View.whole(tensor.shape):
            return tensor
        if self.dtype is not None:
            flat = tensor.reshape(-1).view(torch.uint8)
            # Bytes at the end may be too few for an element.
            tensor = flat[: flat.numel() // self.dtype.itemsize * self.dtype.itemsize]
            tensor = tensor.view(self.dtype)
        begin = tensor.storage_offset() + self.offset
        return torch.as_strided(tensor, self.shape, self.stride, begin)


def contiguous_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of a contiguous tensor, in elements.

    Args:
        shape: Its shape.

    Example:
        >>> contiguous_strides((2, 3, 4))
        (12, 4, 1)
    """
    strides = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


def view_within(whole: torch.Tensor, part: torch.Tensor) -> View | None:
    """The view by which a contiguous copy of one tensor gives another.

    Args:
        whole: The tensor that is to be kept.
        part: A tensor that shares memory with it. Neither is empty.

    Returns:
        The view, or None where the whole does not hold all of the part, or in an order for
        which there are no strides.

    Example:
        >>> whole = torch.zeros(4, 4)
        >>> view_within(whole, whole[1:, 0])
        View(shape=(3,), stride=(4,), offset=4, dtype=None)
        >>> view_within(whole[1:], whole)
    """
    shape = tuple(part.shape)
    if part is whole:
        return View.whole(shape)
    place, around = region(part), region(whole)
    # What is yet to be computed of a view is lost in its bytes.
    same_numbers = part.is_conj() == whole.is_conj() and part.is_neg() == whole.is_neg()
    if place is None or around is None or place.space != around.space or not same_numbers:
        return None
    dtype = None if part.dtype is whole.dtype else part.dtype
    if is_wrapper(part) or (dtype is not None and (part.is_conj() or part.is_neg())):
        return None
    item = part.element_size()
    strides = zip(shape, part.stride(), strict=True)
    lengths = [stride * item if size > 1 else 0 for size, stride in strides]
    steps = [place.begin - around.begin, *lengths, 1]
    packed = _packed(runs(whole), steps, [1, *(size - 1 for size in shape), item - 1])
    if packed is None or packed[-1] != 1 or any(step % item for step in packed[:-1]):
        return None
    offset, *stepped = (step // item for step in packed[:-1])
    # The stride of a single element means nothing: one way to write it.
    plain = contiguous_strides(shape)
    chosen = [s if size > 1 else p for size, s, p in zip(shape, stepped, plain, strict=True)]
    return View(shape, tuple(chosen), offset, dtype)


def _packed(whole: Sequence[Run], steps: Sequence[int], counts: Sequence[int]) -> list[int] | None:
    """Steps through memory as steps through a contiguous copy.

    Each is written as a number of steps along each run. If, with all of them taken, no run
    comes to its end, they lead to the same elements in both, and none leads into a gap.
    """
    if steps[0] < 0:
        return None
    ends = [0] * len(whole)
    packed = []
    for step, count in zip(steps, counts, strict=True):
        sum_packed = 0
        for axis, run in enumerate(whole):
            digit, step = divmod(step, run.stride)
            ends[axis] += digit * count
            sum_packed += digit * run.packed
        packed.append(sum_packed)
    fits = all(end < run.size for end, run in zip(ends, whole, strict=True))
    return packed if fits else None
