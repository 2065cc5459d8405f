"""Large arrays, read straight into the memory in which MLX will keep them.

MLX takes no host memory of others: it copies what it is given, into pages that it touches for
the first time, and those page faults take longer than the copy. But `mlx.core.load` accepts any
file object and has it fill the new array's memory. So every large tensor is shown to it as a
file of NumPy's format whose data is a range of a source. That leaves one copy, by the kernel
where the source is a file, and huge pages under it.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import queue
import sys
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import mlx.core as mx
import numpy as np

from safetensors_core import ByteSource, Dtype, TensorInfo
from safetensors_core.sources import MappedSource, Segment

__all__ = ["LARGE", "TensorFile", "read_large"]

#: Bytes from which on it pays to call back from MLX: about 80 microseconds, measured, and fewer
#: than two huge pages save less.
LARGE = 4 * 1024 * 1024

# As MLX writes them: bfloat16 is "two bytes of something".
_TYPES = {
    Dtype.BOOL: "|b1",
    Dtype.U8: "|u1",
    Dtype.I8: "|i1",
    Dtype.I16: "<i2",
    Dtype.U16: "<u2",
    Dtype.F16: "<f2",
    Dtype.BF16: "<V2",
    Dtype.I32: "<i4",
    Dtype.U32: "<u4",
    Dtype.F32: "<f4",
    Dtype.C64: "<c8",
    Dtype.F64: "<f8",
    Dtype.I64: "<i8",
    Dtype.U64: "<u8",
}

Fill = Callable[[int, memoryview], None]

_PATIENCE = 10.0  # seconds


class TensorFile:
    """A file of NumPy's format, as MLX reads it: one tensor, whose bytes come on demand.

    Args:
        info: The tensor.
        fill: Fills a buffer with the tensor's bytes from an offset on.

    Attributes:
        error: What `fill` raised. MLX calls back from a thread of its own, through which an
            exception does not find its way unharmed.

    Example:
        >>> def fill(offset, view):
        ...     view[:] = bytes(range(offset, offset + len(view)))
        >>> mx.load(TensorFile(TensorInfo(Dtype.U8, (3,), (0, 3)), fill), format="npy")
        array([0, 1, 2], dtype=uint8)
    """

    closed = False

    def __init__(self, info: TensorInfo, fill: Fill) -> None:
        kind = _TYPES[info.dtype]
        text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {info.shape!r}, }}"
        # NumPy's specification wants the data to begin at a multiple of 64 bytes.
        text += " " * (-(10 + len(text) + 1) % 64) + "\n"
        self._beginning = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()
        self._size = len(self._beginning) + info.nbytes
        self._position = 0
        self._fill = fill
        self.error: BaseException | None = None

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a position, from the beginning, the current position or the end."""
        self._position = offset + (0, self._position, self._size)[whence]
        return self._position

    def tell(self) -> int:
        """The current position."""
        return self._position

    def readinto(self, view: memoryview) -> int:
        """Fill a buffer from the current position on."""
        head = self._beginning[self._position : self._position + len(view)]
        view[: len(head)] = head
        data = view[len(head) :]
        if data and self.error is None:
            try:
                self._fill(self._position + len(head) - len(self._beginning), data)
            except BaseException as error:  # noqa: BLE001  # raised where the caller waits
                self.error = error
        self._position += len(view)
        return len(view)


def read_large(source: ByteSource, infos: Mapping[str, TensorInfo]) -> dict[str, mx.array]:
    """Arrays whose memory MLX has allocated and the source has filled.

    Args:
        source: Where the bytes are.
        infos: The tensors, with the offsets of the file's header, each of at least one byte.

    Returns:
        Arrays by name. They own their memory and are evaluated.

    Raises:
        OSError: The storage failed.
    """
    # A map is copied from by NumPy, which lets other threads run meanwhile.
    mapped = None
    if isinstance(source, MappedSource):
        mapped = np.frombuffer(source.fetch(infos)[0], np.uint8)
    arrays: dict[str, mx.array] = {}
    for name, info in infos.items():
        file = TensorFile(info, _filler(source, mapped, info))
        arrays[name] = _load(file)
        if file.error is not None:
            raise file.error
    return arrays


class _Lent:
    """A file as MLX holds it: what its reader looks up, and nothing that others hold too."""

    __slots__ = ("__weakref__", "closed", "readinto", "seek", "tell")

    def __init__(self, file: TensorFile) -> None:
        self.closed = file.closed
        self.readinto, self.seek, self.tell = file.readinto, file.seek, file.tell


def _load(file: TensorFile) -> Any:
    """Load a file and wait until MLX has let go of it.

    The thread in which MLX reads lets go of the file only after the load has returned, and needs
    the interpreter for that. A program that ends right then would be aborted (MLX 0.32 with any
    file object), so the load is over when the last reference is gone.
    """
    load_file: Any = mx.load  # its annotation wants more of a file than it uses
    # Its method is no Python code: between the call and the end of the release, that thread
    # does not yield.
    gone: queue.SimpleQueue[Any] = queue.SimpleQueue()
    lent = _Lent(file)
    watched = weakref.ref(lent, gone.put)
    try:
        return load_file(lent, format="npy")
    finally:
        del lent
        with contextlib.suppress(queue.Empty):
            gone.get(timeout=_PATIENCE)
        del watched


def _filler(source: ByteSource, mapped: Any, info: TensorInfo) -> Fill:
    """What copies a tensor's bytes to where MLX wants them."""
    begin = info.data_offsets[0]

    def copy(offset: int, view: memoryview) -> None:
        advise_huge_pages(view)
        first = begin + offset
        np.copyto(np.frombuffer(view, np.uint8), mapped[first : first + len(view)])

    def read(offset: int, view: memoryview) -> None:
        advise_huge_pages(view)
        first = source.header.data_start + begin + offset
        source.read_segments(view, [Segment(first, 0, len(view))])

    return read if mapped is None else copy


def advise_huge_pages(view: memoryview) -> None:
    """Ask for huge pages under memory that nobody has touched yet, where the system has them.

    It is advice about the speed of the first touch, a quarter of the page faults' time here, and
    has no effect on what the memory holds.

    Args:
        view: The memory; the whole pages that hold it are meant.

    Example:
        >>> advise_huge_pages(memoryview(bytearray(1 << 22)))
    """
    if sys.platform != "linux" or not hasattr(mmap, "MADV_HUGEPAGE"):
        return
    begin = ctypes.addressof(ctypes.c_char.from_buffer(view))
    page = begin - begin % mmap.PAGESIZE
    with contextlib.suppress(AttributeError, OSError):  # no such function in this C library
        madvise = ctypes.CDLL(None).madvise
        madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        madvise(page, begin + len(view) - page, mmap.MADV_HUGEPAGE)
