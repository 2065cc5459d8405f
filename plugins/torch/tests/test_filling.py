"""What `load_into` makes of the many kinds of tensors that PyTorch has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from safetensors_core import InvalidInputError, SharedMemoryError, get_framework
from safetensors_torch import load_into, save_file, save_model
from safetensors_torch.filling import FillableTensors

WEIGHT = torch.arange(6.0).reshape(2, 3)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_file({"weight": WEIGHT}, path)
    return path


def inference() -> torch.Tensor:
    with torch.inference_mode():
        return torch.zeros(2, 3)


def inference_strided() -> torch.Tensor:
    with torch.inference_mode():
        return torch.zeros(3, 2).T


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.zeros(2, 3),
        lambda: torch.nn.Parameter(torch.zeros(2, 3)),
        lambda: torch.zeros(3, 2).T,
        lambda: torch.nn.Parameter(torch.zeros(3, 2)).T,
        lambda: torch.zeros(2, 6)[:, ::2],
        lambda: torch.zeros(4, 3)[1:3],
        lambda: torch.zeros(2, 3).to(memory_format=torch.preserve_format).requires_grad_(),
        inference,
        inference_strided,
    ],
)
def test_tensors_of_all_kinds_are_filled(path: Path, make: Callable[[], torch.Tensor]) -> None:
    tensor = make()
    kept = tensor.data_ptr(), tensor.stride(), tensor.requires_grad
    assert load_into({"weight": tensor}, path) == ([], [])
    assert torch.equal(tensor.detach(), WEIGHT)
    assert (tensor.data_ptr(), tensor.stride(), tensor.requires_grad) == kept


@pytest.mark.parametrize("make", [lambda: torch.zeros(2, 3), lambda: torch.zeros(3, 2).T])
def test_autograd_notices_that_a_tensor_was_filled(
    path: Path, make: Callable[[], torch.Tensor]
) -> None:
    tensor = make()
    source = torch.ones(2, 3, requires_grad=True)
    product = (source * tensor).sum()
    load_into({"weight": tensor}, path)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.backward(product)


def test_tensors_of_all_kinds_are_filled_together_and_all_count_as_changed(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    made: dict[str, torch.Tensor] = {
        "plain": torch.zeros(2, 3),
        "parameter": torch.nn.Parameter(torch.zeros(2, 3)),
        "buffer": torch.nn.Buffer(torch.zeros(2, 3)),
        "strided": torch.zeros(3, 2).T,
        "part": torch.zeros(4, 3)[1:3],
        "converted": torch.zeros(2, 3, dtype=torch.float64),
        "empty": torch.zeros(0, 3),
    }
    values = {name: (WEIGHT + i)[: len(t)] for i, (name, t) in enumerate(made.items())}
    save_file(values, path)
    before = {name: tensor._version for name, tensor in made.items()}
    assert load_into(made, path) == ([], [])
    for name, tensor in made.items():
        assert torch.equal(tensor.detach().float(), values[name])
        assert tensor._version > before[name] or name == "empty"


def test_thousands_of_tensors_are_lent_in_a_few_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    # One by one is for what has to be looked at more closely.
    asked: list[torch.Tensor] = []

    def memory(_self: object, tensor: torch.Tensor) -> None:
        asked.append(tensor)

    monkeypatch.setattr(FillableTensors, "memory", memory)
    tensors = [torch.zeros(3) for _ in range(50)]
    strided = torch.zeros(3, 2).T
    views = get_framework(strided).memories([*tensors, strided])
    assert [view and view.nbytes for view in views] == [12] * 50 + [None]
    assert len(asked) == 1
    assert asked[0] is strided
    for i, view in enumerate(views[:50]):
        assert view is not None
        view.cast("f")[1] = i
        assert tensors[i].tolist() == [0, i, 0]


def test_a_model_is_filled_by_its_state_dict(tmp_path: Path) -> None:
    model, other = (torch.nn.Linear(3, 2) for _ in range(2))
    save_model(other, tmp_path / "linear.safetensors")
    assert load_into(model.state_dict(), tmp_path / "linear.safetensors") == ([], [])
    assert torch.equal(model.weight, other.weight)
    assert torch.equal(model.bias, other.bias)


def test_tied_weights_are_filled_by_the_name_that_the_file_has(path: Path) -> None:
    tied = torch.zeros(2, 3)
    tensors = {"weight": tied, "head": tied.view(2, 3)}
    assert load_into(tensors, path) == ([], [])
    assert torch.equal(tensors["head"], WEIGHT)
    # A part of it is filled with it. What reaches beyond it is another tensor, which is missing.
    assert load_into({"weight": tied, "row": tied[0]}, path) == ([], [])
    whole = torch.zeros(3, 3)
    tensors = {"weight": whole[:2], "moved": whole[1:]}
    assert load_into(tensors, path, strict=False) == (["moved"], [])


def test_tied_weights_may_have_both_names_in_the_file_with_the_same_values(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    tied = torch.zeros(2, 3)
    tensors = {"head": tied.view(2, 3), "weight": tied}
    save_file({"head": WEIGHT.clone(), "weight": WEIGHT.clone()}, path)
    assert load_into(tensors, path) == ([], [])
    assert torch.equal(tied, WEIGHT)
    tied.zero_()
    save_file({"head": WEIGHT.clone(), "weight": WEIGHT + 1}, path)
    with pytest.raises(SharedMemoryError, match="separate entries"):
        load_into(tensors, path)
    assert not tied.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_file_with_values_for_both_of_tied_weights_is_refused(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(2, 2), "b": torch.zeros(2, 2)}, path)
    whole = torch.full((3, 2), 7, dtype=dtype)
    with pytest.raises(SharedMemoryError) as caught:
        load_into({"a": whole[:2], "b": whole[1:]}, path)
    assert caught.value.groups == [("a", "b")]
    assert torch.equal(whole, torch.full((3, 2), 7, dtype=dtype))


def test_columns_of_one_matrix_are_filled_each_for_itself(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"q": torch.ones(3, 2), "k": torch.zeros(3, 2)}, path)
    fused = torch.full((3, 4), 7.0)
    load_into({"q": fused[:, :2], "k": fused[:, 2:]}, path)
    assert torch.equal(fused, torch.tensor([[1.0, 1.0, 0.0, 0.0]] * 3))


def test_a_conjugate_is_filled_with_what_it_is_read_as(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"c": torch.tensor([1 + 2j])}, path)
    tensor = torch.zeros(1, dtype=torch.complex64)
    load_into({"c": tensor.conj()}, path)
    assert tensor.tolist() == [1 - 2j]


def test_packed_pairs_are_filled(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    pairs = torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8)
    save_file({"w": pairs.view(torch.float4_e2m1fn_x2)}, path)
    for memory in (torch.zeros(2, 2, dtype=torch.uint8), torch.zeros(4, 2, dtype=torch.uint8)[::2]):
        load_into({"w": memory.view(torch.float4_e2m1fn_x2)}, path)
        assert torch.equal(memory, pairs)


@pytest.mark.parametrize(
    ("tensor", "text"),
    [
        (torch.zeros(1, 3).expand(2, 3), "tensor 'weight' is expanded"),
        (torch.zeros(4).unfold(0, 3, 1), "several elements are one in memory"),
        (torch.zeros(2, 3, device="meta"), "on the 'meta' device"),
        (torch.zeros(2, 3).to_sparse(), "layout torch.sparse_coo"),
    ],
)
def test_what_has_no_memory_of_its_own_is_refused(
    path: Path, tensor: torch.Tensor, text: str
) -> None:
    with pytest.raises(InvalidInputError, match=text):
        load_into({"weight": tensor}, path)
