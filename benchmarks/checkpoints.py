"""The tensors that cases work on: the same bytes on every machine."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

__all__ = ["Checkpoint", "make_arrays", "nbytes", "shapes", "sliced_tensor"]

Checkpoint = Literal["small", "many", "gpt2", "large", "aligned", "huge"]

_SMALL_COUNT = {"small": 20_000, "many": 90_000}
_SMALL_SHAPES: list[tuple[str, tuple[int, ...]]] = [
    ("<f4", (64,)),
    ("<f2", (16, 16)),
    ("<f4", (8, 16)),
    ("<f2", (4, 4, 8)),
]
# How many tensors, their dtype and shape.
_EQUAL: dict[str, tuple[int, str, tuple[int, ...]]] = {
    "large": (13, "<f4", (10_240, 1024)),
    "aligned": (13, "<f4", (10_240, 1024)),
    "huge": (64, "<f2", (8192, 4096)),
}
_GPT2_LAYERS = 12
_GPT2_LAYER: dict[str, tuple[int, ...]] = {
    "attn.bias": (1, 1, 1024, 1024),
    "attn.c_attn.bias": (2304,),
    "attn.c_attn.weight": (768, 2304),
    "attn.c_proj.bias": (768,),
    "attn.c_proj.weight": (768, 768),
    "ln_1.bias": (768,),
    "ln_1.weight": (768,),
    "ln_2.bias": (768,),
    "ln_2.weight": (768,),
    "mlp.c_fc.bias": (3072,),
    "mlp.c_fc.weight": (768, 3072),
    "mlp.c_proj.bias": (768,),
    "mlp.c_proj.weight": (3072, 768),
}
_GPT2_ENDS: dict[str, tuple[int, ...]] = {
    "ln_f.bias": (768,),
    "ln_f.weight": (768,),
    "wpe.weight": (1024, 768),
    "wte.weight": (50_257, 768),
}
# Random enough that no layer below can compress it or find equal pages to share.
_BLOCK_WORDS = (1 << 20) // 8 + 1


def shapes(checkpoint: Checkpoint, scale: float) -> dict[str, tuple[str, tuple[int, ...]]]:
    """NumPy dtype and shape of every tensor of a checkpoint; each fills whole 8-byte words.

    Args:
        checkpoint: ``"small"``: 20,000 tensors of 256 or 512 bytes. ``"many"``: 90,000 such.
            ``"gpt2"``: the published file of GPT-2, 160 tensors of F32, 548 MB. ``"large"``: 13
            tensors of F32, 545 MB. ``"aligned"``: the same tensors, in a file whose data begins at
            a multiple of 64 bytes. ``"huge"``: 64 tensors of F16, 4.3 GB.
        scale: Part of the small tensors, or of the rows of the others, to keep.

    Returns:
        Dtype and shape by name.
    """
    if checkpoint in _SMALL_COUNT:
        count = max(len(_SMALL_SHAPES), round(_SMALL_COUNT[checkpoint] * scale))
        return {
            f"model.layers.{i // 10}.part_{i % 10}.weight": _SMALL_SHAPES[i % len(_SMALL_SHAPES)]
            for i in range(count)
        }
    if checkpoint in _EQUAL:
        count, dtype, shape = _EQUAL[checkpoint]
        whole = {f"layers.{i}.weight": shape for i in range(count)}
    else:
        dtype = "<f4"
        whole = {
            f"h.{layer}.{name}": shape
            for layer in range(_GPT2_LAYERS)
            for name, shape in _GPT2_LAYER.items()
        } | _GPT2_ENDS
    return {name: (dtype, _fewer_rows(shape, scale)) for name, shape in whole.items()}


def nbytes(checkpoint: Checkpoint, scale: float) -> int:
    """Bytes of all tensors of a checkpoint.

    Args:
        checkpoint: Which one.
        scale: As for `shapes`.

    Returns:
        Their number.
    """
    tensors = shapes(checkpoint, scale).values()
    return sum(np.dtype(dtype).itemsize * math.prod(shape) for dtype, shape in tensors)


def sliced_tensor(checkpoint: Checkpoint, scale: float) -> tuple[str, int]:
    """The tensor of which a case reads some columns: the largest.

    Args:
        checkpoint: Which one.
        scale: As for `shapes`.

    Returns:
        Its name and how many columns it has.
    """
    matrices = {n: s for n, (_, s) in shapes(checkpoint, scale).items() if len(s) == 2}
    name = max(matrices, key=lambda name: math.prod(matrices[name]))
    return name, matrices[name][1]


def make_arrays(checkpoint: Checkpoint, scale: float) -> dict[str, npt.NDArray[Any]]:
    """The tensors of a checkpoint as contiguous arrays, each in memory of its own.

    Args:
        checkpoint: Which one.
        scale: As for `shapes`.

    Returns:
        Arrays by name; every one differs from its neighbours, so that none can be mistaken.
    """
    block = np.random.default_rng(seed=0).integers(0, 1 << 63, _BLOCK_WORDS, dtype=np.uint64)
    arrays: dict[str, npt.NDArray[Any]] = {}
    for i, (name, (dtype, shape)) in enumerate(shapes(checkpoint, scale).items()):
        array = np.empty(shape, dtype)
        words = array.reshape(-1).view(np.uint64)
        beginning = block[i % (_BLOCK_WORDS // 2) :]
        for start in range(0, len(words), len(beginning)):
            part = words[start : start + len(beginning)]
            part[:] = beginning[: len(part)]
        arrays[name] = array
    return arrays


def _fewer_rows(shape: tuple[int, ...], scale: float) -> tuple[int, ...]:
    """A shape with less in its longest dimension but the last; vectors stay whole."""
    if len(shape) == 1 or scale == 1:
        return shape
    axis = max(range(len(shape) - 1), key=lambda i: shape[i])
    rows = max(1, math.ceil(shape[axis] * scale))
    return (*shape[:axis], rows, *shape[axis + 1 :])
