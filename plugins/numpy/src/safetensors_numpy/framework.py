"""`NumpyFramework`: arrays of NumPy and of the types that `ml_dtypes` adds to it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Hashable, Mapping
from typing import Any, ClassVar

import ml_dtypes
import numpy as np
import numpy.typing as npt

from safetensors_core import (
    ByteSource,
    Dtype,
    Framework,
    InvalidInputError,
    TensorInfo,
    TensorSpec,
    UnsupportedDtypeError,
)
from safetensors_core.strides import may_overlap
from safetensors_numpy.overlaps import check_overlaps
from safetensors_numpy.packing import pack, unpack

__all__ = ["NumpyFramework"]

Array = npt.NDArray[Any]

# Little-endian by name: on a big-endian machine too, an array over the file is read right.
_DTYPES: dict[Dtype, np.dtype[Any]] = {
    Dtype.BOOL: np.dtype("?"),
    Dtype.F4: np.dtype(ml_dtypes.float4_e2m1fn),
    Dtype.F6_E2M3: np.dtype(ml_dtypes.float6_e2m3fn),
    Dtype.F6_E3M2: np.dtype(ml_dtypes.float6_e3m2fn),
    Dtype.U8: np.dtype("u1"),
    Dtype.I8: np.dtype("i1"),
    Dtype.F8_E5M2: np.dtype(ml_dtypes.float8_e5m2),
    Dtype.F8_E4M3: np.dtype(ml_dtypes.float8_e4m3fn),
    Dtype.F8_E8M0: np.dtype(ml_dtypes.float8_e8m0fnu),
    Dtype.F8_E4M3FNUZ: np.dtype(ml_dtypes.float8_e4m3fnuz),
    Dtype.F8_E5M2FNUZ: np.dtype(ml_dtypes.float8_e5m2fnuz),
    Dtype.I16: np.dtype("<i2"),
    Dtype.U16: np.dtype("<u2"),
    Dtype.F16: np.dtype("<f2"),
    Dtype.BF16: np.dtype(ml_dtypes.bfloat16),
    Dtype.I32: np.dtype("<i4"),
    Dtype.U32: np.dtype("<u4"),
    Dtype.F32: np.dtype("<f4"),
    Dtype.C64: np.dtype("<c8"),
    Dtype.F64: np.dtype("<f8"),
    Dtype.I64: np.dtype("<i8"),
    Dtype.U64: np.dtype("<u8"),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
# Arrays of these export their memory in formats that Python knows: half the time.
_EXPORTED = frozenset(
    dtype for dtype in _DTYPES.values() if dtype.isbuiltin == 1 and dtype.isnative and dtype != "c8"
)
_WHOLE_BYTES = {code: dtype for code, dtype in _DTYPES.items() if code.bits >= 8}
_LENT = frozenset(_WHOLE_BYTES.values())
_FLOATS = {code for code in _DTYPES if code.startswith(("F", "BF"))}


class NumpyFramework(Framework):
    """NumPy arrays on the host.

    Every type of the format is represented exactly. F4 and F6, which the file packs several to
    a byte, are one byte per element in an array and are unpacked into memory of their own; all
    other arrays alias the buffer that they come from, at any offset.

    Example:
        >>> NumpyFramework().describe(np.zeros((2, 3), dtype=">f8"))
        TensorSpec(dtype=<Dtype.F64: 'F64'>, shape=(2, 3))
    """

    name: ClassVar[str] = "numpy"
    native_package: ClassVar[str] = "numpy"
    dtypes: Mapping[Dtype, np.dtype[Any]] = _DTYPES
    aliases_on_load: ClassVar[bool] = True
    aliases_on_save: ClassVar[bool] = True

    def is_tensor(self, obj: object) -> bool:
        """Whether an object is an array or a NumPy scalar."""
        return isinstance(obj, (np.ndarray, np.generic))

    def describe(self, tensor: Array) -> TensorSpec:
        """Dtype and shape of an array in the file."""
        code = _CODES.get(tensor.dtype)
        if code is None:
            code = _CODES.get(tensor.dtype.newbyteorder("<"))
        if code is None:
            raise UnsupportedDtypeError(
                tensor.dtype, "the safetensors format", remedy="Convert the array with astype()"
            )
        if isinstance(tensor, np.ma.MaskedArray):
            raise InvalidInputError(
                "a masked array would lose its mask: save its data and mask as two arrays, "
                "or use filled()"
            )
        return TensorSpec(code, tensor.shape)

    def to_buffer(self, tensor: Array) -> memoryview:
        """The bytes of an array; aliases one that is contiguous and little-endian."""
        if _is_exported(tensor):
            return tensor.data.cast("B")
        array = np.asarray(tensor)
        code = _CODES.get(array.dtype)
        if code is None:
            code = _CODES[array.dtype.newbyteorder("<")]
            array = array.astype(_DTYPES[code])
        if code.bits < 8:
            array = pack(array, code.bits)
        return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data

    def load(
        self, source: ByteSource, infos: Mapping[str, TensorInfo], device: Any
    ) -> dict[str, Array]:
        """Arrays from a source; a device that is not the host is refused before it is read."""
        check_device(device)
        return super().load(source, infos, device)

    def from_buffers(
        self, buffer: memoryview, infos: Mapping[str, TensorInfo], device: Any
    ) -> dict[str, Array]:
        """Arrays over a buffer; F4 and F6 are unpacked into arrays of their own."""
        check_device(device)
        # An array keeps what it lies over, but only this one holds on to the buffer as such:
        # a bytearray could be resized, or a map closed, under the arrays.
        memory = np.frombuffer(buffer, np.uint8)
        make, find = np.ndarray, _WHOLE_BYTES.get
        arrays: dict[str, Array] = {}
        for name, info in infos.items():
            begin, end = info.data_offsets
            dtype = find(info.dtype)
            try:
                if dtype is not None:
                    arrays[name] = make(info.shape, dtype, memory, begin)
                    continue
                unpacked = unpack(memory[begin:end], info.dtype.bits, math.prod(info.shape))
                arrays[name] = unpacked.view(_DTYPES[info.dtype]).reshape(info.shape)
            except ValueError as error:  # more than 64 dimensions, or one that is too long
                raise InvalidInputError(
                    f"tensor {name!r}: no array can have its shape {list(info.shape)}: {error}"
                ) from error
        return arrays

    def index(self, buffer: memoryview, info: TensorInfo, index: Any, device: Any) -> Array:
        """An array, or a view of one, with an index applied."""
        array = self.from_buffers(buffer, {"": info}, device)[""]
        # An array of another library that is empty would pass for one of integers.
        items = index if isinstance(index, tuple) else (index,)
        index = tuple(np.asarray(i) if getattr(i, "shape", None) else i for i in items)
        # A full set of integers gives a scalar, which would lose what an array can do.
        return np.asarray(array[index], dtype=array.dtype)

    def storage_key(self, tensor: Array) -> Hashable | None:
        """The object that owns an array's memory, by identity."""
        owner: Any = tensor
        while isinstance(owner, np.ndarray) and owner.base is not None:
            owner = owner.base
        return id(owner)

    def check_fillable(self, tensors: Mapping[str, Any]) -> None:
        """Refuse scalars, read-only arrays, and views with gaps that overlap anything."""
        views = []
        for name, array in tensors.items():
            is_array = isinstance(array, np.ndarray)
            if not is_array or not array.flags.writeable:
                kind = "a read-only array" if is_array else "a scalar"
                raise InvalidInputError(
                    f"tensor {name!r} is {kind} and cannot be filled: copy it with np.array()"
                )
            if array.flags.c_contiguous and array.dtype in _LENT:
                continue  # whoever reads into its memory sees whose else it is
            if not array.flags.c_contiguous and may_overlap(
                array.shape, array.strides, array.itemsize
            ):
                raise InvalidInputError(
                    f"tensor {name!r} is a view in which several elements are one in memory: copy "
                    "it with np.array()"
                )
            views.append(name)
        check_overlaps(tensors, views)

    def memory(self, tensor: Array) -> memoryview | None:
        """The memory of an array that is contiguous and has whole bytes, little-endian."""
        if _is_exported(tensor):
            return tensor.data.cast("B")
        if tensor.dtype not in _LENT or not tensor.flags.c_contiguous:
            return None
        return np.asarray(tensor).reshape(-1).view(np.uint8).data

    def assign(self, tensor: Array, value: Array) -> None:
        """Copy an array into another."""
        np.copyto(tensor, value, casting="equiv")

    def cast(self, tensor: Array, dtype: Dtype) -> Array:
        """An array of another floating-point type, rounded to nearest, ties to even.

        What is out of range follows `ml_dtypes`: infinity in types that have it, else NaN, but
        the largest number in F4 and F6. What is not positive is NaN in F8_E8M0. F64 is rounded
        to F32 first, except for F16: the last bit may differ from what rounding once would give.
        `ml_dtypes` does not convert between F8_E8M0 and other types of 8 bits or less.
        """
        present = self.describe(tensor).dtype
        if present in _FLOATS and dtype in _FLOATS:
            # NumPy would warn of what overflows.
            with contextlib.suppress(TypeError), np.errstate(all="ignore"):
                return np.asarray(tensor).astype(_DTYPES[dtype])
        raise InvalidInputError(f"NumPy does not convert {present} to {dtype}")

    def permute(self, tensor: Array, axes: tuple[int, ...]) -> Array:
        """A view of an array with its dimensions in another order."""
        if sorted(axes) != list(range(np.ndim(tensor))):
            raise InvalidInputError(f"{axes} is no order of {np.ndim(tensor)} dimensions")
        return np.transpose(tensor, axes)


def check_device(device: Any) -> None:
    """Refuse every device but the host.

    Args:
        device: ``"cpu"`` or None.

    Raises:
        InvalidInputError: It is anything else.

    Example:
        >>> check_device("cuda")
        Traceback (most recent call last):
        safetensors_core.errors.InvalidInputError: NumPy arrays live on the 'cpu', not on 'cuda'
    """
    if device is not None and not (isinstance(device, str) and device == "cpu"):
        raise InvalidInputError(f"NumPy arrays live on the 'cpu', not on {device!r}")


def _is_exported(tensor: Array) -> bool:
    """Whether the buffer protocol gives the bytes of an array as they are."""
    return (
        type(tensor) is np.ndarray
        and tensor.dtype in _EXPORTED
        and tensor.flags.c_contiguous
        and tensor.size > 0
    )
