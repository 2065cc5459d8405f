"""`ZipSource`: a safetensors file that lies in a zip archive."""

from __future__ import annotations

import errno
import os
import struct
import zipfile
from typing import BinaryIO

from safetensors_core import ByteSource, ClosedFileError, InvalidInputError

__all__ = ["ZipSource"]


class ZipSource(ByteSource):
    """A member of an archive that is stored, not compressed: its bytes are read where they lie.

    Args:
        location: ``zip://ARCHIVE!/MEMBER``. The archive is a path, relative or absolute.

    Raises:
        FileNotFoundError: There is no such archive, or no such member in it.
        OSError: The archive cannot be read.
        InvalidInputError: The location, the archive or the member is not as it must be.

    Example:
        >>> import safetensors_core
        >>> with zipfile.ZipFile("models.zip", "w") as archive:
        ...     archive.writestr("empty.safetensors", safetensors_core.save({}))
        >>> ZipSource("zip://models.zip!/empty.safetensors").read_header().tensors
        {}
    """

    def __init__(self, location: str) -> None:
        self.location = location
        path, _, member = location.removeprefix("zip://").rpartition("!/")
        if not path or not member:
            raise InvalidInputError(f"{location}: expected zip://ARCHIVE!/MEMBER")
        with open(path, "rb") as file:
            self._begin, self.size = self._find(file, member)
            self._descriptor: _Descriptor | None = _Descriptor(os.dup(file.fileno()))

    def _find(self, file: BinaryIO, member: str) -> tuple[int, int]:
        """Where the bytes of a member begin in the archive, and how many there are."""
        try:
            with zipfile.ZipFile(file) as archive:
                info = archive.getinfo(member)
                plain = info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1
                if plain:
                    archive.open(info).close()  # is the header in front of the data the member's?
        except KeyError:
            text = "no such member in the archive"
            raise FileNotFoundError(errno.ENOENT, text, self.location) from None
        except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
            raise InvalidInputError(f"{self.location}: no sound zip archive: {error}") from error
        if not plain:
            raise InvalidInputError(
                f"{self.location}: the member is compressed or encrypted, so no part of it can be "
                "read alone. Store it as it is: zip -0"
            )
        # That header has 30 bytes and two fields, whose lengths are the last of the 30.
        file.seek(info.header_offset + 26)
        begin = info.header_offset + 30 + sum(struct.unpack("<2H", file.read(4)))
        if begin + info.file_size > file.seek(0, os.SEEK_END):
            raise InvalidInputError(f"{self.location}: the archive ends inside the member")
        return begin, info.file_size

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fill a buffer; threads share the descriptor, because each read says its position."""
        descriptor = self._descriptor  # once: another thread may close the source meanwhile
        if descriptor is None:
            raise ClosedFileError(f"{self.location} is closed")
        position = self._begin + offset
        while view:
            try:
                count = os.preadv(descriptor.number, [view[: 1 << 30]], position)
            except OSError as error:
                error.filename = self.location
                raise
            if count == 0:
                raise OSError(errno.EIO, "the archive became shorter", self.location)
            position += count
            view = view[count:]

    def close(self) -> None:
        """Close the archive once the reads that are under way have ended."""
        self._descriptor = None


class _Descriptor:
    """A file descriptor, closed with its last user: never under a read of another thread."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.close(self.number)
