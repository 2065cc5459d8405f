"""Names of a file that modules rename, or do without, while they load."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping

import torch

__all__ = ["names_after_hooks"]


def names_after_hooks(
    model: torch.nn.Module, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[list[str], list[str]] | None:
    """Which names are missing and unexpected once the model's modules had their say.

    `BatchNorm` does without a counter that older files lack, a parametrization takes the names
    that it replaced, and any module may have such hooks. They are tried on a copy of the model
    that has no data, so that the model stays as it is.

    Args:
        model: The module.
        shapes: Shapes in the file by name.

    Returns:
        Names that are missing and that are unexpected, as `load_state_dict` reports them; None
        where no module has a say, there can be no such copy, or something is wrong besides the
        names.

    Example:
        >>> names_after_hooks(torch.nn.BatchNorm1d(2, affine=False), {"running_mean": (2,)})
        (['running_var'], [])
    """
    if not any(map(_has_a_say, model.modules())):
        return None
    memo: dict[int, object] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        if torch.nn.parameter.is_lazy(tensor):
            return None
        empty = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
        if isinstance(tensor, torch.nn.Parameter):
            empty = torch.nn.Parameter(empty, requires_grad=tensor.requires_grad)
        memo[id(tensor)] = empty
    state = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tensors without data, which are meant to be so
            result = copy.deepcopy(model, memo).load_state_dict(state, strict=False)
    # Any class may refuse to be copied, and any hook to be called, each in its own way. The
    # names are then reported as they are.
    except Exception:  # noqa: BLE001
        return None
    return list(result.missing_keys), list(result.unexpected_keys)


def _has_a_say(module: torch.nn.Module) -> bool:
    """Whether a module may change names while it loads, so that it is worth trying."""
    if module._load_state_dict_pre_hooks or module._load_state_dict_post_hooks:
        return True
    for name in ("load_state_dict", "_load_from_state_dict"):
        if getattr(getattr(module, name), "__func__", None) is not getattr(torch.nn.Module, name):
            return True
    return False
