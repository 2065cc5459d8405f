"""Folders of Orbax that are damaged or hostile: refused, and nothing outside of them is read."""

from __future__ import annotations

import contextlib
import gzip
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
import pytest
import tensorstore

from plugins.jax.tests.foreign import ask, assert_holds, read
from safetensors_core import (
    ConversionError,
    SafetensorError,
    UnsafeCheckpointError,
    UnsupportedDtypeError,
)

ARRAYS = {"a.w": np.arange(6.0).reshape(2, 3), "b": np.ones(4, np.float32)}
TREE = {"a": {"w": ARRAYS["a.w"]}, "b": ARRAYS["b"]}


@pytest.fixture(params=[False, True], ids=["files", "ocdbt"])
def path(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    return save(tmp_path / "model", TREE, use_ocdbt=request.param)


@pytest.fixture
def in_files(tmp_path: Path) -> Path:
    return save(tmp_path / "model", TREE, use_ocdbt=False)


def save(path: Path, tree: Any, **options: Any) -> Path:
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**options)) as checkpointer:
        checkpointer.save(path, args=ocp.args.PyTreeSave(tree))
    return path


def read_all(path: Path) -> dict[str, Any]:
    return {name: tensor.read() for name, tensor in read(path)}


def change_json(path: Path, change: Callable[[Any], None]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def rename_key(path: Path, key: str) -> None:
    """Let the tree's description call one of its arrays something else."""

    def change(metadata: Any) -> None:
        entry = metadata["tree_metadata"]["('b',)"]
        entry["key_metadata"][0]["key"] = key

    change_json(path / "_METADATA", change)


# --- What leaves the folder


@pytest.mark.parametrize("key", ["../secret", "a/../../secret", "..", "..\\secret", "/{outside}"])
def test_a_key_that_leaves_the_folder_is_refused(key: str, path: Path) -> None:
    outside = path.parent / "secret"
    shutil.copytree(path / "b" if (path / "b").exists() else path, outside)
    rename_key(path, key.format(outside=outside))
    with pytest.raises(UnsafeCheckpointError, match="leaves the folder") as caught:
        read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("folder", [False, True], ids=["file", "folder"])
def test_a_link_that_leaves_the_folder_is_refused(folder: bool, in_files: Path) -> None:
    place = in_files / "b" if folder else in_files / "b" / "0"
    outside = in_files.parent / "outside"
    place.rename(outside)
    place.symlink_to(outside)
    with pytest.raises(UnsafeCheckpointError, match="symbolic link that leaves the folder"):
        read(in_files)


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 & -(crc & 1))
    return crc ^ 0xFFFFFFFF


def database_of(model: Path, child: str) -> None:
    """An OCDBT database that refers to data in a folder of it, as Orbax merges processes."""
    context = tensorstore.Context({"cache_pool#ocdbt": {"total_bytes_limit": 2**20}})
    config = {"compression": None, "max_inline_value_bytes": 0}

    def ocdbt(folder: Path) -> dict[str, Any]:
        base = {"driver": "file", "path": f"{folder}/"}
        pool = "cache_pool#ocdbt"
        return {"driver": "ocdbt", "base": base, "config": config, "cache_pool": pool}

    array = tensorstore.open(
        {"driver": "zarr", "kvstore": {**ocdbt(model / child), "path": "w"}},
        dtype="float32", shape=[4], create=True, context=context,
    ).result()  # fmt: skip
    array[...] = 7
    parent = tensorstore.KvStore.open(ocdbt(model), context=context).result()
    part = tensorstore.KvStore.open(ocdbt(model / child), context=context).result()
    transaction = tensorstore.Transaction(atomic=True)
    part.experimental_copy_range_to(parent.with_transaction(transaction)).result()
    transaction.commit_async().result()
    entry = {"key_metadata": [{"key": "w"}], "value_metadata": {"value_type": "jax.Array"}}
    (model / "_METADATA").write_text(json.dumps({"tree_metadata": {"w": entry}}))


def test_a_database_that_refers_to_another_folder_is_refused(tmp_path: Path) -> None:
    model = tmp_path / "model"
    database_of(model, "process_0.0")
    assert_holds(read(model), {"w": np.full(4, 7, np.float32)})
    (model / "process_0.0").rename(tmp_path / "outside0")
    [node] = (model / "d").iterdir()
    content = node.read_bytes()[:-4]
    assert b"process_0.0/" in content
    content = content.replace(b"process_0.0/", b"../outside0/")
    node.write_bytes(content + crc32c(content).to_bytes(4, "little"))
    with pytest.raises(UnsafeCheckpointError, match=r"tensor 'w' lies outside of the folder"):
        read(model)


def test_a_link_within_the_folder_is_followed(in_files: Path) -> None:
    place = in_files / "b" / "0"
    place.rename(in_files / "elsewhere")
    place.symlink_to(in_files / "elsewhere")
    assert_holds(read(in_files), ARRAYS)


# --- What is not there, or not whole


def test_a_chunk_that_is_missing_is_not_read_as_zeros(in_files: Path) -> None:
    (in_files / "b" / "0").unlink()
    found = read(in_files)
    with pytest.raises(ConversionError, match="tensor 'b' cannot be read") as caught:
        found.tensors["b"].read()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_an_array_that_is_missing_is_refused_by_name(in_files: Path) -> None:
    shutil.rmtree(in_files / "b")
    with pytest.raises(ConversionError, match="tensor 'b' cannot be read"):
        read(in_files)


def shortened(path: Path) -> Iterator[Path]:
    """Each file in turn is empty, cut, or gone, and then as it was."""
    for file in sorted(path.rglob("*")):
        if not file.is_file():
            continue
        whole = file.read_bytes()
        for length in sorted({0, 1, len(whole) // 3, len(whole) - 1} - {len(whole)}):
            file.write_bytes(whole[: max(length, 0)])
            yield file
        file.unlink()
        yield file
        file.write_bytes(whole)


def test_a_file_that_is_cut_gives_the_right_values_or_an_error(path: Path) -> None:
    refused = 0
    for _ in shortened(path):
        try:
            if ask(path) is None:
                continue
            for name, array in read_all(path).items():
                assert array.tobytes() == ARRAYS[name].tobytes()
        except ConversionError:
            refused += 1
    assert refused > 8


def test_a_changed_byte_never_raises_an_error_of_python(path: Path) -> None:
    rng = np.random.default_rng(0)
    for file in sorted(path.rglob("*")):
        if not file.is_file():
            continue
        whole = file.read_bytes()
        for at in rng.integers(0, max(len(whole), 1), 12 if whole else 0):
            file.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
            with contextlib.suppress(SafetensorError):
                found = ask(path)
                for tensor in () if found is None else found.tensors.values():
                    assert len(tensor.read().tobytes()) == tensor.spec.nbytes
        file.write_bytes(whole)
    assert_holds(read(path), ARRAYS)


@pytest.mark.parametrize(
    "content",
    [
        '{"tree_metadata"',
        '{"tree_metadata": []}',
        '{"tree_metadata": {"w": {}}}',
        '{"tree_metadata": {"w": 1}}',
        '{"tree_metadata": {"w": {"key_metadata": [], "value_metadata": {"value_type": ""}}}}',
        '{"tree_metadata": {"w": {"key_metadata": [{"key": 1}], "value_metadata": {}}}}',
        '{"tree_metadata": {"w": {"key_metadata": [{"key": "b"}], "value_metadata": null}}}',
        '{"tree_metadata": ' + "[" * 100_000,
    ],
    ids=range(8),
)
def test_a_description_that_is_no_tree_is_refused(content: str, path: Path) -> None:
    (path / "_METADATA").write_text(content)
    with pytest.raises(ConversionError) as caught:
        read(path)
    assert "_METADATA" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_that_was_not_finished_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "model", TREE)
    (path / "manifest.ocdbt").unlink()
    with pytest.raises(ConversionError, match="did not finish"):
        read(path)
    path = save(tmp_path / "other", TREE).rename(tmp_path / "other.orbax-checkpoint-tmp-1")
    with pytest.raises(ConversionError, match="did not finish"):
        read(path)


# --- What claims too much


@pytest.mark.parametrize("fields", [{"shape": [2**50], "chunks": [4]}, {"chunks": [2**32]}])
def test_an_array_that_would_fill_memory_is_refused(fields: Any, in_files: Path) -> None:
    change_json(in_files / "b" / ".zarray", lambda zarray: zarray.update(fields))
    with pytest.raises(UnsafeCheckpointError, match=r"claim to hold .* bytes"):
        read(in_files)


def test_a_chunk_that_expands_beyond_its_size_is_refused(in_files: Path) -> None:
    compressor = {"id": "gzip", "level": 9}
    change_json(in_files / "b" / ".zarray", lambda zarray: zarray.update(compressor=compressor))
    (in_files / "b" / "0").write_bytes(gzip.compress(bytes(2**24)))
    found = read(in_files)
    with pytest.raises(ConversionError, match="tensor 'b' cannot be read"):
        found.tensors["b"].read()


@pytest.mark.parametrize("dtype", ["|O", "|V8", "<M8[s]", [["x", "<f4"], ["y", "<f4"]], "<U4", 7])
def test_a_dtype_that_is_no_number_is_refused(dtype: Any, in_files: Path) -> None:
    change_json(in_files / "b" / ".zarray", lambda zarray: zarray.update(dtype=dtype))
    with pytest.raises((ConversionError, UnsupportedDtypeError), match="tensor 'b'"):
        raise read(in_files).refused["b"]


def test_the_numbers_of_another_byte_order_are_the_same_numbers(in_files: Path) -> None:
    change_json(
        in_files / "b" / ".zarray", lambda zarray: zarray.update(dtype=">f4", compressor=None)
    )
    (in_files / "b" / "0").write_bytes(np.arange(4, dtype=">f4").tobytes())
    assert_holds(read(in_files), {**ARRAYS, "b": np.arange(4, dtype=np.float32)})
