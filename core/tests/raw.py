"""A framework for tests that run without any: its tensors are a dtype, a shape and bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

from core.tests.indexing import select
from safetensors_core import Dtype, Framework, SliceError, TensorInfo, TensorSpec
from safetensors_core.header import encode_header

DTYPES: dict[Dtype, str] = {dtype: dtype.value for dtype in Dtype}


@dataclass(frozen=True, eq=False)
class RawTensor:
    """Elements in C order, as a file holds them. Loaded tensors alias what they came from."""

    dtype: Dtype
    shape: tuple[int, ...]
    data: bytes | memoryview

    def __eq__(self, other: object) -> bool:
        # A comparison of memoryviews would go element by element.
        return isinstance(other, RawTensor) and (
            (self.dtype, self.shape, bytes(self.data))
            == (other.dtype, other.shape, bytes(other.data))
        )

    __hash__ = None  # type: ignore[assignment]  # its bytes may change

    def element(self, position: int) -> int:
        """The bits of one element, as an integer."""
        bits = self.dtype.bits
        begin = position * bits
        around = self.data[begin // 8 : (begin + bits + 7) // 8]
        return int.from_bytes(around, "little") >> begin % 8 & ((1 << bits) - 1)


class RawFramework(Framework):
    """Every dtype, packed ones included; devices are called ``cpu`` and otherwise ignored."""

    name: ClassVar[str] = "raw"
    native_package: ClassVar[str] = "raw"
    dtypes: Mapping[Dtype, str] = DTYPES

    def is_tensor(self, obj: object) -> bool:
        return isinstance(obj, RawTensor)

    def describe(self, tensor: RawTensor) -> TensorSpec:
        return TensorSpec(tensor.dtype, tensor.shape)

    def to_buffer(self, tensor: RawTensor) -> bytes | memoryview:
        return tensor.data

    def from_buffers(
        self, buffer: memoryview, infos: Mapping[str, TensorInfo], device: Any
    ) -> dict[str, RawTensor]:
        return {
            name: RawTensor(info.dtype, info.shape, buffer[slice(*info.data_offsets)])
            for name, info in infos.items()
        }

    def index(self, buffer: memoryview, info: TensorInfo, index: Any, device: Any) -> RawTensor:
        tensor = self.from_buffers(buffer, {"": info}, device)[""]
        return take(tensor, index)


class AlignedFramework(RawFramework):
    """The same, for a framework that aliases only buffers at 64 bytes."""

    alignment: ClassVar[int] = 64


def take(tensor: RawTensor, index: Any) -> RawTensor:
    """Index a tensor in memory, element by element: what a sliced read must equal."""
    try:
        positions, shape = select(index, tensor.shape)
    except IndexError as error:
        raise SliceError(str(error)) from error
    elements = [tensor.element(position) for position in positions]
    return RawTensor(tensor.dtype, shape, pack(elements, tensor.dtype))


def pack(elements: Sequence[int], dtype: Dtype) -> bytes:
    """The bytes of elements given by their bits."""
    if dtype.bits % 8 == 0:
        return b"".join(element.to_bytes(dtype.bits // 8, "little") for element in elements)
    whole = sum(element << (i * dtype.bits) for i, element in enumerate(elements))
    return whole.to_bytes(dtype.nbytes(len(elements)), "little")


def counting(dtype: Dtype, *shape: int) -> RawTensor:
    """A tensor in which neighbouring elements differ."""
    elements = [(7 * i + 1) % (1 << dtype.bits) for i in range(prod(shape))]
    return RawTensor(dtype, shape, pack(elements, dtype))


def file_bytes(
    tensors: Mapping[str, RawTensor], metadata: Mapping[str, str] | None = None
) -> bytes:
    """A file that holds tensors in the order given."""
    infos: dict[str, TensorInfo] = {}
    position = 0
    for name, tensor in tensors.items():
        end = position + len(tensor.data)
        infos[name] = TensorInfo(tensor.dtype, tensor.shape, (position, end))
        position = end
    data = b"".join(tensor.data for tensor in tensors.values())
    return encode_header(infos, metadata) + data


def with_length(header: bytes, data: bytes = b"") -> bytes:
    """A file from the text of its header."""
    return len(header).to_bytes(8, "little") + header + data
