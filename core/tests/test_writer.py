"""What a written file looks like, and what is refused before the target is touched."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safetensors_core import Dtype, InvalidInputError, TensorSpec, parse_header, save, save_stream

Entry = tuple[str, TensorSpec, Callable[[], Iterable[bytes]]]

U8 = TensorSpec(Dtype.U8, (1,))
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=20).filter(
    lambda name: name != "__metadata__"
)


def tensor(name: str, dtype: Dtype, shape: tuple[int, ...], fill: int = 0) -> Entry:
    spec = TensorSpec(dtype, shape)
    return (name, spec, lambda: [bytes([fill]) * spec.nbytes])


def written(
    path: Path, entries: Iterable[Entry], metadata: dict[str, str] | None = None, **options: Any
) -> bytes:
    save_stream(entries, path, metadata, **options)
    return path.read_bytes()


def test_the_bytes_of_a_small_file_are_exactly_these(tmp_path: Path) -> None:
    entries = [tensor("a", Dtype.U8, (3,), 1), tensor("b", Dtype.F32, (), 2)]
    header = (
        b'{"__metadata__":{"by":"hand","format":"pt"},'
        b'"b":{"dtype":"F32","shape":[],"data_offsets":[0,4]},'
        b'"a":{"dtype":"U8","shape":[3],"data_offsets":[4,7]}}'
    )
    padded = header + b" " * (-len(header) % 8)
    data = written(tmp_path / "m", entries, {"format": "pt", "by": "hand"})
    assert data == len(padded).to_bytes(8, "little") + padded + b"\2\2\2\2" + b"\1\1\1"


def test_the_order_is_dtype_descending_then_name(tmp_path: Path) -> None:
    given_order = [
        tensor(f"{name}{dtype}", dtype, (4,)) for name in ("b", "ä", "a", "B") for dtype in Dtype
    ]
    data = written(tmp_path / "m", given_order)
    expected = [f"{n}{d}" for d in reversed(list(Dtype)) for n in ("B", "a", "b", "ä")]
    assert list(parse_header(data).tensors) == expected


@pytest.mark.parametrize("alignment", [8, 16, 64, 4096, 1 << 20])
def test_the_data_begins_at_a_multiple_of_the_alignment(tmp_path: Path, alignment: int) -> None:
    data = written(tmp_path / "m", [tensor("w", Dtype.U8, (5,), 7)], alignment=alignment)
    header = parse_header(data)
    assert header.data_start % alignment == 0
    text = data[8 : header.data_start]
    assert len(text) - len(text.rstrip(b" ")) < alignment
    assert data[header.data_start :] == b"\7" * 5


@pytest.mark.parametrize("alignment", [-8, 0, 1, 4, 12, 1 << 21])
def test_an_alignment_that_the_format_or_sense_forbids_is_refused(
    tmp_path: Path, alignment: int
) -> None:
    with pytest.raises(InvalidInputError, match=r"alignment .* is not a power of two"):
        save_stream([], tmp_path / "m", alignment=alignment)
    assert not list(tmp_path.iterdir())


def test_no_tensors_and_no_metadata_make_the_shortest_aligned_file(tmp_path: Path) -> None:
    data = written(tmp_path / "m", [])
    assert data == (8).to_bytes(8, "little") + b"{}      " == save({})


def test_empty_metadata_is_written_and_none_is_not(tmp_path: Path) -> None:
    assert parse_header(written(tmp_path / "m", [], {})).metadata == {}
    assert parse_header(written(tmp_path / "m", [])).metadata is None


def test_equal_metadata_gives_equal_bytes_in_any_order() -> None:
    pairs = [(f"key {i}", str(i)) for i in range(50)]
    assert save({}, dict(pairs)) == save({}, dict(reversed(pairs)))


@given(
    entries=st.dictionaries(
        NAMES,
        st.tuples(st.sampled_from(Dtype), st.lists(st.integers(0, 3), max_size=4), st.binary()),
        max_size=8,
    ),
    metadata=st.none() | st.dictionaries(NAMES | st.just("__metadata__"), NAMES),
)
def test_what_is_written_is_what_the_header_says(
    tmp_path_factory: pytest.TempPathFactory,
    entries: dict[str, tuple[Dtype, list[int], bytes]],
    metadata: dict[str, str] | None,
) -> None:
    # A last dimension of 8 fills whole bytes for elements of any width.
    specs = {name: TensorSpec(d, (*shape, 8)) for name, (d, shape, _) in entries.items()}
    contents = {
        name: (entries[name][2] + bytes(spec.nbytes))[: spec.nbytes] for name, spec in specs.items()
    }
    path = tmp_path_factory.getbasetemp() / "described.safetensors"
    stream = [(name, spec, lambda name=name: [contents[name]]) for name, spec in specs.items()]
    data = written(path, stream, metadata, fsync=False)
    header = parse_header(data)
    assert header.metadata == metadata
    assert {n: (i.dtype, i.shape) for n, i in header.tensors.items()} == {
        n: (s.dtype, s.shape) for n, s in specs.items()
    }
    for name, info in header.tensors.items():
        begin, end = (header.data_start + offset for offset in info.data_offsets)
        assert data[begin:end] == contents[name]


REFUSED: dict[str, tuple[list[Any], Any, str]] = {
    "a tensor named __metadata__": ([("__metadata__", U8, list)], None, "reserves that name"),
    "a name that is no string": ([(7, U8, list)], None, "must be strings, got 7"),
    "a name with a lone surrogate": ([("\ud800", U8, list)], None, r"'\\ud800'.*lone surrogate"),
    "a metadata key that is no string": ([], {7: "a"}, "map strings to strings, got 7: 'a'"),
    "a metadata value that is no string": ([], {"a": 7}, "map strings to strings, got 'a': 7"),
    "a metadata value that is None": ([], {"a": None}, "map strings to strings"),
    "a metadata key with a lone surrogate": ([], {"\udfff": "a"}, r"\\udfff.*lone surrogate"),
    "a metadata value with a lone surrogate": ([], {"a": "\udfff"}, r"\\udfff.*lone surrogate"),
    "metadata that is no mapping": ([], [("a", "b")], "must be a mapping, got list"),
    "a name that occurs twice": ([("w", U8, list), ("w", U8, list)], None, "'w' occurs twice"),
    "elements that do not fill bytes": (
        [("w", TensorSpec(Dtype.F4, (3,)), list)],
        None,
        "'w': F4 of shape .3. does not fill whole bytes",
    ),
    "a dimension below zero": ([("w", TensorSpec(Dtype.U8, (-1,)), list)], None, "'w'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_comes_before_the_target_is_touched(tmp_path: Path, case: str) -> None:
    entries, metadata, message = REFUSED[case]
    target = tmp_path / "model.safetensors"
    target.write_bytes(b"as it was")
    before = target.stat()
    folder_before = tmp_path.stat().st_mtime_ns
    with pytest.raises(InvalidInputError, match=message):
        save_stream(entries, target, metadata)
    after = target.stat()
    assert target.read_bytes() == b"as it was"
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert os.listdir(tmp_path) == ["model.safetensors"]
    assert tmp_path.stat().st_mtime_ns == folder_before


@pytest.mark.parametrize("tensors", [[("w", b"")], {"w"}, None, b"bytes"])
def test_tensors_must_come_in_a_mapping(tensors: Any) -> None:
    with pytest.raises(InvalidInputError, match="expected tensors by name in a mapping"):
        save(tensors)
