"""What the format cannot hold is refused by the tensor's name, before the file is touched."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.testing._internal.two_tensor import TwoTensor

from safetensors_core import InvalidInputError, SafetensorError, UnsupportedDtypeError
from safetensors_torch import load, save_file


def fake() -> torch.Tensor:
    with FakeTensorMode():
        return torch.zeros(3)


def wrapped() -> torch.Tensor:
    tensor: torch.Tensor = TwoTensor(torch.zeros(3), torch.zeros(3))  # type: ignore[no-untyped-call]
    return tensor


def nested(layout: torch.layout) -> torch.Tensor:
    return torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)], layout=layout)


def shrunk(storage: int, tensor: torch.Tensor) -> torch.Tensor:
    tensor.untyped_storage().resize_(storage)
    return tensor


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "sparse": (lambda: torch.eye(3).to_sparse(), "torch.sparse_coo.*to_dense"),
    "sparse by rows": (lambda: torch.eye(3).to_sparse_csr(), "torch.sparse_csr.*to_dense"),
    "nested": (lambda: nested(torch.strided), "nested tensor"),
    "jagged": (lambda: nested(torch.jagged), "jagged"),
    "without data": (lambda: torch.zeros(3, device="meta"), "'meta' device has no data"),
    "pretended": (fake, "FakeTensor wraps its data"),
    "wrapped": (wrapped, "TwoTensor wraps its data"),
    "without a shape yet": (torch.nn.UninitializedParameter, "uninitialized"),
    "packed without dimensions": (
        lambda: torch.zeros((), dtype=torch.uint8).view(torch.float4_e2m1fn_x2),
        r"reshape it to \(1,\)",
    ),
    "freed": (lambda: shrunk(0, torch.zeros(3)), "its storage was freed"),
    "freed in part": (lambda: shrunk(8, torch.zeros(3)), "or made smaller"),
    "a view of what was freed": (lambda: shrunk(0, torch.zeros(3)[1:2]), "its storage was freed"),
    "a view behind what is left": (lambda: shrunk(16, torch.zeros(20)[10:14]), "its storage was"),
    "steps beyond what is left": (lambda: shrunk(16, torch.zeros(20)[::5]), "its storage was"),
    "every other one, freed": (lambda: shrunk(8, torch.zeros(6)[::2]), "its storage was freed"),
    "a list": (lambda: [1.0, 2.0], "list"),
    "a number": (lambda: 1.0, "float"),
    "a name": (lambda: "torch", "expected a tensor, got str"),
    "nothing": (lambda: None, "NoneType"),
    "a module": (lambda: torch.nn.Linear(1, 1), "Linear"),
}


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A file that is there already."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"the old file")
    return path


def assert_untouched(target: Path) -> None:
    assert target.read_bytes() == b"the old file"
    assert os.listdir(target.parent) == [target.name]


# Said by torch itself when a test makes such a tensor.
@pytest.mark.filterwarnings("ignore:.*nested tensors is in prototype:UserWarning")
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta:UserWarning")
@pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled:UserWarning")
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_saved_is_refused_with_its_name(target: Path, case: str) -> None:
    make, message = REFUSED[case]
    with pytest.raises(SafetensorError, match=rf"tensor 'layer\.7': .*{message}"):
        save_file({"fine": torch.zeros(3), "layer.7": make()}, target)
    assert_untouched(target)


def test_a_tensor_that_stands_for_others_is_refused_with_its_name(target: Path) -> None:
    def save_and_return(row: torch.Tensor) -> torch.Tensor:
        save_file({"layer.6": torch.zeros(2), "layer.7": row}, target)
        return row

    with pytest.raises(InvalidInputError, match=r"tensor 'layer\.7': .*stands for others"):
        torch.vmap(save_and_return)(torch.zeros(2, 3))
    assert_untouched(target)


def test_tensors_without_data_are_refused_before_a_file_is_made(target: Path) -> None:
    before = target.parent.stat().st_mtime_ns
    with pytest.raises(InvalidInputError, match="meta"):
        save_file({"w": torch.zeros(3, device="meta")}, target)
    assert target.parent.stat().st_mtime_ns == before


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental:UserWarning")
@pytest.mark.parametrize(
    "dtype", [torch.complex32, torch.complex128, torch.bits8, torch.bits16, torch.bits4x2]
)
def test_a_dtype_that_the_format_has_not_is_refused_with_its_name(
    target: Path, dtype: torch.dtype
) -> None:
    with pytest.raises(UnsupportedDtypeError, match=r"tensor 'layer\.7': dtype torch\.") as caught:
        save_file({"fine": torch.zeros(3), "layer.7": torch.empty(2, dtype=dtype)}, target)
    assert caught.value.tensor == "layer.7"
    assert caught.value.dtype == str(dtype)
    assert_untouched(target)


@pytest.mark.filterwarnings("ignore:.*torch.q.*deprecated:UserWarning")
@pytest.mark.filterwarnings("ignore:.*quantize.*:DeprecationWarning")
@pytest.mark.parametrize("dtype", [torch.quint8, torch.qint8, torch.qint32])
def test_a_quantised_tensor_is_refused_because_its_scale_would_be_lost(
    target: Path, dtype: torch.dtype
) -> None:
    with pytest.raises(UnsupportedDtypeError, match=f"tensor 'w': dtype {dtype}"):
        save_file({"w": torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, dtype)}, target)
    assert_untouched(target)


@pytest.mark.parametrize("shape", [[0, 2**62, 2**62], [2**63, 0]], ids=["strides", "dimension"])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_shape_that_no_tensor_can_have_is_refused_with_its_name(
    shape: list[int], device: str
) -> None:
    entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}
    header = json.dumps({"layer.7": entry}).encode()
    data = len(header).to_bytes(8, "little") + header
    with pytest.raises(SafetensorError, match=r"tensor 'layer\.7'"):
        load(data, device)
