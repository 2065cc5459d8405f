"""The bytes of an HDF5 file as the HDF5 library gets them, free of what it would never return from.

HDF5 keeps texts in heaps, one object after the other. Where a size is wrong, the library may look
at one place again and again, and no signal ends that. So heaps are checked before it sees them.
"""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Hdf5Input"]

# HDF5 File Format Specification 3.0, section III.E: a global heap begins with its signature, its
# version and three bytes without a meaning; then come its size, and its objects: index, references,
# size.
_HEAP = b"GCOL\x01"
_HEAP_HEADER = struct.Struct("<8xQ")
_OBJECT = struct.Struct("<HH4xQ")
_LONGEST = 2**20  # bytes: what is read of a heap at once is shorter, and most values are longer


class Hdf5Input(io.RawIOBase):
    """A file, or a part of one as a file of its own.

    Attributes:
        size: How many bytes it has.

    Example:
        >>> Hdf5Input(io.BytesIO(b"abcdef"), 2, 3).read()
        b'cde'
    """

    def __init__(self, file: BinaryIO, begin: int = 0, size: int | None = None) -> None:
        super().__init__()
        self._file = file
        self._begin = begin
        self.size = file.seek(0, io.SEEK_END) if size is None else size
        self._position = 0

    def readable(self) -> bool:
        """It can be read."""
        return True

    def seekable(self) -> bool:
        """It can be read anywhere."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to where the next bytes are read.

        Args:
            offset: Bytes from there.
            whence: The beginning, the position or the end, as everywhere in Python.

        Returns:
            The new position.
        """
        bases = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}
        self._position = max(0, bases[whence] + offset)
        return self._position

    def readinto(self, buffer: Buffer) -> int:
        """Read the next bytes.

        Args:
            buffer: Where they go.

        Returns:
            How many they are.

        Raises:
            ValueError: They are of a heap that is damaged.
        """
        view = memoryview(buffer).cast("B")
        data = self._at(self._position, len(view))
        if len(data) <= _LONGEST:
            begin = max(0, self._position - len(_HEAP) + 1)
            self._check_heaps(begin, self._at(begin, self._position - begin) + data)
        view[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        """Close the file, too."""
        self._file.close()
        super().close()

    def _at(self, position: int, length: int) -> bytes:
        self._file.seek(self._begin + position)
        return self._file.read(max(0, min(length, self.size - position)))

    def _check_heaps(self, position: int, data: bytes) -> None:
        found = data.find(_HEAP)
        while found >= 0:
            begin = position + found
            header = self._at(begin, _HEAP_HEADER.size)
            if len(header) == _HEAP_HEADER.size:
                length = _HEAP_HEADER.unpack(header)[0] - len(header)
                _check_objects(self._at(begin + len(header), length))
            found = data.find(_HEAP, found + 1)


def _check_objects(heap: bytes) -> None:
    position = 0
    while position + _OBJECT.size <= len(heap):
        index, _, size = _OBJECT.unpack_from(heap, position)
        if not index:  # what is free, up to the end
            position += size
            break
        position += _OBJECT.size + -(-size // 8) * 8
    if not len(heap) - _OBJECT.size < position <= len(heap):
        raise ValueError("a heap of texts is damaged")
