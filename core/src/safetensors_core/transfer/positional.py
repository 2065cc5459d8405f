"""Mapped files as files that are read: a device takes all bytes, which threads read sooner."""

from __future__ import annotations

from safetensors_core.errors import InvalidInputError
from safetensors_core.sources import ByteSource, FileSource, MappedSource
from safetensors_core.sources.mapped import identity_of

__all__ = ["positional"]


def positional(source: ByteSource) -> ByteSource:
    """A source that is read at positions, in place of one that is mapped.

    Threads copy out of a map one after the other, page by page.

    Args:
        source: Any source, whose header is read.

    Returns:
        The same file; the source itself where it is not mapped, or where its path leads to another
        file by now.

    Raises:
        ClosedFileError: It is mapped, and closed.

    Example:
        >>> mapped = MappedSource(model_path)
        >>> header = mapped.read_header()
        >>> positional(mapped).header is header
        True
    """
    if not isinstance(source, MappedSource):
        return source
    source.read_into(0, memoryview(bytearray()))  # which a closed file refuses
    try:
        file = FileSource(source.location)
    except (OSError, InvalidInputError):  # it was removed, or replaced by something else
        return source
    if identity_of(file._opened().fd) != source.identity:
        return source
    file.header = source.header
    return file
