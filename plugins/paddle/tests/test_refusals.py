"""What the format cannot hold is refused by the tensor's name, before the file is touched."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from safetensors_core import (
    InvalidInputError,
    SafetensorError,
    UnsupportedDtypeError,
    get_framework,
)
from safetensors_paddle import load, load_into, save, save_file


def rows() -> Any:
    """The gradient of an embedding, which Paddle keeps for the rows in use only."""
    embedding = paddle.nn.Embedding(10, 4, sparse=True)
    embedding(paddle.to_tensor([1, 2])).sum().backward()
    return embedding.weight.grad


def uninitialized() -> Any:
    with paddle.LazyGuard():
        return paddle.nn.Linear(2, 3).weight


def distributed() -> Any:
    mesh = paddle.distributed.ProcessMesh([0], dim_names=["x"])
    replicated = [paddle.distributed.Replicate()]
    return paddle.distributed.shard_tensor(paddle.ones([2, 3]), mesh, replicated)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "sparse": (lambda: paddle.eye(3).to_sparse_coo(2), "sparse.*to_dense"),
    "sparse by rows": (lambda: paddle.eye(3).to_sparse_csr(), "sparse.*to_dense"),
    "selected rows": (rows, "selected rows"),
    "without data yet": (uninitialized, "uninitialized.*initialize"),
    "distributed": (distributed, "distributed.*unshard_dtensor"),
    "a list": (lambda: [1.0, 2.0], "list"),
    "a number": (lambda: 1.0, "float"),
    "a name": (lambda: "paddle", "expected a tensor, got str"),
    "nothing": (lambda: None, "NoneType"),
    "a layer": (lambda: paddle.nn.Linear(1, 1), "Linear"),
    "a state dict": (lambda: paddle.nn.Linear(1, 1).state_dict(), "OrderedDict"),
}


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A file that is there already."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"the old file")
    return path


def assert_untouched(target: Path) -> None:
    assert target.read_bytes() == b"the old file"
    assert os.listdir(target.parent) == [target.name]


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_saved_is_refused_with_its_name(target: Path, case: str) -> None:
    make, message = REFUSED[case]
    with pytest.raises(SafetensorError, match=rf"tensor 'layer\.7': .*{message}"):
        save_file({"fine": paddle.zeros([3]), "layer.7": make()}, target)
    assert_untouched(target)


@pytest.mark.parametrize("dtype", ["complex128", "uint16", "uint32", "uint64"])
def test_a_dtype_that_the_plugin_lacks_is_refused_by_its_own_name(target: Path, dtype: str) -> None:
    if dtype == "complex128":
        tensor = paddle.to_tensor([1j], dtype=dtype)
    else:
        tensor = paddle.from_dlpack(np.ones(3, dtype))
    with pytest.raises(
        UnsupportedDtypeError, match=rf"tensor 'w': dtype {dtype} .*astype"
    ) as error:
        save_file({"w": tensor}, target)
    assert error.value.dtype == dtype
    assert_untouched(target)


def test_parameters_and_tensors_with_gradients_are_saved() -> None:
    layer = paddle.nn.Linear(2, 3)
    scaled = layer.weight * 2
    loaded = load(save({"weight": layer.weight, "scaled": scaled}))
    assert np.array_equal(loaded["weight"].numpy(), layer.weight.numpy())
    assert np.array_equal(loaded["scaled"].numpy(), scaled.numpy())
    assert not layer.weight.stop_gradient
    assert loaded["weight"].stop_gradient


def test_tensors_that_share_memory_are_saved_one_by_one() -> None:
    whole = paddle.arange(6, dtype="float32").reshape([2, 3])
    tensors = {"whole": whole, "again": whole, "row": whole[1], "turned": whole.T}
    loaded = load(save(tensors))
    assert loaded["again"].tolist() == loaded["whole"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert loaded["row"].tolist() == [3, 4, 5]
    assert loaded["turned"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert list(tensors) == ["whole", "again", "row", "turned"]


def test_views_of_one_memory_have_one_storage_key() -> None:
    framework = get_framework("paddle")
    whole = paddle.ones([4, 3])
    keys = {framework.storage_key(tensor) for tensor in (whole, whole[2], whole.T, whole[1:, 1])}
    assert len(keys) == 1
    assert framework.storage_key(paddle.ones([4, 3])) not in keys
    assert framework.storage_key(paddle.ones([0])) is None
    assert framework.storage_key(uninitialized()) is None


@pytest.mark.parametrize("shape", ["[1,1,1,1,1,1,1,1,1,1]", "[0,1,1,1,1,1,1,1,1,1]"])
def test_more_dimensions_than_paddle_has_are_refused_with_the_tensor_s_name(shape: str) -> None:
    nbytes = 0 if "0" in shape else 4
    header = f'{{"w":{{"dtype":"F32","shape":{shape},"data_offsets":[0,{nbytes}]}}}}'
    data = len(header).to_bytes(8, "little") + header.encode() + bytes(nbytes)
    with pytest.raises(InvalidInputError, match=r"tensor 'w': .*more than 9 dimensions"):
        load(data)


def test_a_dimension_that_paddle_cannot_count_is_refused_with_the_tensor_s_name() -> None:
    header = '{"w":{"dtype":"F32","shape":[0,9223372036854775808],"data_offsets":[0,0]}}'
    data = len(header).to_bytes(8, "little") + header.encode()
    with pytest.raises(
        InvalidInputError, match=r"tensor 'w': Paddle has no tensor of shape \[0, 9"
    ):
        load(data)


STATIC = """
import sys, warnings
warnings.simplefilter("ignore")
import paddle
from safetensors_core import InvalidInputError
from safetensors_paddle import load, load_file, save, save_file

eager = paddle.ones([2, 3]).T
data = save({"w": paddle.ones([2]).astype("bfloat16")})
paddle.enable_static()
made = [
    paddle.static.data("x", [2, 3]),
    paddle.static.create_parameter([2, 3], "float32"),
    eager,
]
for tensor in made:
    try:
        save({"w": tensor})
    except InvalidInputError as error:
        print(error)
try:
    load(data)
except InvalidInputError as error:
    print(error)
paddle.disable_static()
print(load(data)["w"].astype("float32").tolist())
"""


@pytest.mark.parametrize("representation", ["0", "1"])
def test_static_graph_mode_is_refused_and_ends_no_process(representation: str) -> None:
    # The other representation of programs is a setting of the whole process.
    done = subprocess.run(
        [sys.executable, "-c", STATIC],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "FLAGS_enable_pir_api": representation},
    )
    variable, other_variable, eager, loaded, back = done.stdout.splitlines()
    assert variable == other_variable
    assert "tensor 'w': a variable of a static graph has no data" in variable
    assert "tensor 'w': Paddle is in static graph mode: call paddle.disable_static()" in eager
    assert "static graph mode, which has no tensors" in loaded
    assert back == "[1.0, 1.0]"


def test_a_view_whose_elements_overlap_is_not_filled(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"w": paddle.ones([2, 3])}, path)
    with pytest.raises(InvalidInputError, match="several elements are one in memory"):
        load_into({"w": paddle.zeros([4]).unfold(0, 3, 1)}, path)
