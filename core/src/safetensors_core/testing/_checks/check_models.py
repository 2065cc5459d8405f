"""Files as models have them: many tensors of mixed dtypes, large ones, or none at all."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from safetensors_core import Dtype, Framework, TensorSpec, load, load_file, safe_open, save_file
from safetensors_core.layout import lay_out
from safetensors_core.testing.observation import difference
from safetensors_core.testing.samples import bytes_of, data_of, make

COUNT = 300
SHAPES = [(8,), (16,), (5, 8), (0, 8), (2, 3, 8)]
LARGE = 20 * 1024 * 1024  # bytes: core reads files from 16 MiB on in parallel


class Sample(NamedTuple):
    """A tensor of the model."""

    spec: TensorSpec
    data: bytes


@pytest.fixture(scope="module")
def model(framework: Framework) -> dict[str, Sample]:
    """Tensors of all dtypes of the framework, whose contents differ."""
    dtypes = [dtype for dtype in Dtype if dtype in framework.dtypes]
    found = {}
    for i in range(COUNT if dtypes else 0):
        dtype, shape = dtypes[i % len(dtypes)], SHAPES[i // len(dtypes) % len(SHAPES)]
        found[f"layer.{i}"] = Sample(TensorSpec(dtype, shape), data_of(dtype, shape, 4 * i))
    return found


def file_of(model: dict[str, Sample]) -> bytes:
    """The file that every plugin writes of these tensors."""
    beginning, infos = lay_out({name: spec for name, (spec, _) in model.items()}, None, 8)
    return beginning + b"".join(model[name].data for name in infos)


@pytest.fixture(params=["mmap", "pread"])
def backend(request: pytest.FixtureRequest) -> Any:
    return request.param


def check(framework: Framework, tensors: dict[str, Any], model: dict[str, Sample]) -> None:
    """Each tensor is the one that the file has under its name."""
    for name, tensor in tensors.items():
        spec, data = model[name]
        assert framework.describe(tensor) == spec, f"{name!r} has the dtype or shape of another"
        other = difference(bytes_of(framework, tensor), data)
        assert not other, f"{name!r} holds the data of another tensor"


def test_many_tensors_of_all_dtypes_are_saved(
    framework: Framework, model: dict[str, Sample], tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    save_file(
        {
            name: make(framework, spec.dtype, spec.shape, bytearray(data))
            for name, (spec, data) in model.items()
        },
        path,
    )
    same = path.read_bytes() == file_of(model)
    assert same, "tensors of several dtypes in one file are saved as other bytes than one by one"


def test_many_tensors_of_all_dtypes_are_loaded(
    framework: Framework, model: dict[str, Sample], backend: Any, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(file_of(model))
    tensors = load_file(path, framework, framework.devices()[0], backend=backend)
    assert tensors.keys() == model.keys()
    check(framework, tensors, model)


def test_some_of_many_tensors_are_loaded_in_the_order_that_was_asked_for(
    framework: Framework, model: dict[str, Sample], backend: Any, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(file_of(model))
    with safe_open(path, framework, framework.devices()[0], backend=backend) as file:
        orders = (file.keys()[::3], file.offset_keys()[1::-2], sorted(model)[::-7])
        for names in filter(None, orders):  # a plugin that declares no dtype has no names
            source, _ = file.locate(names[0])
            infos = {name: file.header.tensors[name] for name in names}
            tensors = framework.load(source, infos, framework.devices()[0])
            assert list(tensors) == names, "from_buffers or load changed the order of the names"
            check(framework, tensors, model)
            assert list(file.get_tensors(names)) == names


def test_a_large_tensor_comes_back_bit_for_bit(
    framework: Framework, sized_dtype: Dtype, backend: Any, tmp_path: Path
) -> None:
    row = 1000 * sized_dtype.bits // 8
    shape = (LARGE // row + 1, 1000)
    data = random.Random(0).randbytes(shape[0] * row)
    if sized_dtype is Dtype.BOOL:
        data = data.translate(bytes([0, 1] * 128))
    path, again = tmp_path / "large.safetensors", tmp_path / "again.safetensors"
    path.write_bytes(file_of({"w": Sample(TensorSpec(sized_dtype, shape), data)}))
    with safe_open(path, framework, framework.devices()[0], backend=backend) as file:
        save_file({"w": file.get_tensor("w")}, again)
        rows = bytes_of(framework, file.get_slice("w")[-3:])
    same = again.read_bytes() == path.read_bytes()
    assert same, f"a tensor of {len(data):,} bytes does not come back bit for bit"
    assert not difference(rows, data[-3 * row :]), "the last rows of a large tensor are others"


def test_a_file_without_tensors_is_loaded(
    framework: Framework, backend: Any, tmp_path: Path
) -> None:
    path = tmp_path / "none.safetensors"
    path.write_bytes(file_of({}))
    assert load_file(path, framework, framework.devices()[0], backend=backend) == {}
    assert load(file_of({}), framework, framework.devices()[0]) == {}
