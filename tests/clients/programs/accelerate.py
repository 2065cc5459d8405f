"""Accelerate: dispatch with parts on disk, checkpoints of a training, workers that read slices."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import safetensors
import torch
from accelerate import (
    Accelerator,
    cpu_offload,
    disk_offload,
    init_empty_weights,
    load_checkpoint_and_dispatch,
    load_checkpoint_in_model,
)
from accelerate.utils import load_state_dict, merge_fsdp_weights
from safetensors import safe_open
from torch import nn
from torch.distributed.checkpoint.state_dict_saver import save
from torch.utils.data import DataLoader, Dataset

from tests.clients.recording import Recording, digest


class Layers(nn.Module):
    """Four blocks, the last with the weight of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(768, 768) for _ in range(4))
        self.head = nn.Linear(768, 768)
        self.tie_weights()

    def tie_weights(self) -> None:
        self.head.weight = self.get_parameter("blocks.0.weight")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = torch.relu(block(x))
        return self.head(x)


class Rows(Dataset[tuple[torch.Tensor, str]]):
    """The rows of one tensor, whose file each worker opens for itself, and who read them."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        self.rows: Any = None

    def __len__(self) -> int:
        with safe_open(self.path, framework="pt") as file:
            return int(file.get_slice(self.name).get_shape()[0])

    def __getitem__(self, index: int) -> tuple[torch.Tensor, str]:
        if self.rows is None:
            self.rows = safe_open(self.path, framework="pt").get_slice(self.name)
        return self.rows[index : index + 1][0], str(safetensors.__file__)


INPUT = torch.linspace(-1, 1, 768).reshape(1, 768)


def dispatch(recording: Recording, folder: Path) -> None:
    accelerator = Accelerator(cpu=True)
    model = Layers()
    whole, sharded = folder / "whole", folder / "sharded"
    recording.timed("save", lambda: accelerator.save_model(model, whole))
    recording.timed(
        "save sharded", lambda: accelerator.save_model(model, sharded, max_shard_size="3MB")
    )
    recording.result("shards", len(list(sharded.glob("*.safetensors"))))
    recording.result("state", digest(load_state_dict(str(whole / "model.safetensors"))))

    def dispatched(checkpoint: Path, devices: dict[str, str]) -> nn.Module:
        with init_empty_weights():
            empty = Layers()
        empty.tie_weights()
        return load_checkpoint_and_dispatch(
            empty,
            checkpoint,
            device_map=devices,
            offload_folder=str(folder / f"offloaded from {checkpoint.name}"),
        )

    on_cpu = {"": "cpu"}
    some_on_disk = {
        "blocks.0": "cpu",
        "blocks.1": "disk",
        "blocks.2": "disk",
        "blocks.3": "cpu",
        "head": "cpu",
    }
    loaded = recording.timed("load and dispatch", lambda: dispatched(whole, on_cpu))
    recording.result("dispatched", digest(loaded(INPUT)))
    offloaded = recording.timed("load with offload", lambda: dispatched(whole, some_on_disk))
    recording.result("offloaded", digest(offloaded(INPUT)))
    recording.result("offloaded from shards", digest(dispatched(sharded, some_on_disk)(INPUT)))

    plain = Layers()
    load_checkpoint_in_model(plain, sharded)
    recording.result("in model", digest(plain.state_dict()))


def offload(recording: Recording, folder: Path) -> None:
    recording.result("CPU offload", digest(cpu_offload(Layers())(INPUT)))
    model = disk_offload(Layers(), str(folder / "disk"), execution_device=torch.device("cpu"))
    recording.result("disk offload", digest(model(INPUT)))


def train_and_resume(recording: Recording) -> None:
    # States of optimizers and of random numbers are pickled: they are no files of this project.
    with tempfile.TemporaryDirectory() as folder:
        accelerator = Accelerator(cpu=True)
        model = Layers()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model, optimizer = accelerator.prepare(model, optimizer)
        for step in range(2):
            accelerator.backward(model(INPUT).sum())
            optimizer.step()
            optimizer.zero_grad()
            if step == 0:
                recording.timed("save state", lambda: accelerator.save_state(folder))
        recording.result("trained", digest(model.state_dict()))
        recording.timed("load state", lambda: accelerator.load_state(folder))
        recording.result("resumed", digest(model.state_dict()))


def merge_shards_of_a_distributed_training(recording: Recording, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as checkpoint:
        save({"model": Layers().state_dict()}, checkpoint_id=checkpoint, no_dist=True)
        merge_fsdp_weights(checkpoint, str(folder / "merged"))
    recording.result("merged", digest(load_state_dict(str(folder / "merged/model.safetensors"))))


def read_in_workers(recording: Recording, folder: Path) -> None:
    rows = Rows(folder / "whole" / "model.safetensors", "blocks.1.weight")
    for start in ("fork", "spawn"):
        loader = DataLoader(rows, batch_size=64, num_workers=1, multiprocessing_context=start)
        batches, files = zip(*loader, strict=True)
        recording.result(f"rows read after {start}", digest(torch.cat(batches)))
        for file in {file for names in files for file in names}:
            recording.imported_elsewhere(f"a worker started by {start}", file)


def main(folder: Path) -> None:
    torch.manual_seed(0)
    recording = Recording()
    dispatch(recording, folder)
    offload(recording, folder)
    train_and_resume(recording)
    merge_shards_of_a_distributed_training(recording, folder)
    read_in_workers(recording, folder)
    recording.finish()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
