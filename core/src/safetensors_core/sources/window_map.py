"""A mapped file that is gone through once, a window at a time."""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping

from safetensors_core.errors import InvalidInputError
from safetensors_core.header import TensorInfo
from safetensors_core.sources.base import ByteSource
from safetensors_core.sources.file import open_regular
from safetensors_core.sources.mapped import MappedSource, identity_of, map_privately

__all__ = ["WindowMap"]


class WindowMap(ByteSource):
    """A mapped file of which each `fetch` is a map of its own, which ends with its tensors.

    A map of the whole file keeps every page in the memory of the process that was ever touched.
    The system begins to read the pages of a window when it is fetched, before they are touched.

    Args:
        mapped: The file. Where its path leads to another one by now, its own map is used.

    Example:
        >>> mapped = MappedSource(model_path)
        >>> infos = mapped.read_header().tensors
        >>> buffer, placed = WindowMap(mapped).fetch({"weight": infos["weight"]})
        >>> buffer[slice(*placed["weight"].data_offsets)].nbytes
        24
    """

    def __init__(self, mapped: MappedSource) -> None:
        self.location, self.size, self.header = mapped.location, mapped.size, mapped.header
        self._mapped = mapped

    def read_into(self, offset: int, view: memoryview) -> None:
        """Copy bytes out of the map of the whole file."""
        self._mapped.read_into(offset, view)

    def fetch(
        self, infos: Mapping[str, TensorInfo], alignment: int = 1
    ) -> tuple[memoryview, Mapping[str, TensorInfo]]:
        """A map of the bytes from the first tensor to the last, at the file's own alignment."""
        whole = self._mapped.fetch(infos, alignment)  # which a closed file refuses
        start = self.header.data_start
        begin = min((info.data_offsets[0] for info in infos.values()), default=0)
        end = max((info.data_offsets[1] for info in infos.values()), default=0)
        if begin == end:
            return whole
        first = (start + begin) // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
        try:
            fd, _ = open_regular(self.location)
        except (OSError, InvalidInputError):  # it was removed, or replaced by something else
            return whole
        try:
            if identity_of(fd) != self._mapped.identity:
                return whole
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(fd, start + begin, end - begin, os.POSIX_FADV_WILLNEED)
            view = map_privately(fd, start + end - first, first)
        except (OSError, ValueError):  # no room for another map, or the file became shorter
            return whole
        finally:
            os.close(fd)
        moved = first - start
        return view, {
            name: TensorInfo(
                info.dtype,
                info.shape,
                (info.data_offsets[0] - moved, info.data_offsets[1] - moved),
            )
            for name, info in infos.items()
        }
