"""What a plugin may answer to a conversion, and what its faults do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.tests.raw import RawTensor, counting
from core.tests.toy_checkpoints import ToyFramework, ToyPlugin, loaded, registered, write_toy
from safetensors_core import (
    ConversionError,
    Dtype,
    FrameworkNotFoundError,
    InvalidInputError,
    TensorSpec,
    UnsupportedDtypeError,
    convert_file,
    hookimpl,
)

TENSORS = {"a": counting(Dtype.F32, 4, 5), "b": counting(Dtype.I64, 3)}


class Simple:
    """A plugin that gives names and tensors one by one, or fails."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    @hookimpl
    def safetensors_read_checkpoint(self, path: str) -> Any:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer() if callable(self.answer) else self.answer


@pytest.fixture
def simple() -> Iterator[Simple]:
    with registered(ToyPlugin()), registered(Simple(None), "simple") as plugin:
        yield plugin


def test_a_plugin_may_give_names_and_tensors_one_by_one(tmp_path: Path, simple: Simple) -> None:
    tensors = {name: t for name, t in TENSORS.items() if t.dtype is not Dtype.BF16}
    simple.answer = lambda: iter(tensors.items())
    (tmp_path / "m.any").touch()
    convert_file(tmp_path / "m.any", tmp_path / "out", shard_size=80)
    assert loaded(tmp_path / "out") == TENSORS


def test_a_plugin_that_fails_harms_no_other_format(tmp_path: Path, simple: Simple) -> None:
    source = write_toy(tmp_path / "m.toy", TENSORS)
    simple.answer = RuntimeError("broken")
    with pytest.warns(RuntimeWarning, match="plugin simple was asked for .* and is broken"):
        convert_file(source, tmp_path / "out")
    assert loaded(tmp_path / "out") == TENSORS


@pytest.mark.parametrize("answer", [[1, 2], [("a", "b", "c")]])
def test_a_plugin_that_gives_no_pairs_is_said_to(
    tmp_path: Path, simple: Simple, answer: Any
) -> None:
    simple.answer = answer
    (tmp_path / "m.any").touch()
    with pytest.raises(ConversionError, match="gives no pairs of names and tensors"):
        convert_file(tmp_path / "m.any", tmp_path / "out")


def test_a_plugin_that_fails_between_pairs_is_said_to(tmp_path: Path, simple: Simple) -> None:
    def pairs() -> Iterator[tuple[str, Any]]:
        yield "a", TENSORS["a"]
        raise ZeroDivisionError("oops")

    simple.answer = pairs
    (tmp_path / "m.any").touch()
    with pytest.raises(ConversionError, match=r"m\.any: .*ZeroDivisionError: oops"):
        convert_file(tmp_path / "m.any", tmp_path / "out")


def test_what_a_framework_did_not_expect_is_an_error_that_names_the_tensor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no kernel")

    monkeypatch.setattr(ToyFramework, "cast", fail)
    source = write_toy(tmp_path / "m.toy", TENSORS)
    with registered(ToyPlugin()), pytest.raises(ConversionError, match=r"'a' .*no kernel"):
        convert_file(source, tmp_path / "out", dtype="f16")
    assert os.listdir(tmp_path) == ["m.toy"]


def test_what_a_plugin_gives_must_be_a_tensor(tmp_path: Path, simple: Simple) -> None:
    simple.answer = [("a", object())]
    (tmp_path / "m.any").touch()
    with pytest.raises(FrameworkNotFoundError, match="takes objects of type builtins"):
        convert_file(tmp_path / "m.any", tmp_path / "out")


def test_what_a_reader_did_not_expect_is_an_error_that_names_the_tensor(tmp_path: Path) -> None:
    source = write_toy(tmp_path / "m.toy", TENSORS)
    with registered(ToyPlugin()) as plugin:
        plugin.failures["a"] = ZeroDivisionError("oops")
        with pytest.raises(
            ConversionError, match=r"m\.toy: tensor 'a' cannot be converted: ZeroDiv"
        ):
            convert_file(source, tmp_path / "out")
    assert os.listdir(tmp_path) == ["m.toy"]


@pytest.mark.parametrize("options", [{"source_layout": "torch"}, {"layout_rules": "rules.json"}])
def test_options_of_layouts_need_a_layout(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match="need a target_layout"):
        convert_file(tmp_path / "m.toy", **options)


def test_a_tensor_of_a_dtype_that_the_format_lacks_can_be_left_out(
    tmp_path: Path, simple: Simple, monkeypatch: pytest.MonkeyPatch
) -> None:
    def describe(_: ToyFramework, tensor: RawTensor) -> TensorSpec:
        if tensor.shape == (3,):
            raise UnsupportedDtypeError("complex256", "the safetensors format")
        return TensorSpec(tensor.dtype, tensor.shape)

    monkeypatch.setattr(ToyFramework, "describe", describe)
    simple.answer = lambda: iter(TENSORS.items())
    (tmp_path / "m.any").touch()
    with pytest.raises(UnsupportedDtypeError, match=r"m\.any: tensor 'b': dtype complex256"):
        convert_file(tmp_path / "m.any", tmp_path / "out")
    result = convert_file(tmp_path / "m.any", tmp_path / "out", drop="b")
    assert [tensor.name for tensor in result.files[0].tensors] == ["a"]
