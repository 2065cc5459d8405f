"""`compare_checkpoints` and `diff`: every difference is told, and nothing passes in silence."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from core.tests.checkpoints import INDEX
from core.tests.command_line import run
from core.tests.raw import RawTensor, counting, file_bytes
from core.tests.sharded import FILES, FIRST, METADATA, SECOND, TENSORS, checkpoint, one_file
from safetensors_core import CheckpointError, Dtype, HeaderError
from safetensors_core.checkpoint.comparison import compare_checkpoints
from safetensors_core.sources import FileSource

# What a process sees that has no NumPy, however it is installed here.
WITHOUT_NUMPY = {**os.environ, "SAFETENSORS_DISABLED_PLUGINS": "numpy"}


@pytest.fixture
def without_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin for NumPy that cannot be used."""
    from safetensors_core import PluginError
    from safetensors_core.checkpoint import comparison

    def refuse(name: str) -> None:
        raise PluginError(f"framework {name!r} is not installed")

    monkeypatch.setattr(comparison, "get_framework", refuse)


def write(
    path: Path, tensors: dict[str, RawTensor], metadata: dict[str, str] | None = None
) -> Path:
    path.write_bytes(file_bytes(tensors, metadata))
    return path


def test_files_folders_and_indexes_of_the_same_tensors_are_equal(tmp_path: Path) -> None:
    model = checkpoint(tmp_path)
    one = one_file(model)
    for a in (model, model / INDEX, one):
        for b in (model, one):
            comparison = compare_checkpoints(a, b)
            assert comparison.equal
            assert comparison.complete
            assert comparison.equal_tensors == len(TENSORS)


def test_the_order_of_the_tensors_makes_no_difference(tmp_path: Path) -> None:
    a = write(tmp_path / "a", TENSORS)
    b = write(tmp_path / "b", dict(reversed(TENSORS.items())))
    assert a.read_bytes() != b.read_bytes()
    assert compare_checkpoints(a, b).equal


def test_sources_that_cannot_be_hashed_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FileSource, "__hash__", None)  # as in a dataclass
    model = checkpoint(tmp_path)
    assert compare_checkpoints(model, one_file(model)).equal


def test_names_that_only_one_has_are_told(tmp_path: Path) -> None:
    a = write(tmp_path / "a", {"x": counting(Dtype.U8, 1), "y": counting(Dtype.U8, 1)})
    b = write(tmp_path / "b", {"y": counting(Dtype.U8, 1), "z": counting(Dtype.U8, 1)})
    comparison = compare_checkpoints(a, b)
    assert (comparison.only_in_a, comparison.only_in_b) == (["x"], ["z"])
    assert comparison.tensors == []
    assert not comparison.equal


def test_shapes_that_differ_are_told_and_their_values_are_not_compared(tmp_path: Path) -> None:
    a = write(tmp_path / "a", {"x": counting(Dtype.U8, 2, 3), "y": counting(Dtype.F32, 0)})
    b = write(tmp_path / "b", {"x": counting(Dtype.U8, 3, 2), "y": counting(Dtype.F32, 0, 1)})
    comparison = compare_checkpoints(a, b)
    assert [tensor.shapes for tensor in comparison.tensors] == [((2, 3), (3, 2)), ((0,), (0, 1))]
    assert [tensor.values for tensor in comparison.tensors] == [None, None]
    # That the shapes differ is all there is to know.
    assert comparison.complete
    assert not comparison.equal


def test_metadata_that_differs_is_told(tmp_path: Path) -> None:
    a = write(tmp_path / "a", {}, {"same": "1", "other": "1", "a": "1"})
    b = write(tmp_path / "b", {}, {"same": "1", "other": "2", "b": "1"})
    comparison = compare_checkpoints(a, b)
    assert comparison.metadata == {"a": (["1"], []), "b": ([], ["1"]), "other": (["1"], ["2"])}
    assert not comparison.equal
    assert compare_checkpoints(write(a, {}, {}), write(b, {}, None)).equal


def test_metadata_of_every_shard_counts(tmp_path: Path) -> None:
    model = checkpoint(tmp_path)
    one = one_file(model)
    (model / SECOND).write_bytes(file_bytes(FILES[SECOND], {**METADATA, "format": "other"}))
    assert compare_checkpoints(model, one).metadata == {"format": (["raw", "other"], ["raw"])}


@pytest.mark.usefixtures("without_numpy")
@pytest.mark.parametrize("dtype", Dtype)
def test_one_bit_is_a_difference_without_numpy_too(dtype: Dtype, tmp_path: Path) -> None:
    tensor = counting(dtype, 8)
    data = bytearray(tensor.data)
    data[-1] ^= 0x80
    a = write(tmp_path / "a", {"w": tensor})
    b = write(tmp_path / "b", {"w": RawTensor(dtype, (8,), bytes(data))})
    assert compare_checkpoints(a, a).equal
    comparison = compare_checkpoints(a, b)
    [tensor_difference] = comparison.tensors
    assert tensor_difference.values is None
    assert "not installed" in (tensor_difference.not_compared or "")
    assert not comparison.equal
    assert not comparison.complete


@pytest.mark.usefixtures("without_numpy")
def test_a_cast_is_not_compared_without_numpy_unless_it_is_empty(tmp_path: Path) -> None:
    a = write(tmp_path / "a", {"w": counting(Dtype.F32, 2), "empty": counting(Dtype.F32, 0)})
    b = write(tmp_path / "b", {"w": counting(Dtype.F16, 2), "empty": counting(Dtype.F16, 0)})
    comparison = compare_checkpoints(a, b)
    compared = {tensor.name: tensor.not_compared is None for tensor in comparison.tensors}
    assert compared == {"empty": True, "w": False}
    assert not comparison.equal


def test_what_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    model = checkpoint(tmp_path)
    one = one_file(model)
    (model / FIRST).write_bytes((model / FIRST).read_bytes()[:-1])
    with pytest.raises(HeaderError):
        compare_checkpoints(one, model)
    (model / FIRST).unlink()
    with pytest.raises(CheckpointError):
        compare_checkpoints(one, model)
    with pytest.raises(FileNotFoundError):
        compare_checkpoints(one, model / "none")


def test_a_read_that_fails_leaves_its_tensor_not_compared_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors_core.sources import FileSource

    path = write(tmp_path / "a", {"bad": counting(Dtype.I64, 1), "good": counting(Dtype.U8, 2)})
    read_ranges = FileSource.read_ranges

    def read(source: FileSource, ranges: Sequence[tuple[int, memoryview]]) -> None:
        if any(len(view) == 8 for _, view in ranges):  # only the bad tensor has this size
            raise OSError(5, "Input/output error", source.location)
        read_ranges(source, ranges)

    monkeypatch.setattr(FileSource, "read_ranges", read)
    comparison = compare_checkpoints(path, path)
    [tensor] = comparison.tensors
    assert tensor.name == "bad"
    assert "Input/output error" in (tensor.not_compared or "")
    assert comparison.equal_tensors == 1
    assert not comparison.complete


# The command.


def test_the_exit_status_says_whether_they_are_equal(tmp_path: Path) -> None:
    model = checkpoint(tmp_path)
    one = one_file(model)
    done = run("diff", model, one)
    assert done.returncode == 0
    assert "no difference" in done.stdout
    other = write(tmp_path / "other", {**TENSORS, "more": counting(Dtype.U8, 1)}, METADATA)
    done = run("diff", one, other)
    assert (done.returncode, done.stderr) == (1, "")
    assert "only in B" in done.stdout
    done = run("diff", one, tmp_path / "none")
    assert (done.returncode, done.stdout) == (2, "")


def test_what_was_not_compared_is_status_two_and_said(tmp_path: Path) -> None:
    a = write(tmp_path / "a", {"w": counting(Dtype.F32, 2)})
    b = write(tmp_path / "b", {"w": RawTensor(Dtype.F32, (2,), bytes(8))})
    done = run("diff", a, b, env=WITHOUT_NUMPY)
    assert (done.returncode, done.stderr) == (2, "")
    assert "not compared: " in done.stdout
    done = run("diff", a, b, "--json", env=WITHOUT_NUMPY)
    document = json.loads(done.stdout)
    assert (done.returncode, document["equal"], document["complete"]) == (2, False, False)
    # Equal bits need no NumPy.
    assert run("diff", a, a, env=WITHOUT_NUMPY).returncode == 0


def test_json_has_every_difference(tmp_path: Path) -> None:
    names = [f"x{i:03}" for i in range(400)]
    a = write(tmp_path / "a", dict.fromkeys(names, counting(Dtype.U8, 1)), {"key": "value"})
    b = write(tmp_path / "b", {"y": counting(Dtype.U8, 1)})
    done = run("diff", a, b, "--json")
    assert done.returncode == 1
    document = json.loads(done.stdout)
    assert document["only_in_a"] == names
    assert document["only_in_b"] == ["y"]
    assert document["metadata"] == {"key": [["value"], []]}
    text = run("diff", a, b).stdout
    assert "400 in all, --json shows them" in text
    assert text.count("\n  x") == 300


def test_hostile_names_do_not_reach_the_terminal(tmp_path: Path) -> None:
    name = "red\x1b[31m\n\u202e"
    a = write(
        tmp_path / "a", {name: counting(Dtype.U8, 1), "w": counting(Dtype.U8, 1)}, {name: "1"}
    )
    b = write(tmp_path / "b", {"w": counting(Dtype.U8, 2)}, {name: name})
    done = run("diff", a, b)
    assert done.returncode == 1
    assert "\x1b" not in done.stdout
    assert "\u202e" not in done.stdout
    assert "red\\x1b[31m\\n\\u202e" in done.stdout
