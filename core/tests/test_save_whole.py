"""Tensors of frameworks that are saved together: what is asked of a framework, and what it owes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from core.tests.raw import RawFramework, RawTensor, file_bytes
from safetensors_core import (
    Dtype,
    InvalidInputError,
    PluginError,
    PreparedTensors,
    TensorSpec,
    UnsupportedDtypeError,
    load,
    plugins,
    register_framework,
    save,
    save_file,
    save_stream,
)
from safetensors_core.checkpoint.saving import save_checkpoint
from safetensors_core.entries import describe_entries
from safetensors_core.prepared_file import prepare_file


class OtherTensor(RawTensor):
    """A tensor of another framework."""


class OtherFramework(RawFramework):
    name = "other"

    def is_tensor(self, obj: object) -> bool:
        return isinstance(obj, OtherTensor)


class FirstFramework(RawFramework):
    def is_tensor(self, obj: object) -> bool:
        return type(obj) is RawTensor


@pytest.fixture(autouse=True)
def _no_frameworks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_frameworks", {})


def u8(data: bytes) -> RawTensor:
    return RawTensor(Dtype.U8, (len(data),), data)


def test_tensors_of_two_frameworks_are_saved_in_one_file() -> None:
    register_framework(FirstFramework())
    register_framework(OtherFramework())
    tensors = {
        "a": u8(b"1"),
        "b": OtherTensor(Dtype.U8, (2,), b"23"),
        "c": u8(b""),
        "d": u8(b"4"),
        "e": OtherTensor(Dtype.U8, (1,), b"5"),
    }
    assert save(tensors) == file_bytes(tensors)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (InvalidInputError("it is sparse"), "^tensor 'bad': it is sparse$"),
        (UnsupportedDtypeError("I128", "x"), "^tensor 'bad': dtype I128"),
    ],
)
def test_a_refusal_names_the_tensor_although_all_were_asked_for_at_once(
    error: Exception, message: str
) -> None:
    class Refusing(RawFramework):
        def describe(self, tensor: RawTensor) -> TensorSpec:
            if tensor.data == b"bad":
                raise error
            return super().describe(tensor)

    register_framework(Refusing())
    with pytest.raises(type(error), match=message):
        save({"good": u8(b"1"), "bad": u8(b"bad"), "other": u8(b"2")})


def test_a_refusal_that_one_tensor_alone_does_not_give_stays_as_it_is() -> None:
    class Refusing(RawFramework):
        def describe_all(self, tensors: Iterable[Any]) -> list[TensorSpec]:
            raise InvalidInputError("too many")

    register_framework(Refusing())
    with pytest.raises(InvalidInputError, match=r"^too many$"):
        save({"a": u8(b"1")})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([b"1", b"2", b"33"], r"tensor 'b': U8 of shape \[2\] has 2 bytes, but only 1 came"),
        ([b"1", b"222", b"3"], r"tensor 'b': U8 of shape \[2\] has 2 bytes, but more came"),
        ([b"1", b"22"], r"tensor 'c': U8 of shape \[1\] has 1 bytes, but only 0 came"),
    ],
)
def test_buffers_that_do_not_fit_the_description_are_refused(
    tmp_path: Path, given: list[bytes], message: str
) -> None:
    class Wrong(RawFramework):
        def to_buffers(self, tensors: Iterable[Any]) -> Iterator[bytes]:
            return iter(given)

    register_framework(Wrong())
    tensors = {"a": u8(b"1"), "b": u8(b"22"), "c": u8(b"3")}
    with pytest.raises(InvalidInputError, match=message):
        save_file(tensors, tmp_path / "m", fsync=False)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("code", "shape", "form"),
    [
        ("F32", (), ("f", ())),
        ("F32", (2, 3), ("f", (2, 3))),
        ("F32", (6,), ("f", (6,))),
        ("U8", (4, 1), ("B", (4, 1))),
        ("I8", (4,), ("b", (4,))),
        ("BOOL", (), ("?", ())),
    ],
)
def test_buffers_of_any_form_are_written_as_bytes(
    tmp_path: Path, code: str, shape: tuple[int, ...], form: tuple[Any, tuple[int, ...]]
) -> None:
    class Formed(RawFramework):
        def to_buffers(self, tensors: Iterable[Any]) -> Iterator[memoryview]:
            for tensor in tensors:
                yield memoryview(tensor.data).cast(form[0], form[1])

    data = bytes(range(2, 2 + TensorSpec(Dtype(code), shape).nbytes))
    tensors = {name: RawTensor(Dtype(code), shape, data) for name in "ab"}
    register_framework(Formed())
    reports: list[tuple[int, int]] = []
    save_file(tensors, tmp_path / "m", fsync=False, progress=lambda *done: reports.append(done))
    assert save(tensors) == (tmp_path / "m").read_bytes()
    assert (tmp_path / "m").read_bytes().endswith(data + data)
    assert reports[-1] == ((tmp_path / "m").stat().st_size,) * 2  # each byte was counted
    contents = describe_entries(tensors)
    [batch] = contents.batches(prepare_file(contents, None, 8).infos)
    assert {(view.ndim, view.itemsize, len(view)) for view in batch} == {(1, 1, len(data))}


def test_a_framework_may_answer_all_that_a_save_asks_at_once(tmp_path: Path) -> None:
    asked: list[list[str]] = []

    class AtOnce(RawFramework):
        def prepare(self, tensors: Mapping[str, RawTensor]) -> PreparedTensors:
            asked.append(list(tensors))
            specs = [TensorSpec(tensor.dtype, tensor.shape) for tensor in tensors.values()]
            return PreparedTensors(specs, lambda names: (tensors[name].data for name in names))

        def describe(self, tensor: RawTensor) -> TensorSpec:
            raise AssertionError(tensor)

    register_framework(AtOnce())
    save_file({"b": u8(b"12"), "a": u8(b"3"), "none": u8(b"")}, tmp_path / "m", fsync=False)
    assert asked == [["b", "a", "none"]]
    assert (tmp_path / "m").read_bytes().endswith(b"312")


@pytest.mark.parametrize("count", [1, 3])
def test_a_plugin_that_describes_another_number_of_tensors_is_named(count: int) -> None:
    class Wrong(RawFramework):
        def describe_all(self, tensors: Iterable[RawTensor]) -> list[TensorSpec]:
            return [TensorSpec(Dtype.U8, (1,))] * count

    register_framework(Wrong())
    with pytest.raises(PluginError, match=rf"plugin of 'raw' .* describes {count} .* given 2"):
        save({"a": u8(b"1"), "b": u8(b"2")})


def test_a_plugin_that_gives_too_many_buffers_is_named(tmp_path: Path) -> None:
    class Wrong(RawFramework):
        def to_buffers(self, tensors: Iterable[Any]) -> Iterator[bytes]:
            yield from (tensor.data for tensor in tensors)
            yield b"more"

    register_framework(Wrong())
    with pytest.raises(PluginError, match=r"plugin of raw .* more buffers"):
        save_file({"a": u8(b"1")}, tmp_path / "m", fsync=False)
    assert not os.listdir(tmp_path)


def test_what_a_framework_refuses_at_once_is_refused_by_name() -> None:
    class Refusing(RawFramework):
        def prepare(self, tensors: Mapping[str, RawTensor]) -> PreparedTensors:
            raise InvalidInputError("some tensor cannot be saved")

        def describe(self, tensor: RawTensor) -> TensorSpec:
            if tensor.data == b"bad":
                raise InvalidInputError("it is bad")
            return super().describe(tensor)

    register_framework(Refusing())
    with pytest.raises(InvalidInputError, match="tensor 'b': it is bad"):
        save({"a": u8(b"1"), "b": u8(b"bad")})
    with pytest.raises(InvalidInputError, match=r"^some tensor cannot be saved$"):
        save({"a": u8(b"1")})


@pytest.mark.parametrize("sizes", [[1] * 3000, [1 << 20] * 9, [5 << 20, 1, 5 << 20], [3 << 20] * 3])
def test_tensors_of_all_sizes_are_gathered_and_cut_without_loss(sizes: list[int]) -> None:
    register_framework(RawFramework())
    tensors = {f"{i:04}": u8(os.urandom(16) * (n // 16) or b"x") for i, n in enumerate(sizes)}
    assert load(save(tensors), "raw") == tensors


def test_progress_rises_to_the_size_of_the_file(tmp_path: Path) -> None:
    register_framework(RawFramework())
    reports: list[tuple[int, int]] = []
    tensors = {name: u8(bytes(3 << 20)) for name in "abcd"}
    save_file(tensors, tmp_path / "m", fsync=False, progress=lambda *report: reports.append(report))
    size = (tmp_path / "m").stat().st_size
    done = [report[0] for report in reports]
    assert done == sorted(set(done))
    assert len(done) > 4
    assert reports[-1] == (size, size)
    assert {total for _, total in reports} == {size}


def test_a_large_tensor_is_reported_in_parts(tmp_path: Path) -> None:
    reports: list[int] = []
    spec = TensorSpec(Dtype.U8, (160 << 20,))
    entry = ("w", spec, lambda: [bytes(spec.nbytes)])
    save_stream([entry], tmp_path / "m", fsync=False, progress=lambda done, _: reports.append(done))
    assert len(reports) >= 3


def test_progress_of_a_checkpoint_counts_all_of_its_files(tmp_path: Path) -> None:
    register_framework(RawFramework())
    reports: list[tuple[int, int]] = []
    tensors = {name: u8(bytes(10)) for name in "abc"}
    save_checkpoint(
        tensors, tmp_path, 10, fsync=False, progress=lambda *report: reports.append(report)
    )
    size = sum(file.stat().st_size for file in tmp_path.glob("*.safetensors"))
    assert reports[-1] == (size, size)
    assert [done for done, _ in reports] == sorted({done for done, _ in reports})


class StopError(Exception):
    """What a user's callable raises."""


def stop(*_: int) -> None:
    raise StopError


def test_an_exception_of_progress_ends_the_save_and_the_old_file_stays(tmp_path: Path) -> None:
    register_framework(RawFramework())
    (tmp_path / "m").write_bytes(b"old")
    with pytest.raises(StopError):
        save_file({"a": u8(b"1")}, tmp_path / "m", progress=stop)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"m": b"old"}


def test_an_exception_of_progress_leaves_nothing_of_a_checkpoint(tmp_path: Path) -> None:
    register_framework(RawFramework())
    with pytest.raises(StopError):
        save_checkpoint({"a": u8(b"1"), "b": u8(b"2")}, tmp_path / "m", 1, progress=stop)
    assert not (tmp_path / "m").exists() or not os.listdir(tmp_path / "m")


def test_whatever_a_framework_does_ahead_has_ended_when_the_save_has_failed(tmp_path: Path) -> None:
    running: list[str] = []

    class Ahead(RawFramework):
        def to_buffers(self, tensors: Iterable[Any]) -> Iterator[bytes]:
            running.append("copies")
            try:
                yield from (tensor.data for tensor in tensors)
            finally:
                running.clear()

    def stop_later(done: int, _total: int) -> None:
        if done > 4 << 20:
            raise StopError

    register_framework(Ahead())
    with pytest.raises(StopError) as caught:
        save_file({n: u8(bytes(3 << 20)) for n in "abcd"}, tmp_path / "m", progress=stop_later)
    assert running == []
    del caught  # so far it has kept the error, and with it whatever its traceback keeps
