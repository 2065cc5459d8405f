"""Tensors that share memory, which the format cannot express."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

import torch

from safetensors_core import SharedMemoryError
from safetensors_torch.boxes import Box, boxes_of_view, meeting
from safetensors_torch.lending import PLAIN
from safetensors_torch.memory import lie_apart, region, runs

__all__ = ["check_sharing", "overlapping", "storage_ptr", "storage_size"]

_Place: TypeAlias = tuple[tuple[str, int], int, int, str]  # a region, and the tensor's name


def overlapping(tensors: Mapping[str, torch.Tensor]) -> list[list[str]]:
    """Groups of tensors that overlap in memory.

    Views that interleave, such as the columns of one matrix, are told apart where all of a
    group have rows of one length. In other cases a view with gaps counts as all of the memory
    from its first element to its last.

    Args:
        tensors: Tensors by name, on any devices. Empty ones overlap with nothing, those on
            ``"meta"`` with those of the same storage.

    Returns:
        Names by group, in the order of their memory.

    Example:
        >>> whole = torch.zeros(4)
        >>> overlapping({"whole": whole, "half": whole[:2], "other": torch.zeros(4)})
        [['whole', 'half']]
        >>> overlapping({"even": whole[::2], "odd": whole[1::2]})
        []
    """
    if _apart(tensors.values()):
        return []
    places = []
    for name, tensor in tensors.items():
        found = region(tensor)
        if found is not None:
            # Flat, because the garbage collector soon leaves such tuples alone. There are many.
            places.append((*found, name))
    # Stable: names of equal regions keep the order of the dictionary.
    places.sort(key=lambda place: place[:2])
    groups: list[list[str]] = []
    for together in _connected(places):
        groups.extend(_refined(together, tensors))
    return groups


def _apart(tensors: Iterable[torch.Tensor]) -> bool:
    """Whether tensors are certain to lie apart, as those of nearly all models do."""
    begins: list[int] = []
    ends: list[int] = []
    strided = torch.strided
    for tensor in tensors:
        if (
            type(tensor) in PLAIN
            and tensor.layout is strided
            and not tensor.is_nested
            and tensor.is_contiguous()
        ):
            begin = tensor.data_ptr()
            end = begin + tensor.nbytes
        else:
            found = region(tensor)
            if found is None:
                continue
            _, begin, end = found
        if begin < end:
            begins.append(begin)
            ends.append(end)
    # Addresses of several devices are in one list: at worst, they seem to overlap.
    return lie_apart(begins, ends)


def _connected(places: Sequence[_Place]) -> Iterator[Sequence[_Place]]:
    """Two or more neighbours whose regions overlap, directly or by way of others."""
    first, reached = 0, 0
    for number, (space, begin, end, _) in enumerate(places):
        if begin >= reached or space != places[first][0]:
            if number - first > 1:
                yield places[first:number]
            first, reached = number, end
        elif end > reached:
            reached = end
    if len(places) - first > 1:
        yield places[first:]


def _refined(
    together: Sequence[_Place], tensors: Mapping[str, torch.Tensor]
) -> Iterator[list[str]]:
    """Groups among tensors whose regions overlap, now that gaps in them are looked at."""
    names = [name for *_, name in together]
    rows = [_rows(place, tensors[name]) for place, name in zip(together, names, strict=True)]
    pitches = Counter(pitch for pitch, _, _ in rows if pitch)
    if not pitches:
        yield names
        return
    common = pitches.most_common(1)[0][0]
    beginning = together[0][1]
    boxes: list[tuple[Box, int]] = []
    for owner, (_, begin, end, _) in enumerate(together):
        pitch, count, width = rows[owner]
        if pitch != common:
            count, width = 1, end - begin
        views = boxes_of_view(begin - beginning, width, count, common)
        boxes.extend((box, owner) for box in views)
    for group in meeting(boxes, len(together)):
        if len(group) > 1:
            yield [names[owner] for owner in group]


def _rows(place: _Place, tensor: torch.Tensor) -> tuple[int, int, int]:
    """Distance, number and length of the pieces that a tensor consists of; 0 without gaps."""
    space, begin, end, _ = place
    whole = 0, 1, end - begin
    if end - begin == tensor.nbytes or space[0] == "wrapper":
        return whole
    outer, *inner = runs(tensor)
    width = 1 + sum((run.size - 1) * run.stride for run in inner)
    if not inner or width > outer.stride:
        return whole
    return outer.stride, outer.size, width


def check_sharing(tensors: Mapping[str, torch.Tensor]) -> None:
    """Refuse tensors that overlap in memory.

    Args:
        tensors: Tensors by name.

    Raises:
        SharedMemoryError: Some overlap; names the groups and what to do.

    Example:
        >>> tied = torch.zeros(4)
        >>> check_sharing({"wte": tied, "lm_head": tied})
        Traceback (most recent call last):
        safetensors_core.errors.SharedMemoryError: these tensors share memory, ...
    """
    groups = overlapping(tensors)
    if groups:
        raise SharedMemoryError(
            groups,
            "Use safetensors_torch.save_model(model, filename), which saves one name of each "
            "group and lets load_model tie them again; or clone() the tensors to save each",
        )


def storage_ptr(tensor: torch.Tensor) -> int:
    """Address of the storage that a tensor is a view of.

    Args:
        tensor: Any tensor but a wrapper, whose storage torch does not let anyone look at.

    Returns:
        The address, the same for all views of one storage; 0 without data, as on ``"meta"``,
        and for a sparse tensor, which has several storages.

    Example:
        >>> whole = torch.zeros(4)
        >>> storage_ptr(whole[2:]) == storage_ptr(whole) == whole.data_ptr()
        True
    """
    try:
        return tensor.untyped_storage().data_ptr()
    except NotImplementedError:
        return 0


def storage_size(tensor: torch.Tensor) -> int:
    """Size of the storage that a tensor is a view of, which can be larger than the tensor.

    Args:
        tensor: Any tensor that is not sparse.

    Returns:
        The size in bytes.

    Example:
        >>> storage_size(torch.zeros(4)[2:])
        16
    """
    return tensor.untyped_storage().nbytes()
