"""PEFT: adapters are saved, loaded, switched, merged, and trained further."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from peft import (
    IA3Config,
    LoraConfig,
    PeftConfig,
    PeftModel,
    PrefixTuningConfig,
    get_peft_model,
    load_peft_weights,
)
from transformers import GPT2Config, GPT2LMHeadModel

from tests.clients.recording import Recording, digest

TOKENS = torch.arange(24).reshape(2, 12)


def base() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=2_000, n_positions=64, n_embd=512, n_layer=4, n_head=8)
    return GPT2LMHeadModel(config).eval()


def adapted(config: PeftConfig) -> PeftModel:
    torch.manual_seed(1)
    return get_peft_model(base(), config).eval()


def logits(model: PeftModel) -> str:
    with torch.no_grad():
        return digest(model(TOKENS).logits)


def lora(recording: Recording, folder: Path) -> None:
    model = adapted(
        LoraConfig(
            r=64, target_modules=["c_attn", "c_fc"], init_lora_weights=False, fan_in_fan_out=True
        )
    )
    recording.timed("save", lambda: model.save_pretrained(folder / "lora"))
    weights = recording.timed("load", lambda: load_peft_weights(str(folder / "lora"), "cpu"))
    recording.result("weights", digest(weights))
    loaded = PeftModel.from_pretrained(base(), folder / "lora")
    recording.result("LoRA", logits(loaded))
    recording.result("same", logits(loaded) == logits(model))

    # Saved with the layers of embedding, which are tied, and with whole layers beside the adapter.
    with_embedding = adapted(
        LoraConfig(
            r=4,
            target_modules=["c_attn"],
            modules_to_save=["ln_f"],
            init_lora_weights=False,
            fan_in_fan_out=True,
        )
    )
    with_embedding.save_pretrained(folder / "with embedding", save_embedding_layers=True)
    again = PeftModel.from_pretrained(base(), folder / "with embedding")
    recording.result("with embedding", logits(again))

    loaded.load_adapter(folder / "with embedding", adapter_name="second")
    loaded.set_adapter("second")
    recording.result("second adapter", logits(loaded))
    loaded.save_pretrained(folder / "both")

    merged = again.merge_and_unload()
    merged.save_pretrained(folder / "merged")
    recording.result(
        "merged", digest(GPT2LMHeadModel.from_pretrained(folder / "merged").state_dict())
    )


def train_a_loaded_adapter(recording: Recording, folder: Path) -> None:
    model = PeftModel.from_pretrained(base(), folder / "lora", is_trainable=True)
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.1)
    model(input_ids=TOKENS, labels=TOKENS).loss.backward()
    optimizer.step()
    model.save_pretrained(folder / "lora")
    recording.result("trained", logits(PeftModel.from_pretrained(base(), folder / "lora")))


def other_methods(recording: Recording, folder: Path) -> None:
    configs = {
        "IA3": IA3Config(
            target_modules=["c_attn", "mlp.c_proj"],
            feedforward_modules=["mlp.c_proj"],
            init_ia3_weights=False,
            fan_in_fan_out=True,
        ),
        "prefix": PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    }
    for name, config in configs.items():
        adapted(config).save_pretrained(folder / name)
        recording.result(name, logits(PeftModel.from_pretrained(base(), folder / name)))


def main(folder: Path) -> None:
    recording = Recording()
    lora(recording, folder)
    train_a_loaded_adapter(recording, folder)
    other_methods(recording, folder)
    recording.finish()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
