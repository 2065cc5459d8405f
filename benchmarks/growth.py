"""How a cost grows with the size of what it is paid for."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

__all__ = ["LINEAR", "steepest"]

#: Steepest slope between two sizes that still counts as linear. Objects that no longer fit into
#: the caches of a processor cost a part more each; the next power, quadratic, has a slope of 2.
LINEAR = 1.25


def steepest(costs: Mapping[int, float], floor: float) -> float | None:
    """The greatest slope between neighbouring sizes, where both axes are logarithmic.

    Args:
        costs: Seconds or bytes by size.
        floor: Costs below it count as much as it: what is smaller is noise.

    Returns:
        1 for a cost that is proportional to the size, 2 for a quadratic one, 0 for one that does
        not depend on it; None where no cost exceeds the floor or fewer than two are known.
    """
    if len(costs) < 2 or max(costs.values()) <= floor:
        return None
    points = sorted((size, max(cost, floor)) for size, cost in costs.items())
    return max(
        math.log(after / before) / math.log(larger / size)
        for (size, before), (larger, after) in itertools.pairwise(points)
    )
