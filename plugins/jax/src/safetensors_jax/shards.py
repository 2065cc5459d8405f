"""Sharded arrays: each process reads the parts that its own devices hold, and no more."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np
import numpy.typing as npt

from safetensors_core import ByteSource, InvalidInputError, TensorInfo
from safetensors_core.sources import allocate
from safetensors_jax.placement import ALIGNMENT
from safetensors_numpy.framework import NumpyFramework

__all__ = ["check_sharding", "load_sharded"]

Array = npt.NDArray[Any]
#: First row and row after the last one, for each dimension.
Box = tuple[tuple[int, int], ...]

_NUMPY = NumpyFramework()

# Reading over a gap is cheaper than a second request for the bytes behind it, up to about what a
# disk reads ahead by itself: the same as for slices.
_GAP = 64 * 1024


def check_sharding(name: str, shape: tuple[int, ...], sharding: jax.sharding.Sharding) -> None:
    """Refuse a sharding that does not suit a tensor.

    Args:
        name: Name of the tensor, for the error.
        shape: Its shape, in elements.
        sharding: How it shall lie on devices.

    Raises:
        InvalidInputError: It has more dimensions than the tensor, does not divide one, or leaves
            a sum to be made.

    Example:
        >>> mesh = jax.sharding.Mesh(jax.devices()[:1], "x")
        >>> spec = jax.sharding.PartitionSpec(None, "x")
        >>> check_sharding("b", (3,), jax.sharding.NamedSharding(mesh, spec))
        Traceback (most recent call last):
        safetensors_core.errors.InvalidInputError: tensor 'b' of shape [3] cannot be sharded: ...
    """
    try:
        checked: Any = sharding  # the base class does not list the method that all have
        checked.check_compatible_aval(shape)
        sharding.shard_shape(shape)
        sharding.addressable_devices_indices_map(shape)
    except (IndexError, NotImplementedError, TypeError, ValueError) as error:
        cause = " ".join(str(error).split())
        raise InvalidInputError(
            f"tensor {name!r} of shape {list(shape)} cannot be sharded: {cause}"
        ) from error


def load_sharded(
    source: ByteSource, info: TensorInfo, sharding: jax.sharding.Sharding
) -> jax.Array:
    """Load one tensor onto several devices.

    Every part is read once, also where several devices of this process hold it. Parts that lie
    in the file in one piece are read, or mapped, by themselves; columns are read together.

    Args:
        source: Where the bytes are.
        info: The tensor, with the offsets of the file's header.
        sharding: How it shall lie on devices; `check_sharding` has accepted it.

    Returns:
        The array, of which this process holds its own part.

    Example:
        >>> from safetensors_core.sources import MappedSource
        >>> source = MappedSource(model_path)
        >>> info = source.read_header().tensors["weight"]
        >>> mesh = jax.sharding.Mesh(jax.devices()[:1], "x")
        >>> rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
        >>> load_sharded(source, info, rows).shape
        (2, 3)
    """
    shape = info.shape
    indices = sharding.addressable_devices_indices_map(shape).values()
    parts = _read_boxes(source, info, {_box(index, shape) for index in indices})
    return jax.make_array_from_callback(
        shape, sharding, lambda index: parts[_box(index, shape)], dtype=_NUMPY.dtypes[info.dtype]
    )


def _box(index: Any, shape: tuple[int, ...]) -> Box:
    return tuple(part.indices(size)[:2] for part, size in zip(index, shape, strict=True))


def _volume(box: Box) -> int:
    return math.prod(end - begin for begin, end in box)


def _read_boxes(source: ByteSource, info: TensorInfo, boxes: set[Box]) -> dict[Box, Array]:
    """The content of each box."""
    if not boxes or all(_run(box, info.shape)[1] == _volume(box) for box in boxes):
        return {box: _read_box(source, info, box) for box in boxes}
    # Runs of several boxes alternate in the file: where they fill it, they are read together.
    axes = zip(*boxes, strict=True)
    hull = tuple((min(b for b, _ in axis), max(e for _, e in axis)) for axis in axes)
    if _volume(hull) > sum(map(_volume, boxes)):
        return {box: _read_box(source, info, box) for box in boxes}
    whole = _read_box(source, info, hull)
    return {
        box: whole[tuple(slice(b - o, e - o) for (b, e), (o, _) in zip(box, hull, strict=True))]
        for box in boxes
    }


def _run(box: Box, shape: tuple[int, ...]) -> tuple[int, int]:
    """From which axis on a box is contiguous, and how many elements that are in a row."""
    axis, run = len(shape), 1
    while axis:
        axis -= 1
        begin, end = box[axis]
        run *= end - begin
        if end - begin != shape[axis]:
            break
    # Dimensions of one row before that do not interrupt it.
    while axis and box[axis - 1][1] - box[axis - 1][0] == 1:
        axis -= 1
    return axis, run


def _read_box(source: ByteSource, info: TensorInfo, box: Box) -> Array:
    shape = info.shape
    axis, run = _run(box, shape)
    count = _volume(box)
    gap = (math.prod(shape[axis:]) - run) * info.dtype.bits // 8
    # A source with a way of its own hands out memory that is there already.
    reads = type(source).fetch_slice is ByteSource.fetch_slice
    if not reads or count in (0, run) or gap <= _GAP or info.dtype.bits < 8:
        index = tuple(slice(begin, end) for begin, end in box)
        return _NUMPY.index(*source.fetch_slice(info, index, ALIGNMENT), None)
    # Far apart: every run is a read of its own.
    item = info.dtype.bits // 8
    start = source.header.data_start + info.data_offsets[0]
    width = run * item
    first = np.zeros(1, np.int64)
    for position, (begin, end) in enumerate(box):
        step = math.prod(shape[position + 1 :]) * item
        ends = end if position < axis else begin + 1
        first = (first[:, None] + np.arange(begin, ends) * step).reshape(-1)
    buffer = allocate(count * item, ALIGNMENT)
    source.read_ranges(
        [
            (start + int(offset), buffer[i * width : (i + 1) * width])
            for i, offset in enumerate(first)
        ]
    )
    part = tuple(end - begin for begin, end in box)
    return np.frombuffer(buffer, _NUMPY.dtypes[info.dtype]).reshape(part)
