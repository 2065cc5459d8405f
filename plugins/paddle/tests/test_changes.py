"""`cast` rounds as Paddle does, and `permute` orders dimensions as NumPy does."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import paddle
import pytest

from safetensors_core import Dtype, InvalidInputError
from safetensors_paddle.framework import PaddleFramework

PADDLE = PaddleFramework()
NAMES = {
    Dtype.F8_E4M3: "float8_e4m3fn",
    Dtype.F8_E5M2: "float8_e5m2",
    Dtype.F16: "float16",
    Dtype.BF16: "bfloat16",
    Dtype.F32: "float32",
    Dtype.F64: "float64",
}
NUMBERS = [0.0, -0.0, 1.3, -2.7, 1e-30, 65519.0, 65520.0, 3e38, float("inf"), float("nan")]
PAIRS = [pair for pair in itertools.product(NAMES, NAMES) if pair[1] is not Dtype.F8_E4M3]


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_a_cast_rounds_as_paddle_does(source: Dtype, target: Dtype) -> None:
    tensor = paddle.to_tensor(NUMBERS, "float32").astype(NAMES[source])
    result = PADDLE.cast(tensor, target)
    assert PADDLE.describe(result).dtype is target
    expected = tensor.astype(NAMES[target])
    assert bytes(PADDLE.to_buffer(result)) == bytes(PADDLE.to_buffer(expected))


def test_a_cast_rounds_to_nearest_and_ties_to_even() -> None:
    halfway = paddle.to_tensor([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20], "float32")
    rounded = PADDLE.cast(PADDLE.cast(halfway, Dtype.BF16), Dtype.F32)
    assert rounded.tolist() == [1, 1 + 2**-6, 1 + 2**-7]
    double = paddle.to_tensor([1 + 2**-24, 1 + 3 * 2**-24], "float64")
    assert PADDLE.cast(double, Dtype.F32).tolist() == [1, 1 + 2**-22]


@pytest.mark.parametrize("dtype", [Dtype.I32, Dtype.F4, Dtype.C64, Dtype.BOOL, Dtype.F8_E4M3])
def test_a_cast_that_would_change_more_than_digits_is_refused(dtype: Dtype) -> None:
    with pytest.raises(InvalidInputError, match=f"Paddle does not convert F32 to {dtype}"):
        PADDLE.cast(paddle.ones([2]), dtype)
    with pytest.raises(InvalidInputError, match="Paddle does not convert I64 to F32"):
        PADDLE.cast(paddle.to_tensor([1]), Dtype.F32)


def test_a_cast_to_the_same_type_keeps_every_bit() -> None:
    for dtype, name in NAMES.items():
        tensor = paddle.to_tensor(NUMBERS, "float32").astype(name)
        result = PADDLE.cast(tensor, dtype)
        assert bytes(PADDLE.to_buffer(result)) == bytes(PADDLE.to_buffer(tensor))


@pytest.mark.parametrize("dtype", PADDLE.dtypes)
def test_permute_is_the_transpose_of_numpy(dtype: Dtype) -> None:
    for shape in [(), (3,), (2, 3), (2, 3, 4), (0, 3), (2, 1, 3, 2)]:
        size = int(np.prod(shape))
        tensor = paddle.arange(size, dtype="float32").reshape(shape).astype(PADDLE.dtypes[dtype])
        before = PADDLE.to_array(tensor).copy()
        for axes in itertools.permutations(range(len(shape))):
            result = PADDLE.to_array(PADDLE.permute(tensor, axes))
            expected = before.transpose(axes)
            assert result.shape == expected.shape
            assert result.tobytes() == expected.tobytes()


@pytest.mark.parametrize("axes", [(0,), (0, 0), (0, 2), (-1, 0), (0, 1, 2)])
def test_permute_refuses_what_is_no_order(axes: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInputError, match="is no order of 2 dimensions"):
        PADDLE.permute(paddle.ones([2, 3]), axes)


def test_results_take_no_part_in_gradients() -> None:
    weight = paddle.nn.Linear(2, 3).weight
    assert not weight.stop_gradient
    assert PADDLE.cast(weight, Dtype.BF16).stop_gradient
    assert PADDLE.permute(weight, (1, 0)).stop_gradient


@pytest.fixture
def static_graph() -> Iterator[None]:
    paddle.enable_static()
    yield
    paddle.disable_static()


def test_tensors_in_static_graph_mode_are_refused(request: pytest.FixtureRequest) -> None:
    tensor = paddle.ones([2])
    request.getfixturevalue("static_graph")
    with pytest.raises(InvalidInputError, match="static graph mode"):
        PADDLE.cast(tensor, Dtype.BF16)
    with pytest.raises(InvalidInputError, match="static graph mode"):
        PADDLE.permute(tensor, (0,))
