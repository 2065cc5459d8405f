"""Arrays of other devices on their way to a file: copied to the CPU one ahead of need."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import jax

from safetensors_jax.placement import exact

__all__ = ["brought_ahead", "brought_to_host"]


def brought_to_host(array: jax.Array) -> jax.Array:
    """An array of one device on the CPU; its copy may still be under way.

    Args:
        array: An array on one device.

    Returns:
        The array itself where it is there already.

    Example:
        >>> array = jnp.ones(2)
        >>> brought_to_host(array) is array
        True
    """
    [device] = array.devices()
    if device.platform == "cpu":
        return array
    # JAX keeps what asarray() copies from a device as long as the array lives: in the end,
    # a second model in the host's memory. A copy of our own is freed when it is written.
    with contextlib.suppress(RuntimeError):  # a JAX that was started without the CPU
        host = jax.local_devices(backend="cpu")[0]
        with exact(array.dtype.itemsize == 8):
            array = jax.device_put(array, host)
    return array


def brought_ahead(arrays: Iterable[jax.Array]) -> Iterator[jax.Array]:
    """Arrays, of which the one behind the one in use is on its way to the CPU.

    Args:
        arrays: Arrays on any devices. Those on several stay where they are.

    Yields:
        The same values in the same order.

    Example:
        >>> [array.tolist() for array in brought_ahead([jnp.ones(2), jnp.zeros(1)])]
        [[1.0, 1.0], [0.0]]
    """
    waiting: list[jax.Array] = []
    for array in arrays:
        waiting.append(brought_to_host(array) if len(array.devices()) == 1 else array)
        del array
        if len(waiting) == 2:
            yield waiting.pop(0)
    yield from waiting
