"""Checkpoints that would run code, or hold what is no plain tensor, are refused by name."""

from __future__ import annotations

import os
import pickle
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from plugins.torch.tests.forged import Call, forge, read, refusal
from plugins.torch.tests.wrappers import Scaled
from safetensors_core import Dtype, InvalidInputError, UnsafeCheckpointError
from safetensors_torch.framework import TorchFramework

FORMATS = pytest.mark.parametrize("legacy", [False, True], ids=["archive", "legacy"])


@FORMATS
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", ["posix.system", "builtins.eval", "builtins.exec"])
def test_code_in_a_checkpoint_is_named_and_not_run(
    tmp_path: Path, name: str, protocol: int, legacy: bool
) -> None:
    proof = tmp_path / "proof"
    module, function = name.split(".")
    code = f"touch {proof}" if name == "posix.system" else f"open({str(proof)!r}, 'w')"
    path = tmp_path / "model.bin"
    torch.save(
        {"w": torch.ones(3), "x": [Call(getattr(sys.modules[module], function), code)]},
        path,
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=not legacy,
    )
    assert f"'{name}'" in refusal(path, UnsafeCheckpointError)
    assert not proof.exists()


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("suffix", [".bin", ".pt", ".PTH", ".ckpt"])
def test_a_bare_pickle_that_runs_code_is_refused(
    tmp_path: Path, suffix: str, protocol: int
) -> None:
    proof = tmp_path / "proof"
    path = tmp_path / f"model{suffix}"
    call = Call(os.system, f"touch {proof}")
    for value in (call, {"w": call}, [1.0, call]):
        path.write_bytes(pickle.dumps(value, protocol))
        assert "'posix.system'" in refusal(path, UnsafeCheckpointError)
    assert not proof.exists()


def test_a_bare_pickle_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(pickle.dumps({"w": [1.0, 2.0]}))
    assert "not one that torch.save wrote" in refusal(tmp_path / "a.bin")
    (tmp_path / "a.pdparams").write_bytes(pickle.dumps({"w": [1.0, 2.0]}))
    assert read(tmp_path / "a.pdparams") is None


def test_what_else_is_in_the_modules_of_what_is_allowed_is_refused(tmp_path: Path) -> None:
    for data, name in [
        (b"\x80\x04\x8c\x05torch\x8c\x12serialization.load\x93.", "torch.serialization.load"),
        (b"\x80\x02ctorch\nload\n.", "torch.load"),
        (b"\x80\x02ccollections\nOrderedDict.fromkeys\n.", "collections.OrderedDict.fromkeys"),
    ]:
        text = refusal(forge(tmp_path / "a.pt", data), UnsafeCheckpointError)
        assert f"asks for '{name}', " in text


@FORMATS
def test_a_whole_module_is_refused_with_what_to_do(tmp_path: Path, legacy: bool) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
    text = refusal(tmp_path / "a.pt", UnsafeCheckpointError)
    assert "'torch.nn.modules.linear.Linear'" in text
    assert "state_dict()" in text


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_program_of_torchscript_is_refused(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "a.pt")
    assert "TorchScript" in refusal(tmp_path / "a.pt", UnsafeCheckpointError)


def test_the_tar_files_of_the_first_versions_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.pt", "w") as archive:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            archive.addfile(tarfile.TarInfo(name))
    assert "PyTorch 0.1" in refusal(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("value", "kind", "advice"),
    [
        (lambda: torch.eye(2).to_sparse(), "sparse", "to_dense()"),
        (lambda: torch.eye(2, device="meta"), "'meta'", "load the weights"),
        (
            lambda: torch.quantize_per_tensor(torch.eye(2), 0.1, 0, torch.qint8),
            "quantised",
            "dequantize()",
        ),
        (
            lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
            "nested",
            "one by one",
        ),
    ],
    ids=["sparse", "meta", "quantised", "nested"],
)
@pytest.mark.filterwarnings("ignore")  # torch says of these that they are prototypes or deprecated
def test_a_tensor_that_is_none_in_the_format_is_refused_by_name(
    tmp_path: Path, value: Callable[[], torch.Tensor], kind: str, advice: str
) -> None:
    path = tmp_path / "a.pt"
    torch.save({"model": {"layer.w": value(), "bias": torch.ones(2)}}, path)
    found = read(path, False)
    assert found is not None
    text = str(found.refused["layer.w"])
    assert text.startswith(f"{path}: tensor 'layer.w' is ")
    assert kind in text
    assert advice in text
    assert list(found.tensors) == ["bias"]
    assert found.tensors["bias"].read().equal(torch.ones(2))
    found.close()


def test_a_file_of_nothing_but_refused_tensors_says_why(tmp_path: Path) -> None:
    torch.save(torch.eye(2).to_sparse(), tmp_path / "a.pt")
    found = read(tmp_path / "a.pt", False)
    assert found is not None
    assert not found.tensors
    assert "save to_dense() of it" in str(found.refused["tensor"])
    found.close()


def test_a_refused_tensor_takes_its_name(tmp_path: Path) -> None:
    torch.save({"a": {"b": torch.eye(2).to_sparse()}, "a.b": torch.ones(2)}, tmp_path / "a.pt")
    assert "two tensors would get the name 'a.b'" in refusal(tmp_path / "a.pt")


def test_a_tensor_subclass_is_refused_with_what_to_do(tmp_path: Path) -> None:
    wrapped = Scaled((2,), torch.ones(2, dtype=torch.int8), torch.ones(1))
    torch.save({"w": wrapped}, tmp_path / "a.pt")
    text = refusal(tmp_path / "a.pt", UnsafeCheckpointError)
    assert "Scaled'" in text
    assert "plain tensor" in text


def test_files_of_other_formats_are_not_claimed(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("w.npy", b"")
    (tmp_path / "b.pt").write_bytes(b"")
    (tmp_path / "c.bin").write_bytes(b"GGUF" + bytes(100))
    (tmp_path / "d.pth").write_bytes(b"\x08" * 600)
    (tmp_path / "e.pt").mkdir()
    for path in [*tmp_path.iterdir(), tmp_path / "missing.pt"]:
        assert read(path) is None, path


def test_a_cast_or_a_permutation_that_is_none_is_refused() -> None:
    framework = TorchFramework()
    floats, numbers = torch.ones(2, 3), torch.ones(2, 3, dtype=torch.int32)
    for tensor, dtype in [(floats, Dtype.F4), (floats, Dtype.I32), (floats, Dtype.F6_E2M3)]:
        with pytest.raises(InvalidInputError, match="cannot round"):
            framework.cast(tensor, dtype)
    with pytest.raises(InvalidInputError, match="cannot round"):
        framework.cast(numbers, Dtype.F32)
    for axes in [(0,), (0, 0), (0, 2)]:
        with pytest.raises(InvalidInputError, match="has no axes"):
            framework.permute(floats, axes)
