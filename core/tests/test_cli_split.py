"""What the command line promises of `split` and `merge`."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from core.tests.checkpoints import INDEX, write_index, write_shards
from core.tests.command_line import run
from core.tests.raw import RawTensor, counting, file_bytes
from safetensors_core import CheckpointWarning, Dtype, read_header
from safetensors_core.checkpoint.splitting import merge_checkpoint

SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


def in_order(tensors: dict[str, RawTensor]) -> dict[str, RawTensor]:
    """Tensors as `save_file` orders them."""
    names = sorted(tensors, key=lambda name: (-tensors[name].dtype.rank, name))
    return {name: tensors[name] for name in names}


TENSORS = in_order(
    {
        **{f"of {dtype.value}": counting(dtype, 4, 6) for dtype in Dtype},
        "scalar": counting(Dtype.I64),
        "empty": counting(Dtype.F32, 0, 7),
        "näme \x1b[31m": counting(Dtype.BF16, 3),
    }
)


@pytest.fixture
def original(tmp_path: Path) -> Path:
    """A file with a tensor of every dtype."""
    path = tmp_path / "original.safetensors"
    path.write_bytes(file_bytes(TENSORS, {"format": "pt", "by": "me"}))
    return path


def contents(folder: Path) -> dict[str, bytes]:
    """All files in and below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_file_that_is_split_and_merged_again_is_the_same_byte_for_byte(
    tmp_path: Path, original: Path
) -> None:
    done = run("split", original, tmp_path / "split", "--max-shard-size", "100")
    assert (done.returncode, done.stderr) == (0, "")
    files = sorted((tmp_path / "split").glob("*.safetensors"))
    assert len(files) > 3
    assert all(read_header(file).data_nbytes <= 192 for file in files)
    assert all(read_header(file).metadata == {"format": "pt", "by": "me"} for file in files)
    for source in [tmp_path / "split", tmp_path / "split" / INDEX]:
        merged = tmp_path / f"merged from {source.name}"
        done = run("merge", source, merged)
        assert (done.returncode, done.stderr) == (0, "")
        assert merged.read_bytes() == original.read_bytes()


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_checksums_of_the_source_are_not_those_of_the_copy(
    tmp_path: Path, metadata: dict[str, str] | None
) -> None:
    original, folder = tmp_path / "original.safetensors", tmp_path / "split"
    original.write_bytes(file_bytes(TENSORS, metadata))
    run("split", original, folder, "--max-shard-size", "100")
    assert run("verify", folder, "--write-checksums", "metadata").returncode == 0
    done = run("merge", folder, tmp_path / "merged.safetensors", "--json")
    [warning] = json.loads(done.stdout)["warnings"]
    assert "checksums" in warning
    assert (tmp_path / "merged.safetensors").read_bytes() == original.read_bytes()
    assert run("verify", original, "--write-checksums", "metadata").returncode == 0
    done = run("split", original, tmp_path / "again", "--max-shard-size", "100")
    assert "checksums" in done.stderr
    assert run("verify", tmp_path / "again").returncode == 0


def test_a_file_without_metadata_comes_back_without(tmp_path: Path) -> None:
    path = tmp_path / "original.safetensors"
    path.write_bytes(file_bytes(TENSORS, None))
    run("split", path, tmp_path / "split", "--max-shard-size", "100")
    run("merge", tmp_path / "split", tmp_path / "merged")
    assert (tmp_path / "merged").read_bytes() == path.read_bytes()


def test_what_fits_into_one_file_is_one_file_without_an_index(
    tmp_path: Path, original: Path
) -> None:
    run("split", original, tmp_path / "split")
    assert contents(tmp_path / "split") == {"model.safetensors": original.read_bytes()}


def test_a_checkpoint_is_split_anew(tmp_path: Path, original: Path) -> None:
    run("split", original, tmp_path / "small", "--max-shard-size", "100")
    run("split", original, tmp_path / "large", "--max-shard-size", "300")
    done = run("split", tmp_path / "small", tmp_path / "again", "--max-shard-size", "300")
    assert done.returncode == 0
    merged = [tmp_path / "merged large", tmp_path / "merged again"]
    run("merge", tmp_path / "large", merged[0])
    run("merge", tmp_path / "again", merged[1])
    assert merged[0].read_bytes() == merged[1].read_bytes() == original.read_bytes()


def test_the_names_of_the_files_are_an_option(tmp_path: Path, original: Path) -> None:
    pattern = "adapter{suffix}.safetensors"
    folder = tmp_path / "split"
    options = ["--filename-pattern", pattern, "--max-shard-size", "1kB"]
    run("split", original, folder, *options)
    assert min(contents(folder)).startswith("adapter-00001-of-")
    assert "adapter.safetensors.index.json" in contents(folder)
    run("merge", folder, tmp_path / "merged")
    assert (tmp_path / "merged").read_bytes() == original.read_bytes()


def test_tensors_larger_than_a_block_come_back(tmp_path: Path) -> None:
    big = bytes(range(256)) * (68 * 1024)  # 17 MiB
    tensors = {
        f"{i}": RawTensor(Dtype.U8, (len(part),), part)
        for i, part in enumerate([b"abc", big, b"", big[1:]])
    }
    path = tmp_path / "big.safetensors"
    path.write_bytes(file_bytes(tensors))
    run("split", path, tmp_path / "split", "--max-shard-size", "20MB")
    run("merge", tmp_path / "split", tmp_path / "merged")
    assert (tmp_path / "merged").read_bytes() == path.read_bytes()


def test_a_file_in_another_order_is_written_in_the_usual_one(tmp_path: Path) -> None:
    path = tmp_path / "backwards.safetensors"
    path.write_bytes(file_bytes(dict(reversed(TENSORS.items()))))
    run("merge", path, tmp_path / "merged")
    assert (tmp_path / "merged").read_bytes() == file_bytes(TENSORS)
    run("split", path, tmp_path / "split", "--max-shard-size", "100")
    run("merge", tmp_path / "split", tmp_path / "merged again")
    assert (tmp_path / "merged again").read_bytes() == file_bytes(TENSORS)


def test_metadata_that_differ_are_named_and_those_of_the_first_file_stay(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for i, metadata in enumerate([{"a": "1", "same": "s"}, {"a": "2", "same": "s", "b": "3"}]):
        (folder / SHARDS[i]).write_bytes(file_bytes({str(i): counting(Dtype.U8, 3)}, metadata))
    write_index(folder, {"0": SHARDS[0], "1": SHARDS[1]}, {"total_size": 6})
    done = run("merge", folder, tmp_path / "merged")
    assert done.returncode == 0
    assert done.stderr.startswith("safetensors-core: warning: ")
    assert done.stderr.endswith("They differ in 'a', 'b'\n")
    assert read_header(tmp_path / "merged").metadata == {"a": "1", "same": "s"}
    done = run("merge", folder, tmp_path / "again", "--json")
    assert done.stderr == ""
    [text] = json.loads(done.stdout)["warnings"]
    assert "'a', 'b'" in text
    with pytest.warns(CheckpointWarning, match="'a', 'b'") as caught:
        merge_checkpoint(folder, tmp_path / "third")
    assert [warning.filename for warning in caught] == [__file__]


def test_people_get_a_line_and_programs_an_object(tmp_path: Path, original: Path) -> None:
    nbytes = sum(len(tensor.data) for tensor in TENSORS.values())
    text = run("split", original, tmp_path / "split", "--max-shard-size", "1kB").stdout
    assert text.startswith(f"{tmp_path / 'split'}: 2 files, {len(TENSORS)} tensors, ")
    folder = tmp_path / "again"
    document = json.loads(
        run("split", original, folder, "--max-shard-size", "1kB", "--json").stdout
    )
    assert document.pop("seconds") >= 0
    assert document == {
        "source": str(original),
        "target": str(folder),
        "files": [str(folder / name) for name in SHARDS],
        "index": str(folder / INDEX),
        "tensors": len(TENSORS),
        "nbytes": nbytes,
        "warnings": [],
    }
    target = tmp_path / "merged"
    document = json.loads(run("merge", folder, target, "--json").stdout)
    assert (document["files"], document["index"]) == ([str(target)], None)


# The source is never harmed.


def test_a_folder_that_holds_the_source_is_refused(tmp_path: Path, original: Path) -> None:
    folder = write_shards(tmp_path / "model", {"a.safetensors": TENSORS})
    link = tmp_path / "link"
    link.symlink_to(folder)
    places: list[tuple[str | Path, str | Path]] = [
        (folder, folder),
        (folder, link),
        (link, folder),
        (folder / "a.safetensors", folder),
        (folder / INDEX, f"{folder}/../model"),
        (original, tmp_path),
        (f"file://{original}", tmp_path),
        (original, f"FILE://{tmp_path}"),
        (folder, f"Local://{folder}"),
    ]
    for source, target in places:
        before = contents(tmp_path)
        done = run("split", source, target, "--overwrite", "--max-shard-size", "100")
        assert (done.returncode, done.stdout) == (2, "")
        assert "is read from there, and is left as it is" in done.stderr
        assert contents(tmp_path) == before


def test_a_folder_with_a_link_to_the_source_is_refused(tmp_path: Path, original: Path) -> None:
    folder = tmp_path / "split"
    folder.mkdir()
    (folder / "model.safetensors").symlink_to(original)
    before = original.read_bytes()
    done = run("split", original, folder, "--overwrite")
    assert done.returncode == 2
    assert original.read_bytes() == before


def test_a_file_of_the_source_is_refused_as_a_target(tmp_path: Path) -> None:
    shards = {SHARDS[0]: {"a": counting(Dtype.U8, 3)}, SHARDS[1]: {"b": counting(Dtype.U8, 3)}}
    folder = write_shards(tmp_path / "model", shards)
    link = tmp_path / "link.safetensors"
    link.symlink_to(folder / SHARDS[1])
    before = contents(tmp_path)
    targets: list[str | Path] = [
        folder / SHARDS[0],
        folder / INDEX,
        link,
        f"FILE://{folder / SHARDS[0]}",
    ]
    for target in targets:
        done = run("merge", folder, target, "--overwrite")
        assert (done.returncode, done.stdout) == (2, "")
        assert "is read from there, and is left as it is" in done.stderr
        assert contents(tmp_path) == before


def test_a_target_inside_of_the_folder_of_the_source_leaves_the_source_as_it_is(
    tmp_path: Path,
) -> None:
    shards = {SHARDS[0]: {"a": counting(Dtype.U8, 3)}, SHARDS[1]: {"b": counting(Dtype.U8, 3)}}
    folder = write_shards(tmp_path / "model", shards)
    before = contents(folder)
    assert run("split", folder, folder / "inside", "--max-shard-size", "3").returncode == 0
    assert run("merge", folder, folder / "model.safetensors").returncode == 0
    after = contents(folder)
    assert after.items() > before.items()
    assert after.keys() - before.keys() == {
        "model.safetensors",
        *(f"inside/{name}" for name in [*SHARDS, INDEX]),
    }


def test_what_is_there_already_is_left_unless_it_may_be_replaced(
    tmp_path: Path, original: Path
) -> None:
    target, folder = tmp_path / "there", tmp_path / "split"
    target.write_bytes(b"mine")
    write_shards(folder, {"old.safetensors": {"a": counting(Dtype.U8, 3)}})
    (folder / "config.json").write_text("{}")
    before = contents(tmp_path)
    for command, place in [("merge", target), ("split", folder)]:
        done = run(command, original, place)
        assert (done.returncode, done.stdout) == (2, "")
        assert f"{place}: " in done.stderr
        assert "pass --overwrite to replace it" in done.stderr
        assert json.loads(run(command, original, place, "--json").stdout)["path"] == str(place)
        assert contents(tmp_path) == before
    assert run("merge", original, target, "--overwrite").returncode == 0
    assert target.read_bytes() == original.read_bytes()
    assert run("split", original, folder, "--overwrite").returncode == 0
    assert contents(folder) == {
        "config.json": b"{}",
        "model.safetensors": original.read_bytes(),
    }


def test_a_folder_with_other_files_gets_the_checkpoint(tmp_path: Path, original: Path) -> None:
    folder = tmp_path / "split"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    assert run("split", original, folder).returncode == 0
    assert sorted(contents(folder)) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["merge", "original.safetensors", "none/below"], "No such file or directory"),
        (["merge", "original.safetensors", "folder"], "Is a directory"),
        (["merge", "original.safetensors", "folder/"], "Is a directory"),
        (["merge", "none", "out"], "No such file or directory"),
        (["split", "original.safetensors", "original.safetensors"], "Not a directory"),
        (["split", "none", "out"], "No such file or directory"),
        (["split", "folder", "out"], "no safetensors files"),
        (["split", "original.safetensors", "out", "--max-shard-size", "many"], "'many'"),
        (["split", "original.safetensors", "out", "--max-shard-size", "0"], "0"),
        (["split", "original.safetensors", "out", "--filename-pattern", "m"], "{suffix}"),
        (
            [
                "split",
                "original.safetensors",
                "out",
                "--filename-pattern",
                "../a{suffix}.safetensors",
            ],
            "without a folder",
        ),
    ],
)
@pytest.mark.usefixtures("original")
def test_what_cannot_be_done_is_one_line_and_changes_nothing(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "folder").mkdir()
    before = contents(tmp_path)
    done = run(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert contents(tmp_path) == before
    assert not (tmp_path / "out").exists()


def test_a_damaged_file_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    shards = {SHARDS[0]: {"a": counting(Dtype.U8, 3)}, SHARDS[1]: {"b": counting(Dtype.U8, 3)}}
    folder = write_shards(tmp_path / "model", shards)
    damaged = folder / SHARDS[1]
    damaged.write_bytes(damaged.read_bytes()[:-1])
    for command in ["split", "merge"]:
        document = json.loads(run(command, folder, tmp_path / "out", "--json").stdout)
        assert (document["error"], document["reason"]) == ("HeaderError", "truncated")
        assert document["path"] == str(damaged)
        assert not (tmp_path / "out").exists()


def test_files_that_hold_the_same_tensor_are_refused_without_an_index(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "model", {"a.safetensors": TENSORS})
    shutil.copy(folder / "a.safetensors", folder / "b.safetensors")
    (folder / INDEX).unlink()
    document = json.loads(run("merge", folder, tmp_path / "out", "--json").stdout)
    assert document["reason"] == "duplicate-tensor"


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_folder_that_may_not_be_written_is_named(tmp_path: Path, original: Path) -> None:
    folder = tmp_path / "read-only"
    folder.mkdir(mode=0o555)
    for command, target in [("split", folder), ("merge", folder / "merged")]:
        done = run(command, original, target)
        assert done.returncode == 2
        assert f"{target}: Permission denied. Check the permissions" in done.stderr
    assert contents(folder) == {}
