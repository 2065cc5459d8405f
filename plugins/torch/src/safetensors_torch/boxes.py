"""Which of many rectangles meet, so that views with gaps can be told apart exactly."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

__all__ = ["Box", "boxes_of_view", "meeting"]

_DEPTH = 16  # cuts, one inside the other, before what is left counts as meeting
_COMPARED = 32  # boxes of which each is compared with each


class Box(NamedTuple):
    """Rows and columns that a view takes up in memory, both half-open.

    Attributes:
        top: First row.
        bottom: The row after the last one.
        left: First byte within each row.
        right: The byte after the last one.

    Example:
        >>> Box(top=0, bottom=4, left=0, right=8).right
        8
    """

    top: int
    bottom: int
    left: int
    right: int


def boxes_of_view(begin: int, width: int, rows: int, pitch: int) -> Iterator[Box]:
    """The boxes of equally long pieces of memory at equal distances.

    Args:
        begin: Address of the first piece.
        width: Length of a piece; not more than `pitch` unless there is only one.
        rows: How many pieces there are.
        pitch: Distance from one piece to the next, which is also the length of a row.

    Yields:
        One box, or two where the pieces go over the end of a row, or three for one long piece.

    Example:
        >>> list(boxes_of_view(6, 4, 2, 8))
        [Box(top=0, bottom=2, left=6, right=8), Box(top=1, bottom=3, left=0, right=2)]
    """
    row, left = divmod(begin, pitch)
    over = left + width - pitch
    if over <= 0:
        yield Box(row, row + rows, left, left + width)
        return
    yield Box(row, row + rows, left, pitch)
    full, rest = divmod(over, pitch)
    if full:  # only of a single piece
        yield Box(row + 1, row + 1 + full, 0, pitch)
    if rest:
        yield Box(row + 1 + full, row + 1 + full + rows, 0, rest)


def meeting(boxes: Iterable[tuple[Box, int]], owners: int) -> list[list[int]]:
    """Groups of owners whose boxes meet, directly or by way of others.

    Boxes are parted by straight cuts first, so that few are left to be compared one by one: the
    time is proportional to their number, apart from sorting. Where that leaves many together,
    they count as meeting.

    Args:
        boxes: Boxes with the number of their owner.
        owners: How many owners there are, numbered from 0 on.

    Returns:
        Numbers of owners by group, in ascending order.

    Example:
        >>> left, right, both = Box(0, 4, 0, 2), Box(0, 4, 2, 4), Box(3, 4, 0, 4)
        >>> meeting([(left, 0), (right, 1)], 2)
        [[0], [1]]
        >>> meeting([(left, 0), (right, 1), (both, 2)], 3)
        [[0, 1, 2]]
    """
    parents = list(range(owners))

    def root(owner: int) -> int:
        while parents[owner] != owner:
            parents[owner] = owner = parents[parents[owner]]
        return owner

    first: dict[Box, int] = {}
    for box, owner in boxes:
        parents[root(owner)] = root(first.setdefault(box, owner))
    for together in _parted(list(first)):
        if len(together) <= _COMPARED:
            pairs: Iterable[tuple[Box, Box]] = combinations(together, 2)
        else:
            pairs = ((together[0], box) for box in together[1:])
        for one, other in pairs:
            if len(together) > _COMPARED or _meet(one, other):
                parents[root(first[other])] = root(first[one])
    groups: dict[int, list[int]] = {}
    for owner in range(owners):
        groups.setdefault(root(owner), []).append(owner)
    return list(groups.values())


def _meet(one: Box, other: Box) -> bool:
    return (
        one.top < other.bottom
        and other.top < one.bottom
        and one.left < other.right
        and other.left < one.right
    )


def _parted(boxes: list[Box]) -> Iterator[list[Box]]:
    """Lists of boxes such that those of different lists do not meet."""
    work = [(boxes, 0, False, 0)]
    while work:
        together, axis, connected, depth = work.pop()
        parts = list(_cut(together, axis))
        if len(together) == 1 or (len(parts) == 1 and connected) or depth == _DEPTH:
            yield together
        else:
            # No further cut along this axis is possible before there was one along the other.
            work.extend((part, 1 - axis, True, depth + 1) for part in parts)


def _cut(boxes: Sequence[Box], axis: int) -> Iterator[list[Box]]:
    """Part boxes wherever a line across an axis meets none of them."""
    part: list[Box] = []
    reached = 0
    begin, end = 2 * axis, 2 * axis + 1
    for box in sorted(boxes, key=lambda box: box[begin]):
        if part and box[begin] >= reached:
            yield part
            part = []
        part.append(box)
        reached = max(reached, box[end]) if len(part) > 1 else box[end]
    if part:
        yield part
