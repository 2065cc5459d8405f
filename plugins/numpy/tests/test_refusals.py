"""What NumPy can hold and the format cannot, and the other way round, is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes  # gives NumPy the names of its types
import numpy as np
import pytest

from safetensors_core import (
    FrameworkNotFoundError,
    InvalidInputError,
    SafetensorError,
    UnsupportedDtypeError,
)
from safetensors_numpy import load, load_file, save, save_file


@pytest.mark.parametrize(
    "dtype",
    ["c16", "g", "O", "U3", "S3", "V2", "M8[s]", "m8[s]", "f4,i4", ml_dtypes.int4],
)
def test_a_dtype_that_the_format_has_not_is_refused_with_the_array_s_name(
    tmp_path: Path, dtype: Any
) -> None:
    arrays = {"fine": np.zeros(2), "layer.7": np.zeros(2, dtype)}
    with pytest.raises(UnsupportedDtypeError, match=r"tensor 'layer\.7': dtype") as caught:
        save_file(arrays, tmp_path / "model.safetensors")
    assert caught.value.tensor == "layer.7"
    assert caught.value.dtype == str(np.dtype(dtype))
    assert not list(tmp_path.iterdir())


def test_a_record_array_is_refused() -> None:
    with pytest.raises(UnsupportedDtypeError, match="tensor 'w'"):
        save({"w": np.rec.array([(1, 2.0)], dtype=[("x", "i4"), ("y", "f4")])})


@pytest.mark.parametrize(
    "masked", [np.ma.array([1, 2], mask=[False, True]), np.ma.masked], ids=repr
)
def test_a_masked_array_is_refused_because_its_mask_would_be_lost(masked: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"tensor 'w': a masked array.*filled\(\)"):
        save({"w": masked})


@pytest.mark.parametrize("value", [[1.0, 2.0], 1.0, "numpy", None, b"bytes", {}])
def test_what_is_no_array_is_refused_with_its_name(value: Any) -> None:
    with pytest.raises(SafetensorError, match="tensor 'w'"):
        save({"w": value})


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "meta", 0, "CPU"])
def test_a_device_other_than_the_host_is_refused(tmp_path: Path, device: Any) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"w": np.zeros(2)}, path)
    message = f"live on the 'cpu', not on {device!r}"
    with pytest.raises(InvalidInputError, match=message):
        load(path.read_bytes(), device)
    for backend in ("mmap", "pread"):
        with pytest.raises(InvalidInputError, match=message):
            load_file(path, device, backend=backend)


@pytest.mark.parametrize(
    ("shape", "nbytes"),
    [([1] * 65, 4), ([0, 2**62, 2**62], 0), ([2**63, 0], 0)],
    ids=["65 dimensions", "too long", "longer than an index"],
)
def test_a_shape_that_no_array_can_have_is_refused_with_its_name(
    shape: list[int], nbytes: int
) -> None:
    entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, nbytes]}
    header = json.dumps({"w": entry}).encode()
    data = len(header).to_bytes(8, "little") + header + bytes(nbytes)
    with pytest.raises(SafetensorError, match="tensor 'w'"):
        load(data)


@pytest.mark.parametrize("data", ["text", 7, None, [1]])
def test_what_is_no_buffer_is_refused_by_its_type(data: Any) -> None:
    with pytest.raises(InvalidInputError, match=f"got {type(data).__name__}"):
        load(data)


def test_an_object_that_an_installed_plugin_refuses_is_not_answered_with_its_installation() -> None:
    kind = type("Other", (), {"__module__": "numpy.other"})
    with pytest.raises(FrameworkNotFoundError, match="Make it a tensor") as caught:
        save({"w": kind()})
    assert "pip install" not in str(caught.value)
