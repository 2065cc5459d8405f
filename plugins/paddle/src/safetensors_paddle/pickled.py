"""Arrays in the pickles of Paddle, read without NumPy's own functions: these believe anything."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from safetensors_core import ConversionError, Dtype, TensorSpec, UnsupportedDtypeError
from safetensors_core.convert import Function, Opaque, StandIn, make_dict, refused_global

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["STAND_INS", "PickledArray", "PickledScalar"]

_CODES = {
    "b1": Dtype.BOOL,
    "u1": Dtype.U8,
    "i1": Dtype.I8,
    "i2": Dtype.I16,
    "u2": Dtype.U16,
    "f2": Dtype.F16,
    "i4": Dtype.I32,
    "u4": Dtype.U32,
    "f4": Dtype.F32,
    "c8": Dtype.C64,
    "f8": Dtype.F64,
    "i8": Dtype.I64,
    "u8": Dtype.U64,
}
_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_MOST_DIMENSIONS = 64  # of an array of NumPy
_MOST_BYTES = 2**63 - 1


@dataclass
class _PickledDtype(StandIn):
    """What a pickle says about a dtype."""

    code: Any
    state: Any = None

    def set_state(self, state: Any) -> None:
        self.state = state

    @property
    def order(self) -> str | None:
        """``<``, ``>`` or ``|``; None for what is no plain number of the format."""
        match self.state:
            case (int(), "<" | ">" | "|" as order, None, None, None, *_):
                return str(order) if isinstance(self.code, str) and self.code in _CODES else None
        return None


@dataclass(eq=False)  # two arrays are the same tensor only if they are the same object
class PickledArray(StandIn):
    """An array as its pickle describes it. Nothing of it is true before `check`.

    Attributes:
        dtype: Its type.
        shape: Elements per dimension.
        parts: Its bytes; several where a file splits large arrays.
        order: ``C`` or ``F``, or ``K`` for dimensions that are in the order of `axes` in memory.
        axes: For each dimension, which one of `shape` it is; for ``K`` only.

    Example:
        >>> PickledArray(shape=(2, 3)).order
        'C'
    """

    dtype: Any = None
    shape: Any = ()
    parts: list[Any] = field(default_factory=list)
    order: Any = "C"
    axes: Any = None

    def set_state(self, state: Any) -> None:
        """Take the state that NumPy gives its arrays: a version, then four values.

        Args:
            state: What the pickle says.

        Raises:
            ValueError: It is no such state; so does TypeError.

        Example:
            >>> array = PickledArray()
            >>> array.set_state((1, (2,), None, False, b""))
            >>> array.shape
            (2,)
        """
        _, self.shape, self.dtype, is_fortran, data = state
        self.order, self.parts = "F" if is_fortran else "C", [data]

    def check(self, name: str, location: str) -> None:
        """Make sure that all it says is true.

        Args:
            name: Its name in the checkpoint.
            location: The file.

        Raises:
            UnsupportedDtypeError: The format has no exact equivalent of its dtype.
            ConversionError: It does not fit its data, or is no array at all.

        Example:
            >>> PickledArray(shape=(2,)).check("w", "a.pdparams")
            Traceback (most recent call last):
            safetensors_core.errors.ConversionError: a.pdparams: 'w' is a damaged array: ...
        """
        dtype = self.dtype
        if not (isinstance(dtype, _PickledDtype) and isinstance(dtype.code, str)):
            raise ConversionError(f"{name!r} is a damaged array: it has no dtype", location)
        if dtype.order is None:
            error = UnsupportedDtypeError(dtype.code, "the safetensors format", tensor=name)
            error.location = location
            raise error
        if not self._is_shaped():
            raise ConversionError(f"{name!r} is a damaged array: no array has its shape", location)
        if not all(isinstance(part, (bytes, bytearray)) for part in self.parts):
            raise ConversionError(f"{name!r} is a damaged array: its data is no bytes", location)
        found, item = sum(map(len, self.parts)), _CODES[dtype.code].bits // 8
        if math.prod(self.shape) * item != found:
            raise ConversionError(
                f"{name!r} is a damaged array: {found:,} bytes of data are not of shape "
                f"{list(self.shape)} and dtype {dtype.code}",
                location,
            )

    def _is_shaped(self) -> bool:
        shape = self.shape
        if not _are_counts(shape):
            return False
        # NumPy counts a dimension of zero elements as one where it makes sure of the size.
        if math.prod(n or 1 for n in shape) * 8 > _MOST_BYTES:
            return False
        if self.order == "K":
            return _are_counts(self.axes) and sorted(self.axes) == list(range(len(shape)))
        return self.order in ("C", "F")

    def spec(self, bfloat16: bool) -> TensorSpec:
        """Its dtype and shape.

        Args:
            bfloat16: Whether two bytes without a sign are a bfloat16, as Paddle saves it.

        Returns:
            What a header says about it.

        Example:
            >>> array = PickledArray(_PickledDtype("u2", (3, "<", None, None, None)), (2,))
            >>> array.spec(bfloat16=True)
            TensorSpec(dtype=<Dtype.BF16: 'BF16'>, shape=(2,))
        """
        dtype, shape = _CODES[self.dtype.code], self.shape
        if self.order == "K":
            shape = tuple(shape[axis] for axis in self.axes)
        return TensorSpec(Dtype.BF16 if bfloat16 and dtype is Dtype.U16 else dtype, shape)

    def read(self, bfloat16: bool) -> npt.NDArray[Any]:
        """Itself, as an array over the bytes of the pickle.

        Args:
            bfloat16: Whether two bytes without a sign are a bfloat16, as Paddle saves it.

        Returns:
            An array that is not to be written to.

        Example:
            >>> dtype = _PickledDtype("i2", (3, "<", None, None, None))
            >>> PickledArray(dtype, (2,), [bytes([1, 0, 2, 0])]).read(bfloat16=False)
            array([1, 2], dtype=int16)
        """
        dtype = np.dtype(self.dtype.code).newbyteorder(self.dtype.order)
        parts = [np.frombuffer(part, dtype) for part in self.parts]
        flat = parts[0] if len(parts) == 1 else np.concatenate(parts)
        flat = flat.astype(dtype.newbyteorder("<"), copy=False)
        if bfloat16 and self.dtype.code == "u2":
            flat = flat.view(_BFLOAT16)
        array: npt.NDArray[Any] = flat.reshape(self.shape, order="F" if self.order == "F" else "C")
        return array.transpose(self.axes) if self.order == "K" else array

    def chunks(self) -> Callable[[], Iterable[Buffer]] | None:
        """What gives its bytes, where they are already as the format wants them.

        Returns:
            A function; None where elements or their bytes are in another order.

        Example:
            >>> PickledArray(_PickledDtype("u1", (3, "|", None, None, None))).chunks()()
            []
        """
        if self.order != "C" or self.dtype.order == ">":
            return None
        return lambda: self.parts


def _are_counts(numbers: Any) -> bool:
    if not isinstance(numbers, tuple) or len(numbers) > _MOST_DIMENSIONS:
        return False
    return all(type(n) is int and 0 <= n <= _MOST_BYTES for n in numbers)


class PickledScalar(PickledArray):
    """A number of NumPy's, which is an array without dimensions.

    Example:
        >>> PickledScalar().shape
        ()
    """


def _reconstruct(*_: Any) -> PickledArray:
    return PickledArray()


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> PickledArray:
    return PickledArray(dtype, shape, [data], order, axes)


def _scalar(dtype: Any, data: Any) -> PickledScalar:
    return PickledScalar(dtype, (), [data])


def _dtype(code: Any, *_: Any) -> _PickledDtype:
    return _PickledDtype(code)


def _encode(text: Any, encoding: Any) -> bytes:
    if type(text) is not str or encoding != "latin1":
        raise refused_global("_codecs.encode", "")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


# Paddle saves a tensor of a static graph as a program that has only to name it.
def _evaluate(*arguments: Any) -> PickledArray:
    match arguments:
        case ("data", {"data": PickledArray() as array, **others}) if not others:
            return array
    raise refused_global("builtins.eval", "")


def _stand_ins() -> dict[str, Any]:
    functions: dict[str, Callable[..., Any]] = {
        "_codecs.encode": _encode,
        "builtins.bytes": _no_bytes,
        "builtins.eval": _evaluate,
        "builtins.tuple": tuple,
        "collections.OrderedDict": make_dict,
        "numpy.dtype": _dtype,
    }
    for module in ("numpy._core", "numpy.core"):  # in NumPy from 2.0 on, and before
        functions[f"{module}.multiarray._reconstruct"] = _reconstruct
        functions[f"{module}.multiarray.scalar"] = _scalar
        functions[f"{module}.numeric._frombuffer"] = _from_buffer
    found: dict[str, Any] = {name: Function(function) for name, function in functions.items()}
    found["numpy.ndarray"] = Opaque("numpy.ndarray")  # only ever handed back to `_reconstruct`
    return found


#: What stands for each global that the pickles of `paddle.save` ask for.
STAND_INS = _stand_ins()
