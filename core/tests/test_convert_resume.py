"""What conversions promise that are interrupted, or that run at the same time."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from core.tests.raw import counting
from core.tests.toy_checkpoints import ToyPlugin, loaded, registered, write_toy
from safetensors_core import ConversionError, Dtype, convert_file
from safetensors_core.convert import Conversion, ConvertedFile

TENSORS = {name: counting(Dtype.F32, 3) for name in "abcd"}
STAGING = ".model.safetensors.converting"

ROOT = Path(__file__).parents[2]
PRELUDE = """
import os, signal, sys
from pathlib import Path
from core.tests.test_convert_resume import convert
from core.tests.toy_checkpoints import ToyFramework, ToyPlugin
from safetensors_core import register_framework
from safetensors_core.parts import PartFile
from safetensors_core.plugin_info import manager

register_framework(ToyFramework())
manager.register(ToyPlugin())
source = Path(sys.argv[1])
"""


@pytest.fixture
def plugin() -> Iterator[ToyPlugin]:
    with registered(ToyPlugin()) as plugin:
        yield plugin


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_toy(tmp_path / "m.toy", TENSORS)


def convert(source: Path, **options: Any) -> Conversion:
    """Convert to four files of one tensor each."""
    return convert_file(source, source.parent / "out", shard_size=12, **options)


def resumed(result: Conversion) -> list[bool]:
    return [file.resumed for file in result.files]


def interrupt(source: Path, plugin: ToyPlugin, name: str, error: BaseException) -> None:
    plugin.failures[name] = error
    with pytest.raises(type(error)):
        convert(source)
    plugin.failures.clear()
    plugin.read.clear()


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), SystemExit(143), OSError(errno.ENOSPC, "no space")]
)
def test_a_conversion_goes_on_where_it_was_interrupted(
    tmp_path: Path, source: Path, plugin: ToyPlugin, error: BaseException
) -> None:
    interrupt(source, plugin, "c", error)
    assert os.listdir(tmp_path / "out") == [STAGING]
    result = convert(source)
    assert resumed(result) == [True, True, False, False]
    assert set(plugin.read) == {"c", "d"}
    assert loaded(tmp_path / "out") == TENSORS
    assert STAGING not in os.listdir(tmp_path / "out")


def kill(source: Path, when: str) -> None:
    """Convert in a process of its own, which is killed."""
    program = f"{PRELUDE}{when}\nconvert(source, on_file=on_file)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program, str(source)]
    done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (-signal.SIGKILL, "")


def test_a_conversion_goes_on_after_its_process_was_killed(
    tmp_path: Path, source: Path, plugin: ToyPlugin
) -> None:
    kill(
        source,
        "def on_file(file):\n"
        "    if file.path.endswith('00002-of-00004.safetensors'):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)",
    )
    assert resumed(convert(source)) == [True, True, False, False]
    assert set(plugin.read) == {"c", "d"}
    assert loaded(tmp_path / "out") == TENSORS


def test_a_conversion_goes_on_after_a_kill_between_the_files_of_its_result(
    tmp_path: Path, source: Path, plugin: ToyPlugin
) -> None:
    kill(
        source,
        "rename, on_file = PartFile.rename, None\n"
        "def die(part, target):\n"
        "    if target.endswith('out/model-00003-of-00004.safetensors'):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    rename(part, target)\n"
        "PartFile.rename = die",
    )
    assert "model-00002-of-00004.safetensors" in os.listdir(tmp_path / "out")
    assert resumed(convert(source)) == [True] * 4
    assert plugin.read == []
    assert loaded(tmp_path / "out") == TENSORS
    assert not [name for name in os.listdir(tmp_path / "out") if name.startswith(".")]


def test_the_old_checkpoint_stays_until_the_new_one_is_complete(
    tmp_path: Path, source: Path, plugin: ToyPlugin
) -> None:
    convert(source)
    other = write_toy(tmp_path / "other.toy", {"x": counting(Dtype.U8, 7), **TENSORS})
    plugin.failures["d"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        convert(other, overwrite=True)
    assert loaded(tmp_path / "out") == TENSORS
    plugin.failures.clear()
    convert(other, overwrite=True)
    assert loaded(tmp_path / "out").keys() == {"x", *TENSORS}


def test_an_interruption_before_the_first_file_leaves_nothing(
    tmp_path: Path, source: Path, plugin: ToyPlugin
) -> None:
    interrupt(source, plugin, "a", KeyboardInterrupt())
    assert os.listdir(tmp_path) == ["m.toy"]


def test_a_damaged_source_leaves_nothing(tmp_path: Path, source: Path, plugin: ToyPlugin) -> None:
    interrupt(source, plugin, "c", ConversionError("damaged", str(source)))
    assert os.listdir(tmp_path) == ["m.toy"]


def _touched(source: Path) -> dict[str, Any]:
    os.utime(source, ns=(0, 0))
    return {}


@pytest.mark.parametrize(
    "change",
    [
        _touched,
        lambda _: {"rename": {"a": "A"}},
        lambda _: {"verify": False},
        lambda _: {"fsync": False},
    ],
)
def test_another_conversion_begins_anew(
    source: Path, plugin: ToyPlugin, change: Callable[[Path], dict[str, Any]]
) -> None:
    interrupt(source, plugin, "c", KeyboardInterrupt())
    result = convert(source, **change(source))
    assert resumed(result) == [False] * 4
    assert not os.path.exists(source.parent / "out" / STAGING)


def test_a_source_that_changes_between_two_files_is_not_mixed(
    tmp_path: Path, source: Path, plugin: ToyPlugin
) -> None:
    def change(_: ConvertedFile) -> None:
        write_toy(source, {name: counting(Dtype.F32, 3) for name in TENSORS}, metadata={"v": "2"})

    with pytest.raises(ConversionError, match=r"m\.toy: it changed while it was converted"):
        convert(source, on_file=change)
    assert os.listdir(tmp_path) == ["m.toy"]
    assert plugin.open_files == 0


def test_a_finished_file_that_was_damaged_meanwhile_is_written_again(
    tmp_path: Path, source: Path, plugin: ToyPlugin
) -> None:
    interrupt(source, plugin, "c", KeyboardInterrupt())
    finished = tmp_path / "out" / STAGING / "model-00001-of-00004.safetensors"
    finished.write_bytes(finished.read_bytes()[:-1])
    assert resumed(convert(source)) == [False, True, False, False]
    assert loaded(tmp_path / "out") == TENSORS


def test_two_conversions_to_one_place_are_kept_apart(
    tmp_path: Path, source: Path, plugin: ToyPlugin
) -> None:
    refused: list[str] = []

    def again(_: ConvertedFile) -> None:
        with pytest.raises(ConversionError) as caught:
            convert(source)
        refused.append(str(caught.value))

    convert(source, on_file=again)
    assert set(refused) == {f"{tmp_path / 'out'}: another process is converting to this place"}
    assert loaded(tmp_path / "out") == TENSORS
    assert plugin.open_files == 0


def test_a_folder_that_cannot_be_written_is_named(
    tmp_path: Path, source: Path, plugin: ToyPlugin
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError) as caught:
        convert_file(source, tmp_path / "file" / "out")
    assert caught.value.filename == str(tmp_path / "file" / "out")
    assert plugin.read == []


def test_what_is_written_has_the_mode_of_other_new_files(
    tmp_path: Path, source: Path, plugin: ToyPlugin
) -> None:
    convert(source)
    (tmp_path / "new").touch()
    expected = (tmp_path / "new").stat().st_mode
    assert {path.stat().st_mode for path in (tmp_path / "out").iterdir()} == {expected}
    assert plugin.open_files == 0
