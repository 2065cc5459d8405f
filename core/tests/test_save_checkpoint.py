"""What saving a checkpoint puts into a folder, and what it leaves and removes there."""

from __future__ import annotations

import errno
import json
import os
import stat
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from core.tests.raw import RawFramework, RawTensor
from safetensors_core import (
    Dtype,
    InvalidInputError,
    TensorSpec,
    plugins,
    read_header,
    register_framework,
    save_stream,
)
from safetensors_core.checkpoint.saving import save_checkpoint, write_checkpoint

Tensors = Mapping[str, bytes]

FIRST = {"a": b"11", "b": b"22", "c": b"33"}
SECOND = {"a": b"44", "b": b"55", "c": b"66"}
OTHER = {"x": b"77", "y": b"88"}


def write(folder: Any, tensors: Tensors, limit: int | str = 2, **options: Any) -> Any:
    entries = [
        (name, TensorSpec(Dtype.U8, (len(data),)), lambda data=data: [data])
        for name, data in tensors.items()
    ]
    return write_checkpoint(entries, folder, limit, **options)


def read_file(path: Path) -> dict[str, bytes]:
    """The tensors of a file by name."""
    header = read_header(path)
    data = path.read_bytes()[header.data_start :]
    return {name: data[slice(*info.data_offsets)] for name, info in header.tensors.items()}


def read(folder: Path) -> dict[str, bytes]:
    """The tensors of the checkpoint in a folder, as any loader finds them."""
    if (folder / "model.safetensors").exists():
        assert not (folder / "model.safetensors.index.json").exists()
        return read_file(folder / "model.safetensors")
    weight_map = json.loads((folder / "model.safetensors.index.json").read_bytes())["weight_map"]
    return {name: read_file(folder / file)[name] for name, file in weight_map.items()}


def shard(number: int, count: int) -> str:
    return f"model-{number:05d}-of-{count:05d}.safetensors"


INDEX = "model.safetensors.index.json"
THREE = sorted([*(shard(i, 3) for i in (1, 2, 3)), INDEX])


def test_what_fits_into_one_file_becomes_one_without_an_index(tmp_path: Path) -> None:
    saved = write(tmp_path, FIRST, 6)
    assert os.listdir(tmp_path) == ["model.safetensors"]
    assert read(tmp_path) == FIRST
    assert saved.weight_map == dict.fromkeys(FIRST, "model.safetensors")


def test_what_does_not_fit_becomes_shards_and_an_index(tmp_path: Path) -> None:
    saved = write(tmp_path, FIRST, 4)
    assert sorted(os.listdir(tmp_path)) == sorted([shard(1, 2), shard(2, 2), INDEX])
    assert read_file(tmp_path / shard(1, 2)) == {"a": b"11", "b": b"22"}
    assert json.loads((tmp_path / INDEX).read_bytes()) == {
        "metadata": {"total_size": 6},
        "weight_map": saved.weight_map,
    }


def test_a_shard_is_the_file_that_save_stream_writes(tmp_path: Path) -> None:
    write(tmp_path / "m", FIRST, 4, metadata={"by": "me"}, alignment=64)
    entries = [(n, TensorSpec(Dtype.U8, (2,)), lambda n=n: [FIRST[n]]) for n in ("a", "b")]
    save_stream(entries, tmp_path / "one", {"by": "me"}, alignment=64)
    assert (tmp_path / "m" / shard(1, 2)).read_bytes() == (tmp_path / "one").read_bytes()


def test_metadata_is_in_every_file_and_in_the_index(tmp_path: Path) -> None:
    write(tmp_path, FIRST, metadata={"format": "pt"})
    assert all(read_header(tmp_path / shard(i, 3)).metadata == {"format": "pt"} for i in (1, 2, 3))
    metadata = json.loads((tmp_path / INDEX).read_bytes())["metadata"]
    assert metadata == {"format": "pt", "total_size": 6}


def test_no_tensors_are_one_empty_file(tmp_path: Path) -> None:
    write(tmp_path, FIRST)
    write(tmp_path, {})
    assert os.listdir(tmp_path) == ["model.safetensors"]
    assert read(tmp_path) == {}


def test_names_go_into_files_in_the_order_in_which_they_are_given(tmp_path: Path) -> None:
    names = ["layer.10", "layer.2", "Ü", "", "a\nb", "模"]
    saved = write(tmp_path, dict.fromkeys(names, b"12"))
    assert [saved.weight_map[name] for name in names] == [shard(i, 6) for i in range(1, 7)]
    assert read(tmp_path) == dict.fromkeys(names, b"12")


def test_a_missing_folder_is_made_with_those_above_it(tmp_path: Path) -> None:
    write(tmp_path / "a" / "b" / "c", FIRST)
    assert read(tmp_path / "a" / "b" / "c") == FIRST


def test_a_folder_that_is_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    write(tmp_path / "link", FIRST)
    assert (tmp_path / "link").is_symlink()
    assert read(tmp_path / "real") == FIRST


def test_a_relative_folder_starts_at_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write("m", FIRST)
    write(".", OTHER)
    assert read(tmp_path / "m") == FIRST
    assert read(tmp_path) == OTHER


@pytest.mark.parametrize("before", [1, 2, 3, 4, 6, 12], ids=lambda limit: f"from {limit}")
@pytest.mark.parametrize("after", [1, 2, 3, 4, 6, 12], ids=lambda limit: f"to {limit}")
def test_one_checkpoint_replaces_another_and_nothing_else(
    tmp_path: Path, before: int, after: int
) -> None:
    others = [
        "config.json",
        "model.safetensors.bak",
        "adapter.safetensors",
        "model-00001-of-00009.safetensors",
        "vae.safetensors.index.json",
    ]
    for name in others:
        (tmp_path / name).write_bytes(b"somebody's")
    write(tmp_path, {name: data * 2 for name, data in FIRST.items()}, before)
    saved = write(tmp_path, SECOND, after)
    assert read(tmp_path) == SECOND
    assert set(os.listdir(tmp_path)) - {INDEX} == {*others, *saved.files}
    assert all((tmp_path / name).read_bytes() == b"somebody's" for name in others)


def test_a_stale_single_file_and_a_stale_index_are_removed(tmp_path: Path) -> None:
    write(tmp_path, FIRST)
    (tmp_path / "model.safetensors").write_bytes(b"stale")
    write(tmp_path, SECOND)
    assert sorted(os.listdir(tmp_path)) == THREE
    (tmp_path / "model.safetensors").write_bytes(b"stale")
    write(tmp_path, SECOND, 100)
    assert os.listdir(tmp_path) == ["model.safetensors"]


@pytest.mark.parametrize("index", [b"", b"{", b"[]", b'{"weight_map": {"a": "../precious"}}'])
def test_an_index_that_is_not_valid_is_replaced_and_nothing_that_it_names_is_removed(
    tmp_path: Path, index: bytes
) -> None:
    (tmp_path / "precious").write_bytes(b"somebody's")
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / INDEX).write_bytes(index)
    write(folder, FIRST)
    assert read(folder) == FIRST
    assert (tmp_path / "precious").exists()


@pytest.mark.parametrize("named", ["config.json", "sub/a.safetensors"])
def test_an_index_cannot_make_a_save_remove_what_is_no_shard_in_the_folder(
    tmp_path: Path, named: str
) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / named).write_bytes(b"somebody's")
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": named}}))
    write(tmp_path, FIRST)
    assert (tmp_path / named).read_bytes() == b"somebody's"


@pytest.mark.parametrize("named", ["x" * 300 + ".safetensors", "gone.safetensors"])
def test_an_index_that_names_what_cannot_be_there_is_replaced(tmp_path: Path, named: str) -> None:
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": named}}))
    write(tmp_path, FIRST)
    assert read(tmp_path) == FIRST


@pytest.mark.parametrize(
    "files", [["\ud800.safetensors"], ["\0.safetensors"], ["../m.safetensors"], [1], 1, None]
)
def test_a_note_that_no_save_has_written_does_no_harm(tmp_path: Path, files: Any) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    (tmp_path / "m.safetensors").write_bytes(b"somebody's")
    note = folder / ".checkpoint.0123456789abcdef.safetensors-part"
    note.write_text(json.dumps({"index": INDEX, "files": files}))
    write(folder, FIRST)
    note.write_text("[" * 100_000)
    write(folder, FIRST)
    assert sorted(os.listdir(folder)) == THREE
    assert (tmp_path / "m.safetensors").exists()


def test_a_folder_with_the_name_of_an_old_shard_stays(tmp_path: Path) -> None:
    (tmp_path / "old.safetensors").mkdir()
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": "old.safetensors"}}))
    write(tmp_path, FIRST)
    assert (tmp_path / "old.safetensors").is_dir()


def test_links_are_replaced_and_what_they_lead_to_stays(tmp_path: Path) -> None:
    store, folder = tmp_path / "store", tmp_path / "m"
    write(store, FIRST)
    folder.mkdir()
    for name in THREE:
        (folder / name).symlink_to(store / name)
    write(folder, SECOND)
    assert read(folder) == SECOND
    assert read(store) == FIRST
    assert not any((folder / name).is_symlink() for name in os.listdir(folder))


def test_files_that_are_replaced_pass_on_their_modes(tmp_path: Path) -> None:
    write(tmp_path, FIRST)
    for name in THREE:
        (tmp_path / name).chmod(0o640)
    write(tmp_path, SECOND)
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in THREE}
    assert modes == {0o640}


@pytest.mark.parametrize("name", [shard(2, 3), INDEX])
def test_a_folder_in_the_place_of_a_file_is_refused_and_stays(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        write(tmp_path, FIRST)
    assert caught.value.filename == str(tmp_path / name)
    assert os.listdir(tmp_path) == [name]


def test_a_pipe_in_the_place_of_a_file_is_refused_and_stays(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / shard(2, 3))
    with pytest.raises(InvalidInputError, match="not a regular file"):
        write(tmp_path, FIRST)
    assert os.listdir(tmp_path) == [shard(2, 3)]


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"somebody's")
    for folder in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(NotADirectoryError) as caught:
            write(folder, FIRST)
        assert caught.value.filename == str(folder)


def test_an_empty_path_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError):
        write("", FIRST)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("folder", [b"m", None, 7, "a\0b"])
def test_what_is_no_path_is_refused(folder: Any) -> None:
    with pytest.raises(InvalidInputError):
        write(folder, FIRST)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metadata": {"step": 1}}, "metadata must map strings to strings"),
        ({"metadata": "step"}, "metadata must be a mapping"),
        ({"alignment": 7}, "alignment 7"),
        ({"filename_pattern": "model.safetensors"}, "suffix"),
        ({"limit": "many"}, "size"),
    ],
)
def test_what_cannot_be_saved_is_refused_before_the_folder_is_made(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        write(tmp_path / "m", FIRST, **options)
    assert not os.listdir(tmp_path)


def test_a_name_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    entry = ("a", TensorSpec(Dtype.U8, (1,)), lambda: [b"1"])
    with pytest.raises(InvalidInputError, match="'a' occurs twice"):
        write_checkpoint([entry, entry], tmp_path / "m")
    assert not os.listdir(tmp_path)


def test_a_failed_save_removes_the_folders_that_it_made(tmp_path: Path) -> None:
    entry = ("a", TensorSpec(Dtype.U8, (9,)), lambda: [b"1"])
    (tmp_path / "a").mkdir()
    with pytest.raises(InvalidInputError, match="only 1 came"):
        write_checkpoint([entry], tmp_path / "a" / "b" / "c")
    assert os.listdir(tmp_path / "a") == []


def test_long_names_that_begin_alike_are_kept_apart(tmp_path: Path) -> None:
    pattern = "m" * 100 + "{suffix}" + "n" * 100 + ".safetensors"
    for tensors in (FIRST, SECOND):
        saved = write(tmp_path, tensors, filename_pattern=pattern)
        for name, file in saved.weight_map.items():
            assert read_file(tmp_path / file) == {name: tensors[name]}
        assert len(os.listdir(tmp_path)) == 4


def test_a_name_too_long_for_the_file_system_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="too long") as caught:
        write(tmp_path, FIRST, filename_pattern="m" * 250 + "{suffix}.safetensors")
    assert caught.value.errno == errno.ENAMETOOLONG
    assert not os.listdir(tmp_path)


def test_a_url_of_a_local_folder_is_that_folder(tmp_path: Path) -> None:
    write(f"file://{tmp_path}/m", FIRST)
    assert read(tmp_path / "m") == FIRST


def test_tensors_of_a_framework_are_refused_together_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusing(RawFramework):
        def check_saveable(self, tensors: Mapping[str, Any]) -> None:
            raise InvalidInputError(f"all of {sorted(tensors)}")

    monkeypatch.setattr(plugins, "_frameworks", {})
    register_framework(Refusing())
    tensors = {name: RawTensor(Dtype.U8, (2,), data) for name, data in FIRST.items()}
    with pytest.raises(InvalidInputError, match=r"all of \['a', 'b', 'c'\]"):
        save_checkpoint(tensors, tmp_path / "m", 2)
    assert not os.listdir(tmp_path)


def test_tensors_of_a_framework_are_saved_in_the_order_of_the_dict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugins, "_frameworks", {})
    register_framework(RawFramework())
    tensors = {name: RawTensor(Dtype.U8, (2,), FIRST[name]) for name in ("c", "a", "b")}
    saved = save_checkpoint(tensors, tmp_path, 2)
    assert saved.weight_map == {"c": shard(1, 3), "a": shard(2, 3), "b": shard(3, 3)}
    assert read(tmp_path) == FIRST
    assert list(tensors) == ["c", "a", "b"]


def test_a_shard_is_written_before_the_tensors_of_the_next_are_asked_for(tmp_path: Path) -> None:
    asked: list[str] = []

    def produce(name: str) -> Iterator[bytes]:
        asked.append(name)
        written = [part for part in os.listdir(tmp_path) if part.startswith(".model-")]
        assert len(written) == len(asked)
        yield b"12"

    entries = [(n, TensorSpec(Dtype.U8, (2,)), lambda n=n: produce(n)) for n in FIRST]
    write_checkpoint(entries, tmp_path, 2)
    assert asked == list(FIRST)


def test_two_saves_at_once_leave_one_of_the_checkpoints_whole(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    write(folder, FIRST)
    ready = threading.Barrier(2)

    def save(tensors: Tensors) -> None:
        def wait(data: bytes) -> Iterator[bytes]:
            yield data[:1]
            ready.wait(60)
            yield data[1:]

        entries = [
            (name, TensorSpec(Dtype.U8, (2,)), lambda data=data: wait(data))
            for name, data in tensors.items()
        ]
        for _ in range(20):
            write_checkpoint(entries, folder, 2, fsync=False)

    threads = [threading.Thread(target=save, args=[tensors]) for tensors in (FIRST, SECOND)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read(folder) in (FIRST, SECOND)
    assert sorted(os.listdir(folder)) == THREE
