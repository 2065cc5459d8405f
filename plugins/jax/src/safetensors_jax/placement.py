"""NumPy arrays → JAX arrays, bit for bit, without a copy where JAX can use the memory."""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import numpy.typing as npt

from safetensors_core import Dtype, InvalidInputError
from safetensors_jax.devices import Target

__all__ = ["ALIGNMENT", "WIDE", "exact", "put", "warn_of_wide"]

Array = npt.NDArray[Any]

#: Bytes of which an address must be a multiple so that XLA uses host memory as it is.
ALIGNMENT = 64

#: Types that JAX computes with only where it is told to.
WIDE = frozenset({Dtype.I64, Dtype.U64, Dtype.F64})

# Its options are attributes that its type does not list.
_CONFIG: Any = jax.config

_INTERNALS = "jax._src.lib"
_PACKAGES = ("safetensors_jax", "safetensors_core", "safetensors_numpy")


@contextlib.contextmanager
def exact(needed: bool) -> Iterator[None]:
    """Keep JAX from narrowing 64-bit numbers inside a block.

    Args:
        needed: Whether there are any.

    Example:
        >>> with exact(True):
        ...     array = jax.device_put(np.array(2**53 + 1))
        >>> array
        Array(9007199254740993, dtype=int64)
    """
    if not needed or _CONFIG.jax_enable_x64:
        yield
        return
    with jax.enable_x64(True):
        yield


def warn_of_wide(names: Sequence[str]) -> None:
    """Say which arrays JAX will compute with in fewer bits than they have.

    Args:
        names: Names of tensors of the types in `WIDE`.

    Example:
        >>> import warnings
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     warn_of_wide(["step"])
        >>> print(caught[0].message)
        these tensors have 64 bits: 'step'. They are loaded exactly, but JAX computes with them
        in 32 bits unless jax_enable_x64 is on: jax.config.update("jax_enable_x64", True)
    """
    if not names or _CONFIG.jax_enable_x64:
        return
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    listed = ", ".join(map(repr, names[:10])) + more
    warnings.warn(
        f"these tensors have 64 bits: {listed}. They are loaded exactly, but JAX computes with "
        'them in 32 bits unless jax_enable_x64 is on: jax.config.update("jax_enable_x64", True)',
        UserWarning,
        stacklevel=_callers_level(),
    )


def _callers_level() -> int:
    """How far up the first frame is that is not of these packages, as `warnings.warn` counts."""
    level, frame = 2, sys._getframe(2)
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] in _PACKAGES:
        frame = frame.f_back
        level += 1
    return level


def put(arrays: Mapping[str, Array], target: Target) -> dict[str, jax.Array]:
    """Place arrays. Those on the CPU alias the memory of arrays that are aligned.

    Args:
        arrays: Contiguous or strided, of types that JAX has; nobody will write to them.
        target: Where they shall live.

    Returns:
        JAX arrays under the same names, each bit for bit.

    Raises:
        InvalidInputError: A shape does not suit JAX or the sharding; names the tensor.

    Example:
        >>> from safetensors_jax.devices import find_target
        >>> put({"w": np.ones(2, np.float32)}, find_target("cpu"))
        {'w': Array([1., 1.], dtype=float32)}
    """
    placed: dict[str, jax.Array] = {}
    name = ""
    try:
        # Where a function is being traced, JAX would note down to place an array, and place none.
        with jax.ensure_compile_time_eval():
            place = _placer(target)
            for name, array in arrays.items():
                placed[name] = place(array)
    except (OverflowError, RuntimeError, ValueError) as error:
        cause = str(error).splitlines()[0]
        raise InvalidInputError(
            f"tensor {name!r} of shape {list(arrays[name].shape)} cannot be placed: {cause}"
        ) from error
    return placed


def _placer(target: Target) -> Callable[[Array], jax.Array]:
    """The fastest way to place one array."""
    sharding, device, committed = target
    if device is None:
        return functools.partial(_put_sharded, sharding)
    fast = _fast_put()
    if fast is not None:
        return fast(device, committed)
    return functools.partial(_put_slowly, device, committed)


def _put_sharded(sharding: jax.sharding.Sharding, array: Array) -> jax.Array:
    # Not device_put: with several processes it would compare the values of all of them.
    placed: jax.Array = jax.make_array_from_callback(
        array.shape, sharding, lambda index: array[index], dtype=array.dtype
    )
    return placed


def _put_slowly(device: jax.Device, committed: bool, array: Array) -> jax.Array:
    placed: jax.Array
    if committed:
        placed = jax.device_put(array, device)
        return placed
    with jax.default_device(device):
        placed = jax.device_put(array)
    return placed


@functools.cache
def _fast_put() -> Callable[[jax.Device, bool], Callable[[Array], jax.Array]] | None:
    """The call under `jax.device_put`, where this version of JAX has it as we know it.

    `device_put` takes 20 to 30 µs per array whatever its size, this 4: a file of 20,000 small
    tensors loads in a quarter of the time. It is not a public name, so it is tried out first.
    """
    try:
        batched_device_put = importlib.import_module(_INTERNALS).xla_client.batched_device_put
        shaped = jax.core.ShapedArray

        def bind(device: jax.Device, committed: bool) -> Callable[[Array], jax.Array]:
            sharding, devices = jax.sharding.SingleDeviceSharding(device), [device]
            # One description for all arrays of a type and shape.
            described: dict[tuple[np.dtype[Any], tuple[int, ...]], Any] = {}

            def place(array: Array) -> jax.Array:
                key = (array.dtype, array.shape)
                aval = described.get(key)
                if aval is None:
                    aval = described[key] = shaped(array.shape, array.dtype)
                placed: jax.Array = batched_device_put(aval, sharding, [array], devices, committed)
                return placed

            return place

        device = jax.local_devices(backend="cpu")[0]
        works = all(_same(bind(device, flag), device, flag) for flag in (False, True))
    except (AttributeError, ImportError, RuntimeError, TypeError, ValueError):
        return None
    return bind if works else None


def _same(place: Callable[[Array], jax.Array], device: jax.Device, committed: bool) -> bool:
    """Whether a way to place arrays gives what the public one does."""
    with exact(True):
        for dtype in (np.float32, np.int64):
            array = np.arange(6, dtype=dtype).reshape(2, 3)
            placed, expected = place(array), _put_slowly(device, committed, array)
            if (
                placed.dtype != expected.dtype
                or placed.shape != expected.shape
                or placed.sharding != expected.sharding
                or placed.committed != expected.committed
                or placed.weak_type != expected.weak_type
                or not np.array_equal(placed, array)
            ):
                return False
    return True
