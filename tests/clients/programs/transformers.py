"""Transformers: models whole, sharded, tied, in half precision, on disk, and in training."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainingArguments,
)

from tests.clients.recording import Recording, digest

TOKENS = torch.arange(24).reshape(2, 12)


def language_model() -> GPT2LMHeadModel:
    # The weights of the first and the last layer are one tensor.
    config = GPT2Config(
        vocab_size=12_000, n_positions=64, n_embd=384, n_layer=4, n_head=6, tie_word_embeddings=True
    )
    return GPT2LMHeadModel(config).eval()


def logits(model: Any) -> str:
    with torch.no_grad():
        return digest(model(TOKENS).logits)


def save_and_load(recording: Recording, folder: Path) -> None:
    model = language_model()
    recording.result("logits", logits(model))

    recording.timed("save", lambda: model.save_pretrained(folder / "whole"))
    loaded = recording.timed("load", lambda: GPT2LMHeadModel.from_pretrained(folder / "whole"))
    recording.result("loaded logits", logits(loaded))
    recording.result(
        "tied", loaded.lm_head.weight.data_ptr() == loaded.transformer.wte.weight.data_ptr()
    )

    sharded = folder / "sharded"
    recording.timed("save sharded", lambda: model.save_pretrained(sharded, max_shard_size="8MB"))
    loaded = recording.timed(
        "load sharded", lambda: GPT2LMHeadModel.from_pretrained(sharded, low_cpu_mem_usage=True)
    )
    recording.result("shards", len(list(sharded.glob("*.safetensors"))))
    recording.result("sharded logits", logits(loaded))

    half = recording.timed(
        "load as bfloat16",
        lambda: GPT2LMHeadModel.from_pretrained(folder / "whole", dtype=torch.bfloat16),
    )
    half.save_pretrained(folder / "half")
    recording.result("half", digest(half.state_dict()))

    in_memory = recording.timed(
        "load without a map",
        lambda: GPT2LMHeadModel.from_pretrained(folder / "whole", disable_mmap=True),
    )
    recording.result("in memory", digest(in_memory.state_dict()))

    # A loaded model is the user's own: training changes it, and never the file.
    loaded.train()
    loaded(TOKENS, labels=TOKENS).loss.backward()
    torch.optim.SGD(loaded.parameters(), lr=0.1).step()
    recording.result("trained", digest(loaded.state_dict()))
    loaded.save_pretrained(sharded, max_shard_size="8MB")


def offload_to_disk(recording: Recording, folder: Path) -> None:
    devices = {"transformer.wte": "cpu", "transformer.wpe": "cpu", "lm_head": "cpu"}
    devices |= {"transformer.h": "disk", "transformer.ln_f": "cpu"}
    model = GPT2LMHeadModel.from_pretrained(
        folder / "sharded", device_map=devices, offload_folder=folder / "offloaded"
    )
    recording.result("offloaded logits", logits(model))
    model.save_pretrained(folder / "offloaded and saved")


def parts_of_other_models(recording: Recording, folder: Path) -> None:
    config = BertConfig(
        vocab_size=500,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
    )
    BertModel(config).save_pretrained(folder / "encoder")
    torch.manual_seed(1)
    classifier, info = BertForSequenceClassification.from_pretrained(
        folder / "encoder", num_labels=3, output_loading_info=True
    )
    recording.result("missing", sorted(info["missing_keys"]))
    recording.result("unexpected", sorted(info["unexpected_keys"]))
    classifier.save_pretrained(folder / "classifier")

    torch.manual_seed(2)
    _, info = BertForSequenceClassification.from_pretrained(
        folder / "classifier", num_labels=5, ignore_mismatched_sizes=True, output_loading_info=True
    )
    recording.result("mismatched", sorted(str(key) for key in info["mismatched_keys"]))


def train_and_resume(recording: Recording) -> None:
    data = [{"input_ids": row, "labels": row} for row in TOKENS.repeat(4, 1)]
    # The trainer stores absolute paths and times too: none of its files can be compared.
    with tempfile.TemporaryDirectory() as folder:
        for steps in (2, 4):
            torch.manual_seed(0)
            arguments = TrainingArguments(
                folder,
                max_steps=steps,
                save_steps=2,
                per_device_train_batch_size=2,
                use_cpu=True,
                report_to=[],
                disable_tqdm=True,
                seed=0,
            )
            config = GPT2Config(vocab_size=50, n_positions=12, n_embd=16, n_layer=1, n_head=2)
            trainer = Trainer(GPT2LMHeadModel(config), arguments, train_dataset=data)
            trainer.train(resume_from_checkpoint=steps > 2)
            recording.result(f"after {steps} steps", digest(trainer.model.state_dict()))


def main(folder: Path) -> None:
    torch.manual_seed(0)
    recording = Recording()
    save_and_load(recording, folder)
    offload_to_disk(recording, folder)
    parts_of_other_models(recording, folder)
    train_and_resume(recording)
    recording.finish()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
