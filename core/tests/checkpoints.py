"""Checkpoints of several files, written without the package's own writer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.tests.raw import RawTensor, file_bytes

INDEX = "model.safetensors.index.json"


def write_index(folder: Path, weight_map: Mapping[str, str], metadata: Mapping[str, Any]) -> Path:
    """An index as it is given."""
    path = folder / INDEX
    path.write_text(json.dumps({"metadata": metadata, "weight_map": weight_map}), "utf-8")
    return path


def write_shards(
    folder: Path,
    shards: Mapping[str, Mapping[str, RawTensor]],
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Files by name with tensors in the order given, and their index."""
    folder.mkdir(exist_ok=True)
    weight_map: dict[str, str] = {}
    for file, tensors in shards.items():
        (folder / file).write_bytes(file_bytes(tensors, metadata))
        weight_map.update(dict.fromkeys(tensors, file))
    nbytes = sum(len(tensor.data) for tensors in shards.values() for tensor in tensors.values())
    write_index(folder, weight_map, {"total_size": nbytes})
    return folder
