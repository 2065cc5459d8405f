"""`MlxFramework`: arrays of MLX, in memory that its CPU and GPU share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import mlx.core as mx
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
from safetensors_core.sources import MappedSource
from safetensors_mlx.devices import find_device
from safetensors_numpy.framework import NumpyFramework
from safetensors_numpy.host import HostFramework

__all__ = ["MlxFramework"]

Array = npt.NDArray[Any]

_DTYPES: dict[Dtype, mx.Dtype] = {
    Dtype.BOOL: mx.bool_,
    Dtype.U8: mx.uint8,
    Dtype.I8: mx.int8,
    Dtype.I16: mx.int16,
    Dtype.U16: mx.uint16,
    Dtype.F16: mx.float16,
    Dtype.BF16: mx.bfloat16,
    Dtype.I32: mx.int32,
    Dtype.U32: mx.uint32,
    Dtype.F32: mx.float32,
    Dtype.C64: mx.complex64,
    Dtype.F64: mx.float64,
    Dtype.I64: mx.int64,
    Dtype.U64: mx.uint64,
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_REMEDIES = {
    Dtype.F8_E4M3: "MLX computes with it as uint8 and mlx.core.from_fp8(): load the tensor with "
    "framework='numpy', and make mlx.core.array(tensor.view('u1'))"
}
_FLOATS = {code for code in _DTYPES if code.startswith(("F", "BF"))}
_NUMPY = NumpyFramework()
_FOREIGN = {"bfloat16", "Zf"}  # formats of buffers that Python cannot cast to bytes
_DOUBLE = np.dtype("<f8")
_LONGEST = 2**31 - 1  # MLX's shapes are of signed 32-bit numbers
_MOST_DIMENSIONS = 64  # of a buffer in Python and of a NumPy array; MLX has no limit of its own
_BATCH = 64 * 1024 * 1024  # bytes that are in memory twice while they are loaded, if not mapped


class MlxFramework(HostFramework):
    """MLX arrays.

    MLX takes no host memory of others, so every array is a copy and owns its memory. Arrays are
    evaluated when they are returned, so that every thread can use them. On save, contiguous
    arrays are aliased. MLX has no floats of 8 bits and less.

    Example:
        >>> MlxFramework().describe(mx.zeros((2, 3), dtype=mx.bfloat16))
        TensorSpec(dtype=<Dtype.BF16: 'BF16'>, shape=(2, 3))
    """

    name: ClassVar[str] = "mlx"
    native_package: ClassVar[str] = "mlx"
    dtypes: Mapping[Dtype, mx.Dtype] = _DTYPES
    aliases_on_save: ClassVar[bool] = True

    def devices(self) -> tuple[str, ...]:
        """The host, and the GPU where MLX has one."""
        return ("cpu", "gpu") if mx.is_available(mx.Device(mx.gpu, 0)) else ("cpu",)

    def is_tensor(self, obj: object) -> bool:
        """Whether an object is an MLX array, evaluated or not."""
        return isinstance(obj, mx.array)

    def describe(self, tensor: mx.array) -> TensorSpec:
        """Dtype and shape of an array in the file; does not evaluate it."""
        code = _CODES.get(tensor.dtype)
        if code is None:
            raise UnsupportedDtypeError(
                tensor.dtype, "the safetensors format", remedy="Convert the array with astype()"
            )
        if tensor.ndim > _MOST_DIMENSIONS:
            raise InvalidInputError(
                f"an array of {tensor.ndim} dimensions could not be loaded again: reshape it to at "
                f"most {_MOST_DIMENSIONS}"
            )
        return TensorSpec(code, tensor.shape)

    def find_device(self, device: Any) -> mx.Device:
        """A device of MLX that can be used here."""
        return find_device(device)

    def check_dtypes(self, infos: Mapping[str, TensorInfo]) -> None:
        """Refuse what MLX lacks, and say what to do where there is a way."""
        try:
            super().check_dtypes(infos)
        except UnsupportedDtypeError as error:
            error.remedy = _REMEDIES.get(Dtype(error.dtype), "")
            raise

    def check_saveable(self, tensors: Mapping[str, mx.array]) -> None:
        """Evaluate all arrays at once, and refuse those that cannot be evaluated here."""
        try:
            mx.eval(*tensors.values())
        except (RuntimeError, ValueError) as error:
            name = next((name for name, tensor in tensors.items() if not _evaluates(tensor)), None)
            raise _not_evaluated(error, name) from error

    def to_array(self, tensor: mx.array) -> Array:
        """An array on the host; aliases the tensor's memory where NumPy has its type."""
        code = _CODES[tensor.dtype]
        flat = np.frombuffer(self.to_buffer(tensor), np.uint8)
        array: Array = flat.view(_NUMPY.dtypes[code]).reshape(tensor.shape)
        return array

    def to_buffer(self, tensor: mx.array) -> memoryview:
        """The bytes of an array; aliases one that is contiguous."""
        if not tensor.size:
            return memoryview(b"")
        # Another array over the same memory: an assignment to the caller's, which would replace
        # or reuse that memory, leaves this one and the buffer as they are.
        alias: Any = tensor.__copy__()
        # Asked for its memory, MLX evaluates an array too, but 0.32.0 aborts if it cannot.
        _evaluated(alias)
        view = memoryview(alias)
        if not view.c_contiguous:
            # On the CPU, because a GPU has no float64.
            alias = mx.contiguous(alias, stream=mx.cpu)
            view = memoryview(alias)
        if view.format in _FOREIGN:
            return np.frombuffer(alias, np.uint8).data
        return view

    def cast(self, tensor: mx.array, dtype: Dtype) -> mx.array:
        """An array of another floating-point type, as `astype` rounds it on the CPU."""
        present = self.describe(tensor).dtype
        if present not in _FLOATS or dtype not in _FLOATS:
            raise InvalidInputError(
                f"MLX does not convert {present} to {dtype}; only floating-point types that it has"
            )
        # On the CPU, because a GPU has no float64.
        return _evaluated(tensor.astype(_DTYPES[dtype], stream=mx.cpu))

    def check_fillable(self, tensors: Mapping[str, mx.array]) -> None:
        """All arrays can be filled."""

    def assign(self, tensor: mx.array, value: mx.array) -> None:
        """Let an array be another one. Arrays that shared memory with it keep what they have."""
        tensor[...] = value
        # Now, so that what it was before can go.
        _evaluated(tensor)

    def permute(self, tensor: mx.array, axes: tuple[int, ...]) -> mx.array:
        """A view of an array with its dimensions in another order."""
        if sorted(axes) != list(range(tensor.ndim)):
            raise InvalidInputError(f"{axes} is no order of {tensor.ndim} dimensions")
        return _evaluated(mx.transpose(tensor, axes, stream=mx.cpu))

    def from_array(self, array: Array, device: Any) -> mx.array:
        """A copy of an array; memory is shared by all devices, so each of them can use it."""
        if min(array.strides, default=0) < 0:  # which MLX refuses
            array = array.copy()
        # Without being told, MLX makes 32 bits of 64.
        return mx.array(array, dtype=mx.float64) if array.dtype == _DOUBLE else mx.array(array)

    def load(
        self, source: ByteSource, infos: Mapping[str, TensorInfo], device: Any
    ) -> dict[str, mx.array]:
        """Arrays from a source; what must be read first is read a part at a time."""
        find_device(device)
        self.check_dtypes(infos)
        # A map takes no memory of its own, so it is copied from as a whole.
        parts = [infos] if isinstance(source, MappedSource) else list(_batches(infos))
        loaded: dict[str, mx.array] = {}
        for part in parts:
            buffer, placed = source.fetch(part)
            with collector.paused():
                loaded.update(self.from_buffers(buffer, placed, device))
            del buffer  # before the next part is read
        return loaded

    def from_buffers(
        self, buffer: memoryview, infos: Mapping[str, TensorInfo], device: Any
    ) -> dict[str, mx.array]:
        """Copies of the parts of a buffer."""
        find_device(device)
        tensors: dict[str, Any] = _NUMPY.from_buffers(buffer, infos, None)
        make, double, name = mx.array, mx.float64, ""
        try:
            for name, array in tensors.items():
                if array.dtype == _DOUBLE:
                    tensors[name] = make(array, dtype=double)
                else:
                    tensors[name] = make(array)
        except OverflowError as error:
            raise _no_such_shape(name, infos[name].shape) from error
        return tensors


def _batches(infos: Mapping[str, TensorInfo]) -> Iterator[Mapping[str, TensorInfo]]:
    """Tensors in parts of at least `_BATCH` bytes, but for the last, in their order."""
    batch: dict[str, TensorInfo] = {}
    nbytes = 0
    for name, info in infos.items():
        size = info.data_offsets[1] - info.data_offsets[0]
        # Refused before it is read. MLX refuses it as well, but only once it is there.
        if size > _LONGEST and max(info.shape) > _LONGEST:
            raise _no_such_shape(name, info.shape)
        batch[name] = info
        nbytes += size
        if nbytes >= _BATCH:
            yield batch
            batch, nbytes = {}, 0
    yield batch


def _no_such_shape(name: str, shape: tuple[int, ...]) -> InvalidInputError:
    return InvalidInputError(
        f"tensor {name!r}: no MLX array can have its shape {list(shape)}: a dimension is at most "
        f"{_LONGEST:,} long"
    )


def _evaluated(tensor: mx.array) -> mx.array:
    """The same array, for every thread to use."""
    try:
        mx.eval(tensor)
    except (RuntimeError, ValueError) as error:
        raise _not_evaluated(error) from error
    return tensor


def _evaluates(tensor: mx.array) -> bool:
    try:
        mx.eval(tensor)
    except (RuntimeError, ValueError):
        return False
    return True


def _not_evaluated(error: Exception, name: str | None = None) -> InvalidInputError:
    where = "" if name is None else f"tensor {name!r}: "
    return InvalidInputError(
        f"{where}the array cannot be evaluated here ({error}). MLX evaluates an array only in the "
        "thread that computed it, and not while a function is transformed: call mlx.core.eval() "
        "there, before it is saved"
    )
