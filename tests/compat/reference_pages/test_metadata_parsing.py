"""What the page about metadata shows: a header read with two small requests."""

from __future__ import annotations

import json
import struct
import urllib.request
from collections import Counter
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.compat.reference_pages.range_server import serving

Tensors = dict[str, np.ndarray[Any, Any]]
FIRST: Tensors = {
    "h.0.weight": np.zeros((300, 40), np.float32),
    "h.0.bias": np.zeros(40, np.float16),
}
SECOND: Tensors = {"h.1.weight": np.zeros((7, 5), np.float32), "ids": np.zeros(9, np.int64)}


def fetch(url: str, first: int, last: int) -> bytes:
    request = urllib.request.Request(url, headers={"Range": f"bytes={first}-{last}"})
    with urllib.request.urlopen(request) as response:
        assert response.status == 206
        found: bytes = response.read()
    return found


def parse_single_file(url: str) -> dict[str, Any]:
    """The header of a remote file, without its data."""
    (length,) = struct.unpack("<Q", fetch(url, 0, 7))
    header: dict[str, Any] = json.loads(fetch(url, 8, 7 + length))
    return header


def test_a_header_is_read_with_two_range_requests(tmp_path: Path) -> None:
    save_file(FIRST, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with serving(tmp_path) as (url, sent):
        header = parse_single_file(f"{url}/model.safetensors")
    assert header["__metadata__"] == {"format": "pt"}
    assert header["h.0.weight"] == {
        "dtype": "F32",
        "shape": [300, 40],
        "data_offsets": [0, 48_000],
    }
    assert header["h.0.bias"]["data_offsets"] == [48_000, 48_080]
    assert sum(sent) < 400


def test_parameters_are_counted_by_dtype(tmp_path: Path) -> None:
    save_file(FIRST | SECOND, tmp_path / "model.safetensors")
    with serving(tmp_path) as (url, _):
        header = parse_single_file(f"{url}/model.safetensors")
    counts: Counter[str] = Counter()
    for entry in header.values():
        counts[entry["dtype"]] += prod(entry["shape"])
    assert counts == {"F32": 12_035, "F16": 40, "I64": 9}


def repository(folder: Path, shards: dict[str, Tensors]) -> Path:
    """A model of the Hub as a folder that a server can show."""
    files = folder / "someone" / "model" / "resolve" / "main"
    files.mkdir(parents=True)
    for name, tensors in shards.items():
        save_file(tensors, files / name, metadata={"format": "pt"})
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": 1},
            "weight_map": {tensor: name for name, tensors in shards.items() for tensor in tensors},
        }
        (files / "model.safetensors.index.json").write_text(json.dumps(index))
    return files


def hub(url: str) -> Any:
    client = pytest.importorskip(
        "huggingface_hub", reason="huggingface_hub is only in the environment of the clients"
    )
    return client.HfApi(endpoint=url)


def test_the_hub_s_client_parses_one_file(tmp_path: Path) -> None:
    repository(tmp_path, {"model.safetensors": FIRST})
    with serving(tmp_path) as (url, _):
        found = hub(url).parse_safetensors_file_metadata("someone/model", "model.safetensors")
    assert found.metadata == {"format": "pt"}
    assert found.parameter_count == {"F32": 12_000, "F16": 40}
    assert found.tensors["h.0.weight"].shape == [300, 40]
    assert found.tensors["h.0.bias"].data_offsets == (48_000, 48_080)


@pytest.mark.parametrize("sharded", [False, True])
def test_the_hub_s_client_parses_a_repository(sharded: bool, tmp_path: Path) -> None:
    one, two = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    shards = {one: FIRST, two: SECOND} if sharded else {"model.safetensors": FIRST | SECOND}
    files = repository(tmp_path, shards)
    # What the client asks before it reads: whether the repository has that file.
    names = [{"type": "file", "path": path.name, "size": 1, "oid": "0"} for path in files.iterdir()]
    api = tmp_path / "api" / "models" / "someone" / "model"
    (api / "tree").mkdir(parents=True)
    (api / "paths-info").mkdir()
    (api / "tree" / "main").write_text(json.dumps(names))
    with serving(tmp_path) as (url, _):
        client = hub(url)
        client.file_exists = lambda repo_id, filename, **_: (
            tmp_path / repo_id / "resolve" / "main" / filename
        ).exists()
        found = client.get_safetensors_metadata("someone/model")
    assert found.sharded is sharded
    assert sorted(found.files_metadata) == sorted(shards)
    assert found.weight_map == {name: file for file, held in shards.items() for name in held}
    assert found.parameter_count == {"F32": 12_035, "F16": 40, "I64": 9}
