"""Open files are neither pickled nor copied."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest

from core.tests.raw import RawFramework, counting, file_bytes
from safetensors_core import Dtype, safe_open

RAW = RawFramework()
TENSOR = counting(Dtype.F32, 2, 3)


@pytest.mark.parametrize("copied", [pickle.dumps, copy.deepcopy])
@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_an_open_file_and_its_slices_are_not_pickled(
    tmp_path: Path, backend: Any, copied: Any
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(file_bytes({"a": TENSOR}))
    with safe_open(path, RAW, backend=backend) as file:
        for made in (file, file.get_slice("a")):
            with pytest.raises(TypeError, match="an open file cannot be pickled or copied"):
                copied(made)
        assert file.get_tensor("a") == TENSOR
