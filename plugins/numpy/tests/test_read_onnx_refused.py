"""Initializers of ONNX models that no safetensors file can hold matter only where they are kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from safetensors_core import ConversionError, InvalidInputError, UnsupportedDtypeError
from safetensors_core.convert import ForeignCheckpoint, StoredTensor, convert_file
from safetensors_numpy._plugin import safetensors_read_checkpoint

Content = Callable[[StoredTensor], tuple[npt.NDArray[Any], bytes]]


def model_of(*initializers: Any) -> Any:
    return helper.make_model(helper.make_graph([], "graph", [], [], list(initializers)))


def opened(path: Path) -> ForeignCheckpoint:
    found = safetensors_read_checkpoint(path)
    assert found is not None
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.onnx"


REFUSED = {8: "STRING", 15: "COMPLEX128", 21: "UINT4", 22: "INT4", 25: "UINT2", 26: "INT2"}
REFUSED |= {0: "UNDEFINED", 99: "number 99 of ONNX"}


@pytest.mark.parametrize(("number", "kind"), list(REFUSED.items()))
def test_a_type_that_the_format_has_not_is_refused_by_name(
    path: Path, content: Content, number: int, kind: str
) -> None:
    fine = numpy_helper.from_array(np.ones(1, "f4"), "fine")
    onnx.save(model_of(TensorProto(name="w", data_type=number), fine), path)
    found = opened(path)
    assert isinstance(found.refused["w"], UnsupportedDtypeError)
    assert str(found.refused["w"]).startswith(f"{path}: tensor 'w': dtype {kind} ")
    assert list(found.tensors) == ["fine"]
    assert content(found.tensors["fine"])[1] == np.ones(1, "f4").tobytes()


def test_a_sparse_initializer_is_refused_by_name(path: Path) -> None:
    model = model_of(numpy_helper.from_array(np.ones(1, "f4"), "fine"))
    values = numpy_helper.from_array(np.ones(1, "f4"), "adapter.weight")
    indices = numpy_helper.from_array(np.zeros(1, "i8"), "indices")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [8]))
    onnx.save(model, path)
    found = opened(path)
    error = str(found.refused["adapter.weight"])
    assert error.startswith(f"{path}: initializer 'adapter.weight' is sparse")
    assert list(found.tensors) == ["fine"]

    model.graph.initializer[0].name = "adapter.weight"
    onnx.save(model, path)
    with pytest.raises(ConversionError, match=r"two initializers 'adapter\.weight'"):
        safetensors_read_checkpoint(path)


def test_a_tensor_that_ends_within_a_byte_only_matters_where_it_is_kept(path: Path) -> None:
    array = np.arange(3).astype(ml_dtypes.float4_e2m1fn)
    tensors = {"w": array, "fine": np.ones(1, "f4")}
    onnx.save(model_of(*(numpy_helper.from_array(a, name) for name, a in tensors.items())), path)
    assert opened(path).tensors["w"].read().tolist() == array.tolist()
    with pytest.raises(InvalidInputError, match=r"'w': F4 .* does not fill whole bytes"):
        convert_file(path)
    assert [tensor.name for tensor in convert_file(path, drop="w").files[0].tensors] == ["fine"]
