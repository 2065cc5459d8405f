"""A program that does what the tables of "Existing programs" speak of, and prints how it went."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import sys
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import mlx.core as mx
import numpy as np
import safetensors
import safetensors.flax
import safetensors.mlx
import safetensors.numpy
import safetensors.torch
import torch

FILE = "model.safetensors"
# What the two sides raise besides their own class.
REPORTED = (AttributeError, KeyError, OverflowError, RuntimeError, SystemError, ValueError)


def content(code: str, shape: list[int], data: bytes) -> bytes:
    """A file of one tensor."""
    entry = {"dtype": code, "shape": shape, "data_offsets": [0, len(data)]}
    return framed(json.dumps({"w": entry}).encode(), data)


def framed(header: bytes, data: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + data


def dtype_of_bytes(module: Any, code: str, data: bytes) -> str:
    return str(module.load(content(code, [1], data))["w"].dtype).rpartition(".")[2]


def dtype_of_file(module: Any, code: str, data: bytes) -> str:
    with open(FILE, "wb") as file:
        file.write(content(code, [1], data))
    return str(module.load_file(FILE)["w"].dtype).rpartition(".")[2]


def sliced(index: Any, rows: int = 5) -> list[int]:
    safetensors.numpy.save_file({"w": np.zeros((rows, 2))}, FILE)
    with safetensors.safe_open(FILE, framework="np") as file:
        return list(file.get_slice("w")[index].shape)


def device(spelled: Any) -> str:
    safetensors.torch.save_file({"w": torch.zeros(1)}, FILE)
    return str(safetensors.torch.load_file(FILE, device=spelled)["w"].device)


def strided() -> list[list[float]]:
    array = np.arange(4.0).reshape(2, 2).T
    return list(safetensors.numpy.load(safetensors.numpy.save({"w": array}))["w"].tolist())


def conjugated() -> str:
    tensor = torch.tensor([1 + 2j], dtype=torch.complex64).conj()
    return str(safetensors.torch.load(safetensors.torch.save({"w": tensor}))["w"].item())


def jax_integers() -> str:
    return dtype_of_bytes(safetensors.flax, "I64", bytes(8))


def named_metadata() -> str:
    data = safetensors.numpy.save({"__metadata__": np.zeros(1)})
    try:
        safetensors.deserialize(data)
    except safetensors.SafetensorError:
        return "a file that nobody can read"
    return "a file"


def dict_after_save() -> bool:
    tensors = {"w": jnp.zeros(1)}
    before = tensors["w"]
    safetensors.flax.save(tensors)
    return tensors["w"] is before


def metadata_orders() -> int:
    metadata = {str(number): "" for number in range(8)}
    return len({safetensors.numpy.save({}, metadata) for _ in range(8)})


def mixed() -> int:
    tensors: dict[str, Any] = {"a": torch.zeros(1), "b": np.zeros(1)}
    return len(safetensors.deserialize(safetensors.numpy.save(tensors)))


class Views(torch.nn.Module):
    """Two tensors that look at one memory in turns."""

    def __init__(self) -> None:
        super().__init__()
        table = torch.zeros(4, 4)
        self.register_buffer("even", table[:, ::2])
        self.register_buffer("odd", table[:, 1::2])


def interleaved() -> float:
    model = Views()
    safetensors.torch.save_file({"even": torch.ones(4, 2), "odd": torch.zeros(4, 2)}, FILE)
    safetensors.torch.load_model(model, FILE)
    return float(torch.cat(list(model.buffers())).sum())


class Counted(torch.nn.Linear):
    def get_extra_state(self) -> dict[str, int]:
        return {"steps": 1}


def model_on_meta() -> str:
    safetensors.torch.save_model(torch.nn.Linear(2, 2), FILE)
    model = torch.nn.Linear(2, 2, device="meta")
    safetensors.torch.load_model(model, FILE)
    return str(model.weight.device)


def foreign() -> int:
    tensors: dict[str, Any] = {"w": torch.zeros(1)}
    return len(safetensors.numpy.save(tensors))


def lenient_headers() -> int:
    entry = b'{"dtype":"U8","shape":[2],"data_offsets":[0,2]}'
    twice = b'{"w":' + entry + b',"w":' + entry + b"}"
    texts = [b' {"w":' + entry + b"}", twice, b'{"w":["U8",[2],[0,2]]}']
    return sum(len(safetensors.deserialize(framed(text, b"ab"))) for text in texts)


def mode(path: str = "fresh.safetensors") -> str:
    safetensors.numpy.save_file({}, path)
    return oct(stat.S_IMODE(os.stat(path).st_mode))


def kept_mode() -> str:
    with open("shared.safetensors", "wb"):
        os.chmod("shared.safetensors", 0o640)
    return mode("shared.safetensors")


def link_stays() -> bool:
    with contextlib.suppress(FileExistsError):
        os.symlink("elsewhere.safetensors", "link.safetensors")
    safetensors.numpy.save_file({}, "link.safetensors")
    return os.path.islink("link.safetensors")


def pipe_stays() -> bool:
    os.mkfifo("pipe")
    safetensors.numpy.save_file({}, "pipe")
    return stat.S_ISFIFO(os.stat("pipe").st_mode)


DONE: dict[str, Callable[[], Any]] = {
    "strided": strided,
    "conjugated": conjugated,
    "jax integers": jax_integers,
    "mlx floats": lambda: dtype_of_bytes(safetensors.mlx, "F64", bytes(8)),
    "named __metadata__": named_metadata,
    "dict is not changed": dict_after_save,
    "metadata orders": metadata_orders,
    "numpy F8 file": lambda: dtype_of_file(safetensors.numpy, "F8_E4M3", bytes(1)),
    "numpy BF16 bytes": lambda: dtype_of_bytes(safetensors.numpy, "BF16", bytes(2)),
    "jax F8 file": lambda: dtype_of_file(safetensors.flax, "F8_E4M3", bytes(1)),
    "jax BF16 bytes": lambda: dtype_of_bytes(safetensors.flax, "BF16", bytes(2)),
    "mlx BF16 bytes": lambda: dtype_of_bytes(safetensors.mlx, "BF16", bytes(2)),
    "torch E8M0 bytes": lambda: dtype_of_bytes(safetensors.torch, "F8_E8M0", bytes(1)),
    "mlx F8 bytes": lambda: dtype_of_bytes(safetensors.mlx, "F8_E4M3", bytes(1)),
    "torch complex128": lambda: safetensors.torch.save({"w": torch.zeros(1).to(torch.complex128)}),
    "mixed": mixed,
    "numpy scalar": lambda: len(safetensors.numpy.save({"w": np.float32(1)})),
    "torch in numpy": foreign,
    "save meta": lambda: safetensors.torch.save_file({"w": torch.zeros(1, device="meta")}, FILE),
    "extra state": lambda: safetensors.torch.save_model(Counted(2, 2), FILE),
    "model on meta": model_on_meta,
    "interleaved": interleaved,
    "headers": lenient_headers,
    "stop past the end": lambda: sliced(slice(0, 9)),
    "start past the end": lambda: sliced(slice(5, 1)),
    "integer past the end": lambda: sliced(5),
    "negative bound": lambda: sliced(slice(-2, None)),
    "start behind stop": lambda: sliced(slice(3, 1)),
    "no rows": lambda: sliced(slice(None), rows=0),
    "device meta": lambda: device("meta"),
    "device cpu:0": lambda: device("cpu:0"),
    "torch.device": lambda: device(torch.device("cpu")),
    "mode": mode,
    "kept mode": kept_mode,
    "link stays": link_stays,
    "pipe stays": pipe_stays,
}


def outcome(do: Callable[[], Any]) -> Any:
    """What a caller gets, or the class of the error by its names in the reference."""
    try:
        return do()
    except safetensors.SafetensorError:
        return "SafetensorError"
    except REPORTED as error:
        return type(error).__name__


if __name__ == "__main__":
    os.umask(0o022)
    mx.zeros(1)
    results = {name: outcome(do) for name, do in DONE.items()}
    sys.stdout.write(json.dumps({"file": safetensors.__file__, **results}))
