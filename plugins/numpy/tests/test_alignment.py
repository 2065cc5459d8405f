"""Arrays are brought to an address, and only those that need it."""

from __future__ import annotations

import numpy as np
import pytest

from safetensors_core import Dtype, TensorInfo
from safetensors_core.sources import allocate
from safetensors_numpy.alignment import align


@pytest.mark.parametrize("size", [1 << 10, 1 << 20, 40 << 20], ids=["small", "large", "parallel"])
def test_only_arrays_at_other_addresses_are_copied(size: int) -> None:
    buffer = allocate(4 * size, 64)
    memory = np.frombuffer(buffer, np.uint8)
    memory[:] = np.arange(len(memory), dtype=np.uint32).astype(np.uint8)
    offsets = {"fits": 0, "does not": size + 8, "too small": 3 * size + 1}
    lengths = {"fits": size, "does not": size, "too small": 100}
    infos = {
        name: TensorInfo(Dtype.U8, (lengths[name],), (begin, begin + lengths[name]))
        for name, begin in offsets.items()
    }
    before = {name: memory[slice(*info.data_offsets)] for name, info in infos.items()}
    arrays = dict(before)
    align(arrays, buffer, infos, 64, at_least=101)
    assert arrays["fits"] is before["fits"]
    assert arrays["too small"] is before["too small"]
    assert arrays["does not"].ctypes.data % 64 == 0
    assert not np.shares_memory(arrays["does not"], memory)
    assert np.array_equal(arrays["does not"], before["does not"])


def test_a_copy_keeps_dtype_and_shape() -> None:
    buffer = allocate(1000, 64)
    array = np.frombuffer(buffer, np.float16, 24, 8).reshape(2, 3, 4)
    array[:] = np.arange(24).reshape(2, 3, 4)
    arrays = {"w": array}
    align(arrays, buffer, {"w": TensorInfo(Dtype.F16, (2, 3, 4), (8, 56))}, 64, at_least=1)
    assert arrays["w"] is not array
    assert (arrays["w"].dtype, arrays["w"].shape) == (array.dtype, array.shape)
    assert np.array_equal(arrays["w"], array)
