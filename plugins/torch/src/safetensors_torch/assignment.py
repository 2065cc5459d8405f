"""A file's tensors in the place of a model's, with the model's ties."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from safetensors_core import InvalidInputError
from safetensors_torch.memory import is_wrapper
from safetensors_torch.sharing import overlapping
from safetensors_torch.tied import Tie, tie_of
from safetensors_torch.views import View

__all__ = ["replacements", "same_values", "ties_of"]


def ties_of(state: Mapping[str, torch.Tensor], found: Iterable[str]) -> list[Tie]:
    """The ties of a model, each with a name that a file has, if it has one that holds the others.

    Args:
        state: The model's tensors.
        found: Names in the file.

    Returns:
        Ties. Groups of which a file has only a part, and those that no tensor holds, are none.

    Example:
        >>> weight = torch.zeros(2)
        >>> [tie.kept for tie in ties_of({"a": weight, "b": weight}, ["b"])]
        ['b']
    """
    known = set(found)
    ties = []
    for group in overlapping(state):
        candidates = sorted(known.intersection(group)) or sorted(group)
        tie = tie_of(state, candidates, group)
        if tie is not None:
            ties.append(tie)
    return ties


def same_values(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors are the same, bit by bit.

    Args:
        one: A tensor.
        other: A tensor on the same device. On ``"meta"``, dtype and shape decide.

    Example:
        >>> same_values(torch.tensor([0.0]), torch.tensor([-0.0]))
        False
    """
    if type(one) is not type(other) or one.dtype is not other.dtype or one.shape != other.shape:
        return False
    if is_wrapper(one):
        attributes, context = one.__tensor_flatten__()  # type: ignore[attr-defined]
        matching = (attributes, context) == other.__tensor_flatten__()  # type: ignore[attr-defined]
        return matching and all(same_values(getattr(one, a), getattr(other, a)) for a in attributes)
    if one.is_meta or not one.numel():
        return True
    bits = [tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other)]
    return torch.equal(*bits)


def replacements(
    state: Mapping[str, torch.Tensor], loaded: Mapping[str, torch.Tensor], ties: Iterable[Tie]
) -> dict[str, torch.Tensor]:
    """What is to be assigned to a model, in which the same objects are tied as before.

    Args:
        state: The model's tensors themselves, not detached.
        loaded: The file's tensors by name.
        ties: The model's ties.

    Returns:
        Tensors by name: parameters where the model has them, which require gradients where the
        model's do. All of them share memory with those that were loaded.

    Raises:
        InvalidInputError: A parameter requires gradients, and the file's tensor can have none; or
            a part of a tensor has another dtype than the model's and cannot be a view.

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(2))
        >>> state = {"a": weight, "b": weight}
        >>> made = replacements(state, {"a": torch.ones(2)}, ties_of(state, ["a"]))
        >>> made["a"] is made["b"]
        True
    """
    sources = dict(loaded)
    for tie in ties:
        if tie.kept in loaded:
            whole, before = loaded[tie.kept], state[tie.kept]
            for name, view in tie.views.items():
                if view != View.whole(whole.shape) and (
                    is_wrapper(whole) or (view.dtype and whole.dtype is not before.dtype)
                ):
                    raise InvalidInputError(
                        f"tensor {name!r} is a view of {tie.kept!r} in the model, and cannot be "
                        f"one of what the file has, which is a {type(whole).__name__} of "
                        f"{whole.dtype}: load without assign, or clone() it in the model"
                    )
                sources[name] = view.of(whole)
    made: dict[int, torch.Tensor] = {}
    assigned = {}
    swaps = torch.__future__.get_swap_module_params_on_conversion()
    for name, tensor in sources.items():
        old = state.get(name)
        if old is None:  # a name that a module of the model will change
            assigned[name] = tensor
            continue
        if id(old) not in made:
            made[id(old)] = _like(old, name, tensor)
        elif swaps:
            continue  # torch then swaps what an object is: twice would be not at all
        assigned[name] = made[id(old)]
    return assigned


def _like(old: torch.Tensor, name: str, tensor: torch.Tensor) -> torch.Tensor:
    if not isinstance(old, torch.nn.Parameter):
        return tensor
    if old.requires_grad and not (tensor.is_floating_point() or tensor.is_complex()):
        raise InvalidInputError(
            f"tensor {name!r}: the model's parameter requires gradients, and {tensor.dtype}, which "
            "the file has, can have none: call requires_grad_(False) on the parameter first"
        )
    return torch.nn.Parameter(tensor, requires_grad=old.requires_grad)
