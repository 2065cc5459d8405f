"""Devices as MLX spells them."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from safetensors_core import InvalidInputError

__all__ = ["find_device"]

_NAMES = {"cpu": mx.cpu, "gpu": mx.gpu}


def find_device(device: Any) -> mx.Device:
    """MLX's object for a device.

    Args:
        device: ``"cpu"``, ``"gpu"``, ``mx.cpu``, ``mx.gpu``, an `mx.Device`, or None for MLX's
            own default device.

    Returns:
        A device that can be used here.

    Raises:
        InvalidInputError: There is no such device, or this build of MLX cannot use it.

    Example:
        >>> find_device("cpu")
        Device(cpu, 0)
    """
    if device is None:
        return mx.default_device()
    found = _NAMES.get(device) if isinstance(device, str) else device
    if isinstance(found, mx.DeviceType):
        found = mx.Device(found, 0)
    if not isinstance(found, mx.Device):
        raise InvalidInputError(
            f"MLX has no device {device!r}: give 'cpu', 'gpu', an mlx.core.Device, or None for "
            "MLX's default device"
        )
    if not mx.is_available(found):
        raise InvalidInputError(
            f"device {device!r} cannot be used: MLX finds no {found} in this computer, or was "
            "built without support for it"
        )
    return found
