"""A malicious file of each format that is made of pickles ends in one line, and in nothing else."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from safetensors_core.cli import main


class Malicious:
    """Runs a command where it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.trace}",)


def torch_archive(path: Path, harm: Malicious) -> None:
    torch.save({"w": torch.zeros(2), "harm": harm}, path)


def torch_legacy(path: Path, harm: Malicious) -> None:
    state = {"w": torch.zeros(2), "harm": harm}
    torch.save(state, path, _use_new_zipfile_serialization=False)


def bare_pickle(path: Path, harm: Malicious) -> None:
    path.write_bytes(pickle.dumps({"w": [1.0], "harm": harm}))


def objects(path: Path, harm: Malicious) -> None:
    with path.open("wb") as file:
        np.save(file, np.array([harm], object), allow_pickle=True)


def archive_of_objects(path: Path, harm: Malicious) -> None:
    with path.open("wb") as file:
        np.savez(file, w=np.zeros(2), harm=np.array([harm], object))


@pytest.mark.parametrize(
    ("name", "write"),
    [
        *[(f"m{ending}", torch_archive) for ending in (".bin", ".pt", ".pth", ".ckpt", ".other")],
        *[(f"m{ending}", torch_legacy) for ending in (".bin", ".pt", ".pth", ".ckpt", ".other")],
        *[(f"m{ending}", bare_pickle) for ending in (".bin", ".pt", ".ckpt")],
        *[(f"m{ending}", bare_pickle) for ending in (".pdparams", ".pdopt")],
        ("m.npy", objects),
        ("m.npz", archive_of_objects),
    ],
)
def test_a_malicious_file_leaves_one_line_and_nothing_else(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    name: str,
    write: Callable[[Path, Malicious], None],
) -> None:
    write(tmp_path / name, Malicious(tmp_path / "trace"))
    assert main(["convert", str(tmp_path / name), str(tmp_path / "out"), "--optimizer"]) == 2
    printed = capfd.readouterr()
    assert printed.out == ""
    [line] = printed.err.splitlines()
    assert f"{name}: its pickle asks for '{os.system.__module__}.system'" in line
    assert os.listdir(tmp_path) == [name]
