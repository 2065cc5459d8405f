"""onnx-safetensors: the weights of an ONNX model, as bytes, beside the model, and in shards."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_safetensors
from ml_dtypes import bfloat16, float8_e4m3fn
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from tests.clients.recording import Recording, digest

INPUT = np.linspace(-1, 1, 512, dtype=np.float32).reshape(1, 512)


def network() -> onnx.ModelProto:
    generator = np.random.default_rng(0)
    weights = {
        f"weight{layer}": generator.standard_normal((512, 512), np.float32) / 16
        for layer in range(8)
    }
    nodes, value = [], "x"
    for layer, weight in enumerate(weights):
        nodes.append(helper.make_node("MatMul", [value, weight], [f"y{layer}"]))
        value = f"y{layer}"
    others = {
        "f16": np.arange(6, dtype=np.float16).reshape(2, 3),
        "i64": np.arange(4),
        "bool": np.array([True, False]),
        "bf16": np.arange(5).astype(bfloat16),
        "f8": np.arange(5).astype(float8_e4m3fn),
        "empty": np.zeros((0, 3), np.float32),
        "scalar": np.array(3.5),
    }
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 512])],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, [1, 512])],
        [numpy_helper.from_array(array, name) for name, array in {**weights, **others}.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def without_weights() -> onnx.ModelProto:
    model = network()
    for tensor in model.graph.initializer:
        tensor.raw_data = bytes(len(tensor.raw_data))
    return model


def output(model: onnx.ModelProto) -> str:
    return digest(ReferenceEvaluator(model).run(None, {"x": INPUT})[0])


def weights(model: onnx.ModelProto) -> str:
    arrays = {
        tensor.name: np.frombuffer(numpy_helper.to_array(tensor).tobytes(), np.uint8)
        for tensor in model.graph.initializer
    }
    return digest(arrays)


def main(folder: Path) -> None:
    recording = Recording()
    model = network()
    recording.result("output", output(model))
    recording.result("weights", weights(model))

    data = recording.timed("save to bytes", lambda: onnx_safetensors.save(network()))
    (folder / "bytes.safetensors").write_bytes(data)
    loaded = recording.timed("load bytes", lambda: onnx_safetensors.load(without_weights(), data))
    recording.result("from bytes", [output(loaded), weights(loaded)])

    recording.timed(
        "save file", lambda: onnx_safetensors.save_file(network(), "model.safetensors", folder)
    )
    loaded = recording.timed(
        "load file",
        lambda: onnx_safetensors.load_file(without_weights(), folder / "model.safetensors"),
    )
    recording.result("from a file", [output(loaded), weights(loaded)])

    beside = folder / "beside"
    beside.mkdir()
    onnx_safetensors.save_model(network(), beside / "model.onnx")
    recording.result("beside the model", output(onnx.load(beside / "model.onnx")))

    sharded = folder / "sharded"
    sharded.mkdir()
    onnx_safetensors.save_model(network(), sharded / "model.onnx", max_shard_size="3MB")
    recording.result("in shards", output(onnx.load(sharded / "model.onnx")))
    recording.result("shards", len(list(sharded.glob("*.safetensors"))))
    recording.finish()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
