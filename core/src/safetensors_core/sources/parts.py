"""Ranges of a remote file: what is fetched together, and where its bytes go."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["Part", "plan_parts"]

_PART = 8 * 1024 * 1024  # bytes of one request: large enough to hide a round trip
_GAP = 64 * 1024  # bytes that are fetched sooner than a further request is made

# Where the bytes of all gaps go. What it holds means nothing, so any thread may write to it.
_waste = memoryview(bytearray(_GAP))


class Part:
    """A range of a file that one request asks for, and the buffers that it fills.

    Args:
        position: The first byte in the file.
        views: Writable buffers for the bytes from there on, one after the other.

    Attributes:
        position: The next byte that is missing; what came is kept when a request fails.
        missing: How many bytes are missing.
        renewed: Whether a link to it that no longer worked was asked for again.

    Example:
        >>> buffer = bytearray(4)
        >>> part = Part(100, [memoryview(buffer)])
        >>> part.put(b"abc")
        >>> bytes(buffer[:3]), part.position, part.missing
        (b'abc', 103, 1)
    """

    def __init__(self, position: int, views: list[memoryview]) -> None:
        self.position = position
        self.missing = sum(map(len, views))
        self.renewed = False
        self._views = views

    @property
    def end(self) -> int:
        """The byte after the last one."""
        return self.position + self.missing

    def add(self, view: memoryview) -> None:
        """Extend the range.

        Args:
            view: A buffer for the bytes that follow.
        """
        self._views.append(view)
        self.missing += len(view)

    def put(self, data: bytes) -> None:
        """Take the next bytes; those after the end of the range are dropped.

        Args:
            data: Bytes of the file, from `position` on.
        """
        rest = memoryview(data)
        while rest and self.missing:
            view = self._views[0]
            count = min(len(view), len(rest))
            view[:count] = rest[:count]
            rest = rest[count:]
            self.position += count
            self.missing -= count
            if count == len(view):
                del self._views[0]
            else:
                self._views[0] = view[count:]

    def cut(self, size: int) -> None:
        """Want nothing after the end of the file.

        Args:
            size: Bytes of the file.
        """
        self.missing = max(0, min(self.missing, size - self.position))


def plan_parts(ranges: Sequence[tuple[int, memoryview]]) -> list[Part]:
    """The requests that fill several buffers.

    Ranges that are close to each other are fetched together, with what lies between them; long
    ones are fetched in several parts.

    Args:
        ranges: Positions in the file and buffers to fill from there on, in the order of the file.

    Returns:
        The parts, in the order of the file.

    Example:
        >>> ten = memoryview(bytearray(10))
        >>> parts = plan_parts([(0, ten), (5000, ten), (900_000, ten)])
        >>> [(part.position, part.end) for part in parts]
        [(0, 5010), (900000, 900010)]
    """
    parts: list[Part] = []
    for offset, view in ranges:
        while view:
            room = _prepare(parts, offset)
            parts[-1].add(view[:room])
            offset += min(room, len(view))
            view = view[room:]
    return parts


def _prepare(parts: list[Part], offset: int) -> int:
    """Let the last part end at an offset, and say how many bytes it has room for."""
    if parts:
        last = parts[-1]
        gap = offset - last.end
        room = _PART - last.missing - gap
        if 0 <= gap <= _GAP and room > 0:
            if gap:
                last.add(_waste[:gap])
            return room
    parts.append(Part(offset, []))
    return _PART
