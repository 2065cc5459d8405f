"""Reading for frameworks that copy to their devices themselves: window by window, one ahead."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from safetensors_core.header import TensorInfo
from safetensors_core.read_ahead import ReadAhead, windows
from safetensors_core.sources import ByteSource
from safetensors_core.transfer.positional import positional

__all__ = ["WINDOW", "read_windows"]

#: Bytes that are read at a time.
WINDOW = 64 * 1024 * 1024


def read_windows(
    source: ByteSource, infos: Mapping[str, TensorInfo], alignment: int = 1
) -> Iterator[tuple[memoryview, Mapping[str, TensorInfo]]]:
    """Read tensors a few at a time, the next ones while the caller copies these to a device.

    Args:
        source: Where the bytes are.
        infos: The tensors, with the offsets of the header.
        alignment: Bytes at which each tensor shall begin.

    Yields:
        A host buffer, and the tensors in it with offsets into it. Two buffers are in memory at
        once, beside what the caller keeps; a tensor larger than a window is alone in one.

    Example:
        >>> from safetensors_core.sources import FileSource
        >>> source = FileSource(model_path)
        >>> [list(placed) for _, placed in read_windows(source, source.read_header().tensors)]
        [['bias', 'weight']]
    """
    source = positional(source)
    parts = windows([(source, infos)], WINDOW)
    if len(parts) == 1:  # nothing is ahead
        yield source.fetch(infos, alignment)
        return
    with ReadAhead(parts, ahead=1) as ready:
        for part, wanted in ready:
            yield part.fetch(wanted, alignment)
