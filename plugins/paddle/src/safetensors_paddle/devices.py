"""Paddle's places, from the ways in which its users spell a device."""

from __future__ import annotations

from typing import Any

import paddle

from safetensors_core import InvalidInputError

__all__ = ["find_place"]

_CPU = paddle.CPUPlace()


def find_place(device: Any) -> Any:
    """The place that a device names.

    Args:
        device: ``"cpu"``, ``"gpu"``, ``"gpu:1"``, ``"xpu:0"``, a custom device by its name, a
            place such as `paddle.CUDAPlace(0)`, or None for the device that Paddle uses at the
            moment. ``"cuda"`` is another name for ``"gpu"``.

    Returns:
        A place on which a tensor was made, so it is known to work.

    Raises:
        InvalidInputError: There is no such device, this build of Paddle cannot use it, or Paddle
            is in static graph mode and makes no tensors at all.

    Example:
        >>> find_place("cpu")
        Place(cpu)
    """
    if not paddle.in_dynamic_mode():
        # Paddle's operations end the process when they are given tensors in this mode.
        raise InvalidInputError(
            "Paddle is in static graph mode, which has no tensors: call paddle.disable_static(), "
            'or load with framework="numpy"'
        )
    if device is None:
        device = paddle.get_device()
    if isinstance(device, str) and device == "cpu":
        return _CPU
    try:
        place = _parsed(device)
        if place.is_cpu_place():
            return _CPU
        # A device that cannot be used is to be noticed before anything is read for it.
        paddle.ones([1], dtype="uint8")._copy_to(place, True)
    except (AttributeError, OSError, RuntimeError, TypeError, ValueError) as error:
        lines = str(error).strip().splitlines()
        cause = lines[-1] if lines else type(error).__name__
        raise InvalidInputError(f"device {device!r} cannot be used: {cause}") from error
    return place


def _parsed(device: Any) -> Any:
    """A place of any kind as the general `Place`, which can be asked what it is."""
    if isinstance(device, str):
        device = paddle.device._convert_to_place(device)
    if isinstance(device, paddle.base.core.Place):
        return device
    place = paddle.base.core.Place()
    place.set_place(device)
    return place
