"""A tensor is saved as it reads, also where torch has yet to move or compute its elements."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from safetensors_core import get_framework
from safetensors_torch import load, load_file, save, save_file

VIEWS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "every second row": lambda t: t[::2],
    "every second column": lambda t: t[:, ::2],
    "one column": lambda t: t[:, 3],
    "inner part": lambda t: t[1:-1, 1:-1],
    "transposed": lambda t: t.T,
    "permuted": lambda t: t.reshape(2, 3, 8).permute(2, 0, 1),
    "channels last": lambda t: t.reshape(1, 2, 3, 8).to(memory_format=torch.channels_last),
    "expanded": lambda t: t[:1].expand(5, 8),
    "expanded from one": lambda t: t[0, 0].expand(3, 4),
    "windows": lambda t: t.unfold(1, 3, 2),
    "end of a storage": lambda t: t.reshape(-1)[-1:],
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float32, torch.complex64])
def test_a_view_is_saved_as_it_reads(view: str, dtype: torch.dtype) -> None:
    tensor = VIEWS[view](torch.arange(48).reshape(6, 8).to(dtype))
    loaded = load(save({"w": tensor}))["w"]
    assert torch.equal(loaded, tensor)
    assert loaded.is_contiguous()


@pytest.mark.parametrize("dtype", [torch.float4_e2m1fn_x2, torch.float8_e8m0fnu, torch.uint16])
@pytest.mark.parametrize("view", ["every second row", "transposed", "expanded", "one column"])
def test_a_view_of_a_type_with_few_kernels_is_saved_as_it_reads(
    view: str, dtype: torch.dtype
) -> None:
    carrier = torch.uint8 if dtype.itemsize == 1 else torch.int16
    numbers = torch.arange(48).reshape(6, 8).to(carrier)
    loaded = load(save({"w": VIEWS[view](numbers.view(dtype))}))["w"]
    assert loaded.dtype == dtype
    assert torch.equal(loaded.view(carrier), VIEWS[view](numbers))


def test_a_conjugate_that_is_not_computed_yet_is_saved_as_it_reads() -> None:
    tensor = torch.tensor([1 + 2j, 3 - 4j]).conj()
    assert tensor.is_conj()
    assert load(save({"w": tensor}))["w"].tolist() == [1 - 2j, 3 + 4j]


def test_a_negative_that_is_not_computed_yet_is_saved_as_it_reads() -> None:
    tensor = torch.tensor([1 + 2j, 3 - 4j]).conj().imag
    assert tensor.is_neg()
    assert load(save({"w": tensor}))["w"].tolist() == [-2, 4]


def test_zeros_that_have_no_memory_yet_are_saved_as_they_read() -> None:
    # In a process of its own: to read through their address, which is zero, would end this one.
    code = "import torch, safetensors_torch as st; zeros = torch._efficientzerotensor((3,)); "
    code += "print(st.load(st.save({'a': zeros, 'b': zeros.clone()}))['a'].tolist())"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], check=False, capture_output=True
    )
    assert (done.returncode, done.stdout) == (0, b"[0.0, 0.0, 0.0]\n")


def test_parameters_and_tensors_with_gradients_are_saved_without_them() -> None:
    parameter = torch.nn.Parameter(torch.arange(3.0))
    computed = parameter * 2
    loaded = load(save({"parameter": parameter, "computed": computed}))
    assert loaded["parameter"].tolist() == [0, 1, 2]
    assert loaded["computed"].tolist() == [0, 2, 4]
    assert not any(tensor.requires_grad for tensor in loaded.values())
    assert parameter.requires_grad


def test_a_tensor_of_inference_mode_is_saved() -> None:
    with torch.inference_mode():
        tensor = torch.arange(3.0)
        data = save({"w": tensor})
    assert load(data)["w"].tolist() == load(save({"w": tensor}))["w"].tolist() == [0, 1, 2]


def test_loaded_tensors_can_take_gradients() -> None:
    weight = load(save({"w": torch.ones(3)}))["w"].requires_grad_()
    (weight * 2).sum().backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    assert weight.grad.tolist() == [2, 2, 2]


def test_a_plain_subclass_is_saved_as_a_tensor() -> None:
    class Named(torch.Tensor):
        """A tensor with another name."""

    assert load(save({"w": torch.ones(2).as_subclass(Named)}))["w"].tolist() == [1, 1]


def test_the_caller_s_dictionary_and_tensors_stay_as_they_are() -> None:
    tensors = {"z": torch.arange(6.0).reshape(2, 3).T, "a": torch.nn.Parameter(torch.ones(2))}
    before = {n: (id(t), t.stride(), t.data_ptr(), t.requires_grad) for n, t in tensors.items()}
    save(tensors)
    after = {n: (id(t), t.stride(), t.data_ptr(), t.requires_grad) for n, t in tensors.items()}
    assert after == before
    assert list(tensors) == ["z", "a"]


def test_a_state_dict_of_a_model_comes_back(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    path = tmp_path / "model.safetensors"
    save_file(model.state_dict(), path)
    other = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    other.load_state_dict(load_file(path))
    for name, tensor in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor)


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
        ),
    ],
)
def test_copies_on_the_host_exist_one_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    framework = type(get_framework("torch"))
    make = framework.to_buffer
    alive: list[Any] = []
    most = 0

    def count(self: Any, tensor: torch.Tensor) -> Any:
        nonlocal most
        gc.collect()
        most = max(most, sum(reference() is not None for reference in alive))
        buffer = make(self, tensor)
        alive.append(weakref.ref(memoryview(buffer).obj))
        return buffer

    monkeypatch.setattr(framework, "to_buffer", count)
    # Transposed, so that the host's own tensors are copied too; each more than one write takes.
    tensors = {f"t{i}": torch.zeros(1024, 2048, device=device).T for i in range(6)}
    save_file(tensors, tmp_path / "model.safetensors", fsync=False)
    assert len(alive) == 6
    assert most == 0
