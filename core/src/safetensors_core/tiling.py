"""The rules that dtypes, shapes and offsets of a header obey together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from safetensors_core.dtypes import Dtype
from safetensors_core.errors import HeaderError, Reason

if TYPE_CHECKING:
    from safetensors_core.header import TensorInfo

__all__ = ["data_nbytes", "in_file_order"]

_U64_MAX = 2**64 - 1


def in_file_order(tensors: dict[str, TensorInfo]) -> dict[str, TensorInfo]:
    """Check that the entries tile the data without gap or overlap, and order them by offset.

    Args:
        tensors: The entries of a header.

    Returns:
        The same entries, ordered by offset.

    Raises:
        HeaderError: They do not, or the shape of one asks for another size than its offsets.

    Example:
        >>> from safetensors_core.header import TensorInfo
        >>> b, a = TensorInfo(Dtype.U8, (1,), (3, 4)), TensorInfo(Dtype.U8, (3,), (0, 3))
        >>> list(in_file_order({"b": b, "a": a}))
        ['a', 'b']
    """
    sizes: dict[tuple[Dtype, tuple[int, ...]], int] = {}
    position = 0
    for name, info in tensors.items():
        begin, end = info.data_offsets
        if begin != position or end < begin:
            break
        key = (info.dtype, info.shape)
        nbytes = sizes.get(key)
        if nbytes is None:
            nbytes = sizes[key] = data_nbytes(name, info.dtype, info.shape)
        if end - begin != nbytes:
            raise _size_mismatch(name, info, nbytes)
        position = end
    else:
        return tensors
    by_offset = sorted(tensors.items(), key=lambda item: item[1].data_offsets)
    _check_sequence(by_offset)
    return in_file_order(dict(by_offset))


def _check_sequence(by_offset: list[tuple[str, TensorInfo]]) -> None:
    position = 0
    previous = None
    for name, info in by_offset:
        begin, end = info.data_offsets
        _check_u64(name, "offset", info.data_offsets, Reason.INVALID_OFFSETS)
        if end < begin:
            detail = f"its data ends at {end}, before its begin at {begin}"
            raise _wrong(Reason.REVERSED_OFFSETS, name, detail)
        if begin != position:
            before = f"tensor {previous!r} ends" if previous is not None else "the data begins"
            kind = Reason.GAP if begin > position else Reason.OVERLAP
            detail = f"it begins at byte {begin} of the data, but {before} at {position}"
            raise _wrong(kind, name, f"{detail}: the format allows no {kind}")
        position = end
        previous = name


def data_nbytes(name: str, dtype: Dtype, shape: tuple[int, ...]) -> int:
    """Bytes that dtype and shape ask for, computed as the format's u64 arithmetic does.

    Args:
        name: Name of the tensor, for errors.
        dtype: Its element type.
        shape: Its shape.

    Returns:
        Size of its data in bytes.

    Raises:
        HeaderError: The shape is no shape, too large, or does not fill whole bytes.

    Example:
        >>> data_nbytes("w", Dtype.F4, (3, 2))
        3
    """
    _check_u64(name, "dimension", shape, Reason.INVALID_SHAPE)
    elements = 1
    for dimension in shape:
        elements *= dimension
        if elements > _U64_MAX:
            break
    bits = elements * dtype.bits
    if bits > _U64_MAX:
        raise _wrong(Reason.SIZE_OVERFLOW, name, "the size of its shape overflows 64 bits")
    if bits % 8:
        detail = f"{dtype} of shape {list(shape[:32])} does not fill whole bytes"
        raise _wrong(Reason.PARTIAL_BYTE, name, detail)
    return bits // 8


def _check_u64(name: str, what: str, values: tuple[int, ...], reason: Reason) -> None:
    """Check what the fast decoder accepts of any size and sign."""
    for value in values:
        if not 0 <= value <= _U64_MAX:
            detail = f"{what} {str(value)[:40]} is not an unsigned 64-bit integer"
            raise _wrong(reason, name, detail)


def _size_mismatch(name: str, info: TensorInfo, nbytes: int) -> HeaderError:
    _check_u64(name, "offset", info.data_offsets, Reason.INVALID_OFFSETS)
    shape = list(info.shape[:32])  # real ones have a few dimensions
    return _wrong(
        Reason.SIZE_MISMATCH,
        name,
        f"{info.dtype} of shape {shape} needs {nbytes:,} bytes, its offsets hold {info.nbytes:,}",
    )


def _wrong(reason: Reason, name: str, detail: str) -> HeaderError:
    return HeaderError(reason, f"tensor {name!r}: {detail}", tensor=name)
