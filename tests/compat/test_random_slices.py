"""Any index gives what it gives with the reference: the same array, or the same error.

Where the reference's rules are bugs, ours is what NumPy gives: negative bounds of a slice, a start
behind its stop, and slices of an axis without elements.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch
from hypothesis import HealthCheck, assume, event, example, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from safetensors_core.compat.handle import safe_open

EXAMPLES = int(os.environ.get("SAFETENSORS_TEST_EXAMPLES", "300"))
searching = settings(
    max_examples=EXAMPLES,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
SHAPES = [(), (1,), (7,), (0,), (10, 5), (3, 1), (4, 0), (0, 3), (2, 3, 4), (2, 0, 3), (2, 1, 3, 2)]
DTYPES = ["uint8", "float32", "complex64"]
ARRAYS: dict[str, np.ndarray[Any, Any]] = {
    f"{i}": np.arange(np.prod(shape), dtype=DTYPES[i % 3]).reshape(shape)
    for i, shape in enumerate(SHAPES)
}
STRANGE = [None, True, False, 1.5, "a", [], [0], [0, 1], np.array([1]), np.float32(1), 2**63, b"x"]


class Files:
    """One file, opened by both."""

    def __init__(self, path: Path) -> None:
        save_file(ARRAYS, path)
        self.ours = [safe_open(path, "np", backend=backend) for backend in ("mmap", "pread")]
        self.theirs = safetensors.safe_open(path, "np")
        self.ours_torch = safe_open(path, "pt")
        self.theirs_torch = safetensors.safe_open(path, "pt")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("slices") / "x.safetensors")


def items(size: int) -> st.SearchStrategy[Any]:
    """What stands for one axis."""
    bounds = st.none() | st.integers(-size - 2, size + 2)
    rising = st.integers(0, size).flatmap(
        lambda start: st.integers(start, size + 1).map(lambda stop: slice(start, stop))
    )
    return st.one_of(
        st.integers(-size, max(0, size - 1)),
        st.integers(-size - 2, size + 2),
        rising,
        rising,
        st.just(slice(None)),
        st.builds(slice, bounds, bounds, st.sampled_from([None, None, 1, 2, 3, 20])),
        st.builds(slice, bounds, bounds, st.sampled_from([-2, -1, 0, 1, 2, 3])),
        st.integers(0, max(0, size - 1)).map(np.int64),
    )


@st.composite
def indices(draw: st.DrawFn) -> tuple[str, Any]:
    """The name of a tensor, and an index that may fit it."""
    name = draw(st.sampled_from(sorted(ARRAYS)))
    shape = ARRAYS[name].shape
    count = draw(st.integers(0, len(shape)))
    index = [draw(items(size)) for size in shape[:count]]
    if draw(st.booleans()):
        behind = draw(st.integers(0, len(shape) - count))
        index += [..., *(draw(items(size)) for size in shape[len(shape) - behind :])]
    kind = draw(st.integers(0, 19))
    if kind == 0:
        index.insert(draw(st.integers(0, len(index))), draw(st.sampled_from([*STRANGE, ...])))
    elif kind == 1:
        index += [draw(items(3)) for _ in range(draw(st.integers(1, 2)))]
    if len(index) == 1 and draw(st.booleans()):
        return name, index[0]
    return name, tuple(index)


def outcome(tensor: Any, index: Any) -> tuple[Any, ...]:
    """What an index gives, so that it can be compared."""
    try:
        found = tensor[index]
    except BaseException as error:
        # The reference panics where a start lies behind its stop, which is no Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        return type(error).__name__, str(error)
    return str(found.dtype), tuple(found.shape), found.tolist()


def parts_of(index: Any) -> tuple[Any, ...]:
    return index if isinstance(index, tuple) else (index,)


def with_integers(index: Any) -> tuple[Any, ...]:
    """An index in which booleans are the integers that both take them for."""
    return tuple(int(part) if isinstance(part, bool) else part for part in parts_of(index))


def uses_what_is_a_bug_in_the_reference(index: Any, shape: tuple[int, ...]) -> bool:
    slices = [part for part in parts_of(index) if isinstance(part, slice)]
    negative = any((part.start or 0) < 0 or (part.stop or 0) < 0 for part in slices)
    falling = any(part.stop is not None and (part.start or 0) > part.stop for part in slices)
    return negative or falling or 0 in shape


@searching
@given(case=indices())
@example(case=("4", (slice(2, None), 20)))
@example(case=("4", (20, 20)))
@example(case=("0", -1))
def test_an_index_gives_what_it_gives_with_the_reference(
    case: tuple[str, Any], files: Files
) -> None:
    name, index = case
    shape = ARRAYS[name].shape
    theirs = outcome(files.theirs.get_slice(name), index)
    for ours in files.ours:
        found = outcome(ours.get_slice(name), index)
        if found == theirs:
            event("the same" if len(theirs) == 3 else "the same error")
            continue
        event("as NumPy")
        assert uses_what_is_a_bug_in_the_reference(index, shape), (found, theirs)
        # An index may be wrong in another way too, and then both refuse it.
        assert found == outcome(ARRAYS[name], with_integers(index)) or (
            found[0] == "SafetensorError" and len(theirs) == 2
        )


@searching
@given(case=indices())
def test_numpy_is_the_judge_of_slices_that_are_bugs_of_the_reference(
    case: tuple[str, Any], files: Files
) -> None:
    name, index = case
    assume(not any(isinstance(part, (bool, list)) for part in parts_of(index)))
    expected = outcome(ARRAYS[name], index)
    for ours in files.ours:
        found = outcome(ours.get_slice(name), index)
        # It refuses more than NumPy does; what it takes means the same.
        assert found == expected or found[0] in {"SafetensorError", "TypeError", "OverflowError"}


@searching
@given(case=indices())
def test_a_mapped_torch_tensor_gives_what_it_gives_with_the_reference(
    case: tuple[str, Any], files: Files
) -> None:
    name, index = case
    tensor = torch.from_numpy(ARRAYS[name])
    expected = outcome(tensor, index)
    assert outcome(files.theirs_torch.get_slice(name), index) == expected
    ours = outcome(files.ours_torch.get_slice(name), index)
    # PyTorch has several wordings for an index of what has no dimension.
    assert ours == expected or (not tensor.ndim and ours[0] == expected[0] == "IndexError")
