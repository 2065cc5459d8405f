"""Strictness and durability of what is served under the names of the reference."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from safetensors_core import InvalidInputError
from safetensors_core.compat import functions, install, is_installed, serialization, settings

VARIABLES = {settings.STRICT: settings.is_strict, settings.FSYNC: settings.is_durable}


@pytest.fixture(autouse=True)
def _nothing_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "_before", {})
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The files that are waited for."""
    waited: list[int] = []
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, waited.append, raising=False)
    return waited


@pytest.mark.parametrize(("variable", "asked"), VARIABLES.items())
@pytest.mark.parametrize(
    ("text", "value"),
    [
        *((text, True) for text in ("1", "true", "YES", " 1 ")),
        *((text, False) for text in ("0", "False", "no", "")),
    ],
)
def test_a_variable_is_read_when_it_is_needed(
    variable: str,
    asked: Callable[[], bool],
    text: str,
    value: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not asked()
    monkeypatch.setenv(variable, text)
    assert asked() is value


@pytest.mark.parametrize(("variable", "asked"), VARIABLES.items())
def test_a_variable_that_is_no_answer_is_an_error_that_names_it(
    variable: str, asked: Callable[[], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "maybe")
    with pytest.raises(InvalidInputError, match=f"{variable} must be 0 or 1, got 'maybe'"):
        asked()


def test_what_a_program_chose_goes_before_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(settings.STRICT, "1")
    settings.choose_strict(False)
    assert not settings.is_strict()
    assert os.environ[settings.STRICT] == "0"  # for the processes that it starts
    settings.choose_strict(None)
    assert settings.is_strict()


def test_what_a_program_chose_leaves_no_variable_behind() -> None:
    settings.choose_strict(True)
    settings.choose_strict(False)
    settings.choose_strict(None)
    assert settings.STRICT not in os.environ


def test_install_refuses_a_variable_that_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(settings.FSYNC, "maybe")
    with pytest.raises(InvalidInputError, match=settings.FSYNC):
        install()
    assert not is_installed()


SAVES: dict[str, Callable[[Path], None]] = {
    "save_file": lambda path: functions.save_file({}, path, None),
    "serialize_file": lambda path: serialization.serialize_file({}, path),
}


@pytest.mark.parametrize("save", SAVES.values(), ids=SAVES.keys())
def test_a_save_does_not_wait_for_the_disk(
    save: Callable[[Path], None], tmp_path: Path, syncs: list[int]
) -> None:
    save(tmp_path / "model.safetensors")
    assert (tmp_path / "model.safetensors").exists()
    assert syncs == []


@pytest.mark.parametrize("save", SAVES.values(), ids=SAVES.keys())
def test_a_save_waits_for_the_disk_where_the_variable_asks_for_it(
    save: Callable[[Path], None],
    tmp_path: Path,
    syncs: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(settings.FSYNC, "1")
    save(tmp_path / "model.safetensors")
    assert len(syncs) == 2  # the file, and its folder


@pytest.mark.parametrize("save", SAVES.values(), ids=SAVES.keys())
def test_a_save_with_a_variable_that_is_no_answer_leaves_no_file(
    save: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(settings.FSYNC, "perhaps")
    with pytest.raises(InvalidInputError):
        save(tmp_path / "model.safetensors")
    assert list(tmp_path.iterdir()) == []
