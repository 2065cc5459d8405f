"""Slices of what goes to a device: taken there where the device holds little more for it."""

from __future__ import annotations

from typing import Any

import pytest

from safetensors_core.transfer import indexes_there

ALL = slice(None)


@pytest.mark.parametrize(
    "index",
    [
        (ALL, ALL),
        (ALL, slice(None, None, -1)),
        (ALL, slice(0, 4)),
        (ALL, slice(1, 8, 2)),
        (None, ALL, ALL),
        (slice(0, 4),),
    ],
)
def test_slices_that_leave_half_of_what_was_read_are_taken_on_the_device(index: Any) -> None:
    assert indexes_there(index, (8, 8))


@pytest.mark.parametrize(
    "index",
    [
        (ALL, slice(0, 3)),
        (slice(0, 8, 2), slice(0, 8, 2)),
        (ALL, slice(5, 5)),
        (ALL, 3),
        (ALL, [0, 1, 2, 3, 4, 5, 6, 7]),
    ],
)
def test_what_leaves_less_or_gathers_is_taken_on_the_host(index: Any) -> None:
    assert not indexes_there(index, (8, 8))


def test_a_scalar_is_taken_whole() -> None:
    assert indexes_there((), ())
