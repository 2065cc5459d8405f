"""`exchange`: tensors of one framework as those of another, in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from safetensors_core import collector
from safetensors_core.description import describe_tensors
from safetensors_core.framework import Framework
from safetensors_core.header import TensorInfo
from safetensors_core.layout import lay_out
from safetensors_core.plugins import get_framework

__all__ = ["exchange"]


def exchange(
    tensors: Mapping[str, Any], framework: str | Framework, device: Any = "cpu"
) -> dict[str, Any]:
    """Turn tensors of any installed frameworks into those of one.

    It gives what saving and loading would give, without the file. Nothing is copied where both
    frameworks can use the same host memory: the result then shares it with the original, so
    that a write to one is a write to the other, and keeps it alive. A tensor is copied once if
    it is not contiguous, if it lies on another device, at an address that the target cannot
    use, or in memory that is not to be written to while the target's tensors are writable.

    Args:
        tensors: Tensors by name, also of several frameworks. Not changed.
        framework: Name or alias of the target, or a `Framework`.
        device: Where the result shall live, as the target spells it.

    Returns:
        Tensors of the target by name, in the order of `tensors`, bit for bit the same.

    Raises:
        UnsupportedDtypeError: The format or the target has no exact equivalent of a dtype.
        InvalidInputError: A tensor cannot be exchanged, or there is no such device.
        PluginError: No installed plugin takes a tensor, or the target's cannot be used.

    Example:
        >>> exchange({"w": torch.arange(3)}, "numpy")
        {'w': array([0, 1, 2])}
    """
    target = get_framework(framework)
    described = describe_tensors(tensors)
    laid_out = lay_out(described.specs, None, 8)[1]
    infos = {name: laid_out[name] for name in described.specs}
    target.check_dtypes(infos)
    target.remark((name, info.dtype) for name, info in infos.items())
    # Without tensors at first: a device that cannot be used is refused before any data moves.
    exchanged = target.from_buffers(memoryview(b""), {}, device)
    with collector.paused():
        for name, info in infos.items():
            # A view with a 0 in its shape cannot be cast.
            buffer = memoryview(b"")
            if info.nbytes:
                buffer = memoryview(described.buffer(name)).cast("B")
            alone = TensorInfo(info.dtype, info.shape, (0, info.nbytes))
            exchanged.update(target.from_buffers(buffer, {name: alone}, device))
    return exchanged
