"""A file whose bytes are in memory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from safetensors_core.errors import InvalidInputError
from safetensors_core.header import TensorInfo
from safetensors_core.sources.base import ByteSource

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["MemorySource"]


class MemorySource(ByteSource):
    """The bytes of a file, from any object with the buffer protocol.

    Tensors alias a writable object (a bytearray, a map) and keep it alive. A read-only one
    (bytes) is copied, because frameworks would let their users write through it.

    Args:
        data: The bytes of a whole file.
        location: Name that errors show.

    Raises:
        InvalidInputError: `data` is no contiguous buffer.

    Example:
        >>> from safetensors_core import save
        >>> MemorySource(save({})).read_header().tensors
        {}
    """

    def __init__(self, data: Buffer, location: str = "<memory>") -> None:
        try:
            self._view = memoryview(data).cast("B")
        except (BufferError, TypeError, ValueError) as error:
            hint = ". For a path, use load_file()" if isinstance(data, (str, os.PathLike)) else ""
            raise InvalidInputError(
                f"expected the bytes of a safetensors file, got {type(data).__name__}: "
                f"{error}{hint}"
            ) from None
        self.location = location
        self.size = len(self._view)

    def read_into(self, offset: int, view: memoryview) -> None:
        """Copy bytes."""
        view[:] = self._view[offset : offset + len(view)]

    def fetch(
        self, infos: Mapping[str, TensorInfo], alignment: int = 1
    ) -> tuple[memoryview, Mapping[str, TensorInfo]]:
        """The object itself where it is writable, a copy of the tensors otherwise."""
        if self._view.readonly:
            return super().fetch(infos, alignment)
        return self._view[self.header.data_start :], infos
