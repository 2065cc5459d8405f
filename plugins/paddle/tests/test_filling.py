"""What `load_into` makes of tensors that share memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest

from safetensors_core import SharedMemoryError
from safetensors_paddle import load_into, save_file


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    square = paddle.arange(9, dtype="float32").reshape([3, 3])
    save_file({"a": square, "b": square + 100}, path)
    return path


def test_memory_is_never_filled_with_two_entries(path: Path) -> None:
    tensor = paddle.zeros([3, 3])
    transposed = paddle.as_strided(tensor, [3, 3], [1, 3])
    assert transposed.data_ptr() == tensor.data_ptr()
    with pytest.raises(SharedMemoryError, match="'a' and 'b' share memory"):
        load_into({"a": tensor, "b": transposed}, path)
    assert not tensor.any()


def test_views_that_lie_between_each_other_are_filled(path: Path) -> None:
    both = paddle.zeros([3, 6])
    even, odd = (paddle.as_strided(both, [3, 3], [6, 2], offset=4 * begin) for begin in (0, 1))
    load_into({"a": even, "b": odd}, path)
    expected = np.arange(9, dtype=np.float32).reshape(3, 3)
    assert np.array_equal(both.numpy()[:, ::2], expected)
    assert np.array_equal(both.numpy()[:, 1::2], expected + 100)


def test_views_that_go_backwards_are_filled_unless_they_overlap(path: Path) -> None:
    both = paddle.zeros([6, 3])
    with pytest.raises(SharedMemoryError, match="'a' and 'b' share memory"):
        load_into({"a": both[:3], "b": both[2::-1]}, path)
    assert not both.any()
    load_into({"a": both[:3], "b": both[5:2:-1]}, path)
    expected = np.arange(9, dtype=np.float32).reshape(3, 3)
    assert np.array_equal(both.numpy(), np.concatenate([expected, (expected + 100)[::-1]]))
