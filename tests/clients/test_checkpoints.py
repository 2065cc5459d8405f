"""Checkpoints that other libraries write are loaded here, and those written here load there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from safetensors_core import load_file, safe_open, save_checkpoint

# What the libraries warn about in themselves is not what is tested.
pytestmark = pytest.mark.filterwarnings("ignore")

State = dict[str, torch.Tensor]


def assert_same(found: State, expected: State) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def states() -> dict[str, State]:
    """Tensors in orders and sizes that cut files in different places."""
    generator = torch.Generator().manual_seed(0)

    def tensor(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    sizes = [3, 50, 1, 200, 7, 0, 30, 30, 30, 90, 2]
    return {
        "many sizes": {f"w.{i}": tensor(size) for i, size in enumerate(sizes)},
        "other order": {f"w.{i}": tensor(size) for i, size in enumerate(reversed(sizes))},
        "dtypes": {
            str(dtype): tensor(5, 4, dtype=dtype)
            for dtype in (torch.float64, torch.bfloat16, torch.int8, torch.bool, torch.float16)
        },
        "scalars": {name: tensor() for name in "cab"},
        "one large": {"a": tensor(1), "large": tensor(1000), "b": tensor(1)},
    }


@pytest.mark.parametrize("state", ["many sizes", "other order", "dtypes", "scalars", "one large"])
@pytest.mark.parametrize("limit", [4, 100, 250, "0.4KB", "1MB"])
def test_the_files_are_those_of_huggingface_hub(
    tmp_path: Path, states: dict[str, State], state: str, limit: int | str
) -> None:
    from huggingface_hub import save_torch_state_dict

    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    theirs.mkdir()
    save_torch_state_dict(states[state], theirs, max_shard_size=limit)
    save_checkpoint(states[state], ours, limit, {"format": "pt"})

    found, expected = contents(ours), contents(theirs)
    assert found.keys() == expected.keys()
    index = found.pop("model.safetensors.index.json", None)
    their_index = expected.pop("model.safetensors.index.json", None)
    assert found == expected
    if index is not None:
        document = json.loads(index)
        # Theirs has the metadata of the user in the index, too, but no format of the tensors.
        assert document["metadata"].pop("format") == "pt"
        assert document == json.loads(their_index or b"")


@pytest.fixture
def model() -> Any:
    """A model of transformers, of a few kilobytes, some of whose weights are tied."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=64, n_positions=16, n_embd=16, n_layer=3, n_head=2)
    return GPT2LMHeadModel(config).eval()


def stored(model: nn.Module) -> State:
    """The state of a model, each tensor once, as files have it."""
    state = dict(model.state_dict())
    state.pop("lm_head.weight", None)  # the embedding
    return state


@pytest.mark.parametrize("limit", ["5KB", "20KB", "5GB"])
def test_what_transformers_saves_is_loaded(tmp_path: Path, model: Any, limit: str) -> None:
    model.save_pretrained(tmp_path, max_shard_size=limit)
    assert_same(load_file(tmp_path, "torch"), stored(model))
    with safe_open(tmp_path, "torch") as file:
        assert_same({name: file.get_tensor(name) for name in file.keys()}, stored(model))  # noqa: SIM118


@pytest.mark.parametrize("limit", ["5KB", "20KB", "5GB"])
def test_transformers_loads_what_is_saved(tmp_path: Path, model: Any, limit: str) -> None:
    from transformers import GPT2LMHeadModel

    save_checkpoint(stored(model), tmp_path, limit, {"format": "pt"})
    model.config.save_pretrained(tmp_path)
    loaded, report = GPT2LMHeadModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert_same(dict(loaded.state_dict()), dict(model.state_dict()))


def test_a_checkpoint_of_transformers_is_replaced_and_its_other_files_stay(
    tmp_path: Path, model: Any
) -> None:
    from transformers import GPT2LMHeadModel

    model.save_pretrained(tmp_path, max_shard_size="5KB")
    before = contents(tmp_path)
    state = {name: tensor + 1 for name, tensor in stored(model).items()}
    save_checkpoint(state, tmp_path, "20KB", {"format": "pt"})
    after = contents(tmp_path)
    kept = {name for name in before if not name.startswith("model")}
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    loaded = GPT2LMHeadModel.from_pretrained(tmp_path)
    assert_same(stored(loaded), state)


@pytest.mark.parametrize("limit", ["5KB", "5GB"])
def test_what_accelerate_saves_is_loaded(tmp_path: Path, limit: str) -> None:
    from accelerate import Accelerator

    layers = nn.Sequential(*(nn.Linear(24, 24) for _ in range(4)))
    Accelerator(cpu=True).save_model(layers, tmp_path, max_shard_size=limit)
    assert_same(load_file(tmp_path, "torch"), dict(layers.state_dict()))


@pytest.mark.parametrize("limit", ["5KB", "5GB"])
def test_accelerate_loads_what_is_saved(tmp_path: Path, limit: str) -> None:
    from accelerate import (
        init_empty_weights,
        load_checkpoint_and_dispatch,
        load_checkpoint_in_model,
    )

    def layers() -> nn.Module:
        return nn.Sequential(*(nn.Linear(24, 24) for _ in range(4)))

    model, filled = layers(), layers()
    save_checkpoint(dict(model.state_dict()), tmp_path, limit, {"format": "pt"})
    load_checkpoint_in_model(filled, str(tmp_path))
    assert_same(dict(filled.state_dict()), dict(model.state_dict()))
    with init_empty_weights():
        empty = layers()
    dispatched = load_checkpoint_and_dispatch(empty, str(tmp_path), device_map={"": "cpu"})
    assert_same(dict(dispatched.state_dict()), dict(model.state_dict()))


@pytest.mark.parametrize("limit", ["5KB", "5GB"])
def test_diffusers_and_this_package_load_what_the_other_saves(tmp_path: Path, limit: str) -> None:
    from diffusers import UNet1DModel

    def unet() -> Any:
        return UNet1DModel(
            sample_size=16,
            block_out_channels=(8, 8),
            down_block_types=("DownBlock1DNoSkip", "DownBlock1D"),
            up_block_types=("UpBlock1D", "UpBlock1DNoSkip"),
            norm_num_groups=4,
        )

    model = unet()
    state = dict(model.state_dict())
    model.save_pretrained(tmp_path / "theirs", max_shard_size=limit)
    assert_same(load_file(tmp_path / "theirs", "torch"), state)

    pattern = "diffusion_pytorch_model{suffix}.safetensors"
    save_checkpoint(state, tmp_path / "ours", limit, {"format": "pt"}, pattern)
    model.save_config(tmp_path / "ours")
    assert_same(dict(UNet1DModel.from_pretrained(tmp_path / "ours").state_dict()), state)


def test_a_killed_save_leaves_an_index_that_transformers_can_follow(
    tmp_path: Path, model: Any
) -> None:
    from transformers import GPT2LMHeadModel

    # What stands in a folder when the process is killed between the renames: the files of the
    # old checkpoint under their second names, and an index that names these.
    save_checkpoint(stored(model), tmp_path, "5KB", {"format": "pt"})
    model.config.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    for name, file in index["weight_map"].items():
        second = f".{file}.0123456789abcdef.previous.safetensors"
        if (tmp_path / file).exists():
            (tmp_path / file).rename(tmp_path / second)
        index["weight_map"][name] = second
    path.write_text(json.dumps(index))
    assert_same(stored(GPT2LMHeadModel.from_pretrained(tmp_path)), stored(model))
    assert_same(load_file(tmp_path, "torch"), stored(model))
