"""Tensors that exist already and take over the content of a file."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from safetensors_core import Framework, InvalidInputError
from safetensors_core.strides import may_overlap
from safetensors_torch.lending import lend
from safetensors_torch.memory import is_wrapper

__all__ = ["FillableTensors"]


class FillableTensors(Framework):
    """The part of `TorchFramework` that fills tensors.

    Autograd notices it: a backward pass that needs what a tensor held before fails, as after any
    other change in place.

    Example:
        >>> from safetensors_core import get_framework
        >>> isinstance(get_framework("torch"), FillableTensors)
        True
    """

    def check_fillable(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Refuse tensors of which several elements are one in memory."""
        for name, tensor in tensors.items():
            if not tensor.is_contiguous() and may_overlap(tensor.shape, tensor.stride()):
                raise InvalidInputError(
                    f"tensor {name!r} is expanded, or a view in which several elements are one "
                    "in memory. Fill a clone() of it"
                )

    def memory(self, tensor: torch.Tensor) -> memoryview | None:
        """The memory of a contiguous tensor on the CPU; counts as a change of the tensor."""
        if not tensor.is_cpu or not tensor.is_contiguous() or is_wrapper(tensor):
            return None
        # A conjugate is computed when it is read, and a tensor of zeros has no memory.
        computed = tensor.is_conj() or tensor.is_neg() or tensor._is_zerotensor()
        if computed or not tensor.numel() or sys.byteorder == "big":
            return None
        torch.autograd.graph.increment_version(tensor)
        memory = (ctypes.c_char * tensor.nbytes).from_address(tensor.data_ptr())
        memory.owner = tensor  # type: ignore[attr-defined]
        return memoryview(memory).cast("B")

    def memories(self, tensors: Sequence[torch.Tensor]) -> list[memoryview | None]:
        """The memory of tensors; that of ordinary ones in a few passes."""
        lent = lend(tensors)
        pairs = list(zip(tensors, lent, strict=True))
        torch.autograd.graph.increment_version([t for t, view in pairs if view is not None])
        return [self.memory(t) if view is None else view for t, view in pairs]

    def assign(self, tensor: torch.Tensor, value: torch.Tensor) -> None:
        """Copy a tensor into another, on whatever devices they are."""
        # A tensor of inference mode can be changed there only.
        with torch.no_grad(), torch.inference_mode(tensor.is_inference()):
            try:
                tensor.detach().copy_(value)
            except (RuntimeError, NotImplementedError) as error:
                cause = str(error).splitlines()[0].rstrip(".")
                raise InvalidInputError(f"torch cannot fill a tensor: {cause}") from error

    def device_of(self, tensor: torch.Tensor) -> Any:
        """The device of a tensor."""
        return tensor.device
