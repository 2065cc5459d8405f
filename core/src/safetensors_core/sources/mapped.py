"""A file mapped into memory."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import sys
from collections.abc import Mapping
from typing import Any

from safetensors_core.errors import ClosedFileError, HeaderError
from safetensors_core.header import MAX_HEADER, Header, TensorInfo, parse_header
from safetensors_core.slicing import expand_index
from safetensors_core.sources.base import ByteSource
from safetensors_core.sources.file import open_regular

__all__ = ["MappedSource"]

# Without it, Linux refuses a private map larger than memory although pages are only taken when
# somebody writes to them. Older versions of Python do not name the flag.
_LINUX = sys.platform == "linux" and os.uname().machine in {"x86_64", "aarch64"}
_NORESERVE: int = getattr(mmap, "MAP_NORESERVE", 0x4000 if _LINUX else 0)

_HUGE_PAGES: int | None = getattr(mmap, "MADV_HUGEPAGE", None)
_LARGE = 8 * 1024 * 1024  # bytes from which on whole huge pages read little that is not wanted


class MappedSource(ByteSource):
    """A file mapped privately: lazy, without copies, writable without effect on the file.

    Tensors alias the map and keep it alive after `close`. Bytes are read when they are first
    touched, so a file that somebody truncates meanwhile ends the process with SIGBUS; replace
    files instead, as `save_file` does, or use `FileSource`.

    Args:
        path: The file.

    Raises:
        OSError: It cannot be opened or mapped.

    Example:
        >>> from safetensors_core import save
        >>> path = tmp_path / "empty.safetensors"
        >>> _ = path.write_bytes(save({}))
        >>> MappedSource(path).read_header().tensors
        {}
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.location = os.fsdecode(path)
        fd, self.size = open_regular(path)
        #: Device and number of the file: its path may lead to another one later.
        self.identity = identity_of(fd)
        try:
            # An empty file cannot be mapped; reading its header says what is wrong with it.
            self._map = map_privately(fd, self.size) if self.size else memoryview(b"")
        except OSError as error:
            error.filename = self.location
            raise
        except ValueError:
            raise OSError(
                errno.EIO, "the file became shorter while it was opened", self.location
            ) from None
        finally:
            os.close(fd)

    def read_header(self, max_header: int = MAX_HEADER) -> Header:
        """Validate the header in place and remember it in `header`."""
        try:
            self.header = parse_header(self._mapped(), max_header=max_header)
        except HeaderError as error:
            error.location = self.location
            raise
        return self.header

    def read_into(self, offset: int, view: memoryview) -> None:
        """Copy bytes out of the map."""
        view[:] = self._mapped()[offset : offset + len(view)]

    def fetch(
        self, infos: Mapping[str, TensorInfo], alignment: int = 1
    ) -> tuple[memoryview, Mapping[str, TensorInfo]]:
        """The map itself, from the first byte of data on; `infos` as they are."""
        self._expect(infos)
        return self._mapped()[self.header.data_start :], infos

    def _expect(self, infos: Mapping[str, TensorInfo]) -> None:
        """Have Linux read these tensors in huge pages, once they are touched and not before.

        The disk then gets requests of 2 MiB, one of them ahead. By itself, a page fault reads what
        the disk is set to read ahead: 128 KiB on most systems, which made reading a file of
        545 MB 1.5 to 2 times slower, measured on a disk of 2.5 GB/s.
        """
        if len(infos) == len(self.header.tensors):
            begin, end = self.header.data_start, self.size
        elif len(infos) == 1:  # of a few that lie apart, what is between them would be read, too
            [info] = infos.values()
            begin, end = (self.header.data_start + offset for offset in info.data_offsets)
        else:
            return
        if end - begin >= _LARGE and _HUGE_PAGES is not None:
            begin -= begin % mmap.PAGESIZE
            whole: Any = self._mapped().obj
            with contextlib.suppress(OSError):  # a kernel without huge pages
                whole.madvise(_HUGE_PAGES, begin, end - begin)

    def fetch_slice(
        self, info: TensorInfo, index: Any, alignment: int = 1
    ) -> tuple[memoryview, TensorInfo, tuple[Any, ...]]:
        """The map itself with the whole index left to apply: pages are read when touched."""
        items = index if isinstance(index, tuple) else (index,)
        return self.fetch({}, alignment)[0], info, expand_index(items, info.shape)

    def close(self) -> None:
        """Let go of the map, which ends with the last tensor that aliases it."""
        # Never mmap.close(): a framework may hold the address without holding an export.
        self._map = None  # type: ignore[assignment]

    def _mapped(self) -> memoryview:
        mapped = self._map  # read once: another thread may close the file
        if mapped is None:
            raise ClosedFileError(f"{self.location} is closed")
        return mapped


def identity_of(fd: int) -> tuple[int, int]:
    """What tells a file from all others for as long as somebody has it open.

    Args:
        fd: Descriptor of the file.

    Returns:
        Numbers of its device and of the file on it.

    Example:
        >>> with open(os.devnull) as a, open(os.devnull) as b:
        ...     identity_of(a.fileno()) == identity_of(b.fileno())
        True
    """
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def map_privately(fd: int, nbytes: int, offset: int = 0) -> memoryview:
    """Map a file copy-on-write.

    Args:
        fd: Descriptor of the file; may be closed afterwards.
        nbytes: How much of the file to map, in bytes.
        offset: Where to begin, a multiple of `mmap.ALLOCATIONGRANULARITY`.

    Returns:
        Writable memory backed by the file.
    """
    options = {"trackfd": False} if sys.version_info >= (3, 13) else {}
    return memoryview(
        mmap.mmap(
            fd,
            nbytes,
            flags=mmap.MAP_PRIVATE | _NORESERVE,
            prot=mmap.PROT_READ | mmap.PROT_WRITE,
            offset=offset,
            **options,
        )
    )
