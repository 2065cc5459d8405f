"""What a file says of tensors of torch, and which it cannot hold."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from safetensors_core import Dtype, InvalidInputError, TensorSpec, UnsupportedDtypeError
from safetensors_torch.lending import PLAIN
from safetensors_torch.memory import is_wrapper

__all__ = ["DTYPES", "Specs", "describe", "describe_all", "file_spec"]

#: Every dtype of the format that torch has.
DTYPES: dict[Dtype, torch.dtype] = {
    Dtype.BOOL: torch.bool,
    Dtype.F4: torch.float4_e2m1fn_x2,
    Dtype.U8: torch.uint8,
    Dtype.I8: torch.int8,
    Dtype.F8_E5M2: torch.float8_e5m2,
    Dtype.F8_E4M3: torch.float8_e4m3fn,
    Dtype.F8_E8M0: torch.float8_e8m0fnu,
    Dtype.F8_E4M3FNUZ: torch.float8_e4m3fnuz,
    Dtype.F8_E5M2FNUZ: torch.float8_e5m2fnuz,
    Dtype.I16: torch.int16,
    Dtype.U16: torch.uint16,
    Dtype.F16: torch.float16,
    Dtype.BF16: torch.bfloat16,
    Dtype.I32: torch.int32,
    Dtype.U32: torch.uint32,
    Dtype.F32: torch.float32,
    Dtype.C64: torch.complex64,
    Dtype.F64: torch.float64,
    Dtype.I64: torch.int64,
    Dtype.U64: torch.uint64,
}
_CODES = {dtype: code for code, dtype in DTYPES.items()}


def describe(tensor: torch.Tensor) -> TensorSpec:
    """Dtype and shape of a tensor in the file.

    Args:
        tensor: Any tensor.

    Raises:
        UnsupportedDtypeError: The format has no exact equivalent of its dtype.
        InvalidInputError: It has no data, or not as one array of numbers.

    Example:
        >>> describe(torch.zeros(2, 3))
        TensorSpec(dtype=<Dtype.F32: 'F32'>, shape=(2, 3))
    """
    _check_saveable(tensor)
    return file_spec(tensor.dtype, tuple(tensor.shape))


def describe_all(tensors: Sequence[torch.Tensor]) -> list[TensorSpec]:
    """What `describe` says of each of many tensors; of ordinary ones in a tenth of the time.

    Args:
        tensors: Any tensors.

    Raises:
        UnsupportedDtypeError: The format has no exact equivalent of a dtype.
        InvalidInputError: One has no data, or not as one array of numbers.

    Example:
        >>> describe_all([torch.zeros(2, 3), torch.zeros(())])[1]
        TensorSpec(dtype=<Dtype.F32: 'F32'>, shape=())
    """
    try:
        doubtful: Sequence[torch.Tensor] = [t for t in tensors if not _is_ordinary(t)]
    except NotImplementedError:  # one has no storage
        doubtful = tensors
    for tensor in doubtful:
        _check_saveable(tensor)
    specs = Specs()
    return [specs[tensor.dtype, tensor.shape] for tensor in tensors]


def file_spec(dtype: torch.dtype, shape: tuple[int, ...]) -> TensorSpec:
    """What a file says of a tensor of torch.

    Args:
        dtype: Its dtype.
        shape: Its shape in torch, where two F4 elements are one.

    Raises:
        UnsupportedDtypeError: The format has no exact equivalent.
        InvalidInputError: It is one pair of F4 elements without a dimension.

    Example:
        >>> file_spec(torch.float4_e2m1fn_x2, (3, 2))
        TensorSpec(dtype=<Dtype.F4: 'F4'>, shape=(3, 4))
    """
    code = _CODES.get(dtype)
    if code is None:
        raise UnsupportedDtypeError(
            dtype, "the safetensors format", remedy="Convert the tensor with to()"
        )
    if code is Dtype.F4:
        if not shape:
            raise InvalidInputError(
                "a packed F4 tensor without dimensions holds two elements; reshape it to (1,)"
            )
        shape = (*shape[:-1], shape[-1] * 2)
    return TensorSpec(code, shape)


class Specs(dict[tuple[torch.dtype, tuple[int, ...]], TensorSpec]):
    """What a file says of tensors; each dtype and shape is looked at once.

    Example:
        >>> Specs()[torch.float32, torch.Size([2, 3])]
        TensorSpec(dtype=<Dtype.F32: 'F32'>, shape=(2, 3))
    """

    def __missing__(self, kind: tuple[torch.dtype, tuple[int, ...]]) -> TensorSpec:
        dtype, shape = kind
        spec = self[kind] = file_spec(dtype, tuple(shape))
        return spec


def _is_ordinary(tensor: torch.Tensor) -> bool:
    """Whether a tensor is certain to be one array of numbers, all of them there."""
    return (
        type(tensor) in PLAIN
        and tensor.layout is torch.strided
        and not tensor.is_nested
        and (tensor.is_cpu or tensor.is_cuda)
        and tensor.is_contiguous()
        and tensor.untyped_storage().nbytes()
        >= tensor.nbytes + tensor.storage_offset() * tensor.itemsize
    )


def _has_lost_memory(tensor: torch.Tensor) -> bool:
    """Whether elements of a tensor lie beyond the end of its storage."""
    if not (tensor.is_cpu or tensor.is_cuda) or tensor._is_zerotensor() or not tensor.numel():
        return False
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    last = tensor.storage_offset() + sum((size - 1) * stride for size, stride in steps)
    return tensor.untyped_storage().nbytes() < (last + 1) * tensor.element_size()


def _check_saveable(tensor: torch.Tensor) -> None:
    if torch.nn.parameter.is_lazy(tensor):
        raise InvalidInputError(
            "an uninitialized parameter has no shape yet: run the model once before it is saved"
        )
    if tensor.layout is not torch.strided:
        raise InvalidInputError(
            f"a tensor of layout {tensor.layout} cannot be saved: convert it with to_dense(), or "
            "save its values and indices as tensors of their own"
        )
    if tensor.is_nested:
        raise InvalidInputError("a nested tensor cannot be saved: save its tensors one by one")
    if tensor.is_meta:
        raise InvalidInputError("a tensor on the 'meta' device has no data to save")
    if is_wrapper(tensor):
        kind = type(tensor)
        advice = "save the plain tensors inside of it, or what makes a plain tensor of it"
        if hasattr(kind, "__tensor_flatten__"):
            advice = (
                'pass subclasses="flatten" to a function of safetensors_torch that saves, and its '
                f"class in rebuild=[{kind.__name__}] to the one that loads; or {advice}"
            )
        raise InvalidInputError(
            f"{kind.__module__}.{kind.__qualname__} wraps its data in a tensor subclass: {advice}"
        )
    try:
        lost = _has_lost_memory(tensor)
    except NotImplementedError:
        raise InvalidInputError(
            "a tensor that stands for others, as inside of torch.vmap or torch.func.grad, has no "
            "data of its own to save"
        ) from None
    if lost:
        raise InvalidInputError(
            "its storage was freed or made smaller, as FSDP does between uses of a parameter: "
            "save it where it is whole"
        )
