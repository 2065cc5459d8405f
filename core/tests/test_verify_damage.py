"""`verify_checkpoint` never calls damage healthy: each bit, and what copying does to files."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.tests.checkpoints import INDEX, write_index, write_shards
from core.tests.raw import counting, file_bytes
from core.tests.sharded import FILES, NBYTES, TENSORS, WEIGHT_MAP, checkpoint
from safetensors_core import Dtype
from safetensors_core.checkpoint.checksums import METADATA_KEY
from safetensors_core.checkpoint.sealing import write_checksums
from safetensors_core.checkpoint.verification import verify_checkpoint

SUMS = f"{INDEX}.sha256sums"
SMALL = {"w": counting(Dtype.F16, 2, 3), "b": counting(Dtype.I8, 0, 3), "c": counting(Dtype.U8, 2)}

Folder = dict[str, bytes]


@pytest.fixture(scope="module")
def summed(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """The files of a checkpoint with sums beside it."""
    model = checkpoint(tmp_path_factory.mktemp("summed"))
    write_checksums(model, "beside")
    return {path.name: path.read_bytes() for path in model.iterdir()}


def is_healthy(files: Folder) -> bool:
    """What is said of a folder of these files."""
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.items():
            Path(folder, name).write_bytes(data)
        return verify_checkpoint(folder).healthy


def flipped(data: bytes, bit: int) -> bytes:
    return data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]


def test_what_is_damaged_below_was_healthy(summed: Folder) -> None:
    assert is_healthy(summed)


def test_each_bit_of_a_file_with_sums_beside_it_counts(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    whole = file_bytes(SMALL, {"format": "raw"})
    path.write_bytes(whole)
    write_checksums(path, "beside")
    missed = []
    for bit in range(8 * len(whole)):
        path.write_bytes(flipped(whole, bit))
        if verify_checkpoint(path).healthy:
            missed.append(bit)
    assert missed == []


def test_each_bit_of_a_sealed_file_counts_but_those_of_the_name_of_its_sums(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(file_bytes(SMALL))
    write_checksums(path, "metadata")
    whole = path.read_bytes()
    begin = whole.index(METADATA_KEY.encode())
    unnoticed = set()
    for bit in range(8 * len(whole)):
        path.write_bytes(flipped(whole, bit))
        report = verify_checkpoint(path)
        if report.healthy:
            unnoticed.add(bit // 8)
            # Under another name nobody takes them for sums, and the report does not claim so.
            assert report.tensors_checked == 0
    assert unnoticed == set(range(begin, begin + len(METADATA_KEY)))


def test_each_byte_of_the_text_of_sums_counts(summed: Folder) -> None:
    text = summed[SUMS]
    missed = [
        bit
        for bit in range(8 * len(text))
        if bit % 8 in (0, 5) and is_healthy({**summed, SUMS: flipped(text, bit)})
    ]
    assert missed == []


@given(data=st.data())
def test_no_damage_to_files_with_sums_is_healthy(data: st.DataObject, summed: Folder) -> None:
    files = dict(summed)
    names = st.sampled_from(sorted(files))
    for _ in range(data.draw(st.integers(1, 3), "number of damages")):
        name = data.draw(names, "file")
        content = files.get(name, b"")
        kind = data.draw(st.sampled_from(DAMAGES), "damage")
        if kind == "flip" and content:
            files[name] = flipped(content, data.draw(st.integers(0, 8 * len(content) - 1)))
        elif kind == "truncate":
            files[name] = content[: data.draw(st.integers(0, len(content)))]
        elif kind == "append":
            files[name] = content + data.draw(st.binary(min_size=1, max_size=9))
        elif kind == "replace":
            begin = data.draw(st.integers(0, len(content)))
            part = data.draw(st.binary(max_size=9))
            files[name] = content[:begin] + part + content[begin + len(part) :]
        elif kind == "remove":
            files.pop(name, None)
        elif kind == "copy":
            files[data.draw(names, "target")] = content
        else:
            other = data.draw(names, "other")
            files[name], files[other] = files.get(other, b""), content
    # Without the text of sums, what is said is about the structure alone.
    if SUMS not in files or files == summed:
        return
    assert not is_healthy(files)


DAMAGES = ["flip", "truncate", "append", "replace", "remove", "copy", "swap"]


@pytest.mark.parametrize("first", FILES)
@pytest.mark.parametrize("second", FILES)
def test_shards_in_each_others_place_are_found_without_sums(
    first: str, second: str, summed: Folder
) -> None:
    files = {name: data for name, data in summed.items() if name != SUMS}
    assert is_healthy({**files, first: files[second], second: files[first]}) == (first == second)
    assert is_healthy({**files, first: files[second]}) == (first == second)


def test_swapped_shards_of_one_size_are_found_without_sums() -> None:
    shards = [file_bytes({name: counting(Dtype.F32, 4)}) for name in ("a", "b")]
    assert len(shards[0]) == len(shards[1])
    weight_map = {"a": "1.safetensors", "b": "2.safetensors"}
    index = {"metadata": {"total_size": 32}, "weight_map": weight_map}
    files = {INDEX: json.dumps(index).encode()}
    assert is_healthy({**files, "1.safetensors": shards[0], "2.safetensors": shards[1]})
    assert not is_healthy({**files, "1.safetensors": shards[1], "2.safetensors": shards[0]})


@pytest.mark.parametrize("file", FILES)
def test_every_file_that_is_cut_off_is_found_without_sums(file: str, summed: Folder) -> None:
    files = {name: data for name, data in summed.items() if name != SUMS}
    missed = [n for n in range(len(files[file])) if is_healthy({**files, file: files[file][:n]})]
    assert missed == []
    assert not is_healthy({**files, file: files[file] + b"\0"})


def test_each_bit_of_an_index_counts_unless_it_says_the_same(tmp_path: Path) -> None:
    shards = {"1.safetensors": {"w": SMALL["w"]}, "2.safetensors": {"c": SMALL["c"]}}
    weight_map = {name: file for file, tensors in shards.items() for name in tensors}
    model = write_shards(tmp_path, shards)
    whole = (model / INDEX).read_bytes()
    wrong = []
    for bit in range(8 * len(whole)):
        damaged = flipped(whole, bit)
        (model / INDEX).write_bytes(damaged)
        if verify_checkpoint(model).healthy != says_the_same(damaged, weight_map):
            wrong.append((bit, damaged))
    assert wrong == []


def says_the_same(index: bytes, weight_map: dict[str, str]) -> bool:
    """Whether the text of an index says what the files hold, or leaves out their size."""
    nbytes = sum(len(SMALL[name].data) for name in weight_map)
    try:
        document = json.loads(index.decode())
        total = document.get("metadata", {}).get("total_size", nbytes)
        return bool(document["weight_map"] == weight_map and total == nbytes)
    except (AttributeError, KeyError, ValueError):
        return False


NAMES = st.sampled_from([*TENSORS, "other", ""])
PLACES = st.sampled_from([*FILES, "other.safetensors", "../a.safetensors", ""])


@given(
    edits=st.lists(st.tuples(NAMES, st.none() | PLACES), max_size=4),
    total=st.sampled_from([NBYTES, NBYTES + 1, None]),
)
def test_an_index_is_healthy_exactly_if_it_says_what_the_files_hold(
    edits: list[tuple[str, str | None]], total: int | None, summed: Folder
) -> None:
    weight_map = dict(WEIGHT_MAP)
    for name, place in edits:
        if place is None:
            weight_map.pop(name, None)
        else:
            weight_map[name] = place
    metadata: dict[str, Any] = {} if total is None else {"total_size": total}
    with tempfile.TemporaryDirectory() as folder:
        for name in FILES:
            Path(folder, name).write_bytes(summed[name])
        write_index(Path(folder), weight_map, metadata)
        report = verify_checkpoint(folder)
    # A whole file that the index does not name is a stray, which is a warning.
    named = {file for file in FILES if file in weight_map.values()}
    held = {name: file for name, file in WEIGHT_MAP.items() if file in named}
    nbytes = sum(len(TENSORS[name].data) for name in held)
    assert report.healthy == (weight_map == held and total in (None, nbytes))
