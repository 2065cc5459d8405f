"""By how much the values of two tensors differ. It needs NumPy and its plugin; nothing else does.

The plugin decodes every dtype of the format exactly. NumPy is imported when values are compared.
"""

from __future__ import annotations

import sys
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import msgspec

from safetensors_core.dtypes import Dtype
from safetensors_core.framework import Framework
from safetensors_core.header import TensorInfo

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["CHUNK_ELEMENTS", "ValueDifference", "compare_values"]

#: Elements that are compared at a time: whole bytes of every dtype.
CHUNK_ELEMENTS = 1 << 19


class ValueDifference(msgspec.Struct, frozen=True):
    """By how much the values of two tensors differ.

    Elements of one dtype are the same if their bits are: 0.0 is not -0.0, and a NaN is the same as
    a NaN of the same bits only. Elements of two dtypes are the same if they stand for the same
    number, or are both NaN.

    Attributes:
        elements: How many elements were compared.
        differing: How many of them are not the same.
        not_finite: How many of the differing ones are NaN or infinite on one side at least. The
            maxima leave these out.
        max_absolute: The largest ``|a - b|``; what float64 cannot hold is its largest number.
        max_relative: The largest ``|a - b| / max(|a|, |b|)``, from 0 to 2.

    Example:
        >>> ValueDifference(2, 1, 0, 0.5, 0.25) + ValueDifference(2, 0, 0, 0.0, 0.0)
        ValueDifference(elements=4, differing=1, not_finite=0, max_absolute=0.5, max_relative=0.25)
    """

    elements: int = 0
    differing: int = 0
    not_finite: int = 0
    max_absolute: float = 0.0
    max_relative: float = 0.0

    def __add__(self, other: ValueDifference) -> ValueDifference:
        return ValueDifference(
            self.elements + other.elements,
            self.differing + other.differing,
            self.not_finite + other.not_finite,
            max(self.max_absolute, other.max_absolute),
            max(self.max_relative, other.max_relative),
        )


def compare_values(
    framework: Framework, a: tuple[Dtype, Buffer], b: tuple[Dtype, Buffer], count: int
) -> ValueDifference:
    r"""Compare elements one by one.

    Args:
        framework: The plugin for NumPy.
        a: Dtype and bytes of the elements of one tensor.
        b: Those of the other one.
        count: How many elements each has.

    Returns:
        How many differ, and by how much.

    Example:
        >>> from safetensors_core import get_framework
        >>> a, b = np.float32([1, 2, -0.0]).tobytes(), np.float32([1, 3, 0.0]).tobytes()
        >>> compare_values(get_framework("np"), (Dtype.F32, a), (Dtype.F32, b), 3).differing
        2
    """
    import numpy as np

    x, y = _array(framework, *a, count), _array(framework, *b, count)
    # A signalling NaN, and a difference beyond float64, are no reason to warn.
    with np.errstate(invalid="ignore", over="ignore"):
        differs, x, y = _differing(x, y, by_bits=a[0] is b[0])
        finite = _finite(x) & _finite(y)
        x, y = x[finite], y[finite]
        if "O" in (x.dtype.kind, y.dtype.kind):
            x, y = _exact(x), _exact(y)
        distance = np.minimum(abs(x - y).astype("f8"), sys.float_info.max)
        largest = np.maximum(abs(x), abs(y)).astype("f8")
        relative = np.divide(distance, largest, out=np.zeros_like(distance), where=largest > 0)
    return ValueDifference(
        elements=count,
        differing=differs,
        not_finite=int(np.count_nonzero(~finite)),
        max_absolute=float(distance.max(initial=0)),
        max_relative=float(relative.max(initial=0)),
    )


def _differing(x: Any, y: Any, *, by_bits: bool) -> tuple[int, Any, Any]:
    """How many elements differ, and their numbers on both sides."""
    if by_bits:
        bits = f"u{x.dtype.itemsize}"
        differs = x.view(bits) != y.view(bits)
        x, y = _wide(x[differs]), _wide(y[differs])
    else:
        x, y = _wide(x), _wide(y)
        # Only a NaN is not equal to itself.
        differs = (x != y) & ~((x != x) & (y != y))  # noqa: PLR0124
        x, y = x[differs], y[differs]
    return len(x), x, y


def _array(framework: Framework, dtype: Dtype, data: Buffer, count: int) -> Any:
    view = memoryview(data)
    info = TensorInfo(dtype, (count,), (0, view.nbytes))
    array = framework.from_buffers(view, {"": info}, None)[""]
    # A byte of a BOOL that is neither 0 nor 1 has no meaning as a bool.
    return array.view("u1") if dtype is Dtype.BOOL else array


def _wide(array: Any) -> Any:
    """The same numbers, in a type that can hold the differences of all others."""
    if array.dtype.kind in "iu" and array.dtype.itemsize == 8:
        return array.astype(object)  # integers of Python, which are exact
    return array.astype("c16" if array.dtype.kind == "c" else "f8")


def _exact(array: Any) -> Any:
    """Floats as numbers from which an integer of Python is subtracted without rounding."""
    import numpy as np

    return np.frompyfunc(Fraction, 1, 1)(array) if array.dtype.kind == "f" else array


def _finite(array: Any) -> Any:
    import numpy as np

    return np.ones(array.shape, "?") if array.dtype.kind == "O" else np.isfinite(array)
