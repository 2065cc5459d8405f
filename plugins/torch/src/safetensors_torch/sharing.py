"""Tensors that share memory, which the format cannot express."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from safetensors_core import SharedMemoryError

__all__ = ["check_sharing", "memory_span", "overlapping"]


def overlapping(tensors: Mapping[str, torch.Tensor]) -> list[list[str]]:
    """Groups of tensors that overlap in memory.

    Args:
        tensors: Tensors by name, on any devices. Empty and `meta` tensors overlap with nothing.

    Returns:
        Names by group, in the order of their memory. A tensor takes up all of its memory from
        the first element to the last, so views that interleave count as overlapping.

    Example:
        >>> whole = torch.zeros(4)
        >>> overlapping({"whole": whole, "half": whole[:2], "other": torch.zeros(4)})
        [['whole', 'half']]
    """
    spans = []
    for name, tensor in tensors.items():
        # On `meta` and on some devices, tensors have no address that could be compared.
        if tensor.numel() and tensor.data_ptr():
            spans.append((tensor.device, *memory_span(tensor), name))
    # Stable: names of equal spans keep the order of the dictionary.
    spans.sort(key=lambda span: (span[0].type, span[0].index or 0, span[1]))
    groups: list[list[str]] = []
    device, reached = None, 0
    for span_device, begin, end, name in spans:
        if span_device == device and begin < reached:
            groups[-1].append(name)
        else:
            groups.append([name])
            device, reached = span_device, 0
        reached = max(reached, end)
    return [group for group in groups if len(group) > 1]


def memory_span(tensor: torch.Tensor) -> tuple[int, int]:
    """The addresses between which the elements of a tensor lie.

    Args:
        tensor: A tensor that is not empty and has data.

    Returns:
        Address of its first byte and of the byte after its last one.

    Example:
        >>> begin, end = memory_span(torch.zeros(4, 4)[:, 0])
        >>> end - begin  # three rows of 16 bytes, and one element
        52
    """
    begin = tensor.data_ptr()
    if tensor.is_contiguous():
        return begin, begin + tensor.nbytes
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    last = sum((size - 1) * stride for size, stride in steps)
    return begin, begin + (last + 1) * tensor.element_size()


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
