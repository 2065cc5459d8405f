"""`JaxFramework`: arrays of JAX on any device, or sharded over several."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from safetensors_core import (
    ByteSource,
    Dtype,
    InvalidInputError,
    TensorInfo,
    TensorSpec,
    UnsupportedDtypeError,
    collector,
)
from safetensors_core.sources import MemorySource
from safetensors_core.transfer import indexes_there, read_windows
from safetensors_jax import placement
from safetensors_jax.devices import Target, find_target
from safetensors_jax.placement import ALIGNMENT, WIDE, exact, warn_of_wide
from safetensors_jax.shards import check_sharding, load_sharded
from safetensors_jax.staging import brought_ahead, brought_to_host
from safetensors_numpy.alignment import align
from safetensors_numpy.framework import NumpyFramework
from safetensors_numpy.host import HostFramework

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["JaxFramework"]

Array = npt.NDArray[Any]

# NumPy's and `ml_dtypes`' types are JAX's as well, but its runtime has none of 6 bits.
_DTYPES = {code: dtype for code, dtype in NumpyFramework.dtypes.items() if code.bits != 6}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_NUMPY = NumpyFramework()

# XLA copies smaller arrays before its call returns, and as fast as anyone could.
_COPIED_HERE = 64 * 1024

# Bytes of an array below which a copy of it is made sooner than an array of NumPy over it.
_SMALL = 4096

# Bytes that the host takes apart in the time in which XLA compiles a slice: 4 GB/s and 30 to
# 50 ms, measured on a CPU of two cores.
_COMPILED = 256 * 1024 * 1024

# What JAX exports as a buffer on the CPU.
_EXPORTED = frozenset(
    dtype for dtype in _DTYPES.values() if dtype.isbuiltin == 1 and dtype.isnative
)


class JaxFramework(HostFramework):
    """JAX arrays.

    On the CPU, arrays alias the buffer that they come from where they begin at a multiple of 64
    bytes, which is what XLA requires; others are copied once. On other devices they are copies,
    and with a sharding each process reads its own part. 64-bit types keep their bits also where
    ``jax_enable_x64`` is off. F6 does not exist in JAX.

    Example:
        >>> JaxFramework().describe(jnp.zeros((2, 3), jnp.bfloat16))
        TensorSpec(dtype=<Dtype.BF16: 'BF16'>, shape=(2, 3))
    """

    name: ClassVar[str] = "jax"
    native_package: ClassVar[str] = "jax"
    dtypes: Mapping[Dtype, np.dtype[Any]] = _DTYPES
    alignment: ClassVar[int] = ALIGNMENT
    aliases_on_load: ClassVar[bool] = True
    aliases_on_save: ClassVar[bool] = True

    def devices(self) -> tuple[Any, ...]:
        """The host, and the devices of this process."""
        return ("cpu", *jax.local_devices())

    def is_tensor(self, obj: object) -> bool:
        """Whether an object is a JAX array, or one that is being traced."""
        return isinstance(obj, jax.Array)

    def describe(self, tensor: jax.Array) -> TensorSpec:
        """Dtype and shape of an array in the file."""
        if isinstance(tensor, jax.core.Tracer):
            raise InvalidInputError(
                "a traced array has no values yet: save outside of jit, grad, vmap and the like"
            )
        code = _CODES.get(tensor.dtype)
        if code is None:
            if jnp.issubdtype(tensor.dtype, jax.dtypes.prng_key):
                raise InvalidInputError(
                    f"a random key ({tensor.dtype}) is no array of numbers: save "
                    "jax.random.key_data(key), and make it a key again with "
                    "jax.random.wrap_key_data()"
                )
            raise UnsupportedDtypeError(
                tensor.dtype, "the safetensors format", remedy="Convert the array with astype()"
            )
        if tensor.is_deleted():
            raise InvalidInputError(
                "the array's memory was donated or deleted: save before it is donated, or save "
                "the result of the function that took it"
            )
        if not tensor.is_fully_replicated:
            _check_parts(tensor)
        return TensorSpec(code, tensor.shape)

    def to_buffers(self, tensors: Iterable[jax.Array]) -> Iterator[Buffer]:
        """The bytes of arrays; aliases those in the CPU's memory but the small ones.

        Those of other devices are on their way while the caller writes the ones before.
        """
        if jax.default_backend() != "cpu":
            tensors = brought_ahead(tensors)
        seen, is_host = None, False
        for tensor in tensors:
            # Nearly all arrays have one sharding in common, the same object.
            sharding = tensor.sharding
            if sharding is not seen:
                seen, is_host = sharding, _is_host(sharding)
            exported = is_host and tensor.dtype in _EXPORTED
            yield (exported and _small(tensor)) or self.to_buffer(tensor)

    def to_array(self, tensor: jax.Array) -> Array:
        """An array on the host; aliases one that lies in the CPU's memory."""
        if len(tensor.devices()) == 1:
            return _on_host(tensor)
        if tensor.is_fully_replicated:
            return _on_host(tensor.addressable_data(0))
        gathered = np.empty(tensor.shape, tensor.dtype)
        for shard in tensor.addressable_shards:
            if shard.replica_id == 0:
                gathered[shard.index] = _on_host(shard.data)
        return gathered

    def find_device(self, device: Any) -> Target:
        """Where a user wants arrays."""
        return device if isinstance(device, Target) else find_target(device)

    def from_array(self, array: Array, device: Target) -> jax.Array:
        """An array placed on a device, or sharded."""
        with exact(_CODES[array.dtype] in WIDE):
            return placement.put({"": array}, device)[""]

    def cast(self, tensor: jax.Array, dtype: Dtype) -> jax.Array:
        """An array of another floating-point type; nothing is narrowed on the way there."""
        target = _DTYPES.get(dtype)
        if target is None or not _floating(target) or not _floating(tensor.dtype):
            raise InvalidInputError(f"JAX does not convert {tensor.dtype} to {dtype}")
        with exact(dtype in WIDE or tensor.dtype.itemsize == 8):
            converted: jax.Array = jax.lax.convert_element_type(tensor, target)
        # Otherwise, all that are waiting to be converted would be in memory at once.
        return converted.block_until_ready()

    def permute(self, tensor: jax.Array, axes: tuple[int, ...]) -> jax.Array:
        """An array with its dimensions in another order; a copy, for JAX has no views."""
        with exact(tensor.dtype.itemsize == 8):
            return jnp.transpose(tensor, axes)

    def remark(self, tensors: Iterable[tuple[str, Dtype]]) -> None:
        """Say which arrays have more bits than JAX computes with."""
        warn_of_wide([name for name, dtype in tensors if dtype in WIDE])

    def load(
        self, source: ByteSource, infos: Mapping[str, TensorInfo], device: Any
    ) -> dict[str, jax.Array]:
        """Arrays from a source; of sharded ones only the parts of this process are read.

        Args:
            source: Where the bytes are.
            infos: The tensors to load, with the offsets of the file's header.
            device: Where they shall live: one place for all, or places by name; those without
                a name go to JAX's default device.
        """
        self.check_dtypes(infos)
        assigned = self._assign(infos, device)
        loaded: dict[str, jax.Array] = {}
        with exact(bool(_wide(infos))):
            on_host: list[tuple[Target, Mapping[str, TensorInfo]]] = []
            for target, group in assigned:
                if not target.sharding.is_fully_replicated:
                    for name, info in group.items():
                        loaded[name] = load_sharded(source, info, target.sharding)
                elif _on_cpu(target):
                    on_host.append((target, group))
                else:
                    loaded.update(_copied(source, group, target))
            if on_host:
                loaded.update(_lent(source, on_host))
        return loaded if len(assigned) == 1 else {name: loaded[name] for name in infos}

    def from_buffers(
        self, buffer: memoryview, infos: Mapping[str, TensorInfo], device: Any
    ) -> dict[str, jax.Array]:
        """Arrays over a buffer, or copied from it where they do not begin at 64 bytes."""
        made: dict[str, jax.Array] = {}
        with exact(bool(_wide(infos))):
            for target, group in self._assign(infos, device):
                made.update(_over_buffer(buffer, group, target))
        return {name: made[name] for name in infos}

    def index(self, buffer: memoryview, info: TensorInfo, index: Any, device: Any) -> jax.Array:
        """The part of an array that an index selects, on a device or sharded.

        Of 256 MiB and more, a device takes slices itself if they leave half of it or more.
        """
        target = self.find_device(device)
        if _indexes_there(target, info, index):
            # Where the device has no room for the whole array, it may have for the part.
            with contextlib.suppress(InvalidInputError, RuntimeError), exact(info.dtype in WIDE):
                whole = _over_buffer(buffer, {"": info}, target)[""]
                # Where a function is being traced, JAX would only note down what to do.
                with jax.ensure_compile_time_eval():
                    return whole[index].block_until_ready()
        part = _NUMPY.index(buffer, info, index, None)
        if target.device is None:
            check_sharding("", part.shape, target.sharding)
        return self.from_array(part, target)

    def prefers_map(self, device: Any) -> bool:
        """Whether all arrays go to the CPU."""
        if isinstance(device, str) and device == "cpu":
            return True
        places = device.values() if isinstance(device, Mapping) else [device]
        try:
            return all(_on_cpu(self.find_device(place)) for place in places)
        except InvalidInputError:  # loading will say it
            return True

    def _assign(
        self, infos: Mapping[str, TensorInfo], device: Any
    ) -> list[tuple[Target, Mapping[str, TensorInfo]]]:
        """The tensors of each place, all of them checked before any data is read."""
        if not isinstance(device, Mapping):
            assigned = [(self.find_device(device), infos)]
        else:
            groups: dict[Target, dict[str, TensorInfo]] = {}
            for name, info in infos.items():
                groups.setdefault(self.find_device(device.get(name)), {})[name] = info
            assigned = list(groups.items())
        for target, group in assigned:
            if target.device is None:
                for name, info in group.items():
                    check_sharding(name, info.shape, target.sharding)
        return assigned


def _floating(dtype: np.dtype[Any]) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.floating))


def _wide(infos: Mapping[str, TensorInfo]) -> list[str]:
    return [name for name, info in infos.items() if info.dtype in WIDE]


def _check_parts(array: jax.Array) -> None:
    """Refuse a sharded array whose parts here do not make up its values."""
    if not array.is_fully_addressable:
        raise InvalidInputError(
            "parts of the array belong to other processes: gather it with "
            "jax.experimental.multihost_utils.process_allgather(array, tiled=True), or save "
            "each process's addressable_shards to a file of its own"
        )
    sharding = array.sharding
    if isinstance(sharding, jax.sharding.NamedSharding) and sharding.spec.unreduced:
        raise InvalidInputError(
            "each device holds a summand of the array (its sharding is unreduced): make the sum "
            "with jax.sharding.reshard()"
        )


def _lent(
    source: ByteSource, assigned: list[tuple[Target, Mapping[str, TensorInfo]]]
) -> dict[str, jax.Array]:
    """Arrays of the CPU's devices, in the memory that the source hands out."""
    # JAX takes arrays for constant: memory that the user can write to is not lent to it.
    lends = not isinstance(source, MemorySource)
    fetch = source.fetch if lends else functools.partial(ByteSource.fetch, source)
    infos = {name: info for _, group in assigned for name, info in group.items()}
    buffer, placed = fetch(infos, ALIGNMENT)
    made: dict[str, jax.Array] = {}
    with collector.paused():
        for target, group in assigned:
            made.update(_over_buffer(buffer, {name: placed[name] for name in group}, target))
    return made


def _copied(
    source: ByteSource, infos: Mapping[str, TensorInfo], target: Target
) -> dict[str, jax.Array]:
    """Arrays of other devices: some are copied there while the next ones are read."""
    made: dict[str, jax.Array] = {}
    for buffer, placed in read_windows(source, infos):
        arrays = _over_buffer(buffer, placed, target)
        # JAX copies in the background. Without this, all that is read could wait for it in memory.
        jax.block_until_ready(list(arrays.values()))
        made.update(arrays)
    return made


def _over_buffer(
    buffer: memoryview, infos: Mapping[str, TensorInfo], target: Target
) -> dict[str, jax.Array]:
    """Arrays in a place, over a buffer or copied from it."""
    arrays = _NUMPY.from_buffers(buffer, infos, None)
    if _on_cpu(target) and arrays:
        align(arrays, buffer, infos, ALIGNMENT, at_least=_COPIED_HERE)
    return placement.put(arrays, target)


def _on_cpu(target: Target) -> bool:
    devices: set[Any] = target.sharding.addressable_devices
    return all(device.platform == "cpu" for device in devices)


def _indexes_there(target: Target, info: TensorInfo, index: tuple[Any, ...]) -> bool:
    """Whether an index is applied on a device, for which XLA compiles a program first."""
    if target.device is None or info.nbytes < _COMPILED or _on_cpu(target):
        return False
    return indexes_there(index, info.shape)


def _is_host(sharding: jax.sharding.Sharding) -> bool:
    """Whether arrays lie whole in the memory of this process."""
    devices: set[Any] = sharding.device_set
    return len(devices) == 1 and all(device.platform == "cpu" for device in devices)


def _small(array: jax.Array) -> bytes:
    """The bytes of an array that is small; none of another, or of one that is not in C order."""
    try:
        view = memoryview(array)
    except BufferError:
        return b""
    return bytes(view) if view.nbytes <= _SMALL else b""


def _on_host(array: jax.Array) -> Array:
    """The values of an array on one device."""
    return np.asarray(brought_to_host(array))
