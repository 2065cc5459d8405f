"""Files of `paddle.save` are read exactly as `paddle.load` reads them."""

from __future__ import annotations

import collections
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import paddle
import pytest

from safetensors_core import ConversionError, Dtype
from safetensors_core.convert import ForeignCheckpoint
from safetensors_numpy.framework import NumpyFramework
from safetensors_paddle._plugin import safetensors_read_checkpoint as read

PROTOCOLS = pytest.mark.parametrize("protocol", [2, 3, 4])


def found(path: Path, optimizer: bool = False) -> ForeignCheckpoint:
    checkpoint = read(path, optimizer)
    assert checkpoint is not None
    return checkpoint


def loaded(path: Path) -> Any:
    return paddle.load(str(path))


def assert_same(checkpoint: ForeignCheckpoint, tensors: dict[str, Any]) -> None:
    """The same names in the same order, dtypes, shapes and bits, by either way of reading."""
    assert list(checkpoint.tensors) == list(tensors)
    for name, stored in checkpoint.tensors.items():
        tensor = tensors[name]
        expected = tensor.numpy() if isinstance(tensor, paddle.Tensor) else np.asarray(tensor)
        if isinstance(tensor, paddle.Tensor) and tensor.dtype == paddle.bfloat16:
            expected = expected.view(ml_dtypes.bfloat16)
        for _ in range(2):
            array = stored.read()
            assert NumpyFramework().describe(array) == stored.spec
            assert (array.dtype, array.shape) == (expected.dtype, expected.shape)
            assert array.tobytes() == expected.tobytes()
            if stored.chunks is not None:
                assert b"".join(stored.chunks()) == expected.tobytes()


class Model(paddle.nn.Layer):  # type: ignore[misc]
    """Parameters of two dtypes, the buffers of a norm, and what else a buffer can be."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = paddle.nn.Linear(3, 2)
        self.norm = paddle.nn.BatchNorm1D(2)
        self.half = self.create_parameter([2, 3], dtype="bfloat16")
        self.register_buffer("quantized", paddle.to_tensor([-128, 127], "int8"))
        self.register_buffer("mask", paddle.to_tensor([True, False]))
        self.register_buffer("scale", paddle.to_tensor(0.5, "float16"))
        self.register_buffer("none", paddle.zeros([0, 3], "float64"))
        self.register_buffer("steps", paddle.to_tensor([2**40], "int64"))
        self.register_buffer("bytes", paddle.to_tensor([255], "uint8"))
        self.register_buffer("wave", paddle.to_tensor([1 + 2j], "complex64"))

    def forward(self, inputs: Any) -> Any:
        return self.linear(inputs)


def trained() -> tuple[Model, Any]:
    model = Model()
    rate = paddle.optimizer.lr.NoamDecay(d_model=100, warmup_steps=100)
    optimizer = paddle.optimizer.Adam(rate, parameters=model.parameters())
    model(paddle.rand([4, 3])).sum().backward()
    optimizer.step()
    return model, optimizer


@PROTOCOLS
def test_the_state_of_a_layer_is_what_paddle_loads(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "model.pdparams"
    paddle.save(Model().state_dict(), str(path), protocol=protocol)
    checkpoint = found(path)
    assert_same(checkpoint, loaded(path))
    assert checkpoint.tensors["half"].spec.dtype is Dtype.BF16
    assert (checkpoint.framework, checkpoint.format) == ("numpy", "pd")
    assert list(checkpoint.left_out) == ["StructuredToParameterName@@"]


def test_the_protocol_that_a_mac_with_a_new_python_takes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.pdparams"
    arrays = {
        "w": np.arange(6, dtype="f4").reshape(2, 3),
        "columns": np.arange(6, dtype="f4").reshape(2, 3).T,
        "turned": np.arange(24, dtype="f4").reshape(2, 3, 4).transpose(2, 0, 1),
        "swapped": np.arange(3, dtype=">i4"),
    }
    path.write_bytes(pickle.dumps(arrays, protocol=5))
    expected = {name: array.astype(array.dtype.newbyteorder("<")) for name, array in arrays.items()}
    assert_same(found(path), expected)


@PROTOCOLS
def test_nested_tensors_get_the_names_of_the_way_to_them(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "all.pdparams"
    half = paddle.to_tensor([1.5, -2.0], "bfloat16")
    content = {
        "model": collections.OrderedDict({"a": half, "b": [paddle.ones([2]).t(), 1]}),
        "pair": (half,),
        "epoch": 3,
        "best": np.float32(0.5),
        "name": "x",
        "nothing": None,
        "large": 2**70,
    }
    paddle.save(content, str(path), protocol=protocol)
    checkpoint, result = found(path), loaded(path)
    assert_same(
        checkpoint,
        {
            "model.a": result["model"]["a"],
            "model.b.0": result["model"]["b"][0],
            "pair.0": result["pair"][0],
        },
    )
    assert dict(checkpoint.metadata) == {
        "model.b.1": "1",
        "epoch": "3",
        "best": "0.5",
        "name": "x",
    }
    assert dict(checkpoint.left_out) == {
        "nothing": "NoneType, not a tensor",
        "large": "int, not a tensor",
    }


def test_a_tensor_under_two_names_is_known_to_be_one(tmp_path: Path) -> None:
    path = tmp_path / "tied.pdparams"
    tensor = paddle.ones([2])
    paddle.save({"model": {"a": tensor, "b": tensor, "c": tensor + 0}}, str(path))
    a, b, c = (stored.key for stored in found(path).tensors.values())
    assert a == b
    assert a != c


def test_a_tensor_alone_has_the_name_that_it_has_within_paddle(tmp_path: Path) -> None:
    path = tmp_path / "one.pdparams"
    tensor = paddle.to_tensor([1.5, -2.0], "bfloat16")
    paddle.save(tensor, str(path))
    assert_same(found(path), {tensor.name: loaded(path)})


def test_arrays_of_numpy_beside_tensors_stay_what_they_are(tmp_path: Path) -> None:
    # A uint16 is a bfloat16 only where Paddle makes a tensor of it.
    path = tmp_path / "model.pdparams"
    numbers = np.array([1, 2], np.uint16)
    half = paddle.to_tensor([1.5, -2.0], "bfloat16")
    paddle.save({"w": half, "other": {"ids": numbers}}, str(path))
    assert_same(found(path), {"w": half, "other.ids": loaded(path)["other"]["ids"]})
    assert found(path).tensors["other.ids"].spec.dtype is Dtype.U16

    paddle.save({"model": {"w": half}, "ids": numbers}, str(path))
    assert_same(found(path), {"model.w": half, "ids": loaded(path)["ids"]})
    assert found(path).tensors["ids"].spec.dtype is Dtype.U16

    path.write_bytes(pickle.dumps({"model": {"ids": numbers}}, protocol=4))
    assert_same(found(path), {"model.ids": loaded(path)["model"]["ids"]})
    assert found(path).tensors["model.ids"].spec.dtype is Dtype.BF16


def test_arrays_that_paddle_splits_are_whole_again(tmp_path: Path) -> None:
    # As for protocol 2 an array of more than a GiB, which is too large for a test.
    path = tmp_path / "model.pdparams"
    whole = np.arange(6, dtype="f4").reshape(2, 3)
    content = {
        "b": np.ones(2, "f4"),
        "w@@.0": whole.ravel()[:4],
        "w@@.1": whole.ravel()[4:],
        "UnpackBigParamInfor@@": {"w": {"OriginShape": (2, 3), "slices": ["w@@.0", "w@@.1"]}},
    }
    path.write_bytes(pickle.dumps(content, protocol=2))
    assert_same(found(path), loaded(path))


def test_optimizer_state_is_left_out_unless_it_is_wanted(tmp_path: Path) -> None:
    model, optimizer = trained()
    path = tmp_path / "model.pdopt"
    paddle.save(optimizer.state_dict(), str(path))
    result = loaded(path)
    scheduler = result.pop("LR_Scheduler")

    with pytest.raises(ConversionError, match="no weights; ask for it with optimizer=True or --"):
        found(path)

    checkpoint = found(path, optimizer=True)
    assert_same(checkpoint, result)
    assert checkpoint.metadata["LR_Scheduler.last_epoch"] == str(scheduler["last_epoch"])

    path = tmp_path / "both.pdparams"
    paddle.save({"model": model.state_dict(), "opt": optimizer.state_dict()}, str(path))
    checkpoint = found(path)
    assert set(checkpoint.tensors) == {f"model.{name}" for name in model.state_dict()}
    assert dict(checkpoint.left_out) == {"opt": "optimizer state"}
    assert {f"opt.{name}" for name in result} < set(found(path, optimizer=True).tensors)


@pytest.fixture
def static_graph() -> Iterator[None]:
    paddle.enable_static()
    yield
    paddle.disable_static()


@pytest.mark.usefixtures("static_graph")
def test_what_a_static_graph_saves_is_read(tmp_path: Path) -> None:
    program, start = paddle.static.Program(), paddle.static.Program()
    with paddle.static.program_guard(program, start):
        paddle.static.nn.fc(paddle.static.data("x", [None, 3]), 2)
    paddle.static.Executor(paddle.CPUPlace()).run(start)
    state = program.state_dict()
    paddle.save(state, str(tmp_path / "state.pdparams"))
    paddle.static.save(program, str(tmp_path / "program"))
    for path in (tmp_path / "state.pdparams", tmp_path / "program.pdparams"):
        tensors = {name: np.asarray(tensor) for name, tensor in loaded(path).items()}
        assert len(tensors) == 2
        assert_same(found(path), tensors)

    # Of one tensor, the pickle asks to evaluate a program: its name, which is all that may stand
    # there.
    path = tmp_path / "alone.pdparams"
    tensor = next(iter(state.values()))
    for protocol in (2, 4):
        paddle.save(tensor, str(path), protocol=protocol)
        assert b"eval" in path.read_bytes()
        assert_same(found(path), {"alone": np.asarray(tensor)})


def test_the_binary_format_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "one.pdparams"
    paddle.save(paddle.ones([2]), str(path), use_binary_format=True)
    with pytest.raises(ConversionError, match=r"paddle\.save"):
        read(path, False)
    model = paddle.jit.to_static(
        paddle.nn.Linear(3, 2), [paddle.static.InputSpec([None, 3])], full_graph=True
    )
    paddle.jit.save(model, str(tmp_path / "program"))
    with pytest.raises(ConversionError, match=r"paddle\.jit\.load"):
        read(tmp_path / "program.pdiparams", False)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80",
        b"\x80\x04N.",
        pickle.dumps({"a": 1}),
        pickle.dumps([1, 2]),
        bytes.fromhex("80028a0a6cfc9c46f9206aa850192e") + pickle.dumps(os.system),
        b"PK\x03\x04 a zip archive, say of torch.save",
        b"\x08\0\0\0\0\0\0\0{}      ",
    ],
)
def test_what_paddle_did_not_save_is_left_to_others(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.pdparams"
    path.write_bytes(content)
    assert read(path, False) is None


def test_other_names_and_folders_are_left_to_others(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    paddle.save(paddle.nn.Linear(3, 2).state_dict(), str(path))
    assert read(path, False) is None
    folder = tmp_path / "folder.pdparams"
    folder.mkdir()
    assert read(folder, False) is None
    assert read(tmp_path / "missing.pdparams", False) is None
    upper = path.rename(tmp_path / "MODEL.PDPARAMS")
    assert set(found(upper).tensors) == {"weight", "bias"}


def test_neither_asking_nor_reading_imports_paddle(tmp_path: Path) -> None:
    path = tmp_path / "model.pdparams"
    paddle.save(paddle.nn.Linear(3, 2).state_dict(), str(path))
    program = (
        "import sys\n"
        "from safetensors_paddle._plugin import safetensors_read_checkpoint as read\n"
        "assert read('other.bin', False) is None\n"
        "assert 'numpy' not in sys.modules\n"
        "assert len(read(sys.argv[1], False).tensors) == 2\n"
        "assert 'paddle' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], check=True)
