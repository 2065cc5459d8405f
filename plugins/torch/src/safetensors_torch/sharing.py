"""Tensors that share memory, which the format cannot express."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from safetensors_core import SharedMemoryError

__all__ = ["check_sharing", "overlapping"]


def overlapping(tensors: Mapping[str, torch.Tensor]) -> list[list[str]]:
    """Groups of tensors that overlap in memory.

    Args:
        tensors: Tensors by name, on any devices. Empty and `meta` tensors overlap with nothing.

    Returns:
        Names by group, in the order of their memory. Views of one storage that do not overlap
        are in no group.

    Example:
        >>> whole = torch.zeros(4)
        >>> overlapping({"whole": whole, "half": whole[:2], "other": torch.zeros(4)})
        [['whole', 'half']]
    """
    spans = []
    for name, tensor in tensors.items():
        if tensor.is_meta or not tensor.numel():
            continue
        begin = tensor.data_ptr()
        steps = zip(tensor.shape, tensor.stride(), strict=True)
        last = sum((size - 1) * stride for size, stride in steps)
        spans.append((str(tensor.device), begin, begin + (last + 1) * tensor.element_size(), name))
    # Stable: names of equal spans keep the order of the dictionary.
    spans.sort(key=lambda span: span[:2])
    groups: list[list[str]] = []
    device, reached = "", 0
    for span_device, begin, end, name in spans:
        if span_device == device and begin < reached:
            groups[-1].append(name)
        else:
            groups.append([name])
            device, reached = span_device, 0
        reached = max(reached, end)
    return [group for group in groups if len(group) > 1]


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
