"""What a file says of tensor subclasses is hostile until it was checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plugins.torch.tests.wrappers import Negated, Scaled
from safetensors_core import HeaderError, InvalidInputError, SafetensorError
from safetensors_torch import load, load_file, save, save_file
from safetensors_torch.plain import decode, encode
from safetensors_torch.subclasses import SUBCLASSES_KEY, class_name


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where tensors are saved."""
    return tmp_path / "model.safetensors"


GOOD: dict[str, Any] = {
    "class": class_name(Scaled),
    "context": None,
    "inner": ["numbers", "scale"],
    "shape": [2, 3],
    "stride": [3, 1],
}
BAD_RECORDS: dict[str, Any] = {
    "no JSON": "}",
    "nested too deeply": '{"w":' * 100_000,
    "a list": "[]",
    "an entry that is text": {"w": "Scaled"},
    "no class": {"w": {**GOOD, "class": None}},
    "no inner tensors": {"w": {**GOOD, "inner": []}},
    "inner tensors that are no list": {"w": {**GOOD, "inner": "numbers"}},
    "inner tensors that are numbers": {"w": {**GOOD, "inner": [1]}},
    "a path for an inner tensor": {"w": {**GOOD, "inner": ["numbers", "a.b"]}},
    "an inner tensor that is not there": {"w": {**GOOD, "inner": ["numbers", "zero"]}},
    "no shape": {"w": {**GOOD, "shape": None}},
    "a shape below zero": {"w": {**GOOD, "shape": [-2, 3]}},
    "fewer strides than sizes": {"w": {**GOOD, "stride": [1]}},
    "a name that is taken": {"w": GOOD, "b": {**GOOD, "inner": ["x"]}},
    "no context": {"w": {key: GOOD[key] for key in GOOD if key != "context"}},
}
BAD_CONTEXTS: list[Any] = [
    *({"code": "print()"}, {"dtype": "nn"}, {"dtype": 1}, {"device": "moon"}, {"device": []}),
    *({"size": ["x"]}, {"size": 2}, {"tuple": 3}, {"dict": 1}, {"dict": [[1]]}, {"float": "1"}),
    *({"dict": [[[], 1]]}, {"float": []}, {}, {"tuple": [], "size": []}),
]


@pytest.mark.parametrize("case", BAD_RECORDS)
def test_a_record_that_is_not_valid_is_refused(path: Path, case: str) -> None:
    record = BAD_RECORDS[case]
    text = record if isinstance(record, str) else json.dumps(record)
    inner = {"w.numbers": torch.zeros(2), "w.scale": torch.ones(1), "b": torch.ones(1)}
    save_file({**inner, "b.x": torch.ones(1)}, path, {SUBCLASSES_KEY: text})
    assert "w.scale" in load_file(path)
    with pytest.raises(HeaderError) as caught:
        load_file(path, rebuild=[Scaled])
    assert caught.value.reason == "invalid-metadata"
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("context", BAD_CONTEXTS, ids=str)
def test_a_context_that_is_not_valid_is_refused_with_the_tensor_s_name(
    path: Path, context: Any
) -> None:
    record = json.dumps({"w": {**GOOD, "context": context}})
    inner = {"w.numbers": torch.zeros(2), "w.scale": torch.ones(1)}
    save_file(inner, path, {SUBCLASSES_KEY: record})
    with pytest.raises(InvalidInputError, match=r"tensor 'w': .*cannot be rebuilt"):
        load_file(path, rebuild=[Scaled])


def test_wrappers_without_end_are_refused() -> None:
    names = ["w" + ".original" * depth for depth in range(500)]
    entry = {**GOOD, "class": class_name(Negated), "inner": ["original"]}
    record = json.dumps(dict.fromkeys(names, entry))
    data = save({names[-1] + ".original": torch.zeros(2, 3)}, {SUBCLASSES_KEY: record})
    with pytest.raises(HeaderError, match="one inside the other"):
        load(data, rebuild=[Negated])


def test_a_class_that_fails_on_what_the_file_holds_is_an_error_with_its_name(path: Path) -> None:
    class Picky(Scaled):
        """A class that takes no such context."""

        @classmethod
        def __tensor_unflatten__(cls, inner: Any, context: Any, shape: Any, stride: Any) -> Any:
            raise LookupError(f"no context {context}")

    class Strange(Scaled):
        """A class that makes something else."""

        @classmethod
        def __tensor_unflatten__(cls, inner: Any, context: Any, shape: Any, stride: Any) -> Any:
            return torch.zeros(2, 3)

    for kind, message in ((Picky, "LookupError.*no context"), (Strange, "made a Tensor")):
        tensor = kind((2, 3), torch.zeros(2, 3), torch.tensor(1.0))
        save_file({"w": tensor}, path, subclasses="flatten")
        with pytest.raises(InvalidInputError, match=f"tensor 'w': .*{message}"):
            load_file(path, rebuild=[kind])


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
)


@given(json_values, st.sampled_from(sorted(GOOD)))
def test_any_record_loads_or_is_refused_as_an_error_of_ours(value: Any, field: str) -> None:
    record = json.dumps({"w": {**GOOD, field: value}})
    data = save(
        {"w.numbers": torch.zeros(2, 3), "w.scale": torch.ones(1)}, {SUBCLASSES_KEY: record}
    )
    try:
        loaded = load(data, rebuild=[Scaled])
    except SafetensorError:
        return
    assert loaded.keys() in ({"w"}, {"w.numbers", "w.scale"})


@given(json_values)
def test_decoding_gives_a_value_or_a_value_error(value: Any) -> None:
    try:
        decoded = decode(value)
    except ValueError:
        return
    assert json.dumps(encode(decoded)) == json.dumps(value)
