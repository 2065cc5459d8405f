"""Where arrays shall live: what users write for a device, as what JAX needs to place an array."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from safetensors_core import InvalidInputError

__all__ = ["Target", "find_target"]

# Its options are attributes that its type does not list.
_CONFIG: Any = jax.config

_NAME = re.compile(r"([A-Za-z_]+)(?::([0-9]{1,9}))?")


class Target(NamedTuple):
    """A place for arrays.

    Attributes:
        sharding: How an array lies on devices.
        device: The only device of the sharding; None if it was given as a sharding.
        committed: Whether JAX refuses to use the array together with arrays of other devices.

    Example:
        >>> find_target("cpu").device
        CpuDevice(id=0)
    """

    sharding: jax.sharding.Sharding
    device: jax.Device | None
    committed: bool


def find_target(device: Any) -> Target:
    """Find the place that a user means.

    As in JAX itself, whoever does not choose a device leaves the array uncommitted, so that it
    can be used together with any other. The name of a platform chooses its memory, and no device.

    Args:
        device: None for JAX's default device; the name of a platform (``"cpu"``); a name with
            an index among the devices of this process (``"cuda:1"``); a `jax.Device`; or a
            `jax.sharding.Sharding`.

    Returns:
        The place, which exists.

    Raises:
        InvalidInputError: There is no such device, or this process cannot reach it.

    Example:
        >>> find_target("cpu:0").committed, find_target("cpu").committed
        (True, False)
        >>> find_target("cpu:1000")
        Traceback (most recent call last):
        safetensors_core.errors.InvalidInputError: device 'cpu:1000' cannot be used: this process
        has no such device, but: cpu:0
    """
    if device is None:
        return _single(_default_device(), committed=False)
    if isinstance(device, str):
        return _named(device)
    if isinstance(device, jax.Device):
        if device.process_index != jax.process_index():
            raise InvalidInputError(
                f"device {device!r} cannot be used: it belongs to another process. To spread an "
                "array over processes, give a jax.sharding.Sharding"
            )
        return _single(device, committed=True)
    if isinstance(device, jax.sharding.Sharding):
        try:
            device.addressable_devices  # noqa: B018  # an abstract mesh has none
        except (ValueError, RuntimeError, NotImplementedError) as error:
            raise InvalidInputError(f"sharding {device} names no devices: {error}") from error
        return Target(device, None, committed=True)
    hint = ""
    if isinstance(device, Mapping):
        hint = ". Names are known where whole tensors are loaded, not in a slice or another mapping"
    raise InvalidInputError(
        f"device {device!r} cannot be used: expected None, a name such as 'cpu' or 'cuda:1', a "
        f"jax.Device or a jax.sharding.Sharding{hint}"
    )


def _single(device: jax.Device, *, committed: bool) -> Target:
    return Target(jax.sharding.SingleDeviceSharding(device), device, committed)


def _default_device() -> jax.Device:
    chosen = _CONFIG.jax_default_device
    if chosen is None or isinstance(chosen, str):  # the name of a platform
        return jax.local_devices(backend=chosen)[0]
    device: jax.Device = chosen
    return device


def _named(name: str) -> Target:
    match = _NAME.fullmatch(name)
    if match is None:
        raise InvalidInputError(
            f"device {name!r} cannot be used: expected the name of a platform, with an index or "
            "without, such as 'cpu' or 'cuda:1'"
        )
    platform, index = match.groups()
    try:
        devices = jax.local_devices(backend=platform)
    except RuntimeError as error:
        cause = str(error).splitlines()[0]
        raise InvalidInputError(f"device {name!r} cannot be used: {cause}") from error
    if index is None:
        return _single(devices[0], committed=False)
    if int(index) >= len(devices):
        found = ", ".join(f"{platform}:{i}" for i in range(len(devices)))
        raise InvalidInputError(
            f"device {name!r} cannot be used: this process has no such device, but: {found}"
        )
    return _single(devices[int(index)], committed=True)
