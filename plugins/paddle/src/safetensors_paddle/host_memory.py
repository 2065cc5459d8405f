"""Tensors over memory of the host.

Paddle has several ways to make a tensor over memory that it does not own. Only this one is safe,
by which its data loader takes arrays of NumPy:

- `paddle.base.core.frombuffer`, the `MmapStorage` of Paddle, and its side of DLPack find what a
  tensor borrows by its address when they release it. Tensors over one address end the process or
  are never released, and Paddle holds a lock meanwhile, for which others wait for ever.
- Slices and views of one tensor over the whole buffer share its count of changes, so a change to
  one weight makes the backward pass of another fail; and an operation in place that needs more
  memory than before (`cast_` to a wider type) writes over the neighbours.

Tensors that are made over arrays one by one have memory, size and count of changes of their own,
and let go of the array when they need it no more.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle

from safetensors_core import Dtype, InvalidInputError, TensorInfo
from safetensors_numpy.framework import NumpyFramework

__all__ = ["DTYPES", "MOST_DIMENSIONS", "from_carrier", "has_views", "refusal", "tensors_over"]

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

#: Dimensions that a tensor of Paddle has at most.
MOST_DIMENSIONS = 9

# As what NumPy brings the bits to Paddle, where it has no such type. Paddle takes uint16 for
# bfloat16 by itself.
_BROUGHT_AS = {Dtype.BF16: "<u2", Dtype.F8_E4M3: "u1", Dtype.F8_E5M2: "u1"}
_SEEN_AS = {code: DTYPES[code] for code in (Dtype.F8_E4M3, Dtype.F8_E5M2)}
_CARRIERS = {
    code: np.dtype(_BROUGHT_AS.get(code) or NumpyFramework.dtypes[code]) for code in DTYPES
}

# Tensors made in one call. More save nothing, and take memory that later ones could use again.
_AT_ONCE = 256

_CPU = paddle.CPUPlace()
# All at once, at a quarter of the price of `paddle.Tensor` one by one.
_as_tensors = paddle.base.core.eager.read_next_tensor_list


def _lent(array: Array) -> Any:
    """An array that is contiguous, on its way to become a tensor."""
    lent = paddle.base.core.DenseTensor()
    lent.set(array, _CPU, True)
    return lent


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
    address = memory.ctypes.data
    ndarray, carriers = np.ndarray, _CARRIERS
    # All names at once, so that the order is theirs whatever is made first.
    tensors: dict[str, Any] = dict.fromkeys(infos)
    names: list[str] = []
    lent: list[Any] = []
    viewed: list[str] = []
    for name, info in infos.items():
        begin, end = info.data_offsets
        if begin == end:
            tensors[name] = _empty(info.shape, info.dtype, f"tensor {name!r}: ")
            continue
        dtype = carriers[info.dtype]
        try:
            array = ndarray(info.shape, dtype, memory, begin)
            if (address + begin) % dtype.itemsize:
                array = array.copy()
            lent.append(_lent(array))
        except (RuntimeError, ValueError) as error:
            raise refusal(info.shape, error, f"tensor {name!r}: ") from error
        names.append(name)
        if info.dtype in _SEEN_AS:
            viewed.append(name)
        if len(lent) == _AT_ONCE:
            tensors.update(zip(names, _as_tensors(lent), strict=True))
            names, lent = [], []
    tensors.update(zip(names, _as_tensors(lent), strict=True))
    if viewed:
        view = _view()  # asked once: it takes as long as ten views
        for name in viewed:
            tensors[name] = view(tensors[name], _SEEN_AS[infos[name].dtype])
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
        return _empty(array.shape, code)
    memory = np.require(array, requirements=["C", "A", "W"])
    try:
        [tensor] = _as_tensors([_lent(memory.view(_CARRIERS[code]))])
    except RuntimeError as error:
        raise refusal(array.shape, error) from error
    return _view()(tensor, _SEEN_AS[code]) if code in _SEEN_AS else tensor


def _empty(shape: tuple[int, ...], code: Dtype, tensor: str = "") -> Any:
    """A tensor with a 0 in its shape."""
    try:
        return paddle.empty(shape, dtype=DTYPES[code], device="cpu")
    except (OSError, OverflowError, RuntimeError, ValueError) as error:  # whichever comes first
        raise refusal(shape, error, tensor) from error


def refusal(shape: tuple[int, ...], error: object, tensor: str = "") -> InvalidInputError:
    """What to say where Paddle refuses a shape.

    Args:
        shape: The shape.
        error: What Paddle says, which is where in its source it noticed.
        tensor: The beginning of the message.

    Example:
        >>> refusal((1,) * 10, "")
        InvalidInputError('Paddle has no tensor of shape [1, ...]: it has more than 9 dimensions')
    """
    cause = (
        f"it has more than {MOST_DIMENSIONS} dimensions"
        if len(shape) > MOST_DIMENSIONS
        else str(error).strip().splitlines()[-1]
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
    """A copy of the bytes of a tensor, for a Paddle that makes no views."""
    made = paddle.empty(tensor.shape, dtype=dtype, device="cpu")
    ctypes.memmove(made.data_ptr(), tensor.data_ptr(), math.prod(tensor.shape))
    return made
