"""The bytes that an index selects, of packed types too: held to the element-by-element model."""

from __future__ import annotations

from math import prod
from typing import Any

import pytest
from hypothesis import given

from core.tests.raw import RawTensor, counting, take
from core.tests.test_slicing import tensors_and_indices
from safetensors_core import Dtype, Framework, SliceError, TensorInfo
from safetensors_core.selection import select


def selected(tensor: RawTensor, index: Any) -> RawTensor:
    info = TensorInfo(tensor.dtype, tensor.shape, (0, len(tensor.data)))
    data, found = select(memoryview(tensor.data), info, index)
    return RawTensor(found.dtype, found.shape, bytes(data))


@given(tensors_and_indices())
def test_an_index_selects_the_elements_of_the_model(
    given_: tuple[RawTensor, tuple[Any, ...]],
) -> None:
    tensor, index = given_
    try:
        expected = take(tensor, index)
    except SliceError:
        with pytest.raises(SliceError):
            selected(tensor, index)
    except OverflowError:  # elements that do not fill whole bytes
        with pytest.raises(SliceError, match="whole bytes"):
            selected(tensor, index)
    else:
        if prod(expected.shape) * tensor.dtype.bits % 8:
            with pytest.raises(SliceError, match="whole bytes"):
                selected(tensor, index)
        else:
            assert selected(tensor, index) == expected


def test_elements_that_do_not_fill_whole_bytes_are_refused() -> None:
    with pytest.raises(SliceError, match="4 bits that do not fill whole bytes"):
        selected(counting(Dtype.F4, 2, 4), (1, [0, 1, 2]))


def test_a_framework_that_cannot_index_gets_slices_all_the_same() -> None:
    class Flat(Framework):
        name = native_package = "flat"
        dtypes = {Dtype.U8: "bytes"}

        def is_tensor(self, obj: object) -> bool:
            raise NotImplementedError

        describe = to_buffer = is_tensor  # type: ignore[assignment]

        def from_buffers(self, buffer: Any, infos: Any, device: Any) -> dict[str, Any]:
            return {name: bytes(buffer[slice(*info.data_offsets)]) for name, info in infos.items()}

    info = TensorInfo(Dtype.U8, (2, 3), (1, 7))
    assert Flat().index(memoryview(b".abcdef"), info, (slice(None), 1), "cpu") == b"be"
