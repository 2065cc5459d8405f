"""Diffusers: models and a pipeline, sharded, in half precision, with the weights of a LoRA."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMPipeline, DDPMScheduler, UNet2DConditionModel, UNet2DModel
from peft import LoraConfig

from tests.clients.recording import Recording, digest


def unet() -> UNet2DModel:
    return UNet2DModel(
        sample_size=16,
        block_out_channels=(128, 256),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    ).eval()


def save_and_load(recording: Recording, folder: Path) -> None:
    model = unet()
    sample = torch.randn(1, 3, 16, 16)

    recording.timed("save", lambda: model.save_pretrained(folder / "unet"))
    loaded = recording.timed("load", lambda: UNet2DModel.from_pretrained(folder / "unet"))
    with torch.no_grad():
        recording.result("denoised", digest(loaded(sample, 7).sample))

    sharded = folder / "sharded"
    recording.timed("save sharded", lambda: model.save_pretrained(sharded, max_shard_size="8MB"))
    loaded = recording.timed("load sharded", lambda: UNet2DModel.from_pretrained(sharded))
    recording.result("shards", len(list(sharded.glob("*.safetensors"))))
    recording.result("sharded", digest(loaded.state_dict()))

    plain = UNet2DModel.from_pretrained(folder / "unet", low_cpu_mem_usage=False)
    recording.result("without meta tensors", digest(plain.state_dict()))
    in_memory = UNet2DModel.from_pretrained(folder / "unet", disable_mmap=True)
    recording.result("without a map", digest(in_memory.state_dict()))
    half = UNet2DModel.from_pretrained(folder / "unet", torch_dtype=torch.float16)
    half.save_pretrained(folder / "half", variant="fp16")
    again = UNet2DModel.from_pretrained(folder / "half", variant="fp16", torch_dtype=torch.float16)
    recording.result("half", digest(again.state_dict()))


def pipeline(recording: Recording, folder: Path) -> None:
    DDPMPipeline(unet(), DDPMScheduler()).save_pretrained(folder / "pipeline")
    loaded = DDPMPipeline.from_pretrained(folder / "pipeline")
    loaded.set_progress_bar_config(disable=True)
    images = loaded(
        num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="np"
    ).images
    recording.result("image", digest(images))


def autoencoder(recording: Recording, folder: Path) -> None:
    model = AutoencoderKL(block_out_channels=(32,), norm_num_groups=8, latent_channels=4).eval()
    model.save_pretrained(folder / "vae")
    loaded = AutoencoderKL.from_pretrained(folder / "vae").eval()
    with torch.no_grad():
        recording.result(
            "latents", digest(loaded.encode(torch.ones(1, 3, 16, 16)).latent_dist.mean)
        )


def offloaded_groups(recording: Recording, folder: Path) -> None:
    # Each group of layers is written to disk, and read when it is its turn.
    model = UNet2DModel.from_pretrained(folder / "unet").eval()
    model.enable_group_offload(
        onload_device=torch.device("cpu"),
        offload_device=torch.device("cpu"),
        offload_type="leaf_level",
        offload_to_disk_path=str(folder / "groups"),
    )
    with torch.no_grad():
        recording.result("offloaded", digest(model(torch.ones(1, 3, 16, 16), 3).sample))


def adapter(recording: Recording, folder: Path) -> None:
    def conditional() -> UNet2DConditionModel:
        torch.manual_seed(3)
        return UNet2DConditionModel(
            sample_size=16,
            block_out_channels=(32, 64),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=32,
        )

    model = conditional()
    model.add_adapter(LoraConfig(r=4, target_modules=["to_q", "to_v"], init_lora_weights=False))
    model.save_lora_adapter(folder / "lora")
    loaded = conditional()
    loaded.load_lora_adapter(
        folder / "lora", prefix=None, weight_name="pytorch_lora_weights.safetensors"
    )
    recording.result("with LoRA", digest(loaded.state_dict()))


def main(folder: Path) -> None:
    torch.manual_seed(0)
    recording = Recording()
    save_and_load(recording, folder)
    pipeline(recording, folder)
    autoencoder(recording, folder)
    offloaded_groups(recording, folder)
    adapter(recording, folder)
    recording.finish()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
