"""`safe_open`, its slices, and the functions that load whole files."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from core.tests.raw import DTYPES, RawFramework, counting, file_bytes, take
from safetensors_core import (
    Dtype,
    HeaderError,
    InvalidInputError,
    SliceError,
    TensorInfo,
    TensorNotFoundError,
    UnsupportedDtypeError,
    load,
    load_file,
    read_header,
    safe_open,
)

RAW = RawFramework()
# In the order of the file, which is not the order of the names.
TENSORS = {
    "wte.weight": counting(Dtype.F32, 4, 6),
    "h.1.bias": counting(Dtype.F16, 3),
    "h.0.bias": counting(Dtype.F16, 3),
    "h*": counting(Dtype.U8),
    "h.0.empty": counting(Dtype.U8, 0),
}
METADATA = {"format": "raw", "step": "100"}


class WithoutF16(RawFramework):
    """A framework that cannot represent every dtype."""

    dtypes: Mapping[Dtype, str] = {d: name for d, name in DTYPES.items() if d is not Dtype.F16}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of `TENSORS`."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(file_bytes(TENSORS, METADATA))
    return path


@pytest.fixture(params=["auto", "mmap", "pread"])
def file(request: pytest.FixtureRequest, path: Path) -> safe_open:
    """That file, open with each backend."""
    return safe_open(path, RAW, backend=request.param)


def test_keys_are_sorted(file: safe_open) -> None:
    assert file.keys() == sorted(TENSORS)


def test_offset_keys_follow_the_bytes(file: safe_open) -> None:
    assert file.offset_keys() == list(TENSORS)


def test_a_file_is_a_collection_of_its_names(file: safe_open) -> None:
    assert len(file) == len(TENSORS)
    assert list(file) == sorted(TENSORS)
    assert "h.0.bias" in file
    assert "h.2.bias" not in file
    assert 7 not in file


def test_metadata_is_a_copy(file: safe_open) -> None:
    found = file.metadata()
    assert found == METADATA
    found.clear()
    assert file.metadata() == METADATA


def test_a_file_without_metadata_has_none(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(file_bytes({}))
    assert safe_open(path, RAW).metadata() is None


def test_the_header_is_public(file: safe_open, path: Path) -> None:
    assert file.header.tensors["wte.weight"] == TensorInfo(Dtype.F32, (4, 6), (0, 96))
    assert file.header == read_header(path)


def test_the_representation_names_file_and_count(file: safe_open, path: Path) -> None:
    assert repr(file) == f"<safe_open {str(path)!r}: 5 tensors>"


def test_each_tensor_is_what_was_saved(file: safe_open) -> None:
    assert {name: file.get_tensor(name) for name in file} == TENSORS


def test_get_tensors_gives_all_by_default_in_the_order_of_the_file(file: safe_open) -> None:
    assert file.get_tensors() == TENSORS
    assert list(file.get_tensors()) == list(TENSORS)


def test_get_tensors_keeps_the_order_asked_for(file: safe_open) -> None:
    names = ["h.0.bias", "wte.weight", "h.1.bias"]
    found = file.get_tensors(name for name in names)
    assert list(found) == names
    assert found == {name: TENSORS[name] for name in names}
    assert file.get_tensors([]) == {}


def test_an_unknown_name_is_refused_with_a_suggestion(file: safe_open, path: Path) -> None:
    expected = re.escape(f"{path}: no tensor 'wte.wieght'. Did you mean 'wte.weight'?")
    for access in (file.get_tensor, file.get_slice, lambda name: file.get_tensors([name])):
        with pytest.raises(TensorNotFoundError, match=f"^{expected}$") as caught:
            access("wte.wieght")
        assert isinstance(caught.value, KeyError)
        assert caught.value.tensor == "wte.wieght"


def test_a_name_like_no_other_is_refused_without_a_suggestion(file: safe_open) -> None:
    with pytest.raises(TensorNotFoundError, match=r"no tensor 'optimizer'$"):
        file.get_tensor("optimizer")


def test_a_slice_knows_its_shape_and_dtype(file: safe_open) -> None:
    weight = file.get_slice("wte.weight")
    assert weight.get_shape() == [4, 6]
    assert weight.get_dtype() == "F32"
    assert type(weight.get_dtype()) is str
    assert repr(weight) == "<TensorSlice 'wte.weight': F32 [4, 6]>"


@pytest.mark.parametrize(
    "index",
    [
        *(0, -1, slice(1, 3), slice(None, None, -2), slice(2, 100), ..., (), None, [3, 0], []),
        *((1, 2), (..., -1), (slice(None), slice(4, 1, -1)), ([True, False, True, False], 0)),
        ([1, 1], [2, 3]),
    ],
    ids=repr,
)
def test_a_slice_reads_what_the_index_selects(file: safe_open, index: Any) -> None:
    assert file.get_slice("wte.weight")[index] == take(TENSORS["wte.weight"], index)


def test_what_a_framework_refuses_of_a_slice_names_the_file_and_the_tensor(path: Path) -> None:
    class Refusing(RawFramework):
        def index(self, *_: object) -> Any:
            raise InvalidInputError("no room")

    message = re.escape(f"{path}: tensor 'wte.weight' of shape [4, 6]: no room")
    with pytest.raises(InvalidInputError, match=f"^{message}$"):
        safe_open(path, Refusing()).get_slice("wte.weight")[0]


@pytest.mark.parametrize("index", [4, (0, 0, 0), "a", 1.5, [4], slice(None, None, 0)])
def test_an_index_that_does_not_fit_names_file_tensor_and_shape(
    file: safe_open, path: Path, index: Any
) -> None:
    expected = re.escape(f"{path}: tensor 'wte.weight' of shape [4, 6]: ")
    with pytest.raises(SliceError, match=f"^{expected}.") as caught:
        file.get_slice("wte.weight")[index]
    assert isinstance(caught.value, IndexError)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        pytest.param(None, list(TENSORS), id="all"),
        pytest.param("h.0.bias", ["h.0.bias"], id="a name"),
        pytest.param("h.*", ["h.1.bias", "h.0.bias", "h.0.empty"], id="a prefix"),
        pytest.param("*", list(TENSORS), id="every name"),
        pytest.param("h*", ["h*"], id="a name that ends like a prefix"),
        pytest.param(["h.0.*", "wte.weight"], ["wte.weight", "h.0.bias", "h.0.empty"], id="both"),
        pytest.param(("h.0.bias", "h.0.*"), ["h.0.bias", "h.0.empty"], id="twice"),
        pytest.param([], [], id="none"),
        pytest.param(lambda name: name.endswith("bias"), ["h.1.bias", "h.0.bias"], id="function"),
        pytest.param(lambda _: False, [], id="a function that takes none"),
    ],
)
def test_keys_select_tensors_in_the_order_of_the_file(
    path: Path, keys: Any, expected: list[str]
) -> None:
    found = load_file(path, RAW, keys=keys)
    assert list(found) == expected
    assert found == {name: TENSORS[name] for name in expected}


@pytest.mark.parametrize(
    ("keys", "missing", "hint"),
    [
        ("h.0.bais", "h.0.bais", ". Did you mean 'h.0.bias'?"),
        ("h.9.*", "h.9.*", ""),
        (["wte.weight", "lm_head"], "lm_head", ""),
    ],
)
def test_a_selection_that_matches_nothing_is_refused(
    path: Path, keys: Any, missing: str, hint: str
) -> None:
    with pytest.raises(TensorNotFoundError) as caught:
        load_file(path, RAW, keys=keys)
    assert str(caught.value).startswith(f"{path}: no tensor {missing!r}{hint}")
    assert caught.value.tensor == missing


LOADERS: dict[str, Callable[[Path], Any]] = {
    "load_file": lambda path: load_file(path, WithoutF16()),
    "get_tensor": lambda path: safe_open(path, WithoutF16()).get_tensor("h.1.bias"),
    "get_slice": lambda path: safe_open(path, WithoutF16()).get_slice("h.1.bias"),
}


@pytest.mark.parametrize("load_it", list(LOADERS.values()), ids=list(LOADERS))
def test_a_dtype_that_the_framework_lacks_names_file_tensor_and_framework(
    load_it: Callable[[Path], Any], path: Path
) -> None:
    with pytest.raises(UnsupportedDtypeError) as caught:
        load_it(path)
    expected = f"{path}: tensor 'h.1.bias': dtype F16 has no exact equivalent in raw"
    assert str(caught.value) == expected


def test_other_tensors_of_a_file_with_an_unsupported_dtype_load(path: Path) -> None:
    assert load_file(path, WithoutF16(), keys="wte*") == {"wte.weight": TENSORS["wte.weight"]}


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview])
def test_load_takes_any_buffer(path: Path, wrap: Callable[[bytes], Any]) -> None:
    found = load(wrap(path.read_bytes()), RAW)
    assert found == TENSORS
    assert list(found) == list(TENSORS)


def test_a_path_may_be_text_or_path_like(path: Path) -> None:
    assert load_file(str(path), RAW) == load_file(path, RAW) == TENSORS


def test_a_file_with_no_tensors_loads_as_nothing(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(file_bytes({}))
    assert load_file(path, RAW) == load(path.read_bytes(), RAW) == {}


@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_a_header_longer_than_the_first_read_is_read_whole(tmp_path: Path, backend: Any) -> None:
    path = tmp_path / "model.safetensors"
    many = {f"tensor number {i}": counting(Dtype.U8, i % 3) for i in range(3000)}
    path.write_bytes(file_bytes(many))
    assert path.stat().st_size > 200_000
    assert load_file(path, RAW, backend=backend) == many


@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_a_rejected_file_is_closed(tmp_path: Path, backend: Any) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"not a safetensors file")
    with pytest.raises(HeaderError, match=re.escape(str(path))):
        safe_open(path, RAW, backend=backend)
    path.write_bytes(file_bytes(TENSORS))
    assert load_file(path, RAW, backend=backend) == TENSORS


def test_a_string_is_not_taken_for_a_list_of_names(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(file_bytes({name: counting(Dtype.U8, 1) for name in "ab"}))
    with safe_open(path, RAW) as file:
        with pytest.raises(InvalidInputError, match="got the string 'ab'"):
            file.get_tensors("ab")
        with pytest.raises(InvalidInputError, match="got the string 'ab'"):
            next(file.iter_tensors("ab"))
