"""huggingface_hub: models whole and in shards, the mixin, and tensors inside an archive."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import (
    PyTorchModelHubMixin,
    export_entries_as_dduf,
    load_state_dict_from_file,
    load_torch_model,
    read_dduf_file,
    save_torch_model,
    save_torch_state_dict,
    split_torch_state_dict_into_shards,
)
from safetensors.torch import load, save
from torch import nn

from tests.clients.recording import Recording, digest


class Network(nn.Module, PyTorchModelHubMixin):
    """Layers of several dtypes, two of which share a weight."""

    def __init__(self, width: int = 768) -> None:
        super().__init__()
        self.first = nn.Linear(width, width)
        self.narrow = nn.Linear(width, width).to(torch.bfloat16)
        self.last = nn.Linear(width, width)
        self.last.weight = self.first.weight
        self.register_buffer("step", torch.tensor(7))
        self.register_buffer("mask", torch.ones(width, dtype=torch.bool))


def shards(recording: Recording, folder: Path) -> None:
    model = Network()
    whole, sharded, state_folder = folder / "whole", folder / "sharded", folder / "state"
    for made in (whole, sharded, state_folder):
        made.mkdir()
    recording.timed("save", lambda: save_torch_model(model, whole, metadata={"step": "7"}))
    recording.timed("save sharded", lambda: save_torch_model(model, sharded, max_shard_size="2MB"))

    split = split_torch_state_dict_into_shards(model.state_dict(), max_shard_size="2MB")
    recording.result("sharded", split.is_sharded)
    recording.result("names in shards", split.filename_to_tensors)
    recording.result("metadata", split.metadata)

    for checkpoint in (whole, sharded):
        loaded = Network()
        answer = recording.timed(
            f"load {checkpoint.name}",
            partial(load_torch_model, loaded, checkpoint),
        )
        recording.result(f"{checkpoint.name} missing", sorted(answer.missing_keys))
        recording.result(f"{checkpoint.name} unexpected", sorted(answer.unexpected_keys))
        recording.result(f"{checkpoint.name} loaded", digest(loaded.state_dict()))

    state = load_state_dict_from_file(whole / "model.safetensors", map_location="cpu")
    recording.result("state", digest(state))
    assert isinstance(state, dict)
    save_torch_state_dict(state, state_folder, filename_pattern="w{suffix}.safetensors")


def mixin(recording: Recording, folder: Path) -> None:
    network: Any = Network(64)
    network.save_pretrained(folder / "mixin")
    loaded = Network.from_pretrained(folder / "mixin")
    recording.result("mixin", digest(loaded.state_dict()))
    recording.result("still shared", loaded.last.weight is loaded.first.weight)


def archive(recording: Recording, folder: Path) -> None:
    path = folder / "model.dduf"
    entries = {
        "model_index.json": b'{"_class_name": "P", "_diffusers_version": "1", "net": ["d", "N"]}',
        "net/config.json": b"{}",
        "net/model.safetensors": save(
            {"weight": torch.arange(100_000.0), "half": torch.ones(3, dtype=torch.bfloat16)}
        ),
    }
    export_entries_as_dduf(path, list(entries.items()))
    recording.result("entries", sorted(read_dduf_file(path)))
    with read_dduf_file(path)["net/model.safetensors"].as_mmap() as mapped:
        tensors = load(mapped)
        recording.result("from a map of an archive", digest(tensors))
        # A map cannot be closed while tensors look into it.
        del tensors


def main(folder: Path) -> None:
    torch.manual_seed(0)
    recording = Recording()
    shards(recording, folder)
    mixin(recording, folder)
    archive(recording, folder)
    recording.finish()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
