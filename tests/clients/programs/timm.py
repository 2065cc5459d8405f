"""timm: a checkpoint for the hub, models made from it, and a backbone with its own first layer."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

try:
    import torchvision  # noqa: F401 - whether it can be imported is the question
except RuntimeError:
    # The compiled part of torchvision needs a torch for GPUs. timm uses its Python part alone,
    # which must know that these two operators exist.
    for operator in ("nms", "qnms"):
        torch.library.define(
            f"torchvision::{operator}",
            "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
        )

import timm
from timm.models import load_checkpoint, load_state_dict, save_for_hf

from tests.clients.recording import Recording, digest

IMAGE = torch.linspace(-1, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)


def features(model: torch.nn.Module) -> str:
    with torch.no_grad():
        return digest(model.eval()(IMAGE))


def save_and_load(recording: Recording, folder: Path) -> None:
    model = timm.create_model("resnet18", num_classes=10)
    model.train()(torch.randn(2, 3, 64, 64))  # so that running means are not all zero
    recording.result("features", features(model))

    recording.timed("save", lambda: save_for_hf(model, folder / "hub", safe_serialization=True))
    weights = str(folder / "hub" / "model.safetensors")
    state = recording.timed("load", lambda: load_state_dict(weights))
    recording.result("state", digest(state))

    again = timm.create_model("resnet18", num_classes=10)
    recording.timed("load checkpoint", lambda: load_checkpoint(again, weights))
    recording.result("loaded", features(again))
    made = timm.create_model("resnet18", num_classes=10, checkpoint_path=weights)
    recording.result("made", features(made))
    from_folder = timm.create_model(f"local-dir:{folder / 'hub'}", pretrained=True)
    recording.result("made from a folder", features(from_folder))

    # A first layer for one channel and a head for other classes are made from those in the file.
    pretrained = {"file": weights, "num_classes": 10, "first_conv": "conv1", "classifier": "fc"}
    torch.manual_seed(1)
    grey = timm.create_model(
        "resnet18", pretrained=True, pretrained_cfg_overlay=pretrained, in_chans=1, num_classes=3
    )
    recording.result("one channel", digest(grey.state_dict()))


def transformer(recording: Recording, folder: Path) -> None:
    def vision_transformer() -> torch.nn.Module:
        model: torch.nn.Module = timm.create_model(
            "vit_tiny_patch16_224", img_size=64, num_classes=0, depth=4
        )
        return model

    save_for_hf(vision_transformer(), folder / "transformer", safe_serialization=True)
    loaded = vision_transformer()
    load_checkpoint(loaded, str(folder / "transformer" / "model.safetensors"))
    recording.result("embedding", features(loaded))


def main(folder: Path) -> None:
    torch.manual_seed(0)
    recording = Recording()
    save_and_load(recording, folder)
    transformer(recording, folder)
    recording.finish()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
