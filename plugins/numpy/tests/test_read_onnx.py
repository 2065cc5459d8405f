"""Initializers of ONNX models are read bit by bit as the package `onnx` reads them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from safetensors_core import (
    ConversionError,
    SafetensorError,
    UnsafeCheckpointError,
)
from safetensors_core.convert import ForeignCheckpoint, StoredTensor
from safetensors_numpy._plugin import safetensors_read_checkpoint
from safetensors_numpy.checkpoints import format_of
from safetensors_numpy.checkpoints.onnx import read_onnx
from safetensors_numpy.framework import NumpyFramework

Array = npt.NDArray[Any]
Content = Callable[[StoredTensor], tuple[Array, bytes]]

KINDS = {
    **{name: np.dtype(name) for name in ("f4", "f8", "f2", "c8", "?")},
    **{sign + size: np.dtype(sign + size) for sign in "iu" for size in "1248"},
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float4_e2m1fn": np.dtype(ml_dtypes.float4_e2m1fn),
    **{f"float6_{kind}": np.dtype(f"float6_{kind}") for kind in ("e2m3fn", "e3m2fn")},
    **{f"float8_{kind}": np.dtype(f"float8_{kind}") for kind in ("e4m3fn", "e5m2", "e8m0fnu")},
    **{f"float8_{kind}fnuz": np.dtype(f"float8_{kind}fnuz") for kind in ("e4m3", "e5m2")},
}
FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")


def model_of(*initializers: Any, nodes: Any = (), **fields: Any) -> Any:
    graph = helper.make_graph(list(nodes), "graph", [], [], list(initializers))
    return helper.make_model(graph, **fields)


def opened(path: Path) -> ForeignCheckpoint:
    found = safetensors_read_checkpoint(path)
    assert found is not None
    assert (found.framework, found.format) == ("numpy", "np")
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.onnx"


@pytest.fixture
def arrays() -> dict[str, Array]:
    values = np.random.default_rng(0).integers(0, 2**32, (2, 4, 3), np.uint32)
    return {name: values.astype("u1").astype(kind) for name, kind in KINDS.items()}


def written(array: Array) -> bytes:
    return bytes(NumpyFramework().to_buffer(array))


def expected(tensor: Any, folder: Path) -> bytes:
    return written(numpy_helper.to_array(tensor, str(folder)))


def test_initializers_of_raw_bytes_are_read_as_the_library_reads_them(
    path: Path, arrays: dict[str, Array], content: Content
) -> None:
    tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    tensors.append(numpy_helper.from_array(np.array(7, "f4"), "scalar"))
    tensors.append(numpy_helper.from_array(np.zeros((2, 0), "f4"), "empty"))
    assert all(tensor.HasField("raw_data") for tensor in tensors)
    onnx.save(model_of(*tensors), path)
    found = opened(path)
    assert list(found.tensors) == [*arrays, "scalar", "empty"]
    for tensor in tensors:
        read, data = content(found.tensors[tensor.name])
        assert read.shape == tuple(tensor.dims)
        assert read.dtype == KINDS.get(tensor.name, np.dtype("f4"))
        assert data == expected(tensor, path.parent)


def test_initializers_of_typed_values_are_read_as_the_library_reads_them(
    path: Path, arrays: dict[str, Array], content: Content
) -> None:
    tensors = []
    for name, array in arrays.items():
        code = helper.np_dtype_to_tensor_dtype(array.dtype)
        flat = array.reshape(-1)
        values = flat.tolist() if array.dtype.kind in "iufcb" else flat.astype("f4").tolist()
        tensors.append(helper.make_tensor(name, code, array.shape, values))
    assert not any(tensor.HasField("raw_data") for tensor in tensors)
    assert {field for tensor in tensors for field in FIELDS if getattr(tensor, field)} == {*FIELDS}
    onnx.save(model_of(*tensors), path)
    found = opened(path)
    for tensor in tensors:
        read, data = content(found.tensors[tensor.name])
        assert read.shape == tuple(tensor.dims)
        assert data == expected(tensor, path.parent) == written(arrays[tensor.name])


def test_what_the_model_says_of_itself_becomes_metadata(path: Path) -> None:
    model = model_of(producer_name="exporter", producer_version="2.1", ir_version=8)
    helper.set_model_props(model, {"author": "Änne", "epoch": "3"})
    onnx.save(model, path)
    assert dict(opened(path).metadata) == {
        "author": "Änne",
        "epoch": "3",
        "producer_name": "exporter",
        "producer_version": "2.1",
        "ir_version": "8",
    }


def branch(name: str, number: float) -> Any:
    weight = numpy_helper.from_array(np.array([number], "f4"), "weight")
    output = helper.make_tensor_value_info("out", TensorProto.FLOAT, [1])
    node = helper.make_node("Identity", ["weight"], ["out"])
    return helper.make_graph([node], name, [], [output], [weight])


def test_initializers_of_branches_are_named_after_their_nodes(path: Path, content: Content) -> None:
    branches = {"then_branch": branch("a", 1), "else_branch": branch("b", 2)}
    nodes = [
        helper.make_node("If", ["c"], ["x"], name="choice", **branches),
        helper.make_node("If", ["c"], ["y"], then_branch=branch("c", 3)),
    ]
    onnx.save(model_of(numpy_helper.from_array(np.array([0], "f4"), "weight"), nodes=nodes), path)
    found = opened(path)
    assert {name: content(tensor)[0].tolist() for name, tensor in found} == {
        "weight": [0],
        "choice/then_branch/weight": [1],
        "choice/else_branch/weight": [2],
        "If_1/then_branch/weight": [3],
    }


def test_constants_and_graphs_for_training_are_left_out_and_listed(path: Path) -> None:
    constant = numpy_helper.from_array(np.zeros(2, "f4"), "value")
    model = model_of(nodes=[helper.make_node("Constant", [], ["c1"], value=constant)])
    model.training_info.add().initialization.initializer.append(constant)
    onnx.save(model, path)
    found = opened(path)
    assert dict(found.tensors) == {}
    assert dict(found.left_out) == {
        "c1": "a constant of the graph, not a weight",
        "training_info": "graphs for training, not weights",
    }


def changed(**fields: Any) -> Any:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2], raw_data=bytes(8))
    for field, value in fields.items():
        if isinstance(value, list):
            del getattr(tensor, field)[:]
            getattr(tensor, field).extend(value)
        else:
            setattr(tensor, field, value)
    return tensor


DAMAGED = {
    "too few bytes": changed(raw_data=bytes(7)),
    "too many bytes": changed(raw_data=bytes(12)),
    "an exabyte": changed(dims=[2**60]),
    "a product that overflows": changed(dims=[2**62, 2**62]),
    "a negative dimension": changed(dims=[-2]),
    "many dimensions": changed(dims=[2] * 100_000),
    "values of another type": TensorProto(name="w", data_type=1, dims=[2], int64_data=[1, 2]),
    "no values": TensorProto(name="w", data_type=1, dims=[2]),
    "a segment": TensorProto(name="w", data_type=1, segment=TensorProto.Segment(begin=0)),
}


@pytest.mark.parametrize("tensor", DAMAGED.values(), ids=DAMAGED)
def test_a_shape_that_does_not_fit_its_values_is_refused(path: Path, tensor: Any) -> None:
    onnx.save(model_of(tensor), path)
    with pytest.raises(ConversionError, match="tensor 'w'") as caught:
        safetensors_read_checkpoint(path)
    assert len(str(caught.value)) < 1000


def test_two_initializers_of_one_name_are_refused(path: Path) -> None:
    onnx.save(model_of(changed(), changed()), path)
    with pytest.raises(ConversionError, match="two initializers 'w'"):
        safetensors_read_checkpoint(path)


# Files beside the model.


@pytest.mark.parametrize("one_file", [True, False])
def test_bytes_beside_the_model_are_read_as_the_library_reads_them(
    path: Path, arrays: dict[str, Array], content: Content, one_file: bool
) -> None:
    tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    place = {"all_tensors_to_one_file": one_file, "size_threshold": 0}
    onnx.save(model_of(*tensors), path, save_as_external_data=True, **place)
    assert len(list(path.parent.iterdir())) == (2 if one_file else 1 + len(arrays))
    found = opened(path)
    for tensor in onnx.load(path, load_external_data=False).graph.initializer:
        assert tensor.data_location == TensorProto.EXTERNAL
        assert content(found.tensors[tensor.name])[1] == expected(tensor, path.parent)
        assert found.tensors[tensor.name].chunks is not None


def external(name: str = "w", dims: tuple[int, ...] = (2,), **places: Any) -> Any:
    tensor = TensorProto(name=name, data_type=1, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in places.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


OUTSIDE = [
    "/etc/passwd",
    "../secret",
    "a/../../secret",
    "..",
    "",
    "C:\\secret",
    "..\\secret",
    "\\a",
]


@pytest.mark.parametrize("location", OUTSIDE)
def test_a_place_outside_of_the_folder_is_refused(path: Path, location: str) -> None:
    (path.parent.parent / "secret").write_bytes(bytes(8))
    onnx.save(model_of(external(location=location)), path)
    with pytest.raises(UnsafeCheckpointError, match=r"tensor 'w'.*outside of its folder"):
        safetensors_read_checkpoint(path)


@pytest.mark.parametrize("through_folder", [False, True])
def test_a_link_to_what_is_outside_of_the_folder_is_refused(
    tmp_path: Path, through_folder: bool
) -> None:
    folder, outside = tmp_path / "model", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (outside / "secret").write_bytes(bytes(8))
    (folder / "data").symlink_to(outside if through_folder else outside / "secret")
    location = "data/secret" if through_folder else "data"
    onnx.save(model_of(external(location=location)), folder / "model.onnx")
    with pytest.raises(UnsafeCheckpointError, match="a link to what is outside"):
        safetensors_read_checkpoint(folder / "model.onnx")


def test_a_folder_of_links_into_one_other_folder_is_read(tmp_path: Path, content: Content) -> None:
    """As the cache of the Hugging Face Hub has them."""
    for name in ("blobs", "snapshot"):
        (tmp_path / name).mkdir()
    onnx.save(model_of(external(location="model.onnx_data")), tmp_path / "blobs" / "1f")
    (tmp_path / "blobs" / "2e").write_bytes(np.arange(2, dtype="f4").tobytes())
    (tmp_path / "snapshot" / "model.onnx").symlink_to("../blobs/1f")
    (tmp_path / "snapshot" / "model.onnx_data").symlink_to("../blobs/2e")
    found = opened(tmp_path / "snapshot" / "model.onnx")
    assert content(found.tensors["w"])[0].tolist() == [0, 1]


PLACES: dict[str, dict[str, Any]] = {
    "no such file": {"location": "missing"},
    "a folder": {"location": "."},
    "an offset after the end": {"location": "data", "offset": 100},
    "a negative offset": {"location": "data", "offset": -8, "length": 8},
    "a length after the end": {"location": "data", "offset": 12, "length": 8},
    "a length that is not the tensor's": {"location": "data", "length": 4},
    "no length, and more in the file": {"location": "data"},
    "no number": {"location": "data", "offset": "x"},
}


@pytest.mark.parametrize("places", PLACES.values(), ids=PLACES)
def test_a_place_that_does_not_hold_the_tensor_is_refused(
    path: Path, places: dict[str, Any]
) -> None:
    (path.parent / "data").write_bytes(bytes(16))
    onnx.save(model_of(external(**places)), path)
    with pytest.raises(ConversionError):
        safetensors_read_checkpoint(path)


def test_a_pipe_beside_the_model_is_not_waited_for(path: Path) -> None:
    os.mkfifo(path.parent / "data")
    onnx.save(model_of(external(location="data")), path)
    with pytest.raises(ConversionError, match="no such file"):
        safetensors_read_checkpoint(path)


def test_tensors_at_one_place_are_the_same_and_those_that_overlap_are_refused(path: Path) -> None:
    (path.parent / "data").write_bytes(bytes(16))
    tensors = [external(name, location="data", offset=4, length=8) for name in "vw"]
    onnx.save(model_of(*tensors), path)
    keys = [tensor.key for _, tensor in opened(path)]
    assert keys[0] == keys[1] is not None
    onnx.save(model_of(*tensors, external("x", location="data", offset=0, length=8)), path)
    with pytest.raises(UnsafeCheckpointError, match="tensors 'x' and 'v' overlap"):
        safetensors_read_checkpoint(path)


# What is a model, and what is a damaged one.


@pytest.fixture(scope="module")
def small() -> bytes:
    tensors = [changed(), TensorProto(name="v", data_type=9, dims=[3], int32_data=[1, 0, 1])]
    model = model_of(*tensors, producer_name="p", ir_version=8)
    return bytes(model.SerializeToString())


def test_the_bytes_decide_and_not_the_name(tmp_path: Path, small: bytes) -> None:
    (tmp_path / "model.bin").write_bytes(small)
    assert format_of(tmp_path / "model.bin") == "onnx"
    others = [b"", b"\x80\x02}q.", b"\x0a\x03abc", b"\x08\x00" + small[2:], b"\x08\x08\x9a\x01\x00"]
    for data in others:
        (tmp_path / "model.onnx").write_bytes(data)
        assert safetensors_read_checkpoint(tmp_path / "model.onnx") is None


def test_every_prefix_is_refused(path: Path, small: bytes) -> None:
    for length in range(1, len(small)):
        path.write_bytes(small[:length])
        try:
            found = safetensors_read_checkpoint(path)
        except ConversionError as error:
            assert str(path) in str(error)  # noqa: PT017
        else:
            # Between two fields a message may end; then the graph must be whole.
            assert found is not None
            assert list(found.tensors) == ["w", "v"]


def test_a_field_that_claims_an_exabyte_is_refused(path: Path) -> None:
    path.write_bytes(b"\x08\x08\x12" + b"\xff" * 8 + b"\x7f" + b"name")
    with pytest.raises(ConversionError, match="the model cannot be read"):
        safetensors_read_checkpoint(path)


def test_no_changed_byte_gets_another_error_than_ours(path: Path, small: bytes) -> None:
    for position in range(len(small)):
        for byte in {0, 0x7F, 0xFF, small[position] ^ 1, small[position] ^ 0x80}:
            path.write_bytes(small[:position] + bytes([byte]) + small[position + 1 :])
            try:
                found = safetensors_read_checkpoint(path)
                for _, tensor in found or []:
                    tensor.read()
            except SafetensorError as error:
                assert str(path) in str(error)  # noqa: PT017  # a change may do no harm


def test_a_model_of_more_than_two_gib_is_refused_with_what_to_do(path: Path, small: bytes) -> None:
    path.write_bytes(small)
    os.truncate(path, 2**31)
    with pytest.raises(ConversionError, match=r"more than 2 GiB.*save_as_external_data=True"):
        safetensors_read_checkpoint(path)


def test_where_the_library_is_missing_the_error_says_what_to_install(
    path: Path, small: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_bytes(small)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ConversionError, match=r'pip install "safetensors-numpy\[onnx\]"'):
        read_onnx(path)
