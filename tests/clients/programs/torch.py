"""PyTorch itself: `torch.load` of such a file, and distributed checkpoints in this format."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import load_model, save_file, save_model
from torch import nn
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from tests.clients.recording import Recording, digest


def state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"layer{layer}.weight": torch.randn(768, 768, generator=generator) for layer in range(8)
    }
    return {**tensors, "half": torch.ones(7, dtype=torch.bfloat16), "step": torch.tensor(3)}


def load_by_torch(recording: Recording, folder: Path) -> None:
    path = folder / "state.safetensors"
    tensors = state()
    recording.timed("save", lambda: save_file(tensors, path))
    recording.result("loaded", digest(recording.timed("load", lambda: torch.load(path))))
    on_device = torch.load(path, map_location=torch.device("cpu"))
    recording.result("loaded to a device", digest(on_device))


def distributed_checkpoint(recording: Recording, folder: Path) -> None:
    tensors = state()
    names = {name: index % 2 + 1 for index, name in enumerate(tensors)}

    def save_parts() -> None:
        writer = HuggingFaceStorageWriter(str(folder / "distributed"), fqn_to_index_mapping=names)
        save(tensors, storage_writer=writer, no_dist=True)

    def load_parts() -> dict[str, torch.Tensor]:
        empty = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
        reader = HuggingFaceStorageReader(str(folder / "distributed"))
        load(empty, storage_reader=reader, no_dist=True)
        return empty

    recording.timed("save a distributed checkpoint", save_parts)
    loaded = recording.timed("load a distributed checkpoint", load_parts)
    recording.result("distributed", digest(loaded))

    # A folder that another program wrote is such a checkpoint too.
    reader = HuggingFaceStorageReader(str(folder / "distributed"), thread_count=2)
    recording.result(
        "described",
        {
            name: [list(found.size), str(found.properties.dtype)]
            for name, found in sorted(reader.read_metadata().state_dict_metadata.items())
            if isinstance(found, TensorStorageMetadata)
        },
    )


def tied_model(recording: Recording, folder: Path) -> None:
    def model() -> nn.Sequential:
        torch.manual_seed(1)
        layers = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256))
        layers[2].weight = layers[0].weight
        return layers

    save_model(model(), str(folder / "tied.safetensors"), metadata={"format": "pt"})
    loaded = model()
    missing, unexpected = load_model(loaded, folder / "tied.safetensors")
    recording.result("missing", sorted(missing))
    recording.result("unexpected", sorted(unexpected))
    recording.result("tied", digest(loaded.state_dict()))


def main(folder: Path) -> None:
    recording = Recording()
    load_by_torch(recording, folder)
    distributed_checkpoint(recording, folder)
    tied_model(recording, folder)
    recording.finish()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
