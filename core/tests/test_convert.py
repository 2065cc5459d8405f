"""What `convert_file` promises, with a foreign format of the tests."""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.tests.raw import RawTensor, counting
from core.tests.toy_checkpoints import AnyFramework, ToyPlugin, loaded, registered, write_toy
from safetensors_core import (
    CheckpointError,
    ConversionError,
    Dtype,
    InvalidInputError,
    UnsupportedDtypeError,
    convert_file,
    read_header,
    register_framework,
    safe_open,
    save_file,
)

TENSORS = {
    "model.a": counting(Dtype.F32, 4, 5),
    "model.b": counting(Dtype.I64, 3),
    "model.scalar": counting(Dtype.U8),
    "model.empty": counting(Dtype.F16, 0, 2),
    "head.w": counting(Dtype.BF16, 6),
}


@pytest.fixture(autouse=True)
def plugin() -> Iterator[ToyPlugin]:
    with registered(ToyPlugin()) as plugin:
        yield plugin


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_toy(tmp_path / "model.toy", TENSORS, metadata={"epoch": "3"}, format="pt")


def shards(folder: Path, *parts: dict[str, RawTensor], **fields: Any) -> Path:
    """A foreign checkpoint of several files with an index."""
    weight_map = {}
    for i, part in enumerate(parts, 1):
        name = f"toy_model-{i:05}-of-{len(parts):05}.toy"
        write_toy(folder / name, part, **fields)
        weight_map.update(dict.fromkeys(part, name))
    index = folder / "toy_model.toy.index.json"
    index.write_text(
        json.dumps({"metadata": {"by": "me", "total_size": 1}, "weight_map": weight_map})
    )
    return index


def test_every_tensor_is_converted_bit_by_bit(tmp_path: Path, source: Path) -> None:
    result = convert_file(source, tmp_path / "out.safetensors")
    assert loaded(tmp_path / "out.safetensors") == TENSORS
    assert (result.tensors, result.nbytes, result.verified) == (5, 80 + 24 + 1 + 12, True)
    assert result.index_location is None
    assert sorted(os.listdir(tmp_path)) == ["model.toy", "out.safetensors"]


def test_metadata_is_carried_over_and_names_the_format(tmp_path: Path, source: Path) -> None:
    convert_file(source, tmp_path / "out.safetensors")
    assert read_header(tmp_path / "out.safetensors").metadata == {"epoch": "3", "format": "pt"}


def test_a_file_is_converted_beside_itself_by_default(tmp_path: Path, source: Path) -> None:
    result = convert_file(source.rename(tmp_path / "net.pth.toy"))
    assert [file.path for file in result.files] == [str(tmp_path / "net.pth.toy.safetensors")]


def test_a_place_without_the_ending_is_a_folder(tmp_path: Path, source: Path) -> None:
    convert_file(source, tmp_path / "a" / "b")
    assert os.listdir(tmp_path / "a" / "b") == ["model.safetensors"]


def test_shards_become_as_many_shards_with_an_index(tmp_path: Path) -> None:
    names = list(TENSORS)
    parts = [{name: TENSORS[name] for name in part} for part in (names[:2], names[2:])]
    folder = tmp_path / "foreign"
    folder.mkdir()
    shards(folder, *parts, format="pt")
    result = convert_file(folder, tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ]
    assert loaded(tmp_path / "out") == TENSORS
    assert loaded(tmp_path / "out" / "model-00001-of-00002.safetensors") == parts[0]
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"by": "me", "format": "pt", "total_size": result.nbytes}
    assert index["weight_map"]["head.w"] == "model-00002-of-00002.safetensors"


def test_an_index_is_converted_in_its_folder_by_default(tmp_path: Path) -> None:
    index = shards(tmp_path, {"a": TENSORS["model.a"]}, {"b": TENSORS["model.b"]})
    convert_file(index)
    assert read_header(tmp_path / "toy_model.toy.safetensors.index.json").tensors.keys() == {
        "a",
        "b",
    }


def test_shards_get_the_size_that_is_asked_for(tmp_path: Path, source: Path) -> None:
    result = convert_file(source, tmp_path / "out", shard_size=80)
    assert [file.nbytes for file in result.files] == [80, 37]
    assert loaded(tmp_path / "out") == TENSORS


def test_names_are_selected_and_then_renamed(tmp_path: Path, source: Path) -> None:
    result = convert_file(
        source, tmp_path / "out", keep=["model.*"], drop="*.b", rename={r"^model\.(.)": r"\1_"}
    )
    assert [t.name for file in result.files for t in file.tensors] == ["a_", "s_calar", "e_mpty"]
    assert loaded(tmp_path / "out").keys() == {"a_", "s_calar", "e_mpty"}


@pytest.mark.parametrize("options", [{"keep": "modle.*"}, {"drop": ["head.w", "nothing"]}])
def test_a_pattern_that_matches_nothing_is_an_error(
    tmp_path: Path, source: Path, options: dict[str, Any]
) -> None:
    with pytest.raises(InvalidInputError, match=r"no tensor is called like '(modle\.\*|nothing)'"):
        convert_file(source, tmp_path / "out", **options)
    assert os.listdir(tmp_path) == ["model.toy"]


def test_two_tensors_of_one_name_are_an_error(tmp_path: Path, source: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"2 tensors would be called 'x': 'model.a', 'mod"):
        convert_file(source, tmp_path / "out", rename=[(r"model\.[ab]", "x")])
    assert os.listdir(tmp_path) == ["model.toy"]


@pytest.mark.parametrize("rename", [{"(": ""}, {"a": r"\1"}, {"a": r"\g<x>"}, {"a": 1}])
def test_an_expression_that_is_not_valid_is_an_error(
    tmp_path: Path, source: Path, rename: Any
) -> None:
    with pytest.raises(InvalidInputError, match="cannot be replaced by"):
        convert_file(source, tmp_path / "out", rename=rename)


def test_an_expression_may_begin_with_flags(tmp_path: Path, source: Path) -> None:
    result = convert_file(
        source, tmp_path / "out", drop="head.*", rename={r"(?i)^MODEL\.(?P<rest>.)": r"\g<rest>_"}
    )
    assert {t.name for file in result.files for t in file.tensors} >= {"a_", "b_"}


@pytest.mark.parametrize("name", ["__metadata__", "\ud800"])
def test_a_name_that_no_header_can_hold_is_an_error_at_once(
    tmp_path: Path, source: Path, name: str
) -> None:
    with pytest.raises(InvalidInputError, match=r"model\.toy: .*(__metadata__|surrogate)"):
        convert_file(source, tmp_path / "out", rename={"model.a": name}, dry_run=True)


def test_only_floating_point_tensors_change_their_dtype(tmp_path: Path) -> None:
    floats = RawTensor(Dtype.F32, (2,), struct.pack("<2f", 1.5, -0.0))
    tensors = {"f": floats, "i": TENSORS["model.b"]}
    convert_file(write_toy(tmp_path / "m.toy", tensors), tmp_path / "out", dtype="double")
    assert loaded(tmp_path / "out") == {
        "f": RawTensor(Dtype.F64, (2,), struct.pack("<2d", 1.5, -0.0)),
        "i": TENSORS["model.b"],
    }


def test_a_dtype_that_the_framework_lacks_is_refused_before_anything_is_written(
    tmp_path: Path, source: Path, plugin: ToyPlugin
) -> None:
    with pytest.raises(UnsupportedDtypeError, match="BF16 has no exact equivalent in toy"):
        convert_file(source, tmp_path / "out", dtype="bf16")
    assert (plugin.read, os.listdir(tmp_path)) == ([], ["model.toy"])


@pytest.mark.parametrize("dtype", ["int8", "I64", "f4", "bool", "c64", ""])
def test_a_dtype_that_is_no_floating_point_one_is_refused(
    tmp_path: Path, source: Path, dtype: str
) -> None:
    with pytest.raises(InvalidInputError, match="expected a floating-point dtype"):
        convert_file(source, tmp_path / "out", dtype=dtype)


def test_a_tensor_of_several_names_is_written_once_and_the_header_says_so(tmp_path: Path) -> None:
    tied = counting(Dtype.F32, 3)
    tensors = {"z": tied, "b": counting(Dtype.F32, 2), "lm_head": tied, "embed": tied}
    keys = {"z": "one", "lm_head": "one", "embed": "one"}
    path = write_toy(tmp_path / "m.toy", tensors, keys=keys)
    result = convert_file(path, tmp_path / "out", rename={"^z$": "zz"})
    assert result.aliases == {"zz": "embed", "lm_head": "embed"}
    with safe_open(tmp_path / "out", AnyFramework()) as file:
        assert sorted(file.keys()) == ["b", "embed"]
        assert file.metadata() == {"format": "toy", "lm_head": "embed", "zz": "embed"}


def test_the_name_that_is_left_of_two_is_written(tmp_path: Path) -> None:
    tied = counting(Dtype.F32, 3)
    path = write_toy(tmp_path / "m.toy", {"a": tied, "b": tied}, keys={"a": "k", "b": "k"})
    assert convert_file(path, tmp_path / "out", drop="a").aliases == {}
    assert loaded(tmp_path / "out") == {"b": tied}


def test_the_state_of_an_optimizer_is_left_out_unless_it_is_asked_for(tmp_path: Path) -> None:
    state = {"optimizer.m": counting(Dtype.F32, 2)}
    path = write_toy(tmp_path / "m.toy", {"w": TENSORS["model.a"]}, optimizer=state)
    assert convert_file(path, tmp_path / "a").left_out == {"optimizer.m": "optimizer"}
    assert loaded(tmp_path / "a").keys() == {"w"}
    assert convert_file(path, tmp_path / "b", optimizer=True).left_out == {}
    assert loaded(tmp_path / "b").keys() == {"w", "optimizer.m"}


def test_a_dry_run_says_all_and_writes_nothing(
    tmp_path: Path, source: Path, plugin: ToyPlugin
) -> None:
    planned = convert_file(source, tmp_path / "out", shard_size=80, dry_run=True)
    assert (plugin.read, os.listdir(tmp_path)) == ([], ["model.toy"])
    done = convert_file(source, tmp_path / "out", shard_size=80)
    assert planned == done._replace(verified=False)


def test_progress_counts_each_byte_written_and_verified(tmp_path: Path, source: Path) -> None:
    seen: list[tuple[int, int]] = []
    convert_file(source, tmp_path / "out", progress=lambda *done: seen.append(done))
    assert seen[-1] == (2 * 117, 2 * 117)
    assert seen == sorted(set(seen))
    seen.clear()
    convert_file(source, tmp_path / "b", verify=False, progress=lambda *done: seen.append(done))
    assert seen[-1] == (117, 117)


class Unsteady(ToyPlugin):
    """Its tensors change whenever they are read."""

    def _stored(self, *arguments: Any, **options: Any) -> Any:
        stored = super()._stored(*arguments, **options)

        def read() -> RawTensor:
            tensor = stored.read()
            data = bytes(len(tensor.data) - 1) + bytes([len(self.read)])
            return RawTensor(tensor.dtype, tensor.shape, data)

        return type(stored)(stored.spec, read)


def test_verification_finds_a_byte_that_differs_and_leaves_nothing(tmp_path: Path) -> None:
    path = write_toy(tmp_path / "m.toy", {"w": TENSORS["model.a"]})
    with registered(Unsteady()):
        with pytest.raises(ConversionError, match="'w' is read back with other bytes"):
            convert_file(path, tmp_path / "out")
        assert os.listdir(tmp_path) == ["m.toy"]
        assert not convert_file(path, tmp_path / "out", verify=False).verified


def test_what_is_there_already_stays_unless_it_may_be_replaced(
    tmp_path: Path, source: Path
) -> None:
    target = tmp_path / "out.safetensors"
    target.write_bytes(b"mine")
    with pytest.raises(FileExistsError) as caught:
        convert_file(source, target)
    assert caught.value.filename == str(target)
    assert target.read_bytes() == b"mine"
    convert_file(source, target, overwrite=True)
    assert loaded(target) == TENSORS


def test_a_file_is_never_written_over_itself(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    _write_safetensors(path)
    before = path.read_bytes()
    with pytest.raises(InvalidInputError, match="it is read, and is left as it is"):
        convert_file(path, rename={"w": "u"}, overwrite=True)
    assert path.read_bytes() == before


def _write_safetensors(path: Path) -> None:
    register_framework(AnyFramework())
    save_file({"w": TENSORS["model.a"]}, path, {"format": "toy", "v": "w", "by": "me"})


def test_names_of_a_safetensors_file_are_changed_with_those_that_stand_for_them(
    tmp_path: Path,
) -> None:
    path = tmp_path / "m.safetensors"
    _write_safetensors(path)
    result = convert_file(path, tmp_path / "out", rename={"^": "x."})
    assert result.aliases == {"x.w": "x.v"}
    assert result.metadata == {"format": "toy", "by": "me"}
    assert loaded(tmp_path / "out") == {"x.v": TENSORS["model.a"]}


def test_a_tensor_that_is_called_like_the_format_is_no_second_name(tmp_path: Path) -> None:
    register_framework(AnyFramework())
    path = tmp_path / "m.safetensors"
    save_file({"pt": TENSORS["model.a"]}, path, {"format": "pt"})
    result = convert_file(path, tmp_path / "out")
    assert (result.aliases, result.metadata) == ({}, {"format": "pt"})


@pytest.mark.parametrize("place", ["https://example.org/m.bin", "s3://bucket/m.bin"])
def test_a_url_is_refused_as_source_and_as_target(source: Path, place: str) -> None:
    with pytest.raises(InvalidInputError, match="download the checkpoint first"):
        convert_file(place, "out")
    with pytest.raises(InvalidInputError, match="upload the result"):
        convert_file(source, place)


@pytest.mark.parametrize("file", ["../secret.toy", "/etc/passwd", "link.toy"])
def test_an_index_cannot_lead_out_of_its_folder(tmp_path: Path, file: str) -> None:
    secret = write_toy(tmp_path / "secret.toy", TENSORS)
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "link.toy").symlink_to(secret)
    (folder / "a.index.json").write_text(json.dumps({"weight_map": {"w": file}}))
    with pytest.raises(CheckpointError, match=re.escape(file)):
        convert_file(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_tensors_that_the_index_names_and_no_file_holds_are_named(tmp_path: Path) -> None:
    index = shards(tmp_path, {"a/x": TENSORS["model.a"]}, {"b": TENSORS["model.b"]})
    document = json.loads(index.read_text())
    for weight_map, fits in [
        ({"a.x": "a/x", "b": "b"}, True),
        ({"x": "a/x", "y": "b"}, True),
        ({"a/x": "a/x", "b": "b", "c": "b"}, False),
    ]:
        files = {name: document["weight_map"][held] for name, held in weight_map.items()}
        index.write_text(json.dumps({"weight_map": files}))
        if fits:
            assert convert_file(index, dry_run=True).tensors == 2
        else:
            with pytest.raises(CheckpointError, match="its files do not hold: 'c'"):
                convert_file(index)


def test_a_shard_that_is_missing_is_named(tmp_path: Path) -> None:
    index = shards(tmp_path, {"a": TENSORS["model.a"]}, {"b": TENSORS["model.b"]})
    (tmp_path / "toy_model-00002-of-00002.toy").unlink()
    with pytest.raises(CheckpointError, match=r"do not exist: 'toy_model-00002-of-00002\.toy'"):
        convert_file(index)


def test_a_folder_of_several_checkpoints_asks_for_one(tmp_path: Path) -> None:
    for name in ("a.bin", "b.npz", "optimizer.pt"):
        (tmp_path / name).touch()
    with pytest.raises(
        ConversionError, match=r"several checkpoints: 'a\.bin', 'b\.npz'\. Name one"
    ):
        convert_file(tmp_path)


def test_what_no_plugin_reads_is_said_with_the_plugin_that_would(tmp_path: Path) -> None:
    path = tmp_path / "m.unknown"
    path.write_bytes(b"abc")
    with pytest.raises(ConversionError, match="this is no checkpoint that an installed plugin"):
        convert_file(path, tmp_path / "out")
    with pytest.raises(FileNotFoundError):
        convert_file(tmp_path / "nothing.bin")
    assert os.listdir(tmp_path) == ["m.unknown"]


def test_a_checkpoint_without_tensors_is_an_error(tmp_path: Path) -> None:
    path = write_toy(tmp_path / "m.toy", {})
    with pytest.raises(InvalidInputError, match="there are no tensors to convert"):
        convert_file(path, tmp_path / "out")
