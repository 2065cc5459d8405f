"""Errors in the words of the reference, with ours behind them."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from safetensors_core import HeaderError, Reason, SafetensorError
from safetensors_core.compat.functions import load
from safetensors_core.compat.serialization import deserialize, serialize_file
from safetensors_core.compat.translation import reading, saving
from safetensors_core.testing.malformed import MALFORMED, Malformed


@pytest.mark.parametrize("case", MALFORMED, ids=lambda case: case.name)
def test_a_malformed_header_has_one_class_and_our_reason_behind_it(case: Malformed) -> None:
    data = len(case.header).to_bytes(8, "little") + case.header + bytes(case.size)
    with pytest.raises(SafetensorError, match=r"^Error while deserializing: ") as caught:
        deserialize(data)
    assert type(caught.value) is SafetensorError
    assert isinstance(caught.value.__cause__, HeaderError)
    assert caught.value.__cause__.reason is case.reason


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_words(reason: Reason) -> None:
    with pytest.raises(SafetensorError) as caught, reading():
        raise HeaderError(reason, "what was found", tensor="w")
    words = str(caught.value)
    assert words.startswith("Error while deserializing header: ")
    assert "{" not in words
    assert "None" not in words


def test_a_file_that_cannot_be_written_says_why(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(SafetensorError, match=rf"I/O error: .* \(os error {errno.ENOTDIR}\)"):
        serialize_file({}, blocked / "model.safetensors")


def test_errors_of_the_system_stay_as_they_are_while_reading() -> None:
    error = PermissionError(errno.EACCES, "Permission denied", "model.safetensors")
    with pytest.raises(PermissionError) as caught, reading():
        raise error
    assert caught.value is error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), ZeroDivisionError()])
def test_what_is_no_error_of_a_file_passes(error: BaseException) -> None:
    for translating in (reading, saving):
        with pytest.raises(type(error)) as caught, translating():
            raise error
        assert caught.value is error


def test_a_framework_that_nobody_has_is_an_import_error() -> None:
    with pytest.raises(ImportError, match="'nothing' is not installed"):
        load(b"\x02" + bytes(7) + b"{}", "nothing")
