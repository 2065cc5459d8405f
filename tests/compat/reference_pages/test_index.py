"""What the first page of the reference shows: loading, loading parts, saving, the format."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

EMBEDDING = torch.arange(12.0).reshape(4, 3)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    save_file({"embedding": EMBEDDING, "attention": torch.zeros((2, 3))}, "model.safetensors")
    return "model.safetensors"


@pytest.mark.parametrize("device", ["cpu", *([0] if torch.cuda.is_available() else [])])
def test_tensors_are_loaded_one_by_one_on_a_device(model: str, device: str | int) -> None:
    loaded = {}
    with safe_open(model, framework="pt", device=device) as file:
        for name in file.keys():  # noqa: SIM118  # as the page has it: a handle is no container
            loaded[name] = file.get_tensor(name)
    assert sorted(loaded) == ["attention", "embedding"]
    assert torch.equal(loaded["embedding"].cpu(), EMBEDDING)


@pytest.mark.parametrize("device", ["cpu", *([0] if torch.cuda.is_available() else [])])
def test_columns_of_a_tensor_are_loaded_by_its_shape(model: str, device: str | int) -> None:
    with safe_open(model, framework="pt", device=device) as file:
        part = file.get_slice("embedding")
        rows, columns = part.get_shape()
        whole = part[:, :columns]
        first = part[:, : columns - 1]
    assert (rows, columns) == (4, 3)
    assert torch.equal(whole.cpu(), EMBEDDING)
    assert torch.equal(first.cpu(), EMBEDDING[:, :2])


def test_a_file_is_a_size_then_json_then_data(model: str) -> None:
    data = Path(model).read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    assert header["embedding"]["dtype"] == "F32"
    assert header["embedding"]["shape"] == [4, 3]
    begin, end = header["embedding"]["data_offsets"]
    values = torch.frombuffer(bytearray(data[8 + size :][begin:end]), dtype=torch.float32)
    assert torch.equal(values.reshape(4, 3), EMBEDDING)
    assert len(data) == 8 + size + sum(
        entry["data_offsets"][1] - entry["data_offsets"][0] for entry in header.values()
    )
