"""What `torch.save` wrote is read as torch reads it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.serialization import set_crc32_options

from safetensors_core import ConversionError, Dtype, UnsupportedDtypeError
from safetensors_core.convert import ForeignCheckpoint, StoredTensor
from safetensors_torch import _plugin
from safetensors_torch.framework import TorchFramework

FORMATS = pytest.mark.parametrize("legacy", [False, True], ids=["archive", "legacy"])


def write(path: Path, value: object, legacy: bool = False, protocol: int = 2) -> Path:
    torch.save(value, path, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    return path


def read(path: Path, optimizer: bool = False) -> ForeignCheckpoint:
    found = _plugin.safetensors_read_checkpoint(path, optimizer)
    assert found is not None
    assert (found.framework, found.format) == ("torch", "pt")
    return found


def content(stored: StoredTensor | Any) -> bytes:
    """The bytes of a tensor, which both ways to read it agree on."""
    assert isinstance(stored, StoredTensor)
    framework = TorchFramework()
    tensor = stored.read()
    assert framework.describe(tensor) == stored.spec
    data = bytes(framework.to_buffer(tensor))
    assert len(data) == stored.spec.nbytes
    if stored.chunks is not None:
        for _ in range(2):
            assert b"".join(bytes(chunk) for chunk in stored.chunks()) == data
    return data


def assert_same(found: ForeignCheckpoint, expected: Mapping[str, torch.Tensor]) -> None:
    framework = TorchFramework()
    assert list(found.tensors) == list(expected)
    for name, tensor in expected.items():
        stored = found.tensors[name]
        assert stored.spec == framework.describe(tensor), name
        assert content(stored) == bytes(framework.to_buffer(tensor)), name


def every_dtype() -> dict[str, torch.Tensor]:
    data = torch.arange(96, dtype=torch.uint8)
    return {str(dtype): data.clone().view(dtype) for dtype in TorchFramework.dtypes.values()}


@FORMATS
def test_all_dtypes_are_read_bit_by_bit(tmp_path: Path, legacy: bool) -> None:
    tensors = every_dtype()
    found = read(write(tmp_path / "a.pt", tensors, legacy))
    # Some of what torch writes in the old format, it cannot read itself.
    assert_same(found, tensors if legacy else torch.load(tmp_path / "a.pt", weights_only=True))
    assert {tensor.spec.dtype for _, tensor in found} == set(TorchFramework.dtypes)
    assert all(tensor.chunks is not None for _, tensor in found)


@FORMATS
def test_a_state_dict_is_read_under_its_names(tmp_path: Path, legacy: bool) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    found = read(write(tmp_path / "a.bin", model.state_dict(), legacy))
    assert_same(found, model.state_dict())
    assert not found.metadata
    assert not found.left_out


@FORMATS
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol_is_read(tmp_path: Path, legacy: bool, protocol: int) -> None:
    tensors = {"w": torch.arange(5.0), "b": torch.nn.Parameter(torch.ones(2, 3))}
    path = write(tmp_path / "a.pt", {**tensors, "epoch": 2**40, "note": "é"}, legacy, protocol)
    found = read(path)
    assert_same(found, tensors)
    assert found.metadata == {"epoch": str(2**40), "note": "é"}


@FORMATS
def test_views_are_read_as_the_tensors_that_they_are(tmp_path: Path, legacy: bool) -> None:
    base = torch.arange(60.0).reshape(3, 4, 5)
    signal = torch.fft.fft(torch.arange(6.0))
    tensors = {
        "whole": base,
        "part": base[1],
        "permuted": base.permute(2, 0, 1),
        "stepped": base[:, ::2, 1:],
        "expanded": torch.tensor([7.0]).expand(3, 2),
        "scalar": base[2, 3, 4],
        "one": torch.tensor(True),
        "empty": torch.zeros(0, 3),
        "nothing": base[:, :0],
        "conjugate": signal.conj(),
        "negative": (signal * 2).conj().imag,
        "zero": torch._efficientzerotensor((2,)) + 0,
        "module": torch.nn.Buffer(torch.ones(2)),
    }
    assert tensors["conjugate"].is_conj()
    assert tensors["negative"].is_neg()
    found = read(write(tmp_path / "a.pt", tensors, legacy))
    assert_same(found, torch.load(tmp_path / "a.pt", weights_only=True))
    lazy = {name for name, tensor in found if tensor.chunks is None}
    assert {"permuted", "stepped", "expanded", "conjugate"} <= lazy
    assert not lazy & {"whole", "part", "scalar", "one", "empty", "nothing", "module"}


def test_only_names_of_the_very_same_tensor_have_one_key(tmp_path: Path) -> None:
    base = torch.arange(12.0)
    tensors = {
        "embedding": base,
        "head": base.view(12),
        "begin": base[:6],
        "shaped": base.view(3, 4),
        "copy": base.clone(),
    }
    found = read(write(tmp_path / "a.pt", tensors))
    keys = {name: tensor.key for name, tensor in found}
    assert keys["embedding"] == keys["head"]
    assert len(set(keys.values())) == 4
    assert_same(found, tensors)


@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", "model", "module", "params"])
def test_weights_under_a_wrapper_lose_its_name(tmp_path: Path, wrapper: str) -> None:
    weights = {"layer.weight": torch.ones(2, 2), "layer.bias": torch.zeros(2)}
    found = read(write(tmp_path / "a.ckpt", {"epoch": 3, wrapper: weights, "lr": 0.5}))
    assert_same(found, weights)
    assert found.metadata == {"epoch": "3", "lr": "0.5"}


def test_what_lies_beside_wrapped_weights_is_left_out_with_a_reason(tmp_path: Path) -> None:
    weights = {"w": torch.ones(2)}
    saved = {
        "state_dict": weights,
        "model": {"w": torch.zeros(2)},
        "rng_state": torch.arange(4),
        "callbacks": {"best": [1, 2]},
        "seen": {1, 2},
    }
    found = read(write(tmp_path / "a.ckpt", saved))
    assert_same(found, weights)
    assert found.left_out.keys() == {"model", "rng_state", "callbacks", "seen"}
    assert found.left_out["model"] == "lies beside 'state_dict', which holds the weights"


def test_nested_dicts_and_lists_become_dotted_names(tmp_path: Path) -> None:
    one, two, three = torch.ones(1), torch.ones(2), torch.ones(3)
    saved = {
        "generator": {"layers": [one, {"w": two}]},
        7: (three,),
        "extra": None,
        "sizes": {"a": [1, 2]},
        "shape": torch.Size([2]),
        "raw": bytearray(b"abc"),
    }
    found = read(write(tmp_path / "a.pt", saved))
    assert_same(found, {"generator.layers.0": one, "generator.layers.1.w": two, "7.0": three})
    assert found.left_out == {
        "extra": "NoneType, not a tensor",
        "sizes": "dict without tensors",
        "shape": "tuple without tensors",
        "raw": "bytearray, not a tensor",
    }


def test_a_lone_tensor_and_a_list_of_tensors_have_names(tmp_path: Path) -> None:
    assert_same(read(write(tmp_path / "a.pt", torch.ones(2))), {"tensor": torch.ones(2)})
    saved = [torch.ones(2), torch.zeros(3)]
    assert_same(read(write(tmp_path / "b.pt", saved)), {"0": saved[0], "1": saved[1]})


def test_a_tuple_of_a_state_dict_and_other_things_is_read_like_a_list(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save(({"w": torch.ones(2)}, {"state": {}, "param_groups": []}, 3), path)
    found = read(path)
    assert list(found.tensors) == ["0.w"]
    assert found.left_out == {"1": "optimizer state"}
    assert found.metadata == {"2": "3"}


def trained() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    model = torch.nn.Linear(2, 3)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return model, optimizer


def test_optimizer_state_is_left_out_unless_it_is_asked_for(tmp_path: Path) -> None:
    model, optimizer = trained()
    saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 1}
    path = write(tmp_path / "a.pt", saved)
    assert_same(read(path), model.state_dict())
    assert read(path).left_out == {"optimizer": "optimizer state"}
    found = read(path, optimizer=True)
    moments = {
        f"optimizer.state.{number}.{name}": value
        for number, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }
    assert len(moments) == 6
    assert_same(found, {**model.state_dict(), **moments})
    assert found.left_out == {"optimizer.param_groups": "list without tensors"}


def test_several_optimizers_keep_their_own_names(tmp_path: Path) -> None:
    model, optimizer = trained()
    state = optimizer.state_dict()
    saved = {
        "net": model.state_dict(),
        "optimizer_g": state,
        "d": state,
        "optimizer_states": [state],
    }
    path = write(tmp_path / "a.pt", saved)
    assert read(path).left_out.keys() == {"optimizer_g", "d", "optimizer_states"}
    names = set(read(path, optimizer=True).tensors)
    assert "optimizer.d.state.0.exp_avg" in names
    assert "optimizer.optimizer_g.state.0.exp_avg" in names
    assert "optimizer.optimizer_states.0.state.0.exp_avg" in names


def test_a_file_of_an_optimizer_alone_says_how_to_keep_it(tmp_path: Path) -> None:
    path = write(tmp_path / "optimizer.pt", trained()[1].state_dict())
    with pytest.raises(ConversionError, match="optimizer=True or --optimizer"):
        read(path)
    assert "optimizer.state.0.step" in read(path, optimizer=True).tensors


def test_a_dtype_that_the_format_lacks_is_refused_by_name(tmp_path: Path) -> None:
    weights = {"ok": torch.ones(1), "z": torch.ones(1, dtype=torch.complex128)}
    found = read(write(tmp_path / "a.pt", weights))
    (error,) = found.refused.values()
    assert isinstance(error, UnsupportedDtypeError)
    location = tmp_path / "a.pt"
    assert str(error).startswith(f"{location}: tensor 'z': dtype torch.complex128")
    assert_same(found, {"ok": weights["ok"]})


def test_a_packed_f4_scalar_is_refused_by_name(tmp_path: Path) -> None:
    scalar = torch.tensor(3, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    found = read(write(tmp_path / "a.pt", {"ok": torch.ones(1), "w": scalar}))
    assert isinstance(found.refused["w"], ConversionError)
    assert "tensor 'w': a packed F4 tensor without dimensions" in str(found.refused["w"])
    assert_same(found, {"ok": torch.ones(1)})


def test_the_numbers_of_a_big_endian_machine_are_turned(tmp_path: Path) -> None:
    tensors = {
        "w": torch.arange(6.0).reshape(2, 3),
        "t": torch.arange(6).reshape(2, 3).t(),
        "c": torch.tensor([1 + 2j, 3 - 4j]),
        "u": torch.arange(4, dtype=torch.uint8),
    }
    turned = {name: tensor.clone() for name, tensor in tensors.items()}
    for tensor in turned.values():
        storage: Any = tensor.untyped_storage()
        storage.byteswap(torch.float32 if tensor.is_complex() else tensor.dtype)
    path = write(tmp_path / "little.pt", turned)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "big.pt", "w") as new:
        for name in old.namelist():
            new.writestr(name, b"big" if name.endswith("byteorder") else old.read(name))
    assert_same(read(tmp_path / "big.pt"), tensors)


def test_an_archive_that_was_saved_without_checksums_is_read(tmp_path: Path) -> None:
    set_crc32_options(False)
    try:
        path = write(tmp_path / "a.pt", {"w": torch.arange(4.0)})
    finally:
        set_crc32_options(True)
    assert_same(read(path), {"w": torch.arange(4.0)})


@FORMATS
def test_large_tensors_are_read_in_blocks(tmp_path: Path, legacy: bool) -> None:
    tensor = torch.arange(3 * 2**20, dtype=torch.int32)
    found = read(write(tmp_path / "a.pt", {"w": tensor}, legacy))
    stored = found.tensors["w"]
    assert stored.chunks is not None
    assert max(map(len, stored.chunks())) < stored.spec.nbytes / 2
    assert_same(found, {"w": tensor})


def test_a_closed_checkpoint_reads_nothing_more(tmp_path: Path) -> None:
    found = read(write(tmp_path / "a.pt", {"w": torch.ones(2)}))
    found.close()
    with pytest.raises(ValueError, match="is closed"):
        found.tensors["w"].read()


MEASURE = """
import re, sys, torch
from pathlib import Path
from safetensors_torch import _plugin
import safetensors_torch.checkpoints.reading

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

before = peak()
found = _plugin.safetensors_read_checkpoint(sys.argv[1], False)
total = sum(len(chunk) for _, tensor in found for chunk in tensor.chunks())
print(total, peak() - before)
"""


@FORMATS
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is Linux's to tell")
def test_the_memory_of_reading_does_not_grow_with_the_file(tmp_path: Path, legacy: bool) -> None:
    size = 256 * 2**20
    path = write(tmp_path / "a.pt", {"w": torch.zeros(size // 4), "b": torch.ones(8)}, legacy)
    ran = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)], check=True, capture_output=True, text=True
    )
    total, grown = map(int, ran.stdout.split())
    assert total == size + 32
    assert grown < 60 * 2**20


def test_recognising_a_file_imports_no_torch(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 nothing more")
    (tmp_path / "b.bin").write_bytes(b"GGUF....")
    (tmp_path / "c.pt").write_bytes(b"")
    program = (
        "import sys; from pathlib import Path; from safetensors_torch import _plugin\n"
        "for path in [*Path(sys.argv[1]).iterdir(), sys.argv[1]]:\n"
        "    assert _plugin.safetensors_read_checkpoint(path, False) is None, path\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)


@pytest.mark.parametrize(
    ("source", "target"),
    [(torch.float32, Dtype.BF16), (torch.float32, Dtype.F16), (torch.float64, Dtype.F32)],
)
def test_cast_rounds_as_torch_does(source: torch.dtype, target: Dtype) -> None:
    framework = TorchFramework()
    tensor = torch.linspace(-3, 3, 101, dtype=source) ** 5
    cast = framework.cast(tensor, target)
    assert torch.equal(cast, tensor.to(framework.dtypes[target]))
    assert torch.equal(framework.cast(cast, Dtype.F32), cast.float())


def test_permute_orders_dimensions_as_numpy_does() -> None:
    tensor = torch.arange(24).reshape(2, 3, 4)
    permuted = TorchFramework().permute(tensor, (2, 0, 1))
    assert permuted.shape == (4, 2, 3)
    assert all(
        permuted[k, i, j] == tensor[i, j, k] for i, j, k in [(0, 1, 2), (1, 2, 3), (1, 0, 0)]
    )
    np = pytest.importorskip("numpy")
    assert (np.transpose(tensor.numpy(), (2, 0, 1)) == permuted.numpy()).all()
