"""Which tensors of PyTorch share memory, as the reference counts it.

`safetensors_torch` counts more exactly; programs that call the reference's own functions expect
its answers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["end_pointer", "find_shared_tensors", "is_complete", "remove_duplicate_names"]


def find_shared_tensors(state_dict: Mapping[str, torch.Tensor]) -> list[set[str]]:
    """Names by the memory they share; a tensor that shares with nobody is a set of its own.

    Tensors on the meta device and those without data are in no set.

    Args:
        state_dict: Tensors by name.

    Example:
        >>> whole = torch.zeros(4)
        >>> named = {"whole": whole, "half": whole[2:], "other": torch.zeros(1)}
        >>> [sorted(names) for names in find_shared_tensors(named)]
        [['half', 'whole'], ['other']]
    """
    storages: dict[tuple[torch.device, int, int], list[str]] = {}
    for name, tensor in state_dict.items():
        if tensor.device.type != "meta":
            try:
                storage = tensor.untyped_storage()
            except NotImplementedError:  # a sparse tensor has none of its own
                continue
            place, size = storage.data_ptr(), storage.nbytes()
            if place and size:
                storages.setdefault((tensor.device, place, size), []).append(name)
    groups: list[set[str]] = []
    for names in storages.values():
        if len(names) == 1:
            groups.append(set(names))
        else:
            groups.extend(_overlapping([_span(state_dict[name], name) for name in names]))
    return groups


def _overlapping(spans: list[tuple[int, int, str]]) -> list[set[str]]:
    spans.sort(key=lambda span: span[:2])
    groups: list[set[str]] = []
    reached = 0
    for begin, end, name in spans:
        if begin >= reached:
            groups.append(set())
        groups[-1].add(name)
        reached = max(reached, end)
    return groups


def _span(tensor: torch.Tensor, name: str) -> tuple[int, int, str]:
    return tensor.data_ptr(), end_pointer(tensor), name


def end_pointer(tensor: torch.Tensor) -> int:
    """Address of the byte behind a tensor's last one.

    Args:
        tensor: A strided tensor.

    Example:
        >>> whole = torch.zeros(4)
        >>> end_pointer(whole) - whole.data_ptr()
        16
    """
    if not tensor.numel():
        return tensor.data_ptr()
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    last = sum((size - 1) * stride for size, stride in steps)
    return tensor.data_ptr() + (last + 1) * tensor.element_size()


def is_complete(tensor: torch.Tensor) -> bool:
    """Whether a tensor is as large as its storage.

    Args:
        tensor: Any tensor.

    Example:
        >>> is_complete(torch.zeros(4)), is_complete(torch.zeros(4)[:2])
        (True, False)
    """
    storage = tensor.untyped_storage()
    return tensor.data_ptr() == storage.data_ptr() and tensor.nbytes == storage.nbytes()


def remove_duplicate_names(
    state_dict: Mapping[str, torch.Tensor],
    *,
    preferred_names: Iterable[str] | None = None,
    discard_names: Iterable[str] | None = None,
) -> defaultdict[str, list[str]]:
    """Of names that share memory, the one to keep, and those to drop for it.

    Args:
        state_dict: Tensors by name.
        preferred_names: Names to keep where there is a choice.
        discard_names: Names to drop where there is a choice.

    Returns:
        For each kept name that stands for others, the sorted names of those.

    Raises:
        RuntimeError: No tensor of a group is as large as its storage.

    Example:
        >>> tied = torch.zeros(2)
        >>> dict(remove_duplicate_names({"a": tied, "b": tied}, preferred_names=["b"]))
        {'b': ['a']}
    """
    preferred, discarded = set(preferred_names or ()), set(discard_names or ())
    dropped: defaultdict[str, list[str]] = defaultdict(list)
    for group in find_shared_tensors(state_dict):
        complete = {name for name in group if is_complete(state_dict[name])}
        if not complete:
            # The words of the reference, which its users compare.
            raise RuntimeError(
                "Error while trying to find names to remove to save state dict, but found no "
                f"suitable name to keep for saving amongst: {group}. None is covering the entire "
                "storage.Refusing to save/load the model since you could be storing much more "
                "memory than needed. Please refer to "
                "https://huggingface.co/docs/safetensors/torch_shared_tensors for more "
                "information. Or open an issue."
            )
        kept = min(preferred & complete or complete - discarded or complete)
        if len(group) > 1:
            dropped[kept] = sorted(group - {kept})
    return dropped
