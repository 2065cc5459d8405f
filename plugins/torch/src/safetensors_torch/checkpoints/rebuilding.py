"""What stands for PyTorch's functions and classes in a pickle, and for the tensors they make."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch

from safetensors_core.convert import Function, Opaque, make_dict
from safetensors_torch.views import contiguous_strides

__all__ = ["KNOWN", "Refused", "Storage", "TensorRecord", "storage_of"]

_MOST_DIMENSIONS = 64  # of a tensor of torch
_LARGEST = 2**63  # torch counts with signed 64-bit numbers

# The element types of storages, by the first half of the names of their classes.
_STORAGES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "ComplexDouble": torch.complex128,
    "ComplexFloat": torch.complex64,
    "QInt8": torch.qint8,
    "QUInt8": torch.quint8,
    "QInt32": torch.qint32,
    "QUInt4x2": torch.quint4x2,
    "QUInt2x4": torch.quint2x4,
    "Untyped": torch.uint8,
}


@dataclass(frozen=True)
class Storage:
    """A part of the file that tensors lie in.

    Attributes:
        name: What the file calls it.
        dtype: The type of its elements; uint8 for one that has none.
        length: Elements of the whole storage.
        begin: First element of a view of it.

    Example:
        >>> Storage("0", torch.float32, 10).nbytes
        40
    """

    name: str
    dtype: torch.dtype
    length: int
    begin: int = 0

    @property
    def nbytes(self) -> int:
        """Size of the whole storage in bytes.

        Example:
            >>> Storage("0", torch.float64, 2).nbytes
            16
        """
        return self.length * self.dtype.itemsize


@dataclass(frozen=True)
class TensorRecord:
    """What a pickle says about a tensor.

    Attributes:
        storage: Where its elements lie.
        dtype: Their type.
        offset: The first of them, in elements from the beginning of the storage.
        shape: Elements per dimension.
        strides: Elements of the storage from one to the next, per dimension.
        conjugate: Whether the elements are the conjugates of what is stored.
        negative: Whether they are the negatives of it.

    Example:
        >>> storage = Storage("0", torch.float32, 10)
        >>> TensorRecord(storage, torch.float32, 0, (2, 3), (3, 1)).is_contiguous
        True
    """

    storage: Storage
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    conjugate: bool = False
    negative: bool = False

    @property
    def key(self) -> Hashable:
        """Equal for names of the very same tensor.

        Example:
            >>> storage = Storage("0", torch.float32, 10)
            >>> views = [TensorRecord(storage, torch.float32, at, (2,), (1,)) for at in (0, 5)]
            >>> views[0].key == views[1].key
            False
        """
        flags = (self.conjugate, self.negative)
        return (self.storage.name, self.begin, self.dtype, self.shape, self.strides, flags)

    @property
    def is_contiguous(self) -> bool:
        """Whether what is stored is the tensor, in C order.

        Example:
            >>> storage = Storage("0", torch.float32, 6)
            >>> TensorRecord(storage, torch.float32, 0, (2, 3), (1, 2)).is_contiguous
            False
        """
        if self.conjugate or self.negative:
            return False
        expected = contiguous_strides(self.shape)
        steps = zip(self.shape, self.strides, expected, strict=True)
        return 0 in self.shape or all(size == 1 or step == wanted for size, step, wanted in steps)

    @property
    def begin(self) -> int:
        """First byte, from the beginning of the storage.

        Example:
            >>> TensorRecord(Storage("0", torch.float32, 6), torch.float32, 2, (3,), (1,)).begin
            8
        """
        return self.storage.begin * self.storage.dtype.itemsize + self.offset * self.dtype.itemsize

    @property
    def span(self) -> int:
        """Bytes from its first element to its last.

        Example:
            >>> TensorRecord(Storage("0", torch.float32, 6), torch.float32, 0, (3,), (2,)).span
            20
        """
        if 0 in self.shape:
            return 0
        steps = zip(self.shape, self.strides, strict=True)
        return (sum((size - 1) * step for size, step in steps) + 1) * self.dtype.itemsize


@dataclass(frozen=True)
class Refused:
    """What stands for a tensor that cannot be converted.

    Attributes:
        kind: What it is.
        advice: What to do before it is saved.

    Example:
        >>> Refused("a sparse tensor", "save to_dense() of it").kind
        'a sparse tensor'
    """

    kind: str
    advice: str


def storage_of(kind: object, name: object, length: object, view: object = None) -> Storage:
    """A storage, as the pickle describes it.

    Args:
        kind: What stands for its class.
        name: What the file calls it.
        length: Its elements.
        view: For a view of it: its name, its first element and its elements.

    Raises:
        ValueError: These do not describe a storage.

    Example:
        >>> storage_of(KNOWN["torch.HalfStorage"], "0", 10).nbytes
        20
    """
    if not isinstance(kind, _StorageKind) or not isinstance(name, str):
        raise TypeError("it refers to what is no storage")
    (length,) = _numbers((length,), "length of a storage")
    begin = 0
    if view is not None:
        _, begin, size = view if isinstance(view, tuple) else (view,)
        begin, size = _numbers((begin, size), "view of a storage")
        if begin + size > length:
            raise ValueError("a view reaches outside of its storage")
    return Storage(name, kind.dtype, length, begin)


@dataclass(frozen=True)
class _StorageKind:
    dtype: torch.dtype


def _numbers(values: object, what: str) -> tuple[int, ...]:
    if not isinstance(values, tuple | list) or not all(
        type(value) is int and 0 <= value < _LARGEST for value in values
    ):
        raise ValueError(f"the {what} is not made of whole numbers that torch can count to")
    return tuple(values)


def _tensor(
    storage: object, offset: object, shape: object, strides: object, *rest: object
) -> TensorRecord:
    """`_rebuild_tensor` and `_rebuild_tensor_v2`: its gradient, its hooks, its marks may follow."""
    dtype = storage.dtype if isinstance(storage, Storage) else None
    return _record((storage, offset, shape, strides), dtype, *rest[2:3])


def _typed_tensor(*arguments: object) -> TensorRecord:
    """`_rebuild_tensor_v3`: after the hooks, its dtype."""
    return _record(arguments[:4], *arguments[6:8])


def _record(place: tuple[object, ...], dtype: object = None, marks: object = None) -> TensorRecord:
    storage, offset, shape, strides = place
    if not isinstance(storage, Storage) or not isinstance(dtype, torch.dtype):
        raise TypeError("a tensor is made of what is no storage")
    (offset,) = _numbers((offset,), "offset of a tensor")
    shape = _numbers(shape, "shape of a tensor")
    strides = _numbers(strides, "strides of a tensor")
    if len(shape) != len(strides) or len(shape) > _MOST_DIMENSIONS:
        raise ValueError(f"a tensor of {len(shape)} dimensions has {len(strides)} strides")
    marks = marks if type(marks) is dict else {}
    conjugate, negative = marks.get("conj") is True, marks.get("neg") is True
    return TensorRecord(storage, dtype, offset, shape, strides, conjugate, negative)


def _first(value: object, *_: object) -> object:
    """A parameter of a tensor: the tensor."""
    return value


def _subclass(function: object, kind: object, arguments: object, _state: object) -> object:
    if not isinstance(function, Function) or function.call not in _FUNCTIONS.values():
        raise ValueError("a tensor is made by what is no function of tensors")
    if not isinstance(kind, Opaque) or type(arguments) is not tuple:
        raise ValueError("a tensor is of a type that is none")
    return function.call(*arguments)


def _opaque(kind: str) -> Function:
    return Function(lambda *_: Opaque(kind))


def _refused(kind: str, advice: str) -> Function:
    return Function(lambda *_: Refused(kind, advice))


def _shape(values: object = ()) -> tuple[int, ...]:
    return _numbers(values, "size")


_MOVED = _refused("a tensor of another device", "move it with cpu() before it is saved")

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "_rebuild_tensor": _tensor,
    "_rebuild_tensor_v2": _tensor,
    "_rebuild_tensor_v3": _typed_tensor,
    "_rebuild_parameter": _first,
    "_rebuild_parameter_with_state": _first,
    "_rebuild_qtensor": _refused("a quantised tensor", "save dequantize() of it").call,
    "_rebuild_sparse_tensor": _refused("a sparse tensor", "save to_dense() of it").call,
    "_rebuild_nested_tensor": _refused("a nested tensor", "save its tensors one by one").call,
    "_rebuild_meta_tensor_no_storage": _refused(
        "a tensor on the 'meta' device", "it has no data; load the weights before it is saved"
    ).call,
    "_rebuild_wrapper_subclass": _refused(
        "a tensor subclass without data of its own", "save the plain tensor that it stands for"
    ).call,
    "_rebuild_device_tensor_from_numpy": _MOVED.call,
    "_rebuild_device_tensor_from_cpu_tensor": _MOVED.call,
    "_rebuild_xla_tensor": _MOVED.call,
}


def _known() -> dict[str, Any]:
    known: dict[str, Any] = {
        "collections.OrderedDict": Function(make_dict),
        "collections.Counter": Function(make_dict),
        "torch.Size": Function(_shape),
        "torch.device": _opaque("torch.device"),
        "torch.Tensor": Opaque("torch.Tensor"),
        "torch.nn.parameter.Parameter": Opaque("torch.nn.Parameter"),
        "torch.serialization._get_layout": _opaque("torch.layout"),
        "torch._tensor._rebuild_from_type_v2": Function(_subclass),
        "_codecs.encode": _opaque("bytes"),
        "builtins.bytearray": _opaque("bytearray"),
        "builtins.bytes": _opaque("bytes"),
        "builtins.complex": _opaque("complex"),
        "builtins.set": _opaque("set"),
    }
    for name, function in _FUNCTIONS.items():
        known[f"torch._utils.{name}"] = Function(function)
    for name, value in vars(torch).items():
        if isinstance(value, torch.dtype):
            known[f"torch.{name}"] = value
        elif isinstance(value, torch.qscheme):
            known[f"torch.{name}"] = Opaque("torch.qscheme")
    for name, dtype in _STORAGES.items():
        for module in ("torch", "torch.cuda"):
            known[f"{module}.{name}Storage"] = _StorageKind(dtype)
    known["torch.storage.UntypedStorage"] = known["torch.UntypedStorage"]
    return known


#: What stands for each global that a checkpoint may ask for.
KNOWN = _known()
