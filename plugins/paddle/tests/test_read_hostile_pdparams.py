"""Files with the names of Paddle's that would do harm, or are damaged, are refused."""

from __future__ import annotations

import builtins
import codecs
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from safetensors_core import ConversionError, UnsafeCheckpointError, UnsupportedDtypeError
from safetensors_paddle._plugin import safetensors_read_checkpoint as read

F4 = np.dtype("<f4")
# The function by which protocol 5 makes arrays; where it lies depends on the version of NumPy.
REBUILD = np.ones(1).__reduce_ex__(5)[0]


class Command:
    """What a pickle that would run something is made of."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.called = (function, arguments)

    def __reduce__(self) -> Any:
        return self.called


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_a_pickle_that_would_run_something_is_refused_by_name(
    tmp_path: Path, protocol: int
) -> None:
    path, proof = tmp_path / "model.pdparams", tmp_path / "proof"
    program = f"open({str(proof)!r}, 'w')"
    commands = {
        f"{os.system.__module__}.system": Command(os.system, f"touch {proof}"),
        "eval": Command(eval, program),
        "exec": Command(exec, program),
        "getattr": Command(getattr, "", "join"),
        "encode": Command(codecs.encode, "x", "rot13"),
        "open": Command(builtins.open, str(proof), "w"),
    }
    for name, command in commands.items():
        for content in ({"w": np.ones(2), "x": command}, command):
            path.write_bytes(pickle.dumps(content, protocol))
            with pytest.raises(UnsafeCheckpointError, match=f"{name}.*nothing of it was") as error:
                read(path, False)
            assert "\n" not in str(error.value)
            assert not proof.exists()


def test_only_the_name_of_a_tensor_is_evaluated(tmp_path: Path) -> None:
    path, array = tmp_path / "model.pdparams", np.ones(2)
    for arguments in [
        ("data",),
        ("data", {"data": 1}),
        ("data", {"data": array, "other": array}),
        ("data.x", {"data.x": array}),
        ("data", {"data": array}, {}),
    ]:
        path.write_bytes(pickle.dumps(Command(eval, *arguments), 4))
        with pytest.raises(UnsafeCheckpointError, match=r"builtins\.eval"):
            read(path, False)


def test_a_pickle_cannot_change_what_it_is_read_with(tmp_path: Path) -> None:
    # With BUILD, Python's own unpickler sets attributes of the functions that a pickle names.
    path = tmp_path / "model.pdparams"
    state = pickle.dumps((None, {"__doc__": "changed"}), 2)[2:-1]
    names = [("numpy", "dtype"), ("builtins", "eval"), ("numpy.core.multiarray", "scalar")]
    for module, name in names:
        function = f"c{module}\n{name}\n".encode()
        path.write_bytes(b"\x80\x02}U\x01x" + function + state + b"bs.")
        with pytest.raises(ConversionError, match="it sets attributes of what has none"):
            read(path, False)


def test_a_file_that_is_cut_off_is_refused_at_every_length(tmp_path: Path) -> None:
    path = tmp_path / "model.pdparams"
    for protocol in (2, 4):
        paddle.save(paddle.nn.Linear(3, 2).state_dict(), str(path), protocol=protocol)
        whole = path.read_bytes()
        for length in range(2, len(whole)):
            path.write_bytes(whole[:length])
            with pytest.raises(ConversionError):
                read(path, False)


def test_a_file_of_which_a_byte_is_wrong_raises_no_error_but_ours(tmp_path: Path) -> None:
    path = tmp_path / "model.pdparams"
    paddle.save(paddle.nn.Linear(3, 2).state_dict(), str(path))
    whole, refused = path.read_bytes(), 0
    for position in range(2, len(whole)):
        for value in (0, 0x28, 0x5D, 0x7F, 0xFF):
            damaged = bytearray(whole)
            damaged[position] = value
            path.write_bytes(damaged)
            try:
                checkpoint = read(path, True)
            except (ConversionError, UnsupportedDtypeError):
                refused += 1
                continue
            for stored in checkpoint.tensors.values() if checkpoint is not None else ():
                assert stored.read().shape == stored.spec.shape
    assert refused


@pytest.mark.parametrize(
    "arguments",
    [
        (bytes(8), F4, (3,), "C"),
        (bytes(8), F4, (2**40, 2**40), "C"),
        (b"", F4, (0, 2**62), "C"),
        (b"", F4, (0, 2**500), "C"),
        (bytes(8), F4, (-1, -2), "C"),
        (bytes(8), F4, (2.0,), "C"),
        (bytes(8), F4, (True, 2), "C"),
        (bytes(8), F4, 2, "C"),
        (bytes(4), F4, (1,) * 65, "C"),
        ("12345678", F4, (2,), "C"),
        (None, F4, (2,), "C"),
        (bytes(8), F4, (2,), "X"),
        (bytes(8), F4, (2,), ["C"]),
        (bytes(8), F4, (2,), "K", (1,)),
        (bytes(8), F4, (2, 1), "K", (0, "1")),
        (bytes(8), F4, (2,), "K"),
        (bytes(8), "f4", (2,), "C"),
        (bytes(8), None, (2,), "C"),
    ],
)
def test_an_array_that_does_not_fit_its_data_is_refused(tmp_path: Path, arguments: Any) -> None:
    path = tmp_path / "model.pdparams"
    path.write_bytes(pickle.dumps({"w": Command(REBUILD, *arguments)}, 4))
    with pytest.raises(ConversionError, match="'w' is a damaged array"):
        read(path, False)


@pytest.mark.parametrize("dtype", ["c16", "U3", "S3", "M8[s]", "V2", "f2,f4", "O"])
def test_a_dtype_that_the_format_lacks_is_refused_with_the_name(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "model.pdparams"
    path.write_bytes(pickle.dumps({"w": np.zeros(2, dtype), "fine": np.ones(2)}, 4))
    found = read(path, False)
    assert found is not None
    assert isinstance(found.refused["w"], UnsupportedDtypeError)
    assert str(found.refused["w"]).startswith(f"{path}: tensor 'w': dtype ")
    assert list(found.tensors) == ["fine"]
    assert found.tensors["fine"].read().tolist() == [1, 1]


def test_a_number_of_a_dtype_that_the_format_lacks_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "model.pdparams"
    path.write_bytes(pickle.dumps({"phase": np.complex128(1j), "w": np.ones(2)}, 4))
    found = read(path, False)
    assert found is not None
    assert dict(found.left_out) == {"phase": "a number of dtype c16, not a tensor"}
    assert list(found.tensors) == ["w"]


def test_what_is_larger_than_its_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pdparams"
    doubling: Any = [np.ones(2)]
    for _ in range(30):
        doubling = [doubling, doubling]
    circle: list[Any] = []
    circle.append(circle)
    deep: Any = np.ones(2)
    for _ in range(40):
        deep = [deep]
    for content in (doubling, circle, deep, {"w": doubling}):
        path.write_bytes(pickle.dumps(content, 4))
        with pytest.raises(ConversionError, match="it holds more than"):
            read(path, False)
    path.write_bytes(b"\x80\x04\x8e" + (2**60).to_bytes(8, "little") + b"x.")
    with pytest.raises(ConversionError):
        read(path, False)


@pytest.mark.parametrize(
    "told",
    [
        [],
        {"w": None},
        {"w": {"slices": ["v"], "OriginShape": (2,)}},
        {"w": {"slices": [], "OriginShape": (0,)}},
        {"w": {"slices": ["b", "n"], "OriginShape": (4,)}},
        {"w": {"slices": ["b"], "OriginShape": (3,)}},
        {"w": {"slices": ["b", "i"], "OriginShape": (4,)}},
        {"w": {"slices": [("b",)], "OriginShape": (2,)}},
    ],
)
def test_parts_of_arrays_that_do_not_fit_are_refused(tmp_path: Path, told: Any) -> None:
    path = tmp_path / "model.pdparams"
    content = {"b": np.ones(2, "f4"), "i": np.ones(2, "i4"), "n": 1, "UnpackBigParamInfor@@": told}
    path.write_bytes(pickle.dumps(content, 2))
    with pytest.raises(ConversionError):
        read(path, False)


def test_names_that_cannot_be_are_refused(tmp_path: Path) -> None:
    path, tensor = tmp_path / "model.pdparams", paddle.ones([2])
    paddle.save({"a": {"b": tensor}, "a.b": tensor, "c": [tensor]}, str(path))
    with pytest.raises(ConversionError, match=r"two tensors in it have the name 'a\.b'"):
        read(path, False)
    path.write_bytes(pickle.dumps({None: np.ones(2)}, 4))
    with pytest.raises(ConversionError, match="NoneType cannot be part of the name"):
        read(path, False)


def test_names_cannot_grow_without_measure(tmp_path: Path) -> None:
    path = tmp_path / "model.pdparams"
    path.write_bytes(pickle.dumps({"n" * 2**20: [None] * 500}))
    with pytest.raises(ConversionError, match="its names have more than 100,000,000 characters"):
        read(str(path), False)
