"""Views that are not contiguous, as far as the framework makes them, are saved in C order."""

from __future__ import annotations

from typing import Any

import pytest

from safetensors_core import Dtype, Framework, load, save
from safetensors_core.header import TensorInfo
from safetensors_core.selection import select
from safetensors_core.testing.observation import difference
from safetensors_core.testing.samples import GRID, bytes_of, data_of, make

VIEWS: dict[str, tuple[Any, ...]] = {
    "rows behind the first": (slice(1, None),),
    "every second row": (slice(None, None, 2),),
    "some columns": (slice(None), slice(0, 8)),
    "every second column": (slice(None), slice(None, None, 2)),
    "backwards": (slice(None, None, -1),),
    "columns backwards": (slice(None), slice(None, None, -1)),
    "a column": (slice(None), 3),
}


def expected(dtype: Dtype, index: Any) -> tuple[bytes, tuple[int, ...]]:
    data = memoryview(data_of(dtype, GRID))
    found, info = select(data, TensorInfo(dtype, GRID, (0, len(data))), index)
    return bytes(found), info.shape


def check(framework: Framework, view: Any, data: bytes, shape: tuple[int, ...]) -> None:
    """A view is described and saved as what it shows."""
    spec = framework.describe(view)
    assert spec.shape == shape, "describe: the shape is not that of the view"
    found = bytes_of(framework, view)
    wrong = [i for i in range(min(len(found), len(data))) if found[i] != data[i]]
    assert not difference(found, data), (
        f"to_buffer: {len(wrong)} of {len(data)} bytes of a view are not its elements in C order "
        "(strides or offset lost, or bits converted)"
    )
    [again] = load(save({"w": view}), framework).values()
    assert not difference(bytes_of(framework, again), data)


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_is_saved_as_what_it_shows(
    framework: Framework, byte_dtype: Dtype, name: str
) -> None:
    tensor, index = make(framework, byte_dtype, GRID), VIEWS[name]
    data, shape = expected(byte_dtype, index)
    try:
        view = tensor[index if len(index) > 1 else index[0]]
        mine = framework.is_tensor(view)
        size = tuple(getattr(view, "shape", shape))
    # What a framework raises where it has no such view is its own.
    except Exception:  # noqa: BLE001
        view, mine, size = None, False, ()
    if not mine or size != shape:
        pytest.skip(f"views, {name}: the framework does not make them")
    check(framework, view, data, shape)


def transposed(tensor: Any) -> Any:
    """The transpose of a matrix, by the names that frameworks have for it."""
    for name, arguments in (("T", None), ("transpose", ()), ("transpose", (0, 1)), ("t", ())):
        try:
            found = getattr(tensor, name)
            found = found if arguments is None else found(*arguments)
            if tuple(found.shape) == tuple(reversed(GRID)):
                return found
        # What a framework raises where it has no such method is its own.
        except Exception:  # noqa: BLE001, PERF203
            continue
    return None


def test_a_transposed_matrix_is_saved_in_c_order(framework: Framework, byte_dtype: Dtype) -> None:
    view = transposed(make(framework, byte_dtype, GRID))
    if view is None or not framework.is_tensor(view):
        pytest.skip("views, transposed: the framework does not make them")
    columns = [expected(byte_dtype, (slice(None), column))[0] for column in range(GRID[1])]
    check(framework, view, b"".join(columns), tuple(reversed(GRID)))
