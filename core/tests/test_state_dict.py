"""Whether the names and shapes of a file are those that a model expects."""

from __future__ import annotations

import pickle

import pytest

from safetensors_core import StateDictError, match_state_dict


def test_what_matches_leaves_nothing_to_say() -> None:
    shapes = {"w": (2, 3), "scalar": ()}
    assert match_state_dict("a", shapes, {"scalar": [], "w": [2, 3]}) == ([], [])


def test_names_that_differ_are_returned_sorted_where_that_is_allowed() -> None:
    found, expected = {"b": (1,), "a": (1,), "w": (1,)}, {"z": (1,), "y": (1,), "w": (1,)}
    assert match_state_dict("f", found, expected, strict=False) == (["y", "z"], ["a", "b"])


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({}, "f does not match the model: missing 'w'"),
        ({"w": (1,), "x": (1,)}, "f does not match the model: unexpected 'x'"),
        ({"x": (1,)}, "f does not match the model: missing 'w'; unexpected 'x'"),
    ],
)
def test_names_that_differ_are_an_error_otherwise(
    found: dict[str, tuple[int, ...]], message: str
) -> None:
    with pytest.raises(StateDictError) as caught:
        match_state_dict("f", found, {"w": (1,)})
    assert str(caught.value) == message


@pytest.mark.parametrize("strict", [True, False])
def test_shapes_that_differ_are_always_an_error(strict: bool) -> None:
    with pytest.raises(StateDictError, match=r"other shapes: 'w' \(\[2\] in the file, \[2, 1\]\)"):
        match_state_dict("f", {"w": (2,)}, {"w": (2, 1)}, strict=strict)


def test_a_covered_name_is_not_missing() -> None:
    expected = {"w": (1,), "tied": (1,), "other": (1,)}
    assert match_state_dict("f", {"w": (1,)}, expected, strict=False, covered=["tied"]) == (
        ["other"],
        [],
    )


def test_a_long_list_is_cut_and_the_attributes_hold_all_of_it() -> None:
    expected = {f"layer.{i:03}": (1,) for i in range(100)}
    with pytest.raises(StateDictError, match=r"'layer\.009' and 90 more$") as caught:
        match_state_dict("f", {}, expected)
    assert caught.value.missing == sorted(expected)
    found = pickle.loads(pickle.dumps(caught.value))
    assert (str(found), vars(found)) == (str(caught.value), vars(caught.value))
