"""`AcmeFramework`: what safetensors-core must know about tensors of acme."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import acme
from safetensors_core import (
    Dtype,
    Framework,
    InvalidInputError,
    TensorInfo,
    TensorSpec,
    UnsupportedDtypeError,
)

__all__ = ["AcmeFramework"]

# Only what acme holds exactly: it has no bfloat16, and the format has no complex128.
DTYPES = {
    Dtype.BOOL: "bool",
    Dtype.I8: "int8",
    Dtype.I16: "int16",
    Dtype.I32: "int32",
    Dtype.I64: "int64",
    Dtype.U8: "uint8",
    Dtype.U16: "uint16",
    Dtype.U32: "uint32",
    Dtype.U64: "uint64",
    Dtype.F16: "float16",
    Dtype.F32: "float32",
    Dtype.F64: "float64",
    Dtype.C64: "complex64",
}
CODES = {name: dtype for dtype, name in DTYPES.items()}


class AcmeFramework(Framework):
    """Tensors of acme: over the buffer of a file on load, by their own memory on save.

    Example:
        >>> import acme
        >>> AcmeFramework().describe(acme.tensor([[1, 2, 3]], "int8"))
        TensorSpec(dtype=<Dtype.I8: 'I8'>, shape=(1, 3))
    """

    name = "acme"
    native_package = "acme"
    dtypes: Mapping[Dtype, str] = DTYPES
    aliases_on_load = True
    aliases_on_save = True

    def is_tensor(self, obj: object) -> bool:
        """Whether an object is a tensor of acme."""
        return isinstance(obj, acme.Tensor)

    def describe(self, tensor: acme.Tensor) -> TensorSpec:
        """Dtype and shape in the file."""
        if tensor.dtype not in CODES:
            raise UnsupportedDtypeError(tensor.dtype, "the safetensors format")
        return TensorSpec(CODES[tensor.dtype], tensor.shape)

    def to_buffer(self, tensor: acme.Tensor) -> memoryview:
        """The bytes in C order; a view that lies otherwise is copied."""
        return tensor.contiguous()

    def from_buffers(
        self, buffer: memoryview, infos: Mapping[str, TensorInfo], device: Any
    ) -> dict[str, acme.Tensor]:
        """Tensors over the buffer, which each of them keeps alive."""
        if device not in self.devices():
            raise InvalidInputError(f"acme has the device 'cpu' only, not {device!r}")
        return {
            name: acme.Tensor(buffer[slice(*info.data_offsets)], DTYPES[info.dtype], info.shape)
            for name, info in infos.items()
        }
