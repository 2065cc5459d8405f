"""The bytes that an index selects of a tensor, for frameworks that cannot index like NumPy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from math import prod
from typing import Any, NamedTuple

from safetensors_core.errors import SliceError
from safetensors_core.header import TensorInfo
from safetensors_core.slicing import expand_index, is_boolean, values_of

__all__ = ["select"]


def select(buffer: memoryview, info: TensorInfo, index: Any) -> tuple[memoryview, TensorInfo]:
    """Copy what an index selects of a tensor.

    Args:
        buffer: Bytes that hold the tensor.
        info: Its dtype, shape and offsets into `buffer`.
        index: What would stand in brackets, with NumPy's meaning.

    Returns:
        Writable bytes of the caller's own, and the entry of the tensor that they hold.

    Raises:
        SliceError: The index does not fit the tensor, or selects elements of 4 or 6 bits that
            do not fill whole bytes.

    Example:
        >>> from safetensors_core.dtypes import Dtype
        >>> info = TensorInfo(Dtype.U8, (2, 3), (0, 6))
        >>> data, selected = select(memoryview(b"abcdef"), info, (slice(None), [2, 0]))
        >>> bytes(data), selected.shape
        (b'cafd', (2, 2))
    """
    axes = _axes(expand_index(index if isinstance(index, tuple) else (index,), info.shape), info)
    shape = tuple(size for axis in axes for size in axis.sizes)
    bits = info.dtype.bits
    if prod(shape) * bits % 8:
        raise SliceError(f"elements of {bits} bits that do not fill whole bytes are selected")
    tensor = buffer[slice(*info.data_offsets)]
    begins, run = _runs(axes)
    if bits % 8 == 0:
        item = bits // 8
        data = bytearray().join(tensor[at * item : (at + run) * item] for at in begins)
    else:
        data = _packed(tensor, begins, run, bits)
    return memoryview(data), TensorInfo(info.dtype, shape, (0, len(data)))


class _Axis(NamedTuple):
    """Dimensions of the result that one item of the index makes, or several arrays together.

    Attributes:
        steps: How far each of their positions lies from the beginning, in elements.
        sizes: Their sizes; empty for an integer, which leaves none.
    """

    steps: Sequence[int]
    sizes: tuple[int, ...]


class _Array(NamedTuple):
    """An array used as an index: flat values, in steps of one axis of the tensor."""

    steps: list[int]
    sizes: tuple[int, ...]


def _axes(items: tuple[Any, ...], info: TensorInfo) -> list[_Axis]:
    """The result, dimension by dimension."""
    shape, axis = info.shape, 0
    together = any(_is_array(item) for item in items)  # integers then count among the arrays
    arrays: list[_Array] = []
    places: list[int] = []
    axes: list[_Axis] = []
    for place, item in enumerate((*items, *[slice(None)] * len(shape))):
        if axis == len(shape) and place >= len(items):
            break
        step = prod(shape[axis + 1 :])
        if item is None:
            axes.append(_Axis(range(1), (1,)))
        elif isinstance(item, slice):
            rows = range(*item.indices(shape[axis]))
            axes.append(_Axis(_scaled(rows, step), (len(rows),)))
            axis += 1
        elif _is_array(item):
            places.append(len(axes))
            found = _arrays(item, shape, axis)
            arrays += found
            axis += len(found) if not isinstance(item, bool) else 0
        elif together:
            places.append(len(axes))
            arrays.append(_Array([item * step], ()))
            axis += 1
        else:
            axes.append(_Axis(range(item * step, item * step + 1), ()))
            axis += 1
    if arrays:
        # Arrays with a dimension between them put theirs in front, as NumPy does.
        adjacent = places[0] == places[-1]
        axes.insert(places[0] if adjacent else 0, _broadcast(arrays))
    return axes


def _scaled(rows: range, step: int) -> range:
    return (
        range(rows.start * step, rows.stop * step, rows.step * step) if step else range(len(rows))
    )


def _is_array(item: Any) -> bool:
    return item is not None and (isinstance(item, bool) or not isinstance(item, (int, slice)))


def _arrays(item: Any, shape: tuple[int, ...], axis: int) -> list[_Array]:
    """One array of integers for each axis that a list or array of integers or booleans indexes."""
    if isinstance(item, bool):  # a mask without dimensions, which keeps everything or nothing
        return [_Array([0] * item, (int(item),))]
    values, sizes = _flat(item if isinstance(item, list) else values_of(item))
    sizes = tuple(getattr(item, "shape", sizes))  # a list of none does not show what follows
    if is_boolean(item):
        if sizes != shape[axis : axis + len(sizes)]:
            raise SliceError(f"a mask of shape {list(sizes)} for a tensor of shape {list(shape)}")
        chosen = [at for at, keep in enumerate(values) if keep]
        found = []
        for i, size in enumerate(sizes):
            inner, step = prod(sizes[i + 1 :]), prod(shape[axis + i + 1 :])
            found.append(_Array([at // inner % size * step for at in chosen], (len(chosen),)))
        return found
    size, step = shape[axis], prod(shape[axis + 1 :])
    wrong = next((value for value in values if not -size <= value < size), None)
    if wrong is not None:
        raise SliceError(f"index {wrong} is out of bounds for axis {axis} of size {size}")
    return [_Array([value % size * step for value in values], sizes)]


def _flat(values: Any) -> tuple[list[Any], tuple[int, ...]]:
    """The leaves of a nested list, and its shape."""
    sizes = [len(values)]
    while values and isinstance(values[0], list):
        sizes.append(len(values[0]))
        values = [leaf for value in values for leaf in value]
    return values, tuple(sizes)


def _broadcast(arrays: list[_Array]) -> _Axis:
    """Arrays that select together, as one."""
    rank = max(len(array.sizes) for array in arrays)
    padded = [(1,) * (rank - len(array.sizes)) + array.sizes for array in arrays]
    sizes = []
    for found in map(set, zip(*padded, strict=True)):
        found.discard(1)
        if len(found) > 1:
            shapes = ", ".join(str(list(array.sizes)) for array in arrays)
            raise SliceError(f"arrays of shapes {shapes} cannot select together")
        sizes.append(found.pop() if found else 1)
    total = [0] * prod(sizes)
    for array, own in zip(arrays, padded, strict=True):
        strides = [0 if size == 1 else prod(own[i + 1 :]) for i, size in enumerate(own)]
        steps = [range(0, n * s, s) if s else [0] * n for n, s in zip(sizes, strides, strict=True)]
        for i, place in enumerate(product(*steps)):
            total[i] += array.steps[sum(place)]
    return _Axis(total, tuple(sizes))


def _runs(axes: list[_Axis]) -> tuple[Iterable[int], int]:
    """Where contiguous elements begin, in the order of the result, and how many each run has."""
    first, run = 0, 1
    rest = [axis.steps for axis in axes]
    while rest:
        steps = rest[-1]
        if len(steps) == 1:
            first += steps[0]
        elif isinstance(steps, range) and steps and steps.step == run:
            first += steps[0]
            run *= len(steps)
        else:
            break
        rest.pop()
    return (first + sum(place) for place in product(*rest)), run


def _packed(tensor: memoryview, begins: Iterable[int], run: int, bits: int) -> bytearray:
    """Runs of elements of less than a byte, the first element in the lowest bits."""
    data = bytearray()
    pending = count = 0  # bits that do not fill a byte yet
    for at in begins:
        begin, end = at * bits, (at + run) * bits
        if count or begin % 8 or end % 8:
            around = int.from_bytes(tensor[begin // 8 : (end + 7) // 8], "little")
            pending |= (around >> begin % 8 & ((1 << end - begin) - 1)) << count
            count += end - begin
            data += (pending & ((1 << count // 8 * 8) - 1)).to_bytes(count // 8, "little")
            pending, count = pending >> count // 8 * 8, count % 8
        else:
            data += tensor[begin // 8 : end // 8]
    return data
