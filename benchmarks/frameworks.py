"""The frameworks of the cases: where the peer keeps its functions for one, and what tensors can do.

A framework is imported when its `Handling` is asked for: a sample imports no other than its own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

__all__ = ["FRAMEWORKS", "Framework", "FrameworkName", "Handling", "handling"]

FrameworkName = Literal["numpy", "torch", "jax", "tensorflow", "paddle", "mlx"]
Array = npt.NDArray[Any]


def _nothing(_tensors: Any) -> None:
    """For frameworks that return from a call when its work is done."""


def _same(tensor: Any) -> Any:
    """For frameworks without strided tensors."""
    return tensor


@dataclass(frozen=True)
class Handling:
    """What can be done with the tensors of a framework that is imported.

    Attributes:
        tensor: Makes one from an array that nobody else uses, and which it may keep.
        array: Views one as an array of the same memory.
        empty: Makes one of a dtype, named as NumPy and all of them do, and of a shape, with the
            least work that the framework offers: some fill it with zeros.
        contiguous: Copies one unless its elements already lie in a row.
        wait: Returns when the content of all tensors in a dict is in memory.
    """

    tensor: Callable[[Array], Any]
    array: Callable[[Any], Array]
    empty: Callable[[str, tuple[int, ...]], Any]
    contiguous: Callable[[Any], Any] = _same
    wait: Callable[[dict[str, Any]], object] = _nothing


@dataclass(frozen=True)
class Framework:
    """What is known of a framework without importing it.

    Attributes:
        peer: Module of the reference implementation with functions for it.
        packages: Distributions whose versions belong to a result, each of its builds included.
        start: Imports it.
    """

    peer: str
    packages: tuple[str, ...]
    start: Callable[[], Handling]


@functools.cache
def handling(name: str) -> Handling:
    """Import a framework.

    Args:
        name: As cases call it.

    Returns:
        How to handle its tensors.
    """
    return FRAMEWORKS[name].start()


def _numpy() -> Handling:
    def empty(dtype: str, shape: tuple[int, ...]) -> Any:
        return np.empty(shape, dtype)

    return Handling(_same, np.asarray, empty, np.ascontiguousarray)


def _torch() -> Handling:
    import torch

    def empty(dtype: str, shape: tuple[int, ...]) -> Any:
        return torch.empty(shape, dtype=dtypes[dtype])

    dtypes = {"float16": torch.float16, "float32": torch.float32}
    return Handling(torch.from_numpy, torch.Tensor.numpy, empty, torch.Tensor.contiguous)


def _jax() -> Handling:
    import jax

    def empty(dtype: str, shape: tuple[int, ...]) -> Any:
        return jax.numpy.empty(shape, dtype)

    return Handling(jax.numpy.array, np.asarray, empty, wait=jax.block_until_ready)


def _tensorflow() -> Handling:
    import tensorflow as tf

    def empty(dtype: str, shape: tuple[int, ...]) -> Any:
        return tf.zeros(shape, dtype)

    return Handling(tf.constant, np.asarray, empty)


def _paddle() -> Handling:
    import paddle

    def empty(dtype: str, shape: tuple[int, ...]) -> Any:
        return paddle.empty(shape, dtype)

    # `paddle.Tensor.numpy` copies.
    return Handling(paddle.to_tensor, np.from_dlpack, empty, paddle.Tensor.contiguous)


def _mlx() -> Handling:
    import mlx.core

    def contiguous(tensor: Any) -> Any:
        packed = mlx.core.contiguous(tensor)
        mlx.core.eval(packed)
        return packed

    def empty(dtype: str, shape: tuple[int, ...]) -> Any:
        return mlx.core.zeros(shape, getattr(mlx.core, dtype))

    return Handling(mlx.core.array, np.asarray, empty, contiguous, mlx.core.eval)


FRAMEWORKS = {
    "numpy": Framework("safetensors.numpy", ("numpy",), _numpy),
    "torch": Framework("safetensors.torch", ("torch",), _torch),
    "jax": Framework("safetensors.flax", ("jax", "jaxlib"), _jax),
    "tensorflow": Framework(
        "safetensors.tensorflow", ("tensorflow", "tensorflow-cpu"), _tensorflow
    ),
    "paddle": Framework("safetensors.paddle", ("paddlepaddle", "paddlepaddle-gpu"), _paddle),
    "mlx": Framework("safetensors.mlx", ("mlx",), _mlx),
}
