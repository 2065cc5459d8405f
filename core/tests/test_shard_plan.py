"""Which tensor goes into which file, and how the files are called."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safetensors_core import InvalidInputError
from safetensors_core.checkpoint.shard_plan import FilePattern, plan_shards


def shards(limit: int | str, **sizes: int) -> list[str]:
    """Names of the tensors in each file, joined."""
    return ["".join(names) for names in plan_shards(sizes, limit).files.values()]


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({"a": 4, "b": 6}, ["ab"]),
        ({"a": 4, "b": 7}, ["a", "b"]),
        ({"a": 4, "b": 7, "c": 3, "d": 1}, ["a", "bc", "d"]),
        # A tensor too large for any file comes before the file that is being filled.
        ({"a": 1, "b": 11, "c": 1}, ["b", "ac"]),
        ({"a": 11, "b": 12}, ["a", "b"]),
        ({"a": 10, "b": 10}, ["a", "b"]),
        ({"a": 0, "b": 0}, ["ab"]),
        ({"a": 10, "b": 0, "c": 1}, ["ab", "c"]),
        ({"b": 1, "a": 1}, ["ba"]),
        ({}, [""]),
    ],
)
def test_a_file_ends_where_the_next_tensor_would_make_it_too_large(
    sizes: dict[str, int], expected: list[str]
) -> None:
    assert shards(10, **sizes) == expected


@given(st.lists(st.integers(0, 30), max_size=40), st.integers(1, 25))
def test_every_tensor_is_in_one_file_and_no_file_with_several_is_too_large(
    sizes: list[int], limit: int
) -> None:
    named = {f"t{i}": size for i, size in enumerate(sizes)}
    plan = plan_shards(named, limit)
    placed = [name for names in plan.files.values() for name in names]
    assert sorted(placed) == sorted(named)
    for names in plan.files.values():
        assert len(names) == 1 or sum(named[name] for name in names) <= limit
    assert plan.total_size == sum(sizes)
    assert plan.is_sharded is (len(plan.files) > 1)


def test_one_file_has_no_number_and_several_have_two() -> None:
    assert list(plan_shards({"a": 1}, 1).files) == ["model.safetensors"]
    assert list(plan_shards({"a": 1, "b": 1}, 1).files) == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]


def test_numbers_of_six_digits_are_written_out() -> None:
    assert FilePattern("m{suffix}.safetensors").shard(7, 100_000) == "m-00007-of-100000.safetensors"


def test_the_index_has_the_size_of_all_tensors_and_the_metadata() -> None:
    index = plan_shards({"a": 3, "b": 4}, 4).make_index({"by": "me", "total_size": "a lie"})
    assert index.metadata == {"by": "me", "total_size": 7}
    assert index.weight_map == {
        "a": "model-00001-of-00002.safetensors",
        "b": "model-00002-of-00002.safetensors",
    }


def test_a_pattern_names_the_files_and_the_index() -> None:
    pattern = FilePattern("diffusion_pytorch_model{suffix}.fp16.safetensors")
    assert pattern.single == "diffusion_pytorch_model.fp16.safetensors"
    assert pattern.shard(2, 3) == "diffusion_pytorch_model-00002-of-00003.fp16.safetensors"
    assert pattern.index == "diffusion_pytorch_model.fp16.safetensors.index.json"


@pytest.mark.parametrize(
    "pattern",
    [
        "model.safetensors",
        "{suffix}{suffix}.safetensors",
        "model{suffix}.bin",
        "model.safetensors{suffix}",
        "folder/model{suffix}.safetensors",
        "../model{suffix}.safetensors",
        "/model{suffix}.safetensors",
        "a\\model{suffix}.safetensors/..",
        "s3://bucket{suffix}.safetensors",
        "model{suffix}\0.safetensors",
        "model{suffix}\ud800.safetensors",
        b"model{suffix}.safetensors",
        None,
    ],
    ids=ascii,
)
def test_a_pattern_that_is_no_name_of_a_file_is_refused(pattern: Any) -> None:
    with pytest.raises(InvalidInputError):
        plan_shards({"a": 1}, 1, pattern)


def test_braces_in_a_pattern_are_nothing_but_braces() -> None:
    pattern = FilePattern("{0}{suffix!r}{suffix}.safetensors")
    assert pattern.single == "{0}{suffix!r}.safetensors"


@pytest.mark.parametrize("limit", [0, -1, "0GB", "5 apples", "", None, 1.5, True])
def test_a_limit_that_is_no_size_is_refused(limit: Any) -> None:
    with pytest.raises(InvalidInputError, match="size"):
        plan_shards({"a": 1}, limit)
