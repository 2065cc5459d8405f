"""Names that were dropped because another tensor holds their values come back when asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from safetensors_core import (
    HeaderError,
    InvalidInputError,
    SafetensorError,
    SharedMemoryError,
    TensorNotFoundError,
    UnsupportedDtypeError,
    read_header,
)
from safetensors_torch import load, load_file, load_model, save, save_file, save_model
from safetensors_torch.tied import VIEWS_KEY
from safetensors_torch.views import view_within

Tensors = dict[str, torch.Tensor]


class Buffers(torch.nn.Module):
    """A model that has what it is given."""

    def __init__(self, tensors: Tensors) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a model is saved."""
    return tmp_path / "model.safetensors"


def square() -> torch.Tensor:
    return torch.arange(16.0).view(4, 4)


def parts_of_complex(whole: torch.Tensor) -> Tensors:
    return {"a": whole, "b": whole.real, "c": whole.imag[1]}


SHARING: dict[str, Callable[[torch.Tensor], Tensors]] = {
    "one tensor": lambda t: dict.fromkeys("abc", t),
    "another shape": lambda t: {"a": t, "b": t.view(-1), "c": t.view(2, 2, 4)},
    "transposed": lambda t: {"a": t, "b": t.T},
    "transposed first": lambda t: {"a": t.T, "b": t},
    "a column of transposed": lambda t: {"a": t.T, "b": t[0]},
    "part and whole": lambda t: {"a": t[1:3], "b": t, "c": t[3, 3]},
    "parts of a part": lambda t: {"a": t[1], "b": t[1:3], "c": t[2, ::2]},
    "both halves and whole": lambda t: {"a": t[:2], "b": t[2:], "c": t},
    "columns": lambda t: {"a": t[:, 1:3], "b": t[:, 1:3], "c": t[1:, 2]},
    "repeated": lambda t: {"a": t[:1].expand(3, 4), "b": t[0]},
    "windows": lambda t: {"a": t.view(-1).unfold(0, 3, 1), "b": t.view(-1)},
    "integers over floats": lambda t: {"a": t, "b": t.view(torch.int32)},
    "long over short": lambda t: {"a": t, "b": t[1].view(torch.int64)},
    "short over long": lambda t: {"a": t[1:], "b": t[2].view(torch.int8)},
    "real part": lambda t: parts_of_complex(torch.complex(t, -t)),
    "larger storage": lambda t: {"a": t[1:3], "b": t[1:3]},
    "empty beside full": lambda t: {"a": t[:0], "b": t, "c": t},
}


@pytest.mark.parametrize("case", SHARING)
@pytest.mark.parametrize("backend", ["mmap", "pread", "memory"])
def test_every_name_comes_back_with_its_values_in_shared_memory(
    path: Path, case: str, backend: Any
) -> None:
    tensors = SHARING[case](square())
    save_model(Buffers(tensors), path)
    if backend == "memory":
        loaded = load(path.read_bytes(), tied="expand")
    else:
        loaded = load_file(path, tied="expand", backend=backend)
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)
    full = [tensor for tensor in loaded.values() if tensor.numel()]
    assert len({tensor.untyped_storage().data_ptr() for tensor in full}) == 1


def test_what_has_no_ties_is_saved_without_any_note(path: Path) -> None:
    save_model(Buffers({"a": square(), "b": square()}), path)
    assert read_header(path).metadata is None
    assert load_file(path, tied="expand").keys() == {"a", "b"}


def test_only_names_that_are_more_than_the_same_tensor_are_described(path: Path) -> None:
    whole = square()
    save_model(Buffers({"a": whole, "b": whole, "c": whole[1]}), path, {"by": "me"})
    assert read_header(path).metadata == {
        "b": "a",
        "by": "me",
        "c": "a",
        VIEWS_KEY: '{"c":{"of":"a","offset":4,"shape":[4],"stride":[1]}}',
    }


def test_notes_of_the_file_that_the_metadata_came_from_are_replaced(path: Path) -> None:
    whole = square()
    save_model(Buffers({"a": whole, "b": whole[1]}), path)
    save_model(Buffers({"a": whole, "b": whole}), path, read_header(path).metadata)
    assert read_header(path).metadata == {"b": "a"}


def test_without_being_asked_a_load_gives_what_is_in_the_file(path: Path) -> None:
    whole = square()
    save_model(Buffers({"a": whole, "b": whole}), path)
    assert list(load_file(path)) == list(load(path.read_bytes())) == ["a"]


def test_an_entry_of_the_user_s_own_is_no_tie(path: Path) -> None:
    whole = square()
    save_model(Buffers({"a": whole, "b": whole[1]}), path, {"b": "mine"})
    assert read_header(path).metadata == {"b": "mine"}
    assert list(load_file(path, tied="expand")) == ["a"]


@pytest.mark.parametrize(
    ("keys", "names"),
    [
        ("tied.whole", ["tied.whole"]),
        ("tied.*", ["tied.part", "tied.whole"]),
        (["tied.part", "other"], ["other", "tied.part"]),
        (lambda name: "e" in name, ["kept", "other", "tied.part", "tied.whole"]),
    ],
)
def test_keys_choose_among_all_names_and_only_what_they_need_is_read(
    path: Path, monkeypatch: pytest.MonkeyPatch, keys: Any, names: list[str]
) -> None:
    from safetensors_torch.framework import TorchFramework

    whole = square()
    tensors = {"kept": whole, "tied.part": whole[1], "tied.whole": whole, "other": torch.zeros(2)}
    save_model(Buffers({name.replace(".", "_"): t for name, t in tensors.items()}), path)
    # A module's buffers have no dots in their names.
    data = load_file(path)
    save_file(
        data,
        path,
        {
            "tied.part": "kept",
            "tied.whole": "kept",
            VIEWS_KEY: '{"tied.part":{"of":"kept","offset":4,"shape":[4],"stride":[1]}}',
        },
    )
    read: list[str] = []
    load_all = TorchFramework.load

    def note(self: TorchFramework, source: Any, infos: Any, device: Any) -> Any:
        read.extend(infos)
        return load_all(self, source, infos, device)

    monkeypatch.setattr(TorchFramework, "load", note)
    loaded = load_file(path, tied="expand", keys=keys)
    assert sorted(loaded) == names
    assert all(torch.equal(loaded[name], tensors[name]) for name in names)
    assert ("other" in read) == ("other" in names)
    assert "kept" in read


@pytest.mark.parametrize("keys", ["a.*", ["a", "zzz"]])
def test_a_key_that_matches_no_name_is_an_error(path: Path, keys: Any) -> None:
    save_file({"a": square()}, path, {"b": "a"})
    with pytest.raises(TensorNotFoundError, match="no tensor"):
        load_file(path, tied="expand", keys=keys)


def test_options_that_do_not_exist_are_refused(path: Path) -> None:
    save_file({"a": square()}, path)
    wrong: Any = "all"
    with pytest.raises(InvalidInputError, match="tied must be None or 'expand', got 'all'"):
        load_file(path, tied=wrong)
    with pytest.raises(InvalidInputError, match="tied must be"):
        load(path.read_bytes(), tied=wrong)
    keys: Any = 3
    with pytest.raises(InvalidInputError, match="keys must be"):
        load_file(path, tied="expand", keys=keys)


def test_ties_exist_without_data_too(path: Path) -> None:
    whole = square()
    save_model(Buffers({"a": whole, "b": whole, "c": whole[1:3, 1]}), path)
    loaded = load_file(path, "meta", tied="expand")
    assert loaded["b"] is loaded["a"]
    assert (loaded["c"].device.type, tuple(loaded["c"].shape)) == ("meta", (2,))


# What a file says is hostile until it was checked.

GOOD: dict[str, Any] = {"of": "a", "offset": 0, "shape": [4], "stride": [1]}
BAD_VIEWS: dict[str, Any] = {
    "no JSON": "{",
    "nested too deeply": "[" * 100_000,
    "a list": "[]",
    "a number": "1",
    "a view that is a list": {"b": []},
    "no shape": {"b": {"of": "a", "offset": 0, "stride": [1]}},
    "no strides": {"b": {"of": "a", "offset": 0, "shape": [1]}},
    "no offset": {"b": {"of": "a", "shape": [1], "stride": [1]}},
    "fewer strides than sizes": {"b": {**GOOD, "shape": [2, 2]}},
    "a size below zero": {"b": {**GOOD, "shape": [-1]}},
    "no elements": {"b": {**GOOD, "shape": [0]}},
    "an offset below zero": {"b": {**GOOD, "offset": -1}},
    "a stride below zero": {"b": {**GOOD, "offset": 8, "stride": [-1]}},
    "a fraction": {"b": {**GOOD, "offset": 0.5}},
    "a truth value": {"b": {**GOOD, "offset": True}},
    "one element too many": {"b": {**GOOD, "shape": [17]}},
    "one offset too far": {"b": {**GOOD, "offset": 13}},
    "strides too long": {"b": {**GOOD, "stride": [6]}},
    "numbers that no tensor has": {"b": {**GOOD, "shape": [2**63, 2**63], "stride": [0, 0]}},
    "more elements than can be counted": {"b": {**GOOD, "shape": [2**40, 2**40], "stride": [0, 0]}},
    "many huge sizes": {"b": {**GOOD, "shape": [2**62] * 200_000, "stride": [0] * 200_000}},
    "huge numbers": '{"b":{"of":"a","shape":[4],"stride":[1],"offset":%s}}' % ("9" * 5000),
    "a dtype that does not exist": {"b": {**GOOD, "dtype": "float31"}},
    "a dtype that is no dtype": {"b": {**GOOD, "dtype": "nn"}},
    "a dtype that is a list": {"b": {**GOOD, "dtype": []}},
    "a dtype that does not fit": {"b": {**GOOD, "dtype": "float64", "shape": [9]}},
    "a dtype without views": {"b": {**GOOD, "dtype": "quint4x2"}},
}


@pytest.mark.parametrize("case", BAD_VIEWS)
def test_a_view_that_is_not_valid_is_refused_with_the_file_s_name(path: Path, case: str) -> None:
    record = BAD_VIEWS[case]
    text = record if isinstance(record, str) else json.dumps(record)
    save_file({"a": square()}, path, {"b": "a", VIEWS_KEY: text})
    assert list(load_file(path)) == ["a"]
    with pytest.raises(HeaderError) as caught:
        load_file(path, tied="expand")
    assert caught.value.reason == "invalid-metadata"
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    "metadata",
    [
        {"b": "c"},
        {"a": "c"},
        {"a": "a"},
        {"c": "b", "b": "nothing"},
        {"format": "pt"},
        {VIEWS_KEY: json.dumps({"b": GOOD})},
        {"a": "c", VIEWS_KEY: json.dumps({"a": {**GOOD, "of": "c"}})},
    ],
    ids=str,
)
def test_what_names_no_tensor_of_the_file_is_no_tie(metadata: dict[str, str]) -> None:
    data = save({"a": square(), "c": square()}, metadata)
    expected = {"b"} if metadata == {"b": "c"} else set()
    assert load(data, tied="expand").keys() - {"a", "c"} == expected


def test_a_view_of_another_tensor_than_the_one_that_was_kept_is_not_used() -> None:
    data = save({"a": square()}, {"b": "a", VIEWS_KEY: json.dumps({"b": {**GOOD, "of": "x"}})})
    assert load(data, tied="expand")["b"].shape == (4, 4)


@given(st.dictionaries(st.sampled_from(["b", VIEWS_KEY]), st.text(max_size=20)))
def test_any_metadata_loads_or_is_refused_as_an_error_of_ours(metadata: dict[str, str]) -> None:
    data = save({"a": square()}, {"c": "a", **metadata})
    try:
        loaded = load(data, tied="expand")
    except SafetensorError:
        return
    assert {"a", "c"} <= loaded.keys()


# How one tensor lies in another.


@st.composite
def views(draw: st.DrawFn, memory: torch.Tensor) -> torch.Tensor:
    """Any view of a flat tensor."""
    shape = draw(st.lists(st.integers(1, 4), max_size=3))
    stride = [draw(st.integers(0, 9)) for _ in shape]
    last = sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    room = memory.numel() - 1 - last
    if room < 0:
        return memory
    return memory.as_strided(shape, stride, draw(st.integers(0, room)))


@given(st.data())
def test_a_view_within_another_gives_its_elements_from_a_packed_copy(data: st.DataObject) -> None:
    memory = torch.arange(48)
    whole, part = data.draw(views(memory)), data.draw(views(memory))
    view = view_within(whole, part)
    if view is not None:
        assert torch.equal(view.of(whole.contiguous().clone()), part)
    elif whole.is_contiguous():
        outside = set(part.reshape(-1).tolist()) - set(whole.reshape(-1).tolist())
        assert outside


@given(st.data())
def test_a_tensor_lies_within_itself_also_in_another_order(data: st.DataObject) -> None:
    whole = data.draw(views(torch.arange(48)))
    order = data.draw(st.permutations(range(whole.ndim)))
    if len(set(whole.reshape(-1).tolist())) == whole.numel():
        view = view_within(whole, whole.permute(order))
        assert view is not None
        assert torch.equal(view.of(whole.contiguous().clone()), whole.permute(order))


@pytest.mark.parametrize(
    "make",
    [
        lambda t: {"a": t.view(-1)[:10], "b": t.view(-1)[6:]},
        lambda t: {"a": t[:3], "b": t[1:]},
        lambda t: {"a": t[:, :3], "b": t[:, 1:]},
        lambda t: {"a": torch.complex(t, t).view(4, 4), "b": None},
    ],
    ids=["ends", "rows", "columns", "conjugate"],
)
def test_a_group_that_no_tensor_holds_is_refused(path: Path, make: Any) -> None:
    tensors = make(square())
    if tensors["b"] is None:
        tensors["b"] = tensors["a"].conj()
    with pytest.raises(SharedMemoryError, match=r"\{'a', 'b'\}.*clone\(\)") as caught:
        save_model(Buffers(tensors), path)
    assert [sorted(group) for group in caught.value.groups] == [["a", "b"]]
    assert not path.exists()


def test_a_dropped_tensor_of_a_dtype_that_the_format_has_not_comes_back(path: Path) -> None:
    whole = torch.arange(4.0, dtype=torch.float64)
    save_model(Buffers({"a": whole, "b": whole.view(torch.complex128)}), path)
    assert load_file(path, tied="expand")["b"].tolist() == [0 + 1j, 2 + 3j]
    with pytest.raises(UnsupportedDtypeError):
        save({"b": whole.view(torch.complex128)})


def test_a_part_of_longer_elements_comes_back_where_bytes_of_the_whole_are_left_over(
    path: Path,
) -> None:
    def make() -> Buffers:
        whole = torch.arange(5, dtype=torch.int8)
        return Buffers({"a": whole, "b": whole[:4].view(torch.int32)})

    save_model(make(), path)
    assert load_file(path, tied="expand")["b"].tolist() == [0x03020100]
    model = make()
    assert load_model(model, path, assign=True) == ([], [])
    assert model.state_dict()["b"].tolist() == [0x03020100]


def test_tied_tensors_that_are_converted_are_tied(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    whole = torch.arange(6.0).reshape(2, 3)
    model = torch.nn.Module()
    for name, tensor in {"a": whole, "b": whole, "part": whole[1]}.items():
        model.register_buffer(name, tensor)
    save_model(model, path)
    for loaded in (
        load_file(path, tied="expand", dtype=torch.bfloat16),
        load(path.read_bytes(), tied="expand", dtype="BF16"),
    ):
        assert {tensor.dtype for tensor in loaded.values()} == {torch.bfloat16}
        assert torch.equal(loaded["b"], whole.bfloat16())
        assert torch.equal(loaded["part"], whole[1].bfloat16())
        assert len({tensor.untyped_storage().data_ptr() for tensor in loaded.values()}) == 1


def test_a_tensor_that_is_the_bytes_of_another_is_not_converted(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    model = torch.nn.Module()
    numbers = torch.arange(4.0)
    model.register_buffer("a", numbers)
    model.register_buffer("b", numbers.view(torch.int32))
    save_model(model, path)
    with pytest.raises(InvalidInputError, match="tensor 'b' cannot be converted while it is load"):
        load_file(path, tied="expand", dtype="F16")
    assert load_file(path, dtype="F16")["a"].dtype is torch.float16
