"""Tensors over memory of the host or of a GPU, by way of the DLPack protocol.

Paddle has several ways to make a tensor over memory that it does not own. Only this one is safe:

- `paddle.base.core.frombuffer`, and the `MmapStorage` of Paddle, find a tensor's memory by its
  address when they release it, so two tensors over one address end the process.
- Slices and views of one tensor over the whole buffer share its count of changes, so a change to
  one weight makes the backward pass of another fail; and an operation in place that needs more
  memory than before (`cast_` to a wider type) writes over the neighbours.

Tensors that come from DLPack one by one have memory, size and count of changes of their own.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import paddle

from safetensors_core import Dtype, InvalidInputError, TensorInfo
from safetensors_numpy.framework import NumpyFramework
from safetensors_paddle.lending import lend

__all__ = ["DTYPES", "from_carrier", "has_views", "tensors_in_block", "tensors_over"]

Array = npt.NDArray[Any]

#: Paddle's types. It has names for unsigned integers of 16 and more bits, too, but hardly any
#: operation on them: such a tensor cannot be cloned, indexed, compared or made contiguous.
DTYPES: dict[Dtype, Any] = {
    Dtype.BOOL: paddle.bool,
    Dtype.U8: paddle.uint8,
    Dtype.I8: paddle.int8,
    Dtype.F8_E5M2: paddle.float8_e5m2,
    Dtype.F8_E4M3: paddle.float8_e4m3fn,
    Dtype.I16: paddle.int16,
    Dtype.F16: paddle.float16,
    Dtype.BF16: paddle.bfloat16,
    Dtype.I32: paddle.int32,
    Dtype.F32: paddle.float32,
    Dtype.C64: paddle.complex64,
    Dtype.F64: paddle.float64,
    Dtype.I64: paddle.int64,
}


class _Carrier(NamedTuple):
    """The array that brings the bits to Paddle.

    Attributes:
        dtype: Its type.
        item: Bytes per element.
        seen_as: The type as which Paddle is to see the bits, where NumPy's DLPack lacks it.
    """

    dtype: np.dtype[Any]
    item: int
    seen_as: Any


def _carrier(code: Dtype) -> _Carrier:
    seen_as = DTYPES[code] if code in _SEEN_AS else None
    dtype = np.dtype(_SEEN_AS.get(code) or NumpyFramework.dtypes[code])
    return _Carrier(dtype, dtype.itemsize, seen_as)


# bfloat16 comes as int16, because Paddle cannot view uint16 as anything.
_SEEN_AS = {Dtype.BF16: "<i2", Dtype.F8_E4M3: "u1", Dtype.F8_E5M2: "u1"}
_CARRIERS = {code: _carrier(code) for code in DTYPES}

# DLPack's number of CUDA.
_CUDA = 2
_content = ctypes.pythonapi.PyCapsule_GetPointer
_content.argtypes, _content.restype = [ctypes.py_object, ctypes.c_char_p], ctypes.c_void_p

# Tensors made in one call. More save nothing, and take memory that later ones could use again.
_AT_ONCE = 256

_import = paddle.base.core.from_dlpack
# What Paddle's data loader makes its tensors with: all at once, at a quarter of the price of
# `paddle.Tensor` one by one.
_as_tensors = paddle.base.core.eager.read_next_tensor_list


def tensors_over(buffer: memoryview, infos: Mapping[str, TensorInfo]) -> dict[str, Any]:
    """Tensors on the CPU that alias a buffer and keep it alive.

    A tensor whose address is no multiple of its item size is copied: compiled code may rely on
    that, and Paddle's own views have such addresses only.

    Args:
        buffer: Bytes that hold the tensors.
        infos: Dtype, shape and offsets into `buffer` by name.

    Returns:
        Tensors by name, in the order of `infos`.

    Raises:
        InvalidInputError: Paddle has no tensor of that shape.

    Example:
        >>> from safetensors_core import Dtype, TensorInfo
        >>> memory = bytearray(8)
        >>> infos = {"w": TensorInfo(Dtype.U8, (2, 3), (1, 7))}
        >>> tensors_over(memoryview(memory), infos)["w"].fill_(5).shape
        paddle.Size([2, 3])
        >>> memory.hex()
        '0005050505050500'
    """
    if buffer.readonly:  # Paddle would let its users write through it
        buffer = memoryview(bytearray(buffer))
    memory = np.frombuffer(buffer, np.uint8)
    lend(memory, buffer)
    return _tensors(memory, infos, "cpu", np.ndarray.__dlpack__)


def tensors_in_block(block: Any, infos: Mapping[str, TensorInfo]) -> dict[str, Any]:
    """Tensors over parts of a block of a GPU's memory, which they keep alive.

    Args:
        block: A tensor of bytes in one piece.
        infos: Dtype, shape and offsets into the block by name. Each begins at a multiple of its
            item size.

    Returns:
        Tensors by name, in the order of `infos`.

    Raises:
        InvalidInputError: Paddle has no tensor of that shape.

    Example:
        >>> tensors_in_block(paddle.zeros([8], dtype="uint8"), {})
        {}
    """
    # NumPy never looks at what lies there: its arrays bring address, shape and owner to Paddle.
    owned = (ctypes.c_char * block.size).from_address(block.data_ptr())
    memory = np.frombuffer(owned, np.uint8)
    lend(memory, block)
    index = block.place.gpu_device_id()
    return _tensors(memory, infos, block.place, partial(_exported_on_gpu, index))


class _Managed(ctypes.Structure):
    """The beginning of DLPack's `DLManagedTensor`."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
    )


def _exported_on_gpu(index: int, array: Array) -> Any:
    """What NumPy exports as memory of the host, as that of a GPU."""
    capsule = array.__dlpack__()
    managed = _Managed.from_address(_content(capsule, b"dltensor"))
    managed.device_type, managed.device_id = _CUDA, index
    return capsule


def _tensors(
    memory: Array, infos: Mapping[str, TensorInfo], device: Any, export: Callable[[Array], Any]
) -> dict[str, Any]:
    address = memory.ctypes.data
    ndarray, carriers = np.ndarray, _CARRIERS
    # All names at once, so that the order is theirs whatever is made first.
    tensors: dict[str, Any] = dict.fromkeys(infos)
    names: list[str] = []
    held: list[Any] = []  # what Paddle makes of an array, as long as it is no tensor yet
    viewed: list[tuple[str, Any]] = []
    for name, info in infos.items():
        begin, end = info.data_offsets
        if begin == end:
            tensors[name] = _empty(info.shape, info.dtype, device, f"tensor {name!r}: ")
            continue
        dtype, item, seen_as = carriers[info.dtype]
        try:
            array = ndarray(info.shape, dtype, memory, begin)
            if (address + begin) % item:
                array = array.copy()
            held.append(_import(export(array)))
        except (RuntimeError, ValueError) as error:
            raise _refusal(info.shape, error, f"tensor {name!r}: ") from error
        names.append(name)
        if seen_as is not None:
            viewed.append((name, seen_as))
        if len(held) == _AT_ONCE:
            tensors.update(zip(names, _as_tensors(held), strict=True))
            names, held = [], []
    tensors.update(zip(names, _as_tensors(held), strict=True))
    view = _view()
    for name, seen_as in viewed:
        tensors[name] = view(tensors[name], seen_as)
    return tensors


def from_carrier(array: Array, code: Dtype) -> Any:
    """A tensor over an array.

    Args:
        array: An array of any strides whose elements are as wide as those of `code`.
        code: The type that its bits are to have.

    Returns:
        A tensor on the CPU. It aliases an array that is contiguous, aligned and writable, and
        keeps it alive.

    Raises:
        InvalidInputError: Paddle has no tensor of that shape.

    Example:
        >>> from_carrier(np.uint16([0x3F80, 0x4000]), Dtype.BF16).astype("float32").tolist()
        [1.0, 2.0]
    """
    if not array.size:
        return _empty(array.shape, code, "cpu")
    carrier = _CARRIERS[code]
    memory = np.require(array, requirements=["C", "A", "W"]).reshape(-1).view(carrier.dtype)
    # NumPy does not care about the strides of axes with one element; Paddle does.
    suitable: Array = np.ndarray(array.shape, carrier.dtype, memory)
    lend(suitable, memory)
    try:
        [tensor] = _as_tensors([_import(suitable.__dlpack__())])
    except RuntimeError as error:
        raise _refusal(array.shape, error) from error
    return tensor if carrier.seen_as is None else _view()(tensor, carrier.seen_as)


def _empty(shape: tuple[int, ...], code: Dtype, device: Any, tensor: str = "") -> Any:
    """A tensor with a 0 in its shape."""
    try:
        return paddle.empty(shape, dtype=DTYPES[code], device=device)
    except (OSError, OverflowError, RuntimeError, ValueError) as error:  # whichever comes first
        raise _refusal(shape, error, tensor) from error


def _refusal(shape: tuple[int, ...], error: Exception, tensor: str = "") -> InvalidInputError:
    """What to say where Paddle refuses a shape. It reports in many lines where it noticed."""
    cause = (
        "it has more than 9 dimensions" if len(shape) > 9 else str(error).strip().splitlines()[-1]
    )
    return InvalidInputError(f"{tensor}Paddle has no tensor of shape {list(shape)}: {cause}")


def has_views() -> bool:
    """Whether Paddle makes views; it can be told to do without.

    Example:
        >>> has_views()
        True
    """
    flag = "FLAGS_use_stride_kernel"
    return bool(paddle.get_flags(flag)[flag])


def _view() -> Any:
    """The function that sees a tensor's bits as another type of the same width."""
    return paddle._C_ops.view_dtype if has_views() else _copied_as


def _copied_as(tensor: Any, dtype: Any) -> Any:
    """A copy of the bits of a tensor on the CPU, for a Paddle that makes no views."""
    made = paddle.empty(tensor.shape, dtype=dtype, device="cpu")
    size = math.prod(tensor.shape) * tensor.element_size()
    if size:
        ctypes.memmove(made.data_ptr(), tensor.data_ptr(), size)
    return made
