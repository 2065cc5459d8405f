"""What conversions promise of what they are given."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.tests.raw import counting
from core.tests.toy_checkpoints import ToyPlugin, loaded, registered, write_toy
from safetensors_core import (
    ConversionError,
    Dtype,
    InvalidInputError,
    UnsupportedDtypeError,
    convert_file,
)
from safetensors_core.convert.finding import find_source
from safetensors_core.float_dtypes import parse_dtype

TENSORS = {"a": counting(Dtype.F32, 4, 5), "b": counting(Dtype.I64, 3)}
PARTS = [f"pytorch_model-{i:05}-of-00003.bin" for i in (1, 2, 3)]


@pytest.fixture(autouse=True)
def plugin() -> Iterator[ToyPlugin]:
    with registered(ToyPlugin()) as plugin:
        yield plugin


def test_a_tensor_that_cannot_be_converted_can_be_left_out(tmp_path: Path) -> None:
    source = write_toy(tmp_path / "m.toy", TENSORS, refused={"text": "str", "q": "Q8_0"})
    with pytest.raises(UnsupportedDtypeError, match="tensor 'q': dtype Q8_0"):
        convert_file(source, tmp_path / "out", drop="text")
    assert os.listdir(tmp_path) == ["m.toy"]
    convert_file(source, tmp_path / "out", drop=["text", "q"])
    assert loaded(tmp_path / "out") == TENSORS


def test_an_expression_that_matches_no_name_is_an_error(tmp_path: Path) -> None:
    source = write_toy(tmp_path / "m.toy", TENSORS)
    with pytest.raises(InvalidInputError, match="matches 'modle'; there are 'a', 'b'"):
        convert_file(source, tmp_path / "out", rename={"a": "c", "modle": ""})
    assert os.listdir(tmp_path) == ["m.toy"]


def test_selecting_nothing_is_an_error_that_says_so(tmp_path: Path) -> None:
    source = write_toy(tmp_path / "m.toy", TENSORS)
    with pytest.raises(InvalidInputError, match="keep and drop leave none of 2"):
        convert_file(source, tmp_path / "out", drop="*")


@pytest.mark.parametrize("patterns", [5, None, [5], b"a"])
def test_patterns_must_be_texts(tmp_path: Path, patterns: Any) -> None:
    with pytest.raises(InvalidInputError, match="keep and drop are patterns of names"):
        convert_file(tmp_path / "m.toy", keep=patterns)


def test_an_empty_file_is_said_to_be_empty(tmp_path: Path) -> None:
    (tmp_path / "m.bin").touch()
    with pytest.raises(ConversionError, match="the file is empty"):
        convert_file(tmp_path / "m.bin")


def test_all_numbered_files_of_a_folder_are_one_checkpoint(tmp_path: Path) -> None:
    for name in PARTS:
        (tmp_path / name).touch()
    found = find_source(tmp_path)
    assert [os.path.basename(path) for path in found.files] == PARTS
    assert found.stem == "model"


@pytest.mark.parametrize("also", [None, "other.bin", "other-00003-of-00003.bin"])
def test_numbered_files_of_which_some_are_missing_are_not_taken_for_one(
    tmp_path: Path, also: str | None
) -> None:
    for name in [*PARTS[:2], *([also] if also else [])]:
        (tmp_path / name).touch()
    with pytest.raises(ConversionError, match="several checkpoints"):
        find_source(tmp_path)


def test_a_part_of_a_checkpoint_keeps_its_number(tmp_path: Path) -> None:
    assert find_source(tmp_path / PARTS[0]).stem == "pytorch_model-00001-of-00003"


@pytest.mark.parametrize(
    ("text", "dtype"),
    [
        ("torch.bfloat16", Dtype.BF16),
        ("float8_e4m3fn", Dtype.F8_E4M3),
        ("F8_E5M2", Dtype.F8_E5M2),
        ("half", Dtype.F16),
        ("<dtype: 'bfloat16'>", Dtype.BF16),
        ("<class 'numpy.float16'>", Dtype.F16),
        ("mlx.core.float32", Dtype.F32),
    ],
)
def test_a_dtype_may_be_spelled_as_frameworks_spell_it(text: str, dtype: Dtype) -> None:
    assert parse_dtype(text) is dtype
