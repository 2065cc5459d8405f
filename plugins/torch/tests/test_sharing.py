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
from hypothesis import given
from hypothesis import strategies as st

from safetensors_core import SharedMemoryError
from safetensors_torch import load, save, save_file, storage_ptr, storage_size
from safetensors_torch.sharing import check_sharing, overlapping

SHARED: dict[str, tuple[Callable[[torch.Tensor], dict[str, torch.Tensor]], list[list[str]]]] = {
    "one tensor under two names": (lambda t: {"a": t, "b": t}, [["a", "b"]]),
    "two views of all of it": (lambda t: {"a": t.view(8, 8), "b": t.detach()}, [["a", "b"]]),
    "another dtype": (lambda t: {"a": t, "b": t.view(torch.int32)}, [["a", "b"]]),
    "whole and part": (lambda t: {"part": t[60:], "whole": t}, [["whole", "part"]]),
    "overlap by one element": (lambda t: {"a": t[:33], "b": t[32:]}, [["a", "b"]]),
    "a chain": (lambda t: {"a": t[:30], "b": t[20:50], "c": t[40:]}, [["a", "b", "c"]]),
    "a strided view": (lambda t: {"a": t, "b": t[::2]}, [["a", "b"]]),
    "a transposed view": (lambda t: {"a": t, "b": t.view(8, 8).T}, [["a", "b"]]),
    "columns that overlap": (
        lambda t: {"a": t.view(8, 8)[:, :4], "b": t.view(8, 8)[:, 3:], "c": t.view(8, 8)[:1, 7:]},
        [["a", "b", "c"]],
    ),
    "a column and a row": (
        lambda t: {"a": t.view(8, 8)[:, 2], "b": t[8:16], "c": t[::8]},
        [["c", "a", "b"]],
    ),
    "every second and every third": (lambda t: {"a": t[::2], "b": t[::3]}, [["a", "b"]]),
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
    "interleaved": lambda t: {"a": t[::3], "b": t[1::3], "c": t[2::3]},
    "columns": lambda t: dict(zip("abcdefgh", t.view(8, 8).unbind(1), strict=True)),
    "groups of columns": lambda t: {"a": t.view(8, 8)[:, :3], "b": t.view(8, 8)[:, 3:]},
    "tiles": lambda t: {"a": t.view(8, 8)[:4, 2:5], "b": t.view(8, 8)[4:, 2:5]},
    "a row between columns": lambda t: {"a": t.view(8, 8)[1:, 4], "b": t[:8], "c": t[8:12]},
    "columns over the end of a row": lambda t: {"a": t[6:62].view(7, 8)[:, :4], "b": t[3:59:8]},
    "channels": lambda t: {"a": t.view(2, 4, 8)[:, :2], "b": t.view(2, 4, 8)[:, 2:]},
    "real and imaginary parts": lambda t: {
        "a": torch.view_as_complex(t.view(32, 2)).real,
        "b": torch.view_as_complex(t.view(32, 2)).imag,
    },
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


@st.composite
def strided(draw: st.DrawFn, memory: torch.Tensor) -> torch.Tensor:
    """Some view of a flat tensor, often one with the rows of a matrix."""
    width = draw(st.sampled_from([6, 6, 6, 4, 1]))
    rows, columns = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    room = memory.numel() - (rows - 1) * width - columns
    return memory.as_strided((rows, columns), (width, 1), draw(st.integers(0, room)))


@given(st.data())
def test_tensors_with_an_element_in_common_are_always_in_one_group(data: st.DataObject) -> None:
    memory = torch.arange(40)
    tensors = {str(i): data.draw(strided(memory)) for i in range(data.draw(st.integers(2, 6)))}
    group_of = {name: i for i, group in enumerate(overlapping(tensors)) for name in group}
    elements = {name: set(tensor.reshape(-1).tolist()) for name, tensor in tensors.items()}
    for a in tensors:
        for b in tensors:
            if a != b and elements[a] & elements[b]:
                assert a in group_of
                assert group_of[a] == group_of[b]


@given(st.data())
def test_views_with_rows_of_one_length_are_in_one_group_only_if_they_touch(
    data: st.DataObject,
) -> None:
    memory = torch.arange(48)
    tensors = {}
    for number in range(data.draw(st.integers(2, 6))):
        rows, columns = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 5))
        begin = data.draw(st.integers(0, 48 - (rows - 1) * 6 - columns))
        tensors[str(number)] = memory.as_strided((rows, columns), (6, 1), begin)
    elements = {name: set(tensor.reshape(-1).tolist()) for name, tensor in tensors.items()}
    for group in overlapping(tensors):
        # Without any one of them, the others of a connected group still touch one another.
        reached, work = {group[0]}, [group[0]]
        while work:
            now = work.pop()
            near = {name for name in group if elements[now] & elements[name]} - reached
            reached |= near
            work.extend(near)
        assert reached == set(group)


def test_tensors_without_addresses_share_if_they_are_of_one_storage() -> None:
    whole = torch.zeros(4, 4, device="meta")
    tensors = {
        "whole": whole,
        "row": whole[1],
        "again": whole.detach(),
        "other": torch.zeros(4, 4, device="meta"),
        "data": torch.zeros(4, 4),
    }
    assert overlapping(tensors) == [["whole", "again", "row"]]
    assert overlapping({"left": whole[:, :2], "right": whole[:, 2:]}) == []


def test_tensors_of_two_devices_never_share() -> None:
    # On `meta`, a storage begins at 0: no address that a tensor of the host could have.
    tensors = {"host": torch.zeros(4), "meta": torch.zeros(4, device="meta")}
    assert overlapping(tensors) == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_tensors_on_a_gpu_share_by_their_addresses_there() -> None:
    whole = torch.zeros(4, 4, device="cuda")
    tensors = {"whole": whole, "row": whole[1], "host": whole.cpu(), "other": whole.clone()}
    assert overlapping(tensors) == [["whole", "row"]]
    save({"left": whole[:, :2], "right": whole[:, 2:]})


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype:UserWarning")
def test_what_has_no_memory_of_its_own_shares_nothing() -> None:
    sparse = torch.eye(3).to_sparse()
    nested = torch.nested.nested_tensor([torch.zeros(2)], layout=torch.strided)
    lazy = torch.nn.UninitializedParameter()
    tensors = {"a": sparse, "b": sparse, "c": nested, "d": nested, "e": lazy, "f": lazy}
    assert overlapping(tensors) == []


def test_a_storage_is_the_same_for_all_of_its_views() -> None:
    class Named(torch.Tensor):
        """A tensor with another name."""

    whole = torch.zeros(16)
    for view in (
        whole,
        whole[3:7],
        whole[4:4],
        torch.nn.Parameter(whole),
        whole.as_subclass(Named),
    ):
        assert (storage_ptr(view), storage_size(view)) == (whole.data_ptr(), 64)


def test_a_storage_without_data_has_no_address() -> None:
    assert (storage_ptr(torch.zeros(0)), storage_size(torch.zeros(0))) == (0, 0)
    meta = torch.zeros(3, device="meta")
    assert (storage_ptr(meta), storage_size(meta)) == (0, 12)
    assert storage_ptr(torch.eye(3).to_sparse()) == 0


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


def tiles(n: int) -> dict[str, torch.Tensor]:
    """Squares of one matrix, none over another."""
    side = round(n**0.5)
    matrix = torch.zeros(2 * side, 2 * side)
    steps = range(0, 2 * side, 2)
    return {str((i, j)): matrix[i : i + 2, j : j + 2] for i in steps for j in steps}


def peeled(n: int) -> dict[str, torch.Tensor]:
    """Of one matrix the first row, of what is left the first column, and so on."""
    matrix = torch.zeros(n, n, dtype=torch.uint8, device="meta")
    tensors = {}
    for i in range(n // 2):
        tensors[f"row {i}"] = matrix[i, i:]
        tensors[f"column {i}"] = matrix[i + 1 :, i]
    return tensors


def windows(n: int) -> dict[str, torch.Tensor]:
    """Columns of one matrix, each over the next."""
    matrix = torch.zeros(8, n + 3)
    return {str(i): matrix[:, i : i + 3] for i in range(n)}


@pytest.mark.parametrize(
    "make",
    [
        lambda n: {str(i): torch.zeros(2) for i in range(n)},
        lambda n: {str(i): row for i, row in enumerate(torch.zeros(n, 2))},
        lambda n: dict.fromkeys(map(str, range(n)), torch.zeros(2)),
        lambda n: {str(i): part for i, part in enumerate(torch.zeros(n + 9).unfold(0, 10, 1))},
        lambda n: dict.fromkeys(map(str, range(n)), torch.zeros(4, 4)[:, :2]),
        lambda n: {str(i): column for i, column in enumerate(torch.zeros(4, n).unbind(1))},
        lambda n: {str(i): torch.zeros(3)[:2] for i in range(n)},
        windows,
        tiles,
        peeled,
    ],
    ids=[
        "apart",
        "rows of one storage",
        "all the same",
        "each over the next",
        "all the same with gaps",
        "columns",
        "parts of storages",
        "columns over the next",
        "tiles",
        "rows and columns by turns",
    ],
)
def test_the_check_costs_as_much_for_each_of_many_tensors_as_for_each_of_few(make: Any) -> None:
    few, many = lines_run_in_check(make(100)), lines_run_in_check(make(10_000))
    assert few > 100
    assert many < 110 * few
