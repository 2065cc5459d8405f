"""Which tensors share memory, by the functions that programs import from `safetensors.torch`."""

from __future__ import annotations

from collections import defaultdict

import pytest
import torch
from safetensors.torch import (
    _end_ptr,
    _find_shared_tensors,
    _is_complete,
    _remove_duplicate_names,
)

T = torch.arange(12, dtype=torch.float32).reshape(3, 4)
NO_NAME = "found no suitable name to keep for saving amongst: "


def shared(tensors: dict[str, torch.Tensor]) -> list[list[str]]:
    return sorted(sorted(names) for names in _find_shared_tensors(tensors))


def test_tensors_are_grouped_by_the_memory_they_share() -> None:
    other = torch.zeros(2)
    assert shared({}) == []
    assert shared({"a": T}) == [["a"]]
    assert shared({"a": T, "b": other}) == [["a"], ["b"]]
    assert shared({"a": T, "b": T, "c": other}) == [["a", "b"], ["c"]]
    assert shared({"a": T, "b": T[1:], "c": T.view(4, 3), "d": T.view(-1)}) == [list("abcd")]
    assert isinstance(_find_shared_tensors({"a": T})[0], set)


def test_parts_that_do_not_overlap_share_nothing() -> None:
    assert shared({"a": T[:1], "b": T[1:2], "c": T[2:]}) == [["a"], ["b"], ["c"]]
    assert shared({"a": T[:2], "b": T[1:], "c": torch.ones(1)}) == [["a", "b"], ["c"]]
    assert shared({"a": T[:1], "b": T[1:], "c": T}) == [["a", "b", "c"]]
    assert shared({"a": T[:1], "b": T[:1], "c": T[2:]}) == [["a", "b"], ["c"]]


def test_tensors_without_memory_are_in_no_group() -> None:
    nothing, meta = torch.zeros(0), torch.zeros(2, device="meta")
    assert shared({"a": nothing, "b": nothing, "c": meta, "d": meta}) == []


def test_a_tensor_is_complete_when_it_fills_its_storage() -> None:
    assert _is_complete(T)
    assert _is_complete(T.view(-1))
    assert _is_complete(T.t())
    assert not _is_complete(T[:2])
    assert not _is_complete(T[1:])
    assert not _is_complete(T[0, 0])


def test_the_end_of_a_tensor_is_behind_its_last_element() -> None:
    begin = T.data_ptr()
    assert _end_ptr(T) == begin + 48
    assert _end_ptr(T[1:]) == begin + 48
    assert _end_ptr(T[:2]) == begin + 32
    assert _end_ptr(T[0, 1]) == begin + 8
    assert _end_ptr(torch.zeros(0)) == torch.zeros(0).data_ptr()


def test_the_first_complete_name_is_kept() -> None:
    assert _remove_duplicate_names({"a": T}) == {}
    assert _remove_duplicate_names({"a": T, "b": torch.zeros(1)}) == {}
    assert _remove_duplicate_names({"c": T, "b": T, "a": T}) == {"a": ["b", "c"]}
    assert _remove_duplicate_names({"a": T[1:], "b": T, "c": T[:1]}) == {"b": ["a", "c"]}
    found = _remove_duplicate_names({"a": T, "b": T})
    assert isinstance(found, defaultdict)
    assert found["unknown"] == []


def test_names_may_be_preferred_and_discarded() -> None:
    tied = {"a": T, "b": T, "c": T}
    assert _remove_duplicate_names(tied, preferred_names=["b"]) == {"b": ["a", "c"]}
    assert _remove_duplicate_names(tied, preferred_names=["c", "b"]) == {"b": ["a", "c"]}
    assert _remove_duplicate_names(tied, discard_names=["a"]) == {"b": ["a", "c"]}
    assert _remove_duplicate_names(tied, discard_names=["a", "b"]) == {"c": ["a", "b"]}
    assert _remove_duplicate_names(tied, discard_names=["a", "b", "c"]) == {"a": ["b", "c"]}
    assert _remove_duplicate_names(tied, preferred_names=["a"], discard_names=["a"]) == {
        "a": ["b", "c"]
    }
    assert _remove_duplicate_names(tied, preferred_names=["c"], discard_names=["a"]) == {
        "c": ["a", "b"]
    }
    # A part cannot stand for the whole.
    assert _remove_duplicate_names({"a": T, "b": T[1:]}, preferred_names=["b"]) == {"a": ["b"]}


@pytest.mark.parametrize(
    "tensors",
    [{"a": T[:2]}, {"a": T[:2], "b": T[:2]}, {"a": T[:2], "b": T[1:]}],
    ids=["one part", "a part twice", "overlapping parts"],
)
def test_without_a_complete_name_there_is_none_to_keep(tensors: dict[str, torch.Tensor]) -> None:
    with pytest.raises(RuntimeError) as caught:
        _remove_duplicate_names(tensors)
    message = str(caught.value)
    assert message.startswith("Error while trying to find names to remove to save state dict, but ")
    assert NO_NAME in message
    assert all(f"'{name}'" in message for name in tensors)
    assert "None is covering the entire storage" in message


def test_the_state_dict_may_be_given_by_name() -> None:
    assert _find_shared_tensors(state_dict={"a": T}) == [{"a"}]
    assert _remove_duplicate_names(state_dict={"a": T, "b": T}) == {"a": ["b"]}
