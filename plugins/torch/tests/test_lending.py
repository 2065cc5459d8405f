"""Memory of many tensors that is lent at once to whoever writes it."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch

from safetensors_core import exchange, get_framework
from safetensors_torch import load, save

FRAMEWORK = get_framework("torch")


class Memory(bytearray):
    """Memory that can be watched."""


def test_buffers_alias_contiguous_tensors_and_keep_them_alive() -> None:
    tensors = [torch.arange(4.0), torch.zeros(2, 2, dtype=torch.bfloat16)]
    kept = [weakref.ref(tensor) for tensor in tensors]
    first, second = (memoryview(buffer) for buffer in FRAMEWORK.to_buffers(iter(tensors)))
    tensors[0][0] = 7
    assert first.cast("f").tolist() == [7, 1, 2, 3]
    assert second.tobytes() == bytes(8)
    del tensors, first
    gc.collect()
    assert all(reference() is not None for reference in kept)
    del second
    gc.collect()
    assert all(reference() is None for reference in kept)


def test_an_exchanged_tensor_keeps_none_but_its_original_alive() -> None:
    memories = {name: Memory(12) for name in ("kept", "other")}
    alive = {name: weakref.ref(memory) for name, memory in memories.items()}
    tensors = {
        name: torch.frombuffer(memory, dtype=torch.float32) for name, memory in memories.items()
    }
    exchanged = exchange(tensors, "torch")["kept"]
    del tensors, memories
    gc.collect()
    assert alive["kept"]() is not None
    assert alive["other"]() is None
    assert exchanged.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(6.0).reshape(2, 3).T,
        torch.tensor([1 + 2j]).conj(),
        torch.tensor([1 + 2j]).conj().imag,
        torch._efficientzerotensor(4),
        torch.arange(3).expand(2, 3),
        torch.tensor(5.0),
    ],
    ids=["transposed", "conjugate", "negative", "zeros", "repeated", "scalar"],
)
def test_what_does_not_lie_ready_in_memory_is_saved_among_what_does(tensor: torch.Tensor) -> None:
    tensors = {"a": torch.ones(3), "b": tensor, "c": torch.zeros(2, 0), "d": torch.ones(2)}
    loaded = load(save(tensors))
    for name, expected in tensors.items():
        assert torch.equal(loaded[name], expected.resolve_conj().resolve_neg())


def test_many_tensors_are_saved_as_each_is_alone() -> None:
    tensors: dict[str, Any] = {f"t{i:03}": torch.full((i % 5,), i) for i in range(700)}
    tensors["t300"] = torch.nn.Parameter(torch.arange(3.0))
    tensors["t301"] = torch.ones(2, 2)[:, 0]
    loaded = load(save(tensors))
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(loaded[name], tensor), name
