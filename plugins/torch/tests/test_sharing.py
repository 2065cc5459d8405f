"""Tensors that share memory would be saved twice and loaded apart: they are refused by name."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

from safetensors_core import SharedMemoryError
from safetensors_torch import load, save, save_file
from safetensors_torch.sharing import check_sharing

SHARED: dict[str, tuple[Callable[[torch.Tensor], dict[str, torch.Tensor]], list[list[str]]]] = {
    "one tensor under two names": (lambda t: {"a": t, "b": t}, [["a", "b"]]),
    "two views of all of it": (lambda t: {"a": t.view(8, 8), "b": t.detach()}, [["a", "b"]]),
    "another dtype": (lambda t: {"a": t, "b": t.view(torch.int32)}, [["a", "b"]]),
    "whole and part": (lambda t: {"part": t[60:], "whole": t}, [["whole", "part"]]),
    "overlap by one element": (lambda t: {"a": t[:33], "b": t[32:]}, [["a", "b"]]),
    "a chain": (lambda t: {"a": t[:30], "b": t[20:50], "c": t[40:]}, [["a", "b", "c"]]),
    "a strided view": (lambda t: {"a": t, "b": t[::2]}, [["a", "b"]]),
    "a transposed view": (lambda t: {"a": t, "b": t.view(8, 8).T}, [["a", "b"]]),
    "two groups and one alone": (
        lambda t: {"a": t[:10], "b": t[5:10], "c": t[10:20], "d": t[10:20], "e": t[20:]},
        [["a", "b"], ["c", "d"]],
    ),
}


@pytest.mark.parametrize("case", SHARED)
def test_overlapping_tensors_are_refused_with_their_groups(tmp_path: Path, case: str) -> None:
    make, groups = SHARED[case]
    target = tmp_path / "model.safetensors"
    target.write_bytes(b"the old file")
    tensors = {"other": torch.zeros(64), **make(torch.zeros(64))}
    with pytest.raises(SharedMemoryError, match=r"save_model\(model, filename\).*clone\(\)") as e:
        save_file(tensors, target)
    assert [list(group) for group in e.value.groups] == groups
    shown = ", ".join("{" + ", ".join(map(repr, group)) + "}" for group in groups)
    assert shown in str(e.value)
    assert target.read_bytes() == b"the old file"
    assert os.listdir(tmp_path) == [target.name]


def test_programs_that_expect_the_reference_s_error_catch_this_one() -> None:
    tied = torch.zeros(2)
    with pytest.raises(RuntimeError, match="share memory"):
        save({"a": tied, "b": tied})


ALLOWED: dict[str, Callable[[torch.Tensor], dict[str, torch.Tensor]]] = {
    "neighbours": lambda t: {"a": t[:32], "b": t[32:]},
    "rows": lambda t: dict(zip("abcdefgh", t.view(8, 8), strict=True)),
    "parts with a gap": lambda t: {"a": t[:3], "b": t[40:]},
    "empty views": lambda t: {"a": t[3:3], "b": t[:0], "c": t},
    "clones": lambda t: {"a": t, "b": t.clone()},
    "real and imaginary copies": lambda t: {"a": torch.complex(t, t).real.clone(), "b": t},
}


@pytest.mark.parametrize("case", ALLOWED)
def test_views_that_do_not_overlap_are_saved(case: str) -> None:
    tensors = ALLOWED[case](torch.arange(64.0))
    loaded = load(save(tensors))
    assert {n: t.tolist() for n, t in loaded.items()} == {n: t.tolist() for n, t in tensors.items()}


def test_empty_tensors_share_nothing_even_at_one_address() -> None:
    tensors = {f"t{i}": torch.zeros(0, i) for i in range(5)}
    assert set(load(save(tensors))) == set(tensors)


def lines_run_in_check(tensors: dict[str, torch.Tensor]) -> int:
    """Lines of Python that the check runs, in whatever it calls: a measure without a clock."""
    lines = 0

    def trace(_frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal lines
        lines += event == "line"
        return trace

    previous = sys.gettrace()
    sys.settrace(trace)
    try:
        check_sharing(tensors)
    except SharedMemoryError:
        pass
    finally:
        sys.settrace(previous)
    return lines


@pytest.mark.parametrize(
    "make",
    [
        lambda n: {str(i): torch.zeros(2) for i in range(n)},
        lambda n: {str(i): row for i, row in enumerate(torch.zeros(n, 2))},
        lambda n: dict.fromkeys(map(str, range(n)), torch.zeros(2)),
        lambda n: {str(i): part for i, part in enumerate(torch.zeros(n + 9).unfold(0, 10, 1))},
    ],
    ids=["apart", "rows of one storage", "all the same", "each over the next"],
)
def test_the_check_costs_as_much_for_each_of_many_tensors_as_for_each_of_few(make: Any) -> None:
    few, many = lines_run_in_check(make(100)), lines_run_in_check(make(10_000))
    assert few > 100
    assert many < 110 * few
