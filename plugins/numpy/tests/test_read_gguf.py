"""GGUF files are read as the package `gguf` reads them, and whatever a file claims does no harm."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from safetensors_core import ConversionError, SafetensorError, UnsupportedDtypeError
from safetensors_core.convert import ForeignCheckpoint, StoredTensor
from safetensors_numpy._plugin import safetensors_read_checkpoint
from safetensors_numpy.checkpoints import format_of

Array = npt.NDArray[Any]
Content = Callable[[StoredTensor], tuple[Array, bytes]]

BF16 = gguf.GGMLQuantizationType.BF16
KINDS = ["f4", "f2", "f8", "i1", "i2", "i4", "i8"]


def opened(path: Path) -> ForeignCheckpoint:
    found = safetensors_read_checkpoint(path)
    assert found is not None
    assert (found.framework, found.format) == ("numpy", "np")
    return found


def finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A file with every type of tensor and of value, as the library itself writes it."""
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("Tiny")
    writer.add_description("ein Modell für Bäume")
    writer.add_context_length(4096)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_bool("general.tied", True)
    writer.add_int64("least", -(2**63))
    writer.add_float64("pi", 3.141592653589793)
    writer.add_token_list(["<s>", "wörter", ""])
    writer.add_array("rope.sections", [16, 24, 24])
    writer.add_string("tokenizer.json", "x" * 100_000)
    values = np.random.default_rng(0).integers(-100, 100, (2, 3, 4))
    for kind in KINDS:
        writer.add_tensor(f"blk.0.{kind}", values.astype(kind))
    writer.add_tensor("blk.0.bf16", values.astype(ml_dtypes.bfloat16).view("u1"), raw_dtype=BF16)
    writer.add_tensor("vector", np.arange(5, dtype="f4"))
    finish(writer)
    return path


def test_tensors_are_those_that_the_library_reads(model: Path, content: Content) -> None:
    found = opened(model)
    expected = gguf.GGUFReader(model).tensors
    assert list(found.tensors) == [tensor.name for tensor in expected]
    for tensor in expected:
        read, data = content(found.tensors[tensor.name])
        assert read.shape == tuple(tensor.shape[::-1].tolist())
        assert data == tensor.data.tobytes()
        if tensor.tensor_type == BF16:
            assert read.dtype == ml_dtypes.bfloat16
        else:
            assert read.dtype == tensor.data.dtype


def test_texts_and_numbers_become_metadata_and_lists_are_left_out(model: Path) -> None:
    found = opened(model)
    assert dict(found.metadata) == {
        "general.architecture": "llama",
        "general.name": "Tiny",
        "general.description": "ein Modell für Bäume",
        "llama.context_length": "4096",
        "llama.attention.layer_norm_rms_epsilon": "1e-05",
        "general.tied": "True",
        "least": "-9223372036854775808",
        "pi": "3.141592653589793",
    }
    assert dict(found.left_out) == {
        "tokenizer.ggml.tokens": "a list of 3 values, not a tensor",
        "rope.sections": "a list of 3 values, not a tensor",
        "tokenizer.json": "a text of 100,000 bytes, too long for metadata",
    }


def test_a_file_of_the_other_byte_order_gives_the_same_numbers(
    tmp_path: Path, content: Content
) -> None:
    path = tmp_path / "big.gguf"
    writer = gguf.GGUFWriter(path, "llama", endianess=gguf.GGUFEndian.BIG)
    writer.add_context_length(4096)
    arrays = {kind: np.arange(6).astype(kind).reshape(2, 3) for kind in KINDS}
    for kind, array in arrays.items():
        # The library writes the bytes that it is given, some versions swapped in place.
        writer.add_tensor(kind, array.copy())
    finish(writer)
    found = opened(path)
    assert found.metadata["llama.context_length"] == "4096"
    for kind, array in arrays.items():
        read, data = content(found.tensors[kind])
        assert read.shape == (2, 3)
        assert data == array.astype(f"<{kind}").tobytes()


def test_the_alignment_that_a_file_says_is_used(tmp_path: Path, content: Content) -> None:
    path = tmp_path / "aligned.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_custom_alignment(256)
    arrays = {name: np.full(3, number, "f4") for number, name in enumerate("abc")}
    for name, array in arrays.items():
        writer.add_tensor(name, array)
    finish(writer)
    for name, tensor in opened(path):
        assert content(tensor)[1] == arrays[name].tobytes()


@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0", "Q4_1", "Q5_0"])
def test_a_quantised_tensor_is_refused_with_its_type_and_what_to_do(
    tmp_path: Path, content: Content, kind: str
) -> None:
    quantised = gguf.GGMLQuantizationType[kind]
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("fine", np.zeros(3, "f4"))
    data = gguf.quants.quantize(np.ones((2, 64), "f4"), quantised)
    writer.add_tensor("blk.0.ffn.weight", data, raw_dtype=quantised)
    finish(writer)
    message = rf"tensor 'blk\.0\.ffn\.weight': dtype {kind} .*llama-quantize --allow-requantize"
    found = opened(path)
    (error,) = found.refused.values()
    assert re.search(message, str(found.refused["blk.0.ffn.weight"]))
    assert isinstance(error, UnsupportedDtypeError)
    assert error.location == str(path)
    assert list(found.tensors) == ["fine"]
    assert content(found.tensors["fine"])[1] == bytes(12)


def test_every_type_of_the_library_is_read_or_refused_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    refused = set()
    for kind in gguf.GGMLQuantizationType:
        path.write_bytes(written([entry("w", (0,), kind)]))
        for error in opened(path).refused.values():
            assert isinstance(error, UnsupportedDtypeError)
            assert error.dtype == kind.name
            refused.add(kind)
    assert len(gguf.GGMLQuantizationType) - len(refused) == len(KINDS) + 1


# Files that no library writes.


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def entry(name: str, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    lengths = shape[::-1]
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *lengths, kind, offset)


def written(
    tensors: list[bytes],
    values: list[bytes] | None = None,
    data: bytes = b"",
    *,
    version: int = 3,
    counts: tuple[int, int] | None = None,
) -> bytes:
    values = values or []
    numbers = counts or (len(tensors), len(values))
    start = b"GGUF" + struct.pack("<IQQ", version, *numbers) + b"".join(values + tensors)
    return start + bytes(-len(start) % 32) + data


def value(key: str, kind: int, data: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + data


HUGE = 2**60
HOSTILE = {
    "many tensors": written([], counts=(HUGE, 0)),
    "many values": written([], counts=(0, HUGE)),
    "all bits": written([], counts=(2**64 - 1, 2**64 - 1)),
    "a long key": written([], [struct.pack("<Q", HUGE)]),
    "a long name": written([struct.pack("<Q", HUGE)]),
    "a long text": written([], [value("a", 8, struct.pack("<Q", HUGE))]),
    "a long list": written([], [value("a", 9, struct.pack("<IQ", 0, HUGE))]),
    "a long list of texts": written([], [value("a", 9, struct.pack("<IQ", 8, HUGE))]),
    "a list of lists": written([], [value("a", 9, struct.pack("<IQ", 9, 1) * 1000)]),
    "many dimensions": written([text("w") + struct.pack("<I", 2**32 - 1)]),
    "65 dimensions": written([entry("w", (1,) * 65)], data=bytes(4)),
    "a large tensor": written([entry("w", (HUGE,))], data=bytes(32)),
    "elements that overflow": written([entry("w", (2**32, 2**32))], data=bytes(32)),
    "an offset outside": written([entry("w", (8,), offset=HUGE)], data=bytes(32)),
    "an offset between": written([entry("w", (4,), offset=4)], data=bytes(32)),
    "a large dimension beside none": written([entry("w", (2**63, 0))]),
    "overlapping tensors": written([entry("v", (8,)), entry("w", (8,))], data=bytes(32)),
    "no alignment": written([], [value("general.alignment", 4, bytes(4))]),
    "alignment 3": written([], [value("general.alignment", 4, b"\3\0\0\0")]),
    "a truth value as alignment": written([], [value("general.alignment", 7, b"\1")]),
    "an unknown kind of value": written([], [value("a", 13, bytes(8))]),
    "a key that is there twice": written([], [value("a", 7, b"\1")] * 2),
    "a name that is there twice": written([entry("w", (0,))] * 2),
    "a name that is no UTF-8": written([struct.pack("<Q", 1) + b"\xff" + entry("", (1,))[8:]]),
    "version 1": written([], version=1),
    "version 4": written([], version=4),
    "version 0": written([], version=0),
    "a magic and nothing else": b"GGUF",
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_a_file_that_claims_what_cannot_be_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    with pytest.raises(ConversionError) as caught:
        safetensors_read_checkpoint(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def small() -> bytes:
    values = [
        value("general.name", 8, text("Tiny")),
        value("eps", 6, struct.pack("<f", 1e-5)),
        value("tokens", 9, struct.pack("<IQ", 8, 2) + text("a") + text("b")),
        value("sections", 9, struct.pack("<IQ", 4, 2) + bytes(8)),
    ]
    tensors = [entry("v", (2, 4)), entry("w", (3, 2), kind=30, offset=32)]
    return written(tensors, values, bytes(range(44)))


def test_every_prefix_is_refused_or_not_recognised(tmp_path: Path, small: bytes) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(small)
    assert [tensor.read().size for _, tensor in opened(path)] == [8, 6]
    for length in range(len(small)):
        path.write_bytes(small[:length])
        if length < 4:
            assert safetensors_read_checkpoint(path) is None
        else:
            with pytest.raises(ConversionError):
                safetensors_read_checkpoint(path)


def test_no_changed_byte_gets_another_error_than_ours(tmp_path: Path, small: bytes) -> None:
    path = tmp_path / "model.gguf"
    for position in range(len(small)):
        for changed in {0, 0x7F, 0xFF, small[position] ^ 1, small[position] ^ 0x80}:
            path.write_bytes(small[:position] + bytes([changed]) + small[position + 1 :])
            try:
                found = safetensors_read_checkpoint(path)
                for _, tensor in found or []:
                    tensor.read()
            except SafetensorError as error:
                assert str(path) in str(error)  # noqa: PT017  # a change may do no harm


def test_the_bytes_decide_and_not_the_name(tmp_path: Path, small: bytes) -> None:
    (tmp_path / "model.bin").write_bytes(small)
    assert format_of(tmp_path / "model.bin") == "gguf"
    (tmp_path / "model.gguf").write_bytes(b"ggml" + small[4:])
    assert safetensors_read_checkpoint(tmp_path / "model.gguf") is None


def test_a_file_that_was_cut_off_after_it_was_opened_is_noticed(
    tmp_path: Path, small: bytes
) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(small)
    found = opened(path)
    path.write_bytes(small[:-4])
    with pytest.raises(ConversionError, match="tensor 'w' ends 4 bytes too early"):
        found.tensors["w"].read()
