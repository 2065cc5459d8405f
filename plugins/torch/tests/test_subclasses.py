"""Tensor subclasses: refused with what to do, or taken apart and, on request, rebuilt."""

from __future__ import annotations

import enum
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from plugins.torch.tests.wrappers import Negated, Opaque, Scaled, Wrapper, scaled
from safetensors_core import InvalidInputError, SafetensorError, StateDictError, read_header
from safetensors_core import save as save_any
from safetensors_torch import load, load_file, load_model, save, save_file, save_model
from safetensors_torch.plain import decode, encode
from safetensors_torch.subclasses import SUBCLASSES_KEY, class_name


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a model is saved."""
    return tmp_path / "model.safetensors"


def weights(tensor: torch.Tensor) -> torch.nn.Module:
    model = torch.nn.Module()
    model.weight = torch.nn.Parameter(tensor, requires_grad=False)
    return model


def meaning(tensor: object) -> Any:
    """The numbers that a wrapper stands for."""
    assert isinstance(tensor, Wrapper)
    return tensor.plain().tolist()


def test_a_wrapper_is_refused_with_what_to_do(path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"'w'.*subclasses=\"flatten\".*rebuild=\[Scaled\]"):
        save_file({"w": scaled()}, path)
    with pytest.raises(InvalidInputError, match=r"'w'.*save the plain tensors inside of it"):
        save_any({"w": Opaque()})
    with pytest.raises(InvalidInputError, match=r"'weight'.*subclasses=\"flatten\""):
        save_model(weights(scaled()), path)
    assert not path.exists()


def masked() -> torch.Tensor:
    make: Any = torch.masked.masked_tensor
    tensor: torch.Tensor = make(torch.zeros(2), torch.tensor([True, False]))
    return tensor


@pytest.mark.filterwarnings("ignore:The PyTorch API of MaskedTensors is in prototype:UserWarning")
@pytest.mark.parametrize("make", [Opaque, masked])
def test_a_wrapper_that_cannot_be_taken_apart_is_refused_either_way(
    path: Path, make: Callable[[], torch.Tensor]
) -> None:
    with pytest.raises(InvalidInputError, match=r"'w'.*wraps its data.*save the plain"):
        save_file({"w": make()}, path)
    with pytest.raises(InvalidInputError, match=r"'w'.*has no __tensor_flatten__.*save the plain"):
        save_file({"w": make()}, path, subclasses="flatten")
    assert not path.exists()


def test_inner_tensors_are_saved_under_names_of_their_own(path: Path) -> None:
    save_file(
        {"w": scaled((1, "x")), "b": torch.zeros(2)}, path, {"by": "me"}, subclasses="flatten"
    )
    header = read_header(path)
    assert sorted(header.tensors) == ["b", "w.numbers", "w.scale"]
    assert header.metadata is not None
    assert header.metadata["by"] == "me"
    assert json.loads(header.metadata[SUBCLASSES_KEY]) == {
        "w": {
            "class": class_name(Scaled),
            "context": {"tuple": [1, "x"]},
            "inner": ["numbers", "scale"],
            "shape": [2, 3],
            "stride": [3, 1],
        }
    }
    plain = load_file(path)
    assert plain["w.numbers"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert {type(tensor) for tensor in plain.values()} == {torch.Tensor}


def test_what_has_no_wrappers_is_saved_as_without_the_option() -> None:
    tensors = {"w": torch.zeros(2), "p": torch.nn.Parameter(torch.ones(2))}
    assert save(tensors, subclasses="flatten") == save(tensors)
    metadata = {"a": "b"}
    assert save(tensors, metadata, subclasses="flatten") == save(tensors, metadata)


def test_the_caller_s_dictionaries_stay_as_they_are() -> None:
    tensors, metadata = {"w": scaled()}, {"a": "b"}
    save(tensors, metadata, subclasses="flatten")
    assert (list(tensors), metadata) == (["w"], {"a": "b"})


@pytest.mark.parametrize("from_file", [True, False])
def test_a_wrapper_is_rebuilt_if_its_class_is_named(path: Path, from_file: bool) -> None:
    save_file({"w": scaled({"bits": 8}), "b": torch.zeros(2)}, path, subclasses="flatten")
    if from_file:
        loaded = load_file(path, rebuild=[Scaled])
    else:
        loaded = load(path.read_bytes(), rebuild=(Scaled,))
    assert loaded.keys() == {"w", "b"}
    rebuilt = loaded["w"]
    assert isinstance(rebuilt, Scaled)
    assert rebuilt.context == {"bits": 8}
    assert rebuilt.plain().tolist() == scaled().plain().tolist()


def test_a_class_that_was_not_named_stays_apart(path: Path) -> None:
    tensors = {"w": scaled(), "v": Negated((2, 3), torch.ones(2, 3))}
    save_file(tensors, path, subclasses="flatten")
    assert load_file(path, rebuild=[Negated]).keys() == {"w.numbers", "w.scale", "v"}


def test_classes_of_which_the_file_has_none_are_refused(path: Path) -> None:
    save_file({"w": scaled()}, path, subclasses="flatten")
    expected = r"holds tensors of .*\.Scaled, which no class in rebuild is called: .*\.Negated"
    with pytest.raises(InvalidInputError, match=expected):
        load_file(path, rebuild=[Negated])
    save_file({"w": torch.ones(1)}, path)
    assert load_file(path, rebuild=[Negated]).keys() == {"w"}


def test_a_model_that_misses_what_was_taken_apart_is_told_of_the_class(path: Path) -> None:
    save_file({"weight": Negated((2, 3), torch.ones(2, 3))}, path, subclasses="flatten")
    model = torch.nn.Linear(3, 2, bias=False)
    with pytest.raises(StateDictError, match=r"missing 'weight'.*Negated.*: pass these as rebuild"):
        load_model(model, path)


def test_wrappers_of_wrappers_are_rebuilt_from_inside(path: Path) -> None:
    twice = Negated((2, 3), Negated((2, 3), scaled()))
    save_file({"w": twice}, path, subclasses="flatten")
    assert sorted(load_file(path)) == ["w.original.original.numbers", "w.original.original.scale"]
    rebuilt = load_file(path, rebuild=[Negated, Scaled])["w"]
    assert isinstance(rebuilt, Negated)
    assert rebuilt.plain().tolist() == scaled().plain().tolist()
    inner = load_file(path, rebuild=[Scaled])
    assert list(inner) == ["w.original.original"]
    with pytest.raises(InvalidInputError, match=r"'w\.original' wraps.*Scaled: add that class"):
        load_file(path, rebuild=[Negated])


def test_keys_choose_among_rebuilt_names(path: Path) -> None:
    save_file({"w": scaled(), "v": scaled(factor=2.0)}, path, subclasses="flatten")
    assert list(load_file(path, rebuild=[Scaled], keys="v")) == ["v"]


def test_inner_tensors_that_are_shared_are_saved_once(path: Path) -> None:
    scale = torch.tensor(2.0)
    model = torch.nn.Module()
    for name in "ab":
        numbers = torch.full((2, 3), ord(name), dtype=torch.int8)
        model.register_buffer(name, Scaled((2, 3), numbers, scale))
    with pytest.raises(SafetensorError, match=r"\{'a\.scale', 'b\.scale'\}"):
        save(dict(model.named_buffers()), subclasses="flatten")
    save_model(model, path, subclasses="flatten")
    assert sorted(load_file(path)) == ["a.numbers", "a.scale", "b.numbers"]
    loaded = load_file(path, rebuild=[Scaled])
    assert [meaning(loaded[name])[0][0] for name in "ab"] == [194, 196]


def tied_wrappers() -> torch.nn.Module:
    model = torch.nn.Module()
    model.a = torch.nn.Parameter(scaled(), requires_grad=False)
    model.b = model.a
    return model


def test_a_tied_wrapper_is_dropped_and_given_back(path: Path) -> None:
    save_model(tied_wrappers(), path, subclasses="flatten")
    assert load_file(path, rebuild=[Scaled]).keys() == {"a"}
    both = load_file(path, rebuild=[Scaled], tied="expand")
    assert both.keys() == {"a", "b"}
    assert both["b"].numbers is both["a"].numbers  # type: ignore[attr-defined]
    assert load_file(path, tied="expand").keys() == {"a.numbers", "a.scale", "b.numbers", "b.scale"}
    model = tied_wrappers()
    assert load_model(model, path, rebuild=[Scaled], assign=True) == ([], [])
    assert model.a is model.b
    assert meaning(model.a) == scaled().plain().tolist()


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_model_takes_wrappers_for_its_plain_parameters(path: Path, device: str) -> None:
    save_model(weights(scaled()), path, subclasses="flatten")
    model = weights(torch.zeros(2, 3, device=device))
    assert load_model(model, path, rebuild=[Scaled], assign=True) == ([], [])
    assert isinstance(model.weight, Scaled)
    assert isinstance(model.weight, torch.nn.Parameter)
    assert model.weight.plain().tolist() == scaled().plain().tolist()


def test_a_model_s_plain_parameters_are_overwritten_with_what_wrappers_stand_for(
    path: Path,
) -> None:
    save_model(weights(scaled()), path, subclasses="flatten")
    model = weights(torch.zeros(2, 3))
    load_model(model, path, rebuild=[Scaled])
    assert type(model.weight) is torch.nn.Parameter
    assert model.weight.tolist() == scaled().plain().tolist()


def test_a_name_that_is_taken_is_refused() -> None:
    for tensors in ({"w": scaled(), "w.scale": torch.ones(1)}, {"w.scale": torch.ones(1)}):
        tensors = {**tensors, "w": scaled()}
        with pytest.raises(InvalidInputError, match=r"'w'.*'w\.scale'.*rename"):
            save(tensors, subclasses="flatten")


@pytest.mark.parametrize("subclasses", ["", "keep", None, True])
def test_options_that_do_not_exist_are_refused(path: Path, subclasses: Any) -> None:
    with pytest.raises(InvalidInputError, match="subclasses must be"):
        save({"w": torch.zeros(2)}, subclasses=subclasses)
    with pytest.raises(InvalidInputError, match="subclasses must be"):
        save_model(torch.nn.Linear(2, 2), path, subclasses=subclasses)


@pytest.mark.parametrize(
    "rebuild", [[torch.Tensor], ["Scaled"], Scaled, [Opaque], None, [scaled()]]
)
def test_what_is_no_class_that_can_be_rebuilt_is_refused(rebuild: Any) -> None:
    with pytest.raises(InvalidInputError, match="rebuild must be classes"):
        load(save({"w": torch.zeros(2)}), rebuild=rebuild)


# The context of a class.


class Layout(enum.IntEnum):
    """An enum that is an integer."""

    ROWS = 1


class Block(NamedTuple):
    """A tuple that is more than a tuple."""

    size: int


def nested(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = {"a": (value,)}
    return value


CONTEXTS: list[Any] = [
    *(None, True, False, 0, -(2**70), 1.5, math.inf, -math.inf, "", "é\ud800\x00", [], (), {}),
    *([1, [2, (3, {"a": None})]], {1: "x", (1, 2): torch.int16, None: 2.5, "dict": {"tuple": []}}),
    *(torch.float32, torch.qint8, torch.Size([2, 3]), torch.device("cuda:1"), torch.device("cpu")),
    {"bits": 4, "block": (1, 128), "dtype": torch.bfloat16, "shape": torch.Size([4]), "zero": None},
    nested(32),
]


@pytest.mark.parametrize("context", CONTEXTS, ids=repr)
def test_a_context_of_plain_data_comes_back_as_it_was(path: Path, context: Any) -> None:
    save_file({"w": scaled(context)}, path, subclasses="flatten")
    rebuilt: Any = load_file(path, rebuild=[Scaled])["w"]
    assert rebuilt.context == context
    assert type(rebuilt.context) is type(context)


def test_a_number_that_is_none_comes_back() -> None:
    assert math.isnan(decode(encode(math.nan)))


def looped() -> list[Any]:
    loop: list[Any] = []
    loop.append(loop)
    return loop


@pytest.mark.parametrize(
    ("context", "named"),
    [
        (object(), "builtins.object"),
        ([{1}], "builtins.set"),
        (Layout.ROWS, "Layout"),
        ({"a": Block(1)}, "Block"),
        (torch.zeros(1), "torch.Tensor"),
        (torch.strided, "torch.layout"),
        (b"bytes", "builtins.bytes"),
        (len, "builtin_function_or_method"),
        (looped(), "nested too deeply"),
        (nested(33), "nested too deeply"),
    ],
    ids=str,
)
def test_a_context_of_anything_else_is_refused_by_its_type(
    path: Path, context: Any, named: str
) -> None:
    with pytest.raises(InvalidInputError, match=f"tensor 'w': .*{named}.*"):
        save_file({"w": scaled(context)}, path, subclasses="flatten")
    assert not path.exists()


def test_what_is_rebuilt_is_not_converted(path: Path) -> None:
    save_file({"w": scaled()}, path, subclasses="flatten")
    with pytest.raises(InvalidInputError, match="tensor 'w' cannot be converted while it is load"):
        load_file(path, rebuild=[Scaled], dtype="F16")
    with pytest.raises(InvalidInputError, match="tensor 'w' cannot be converted while it is load"):
        load(path.read_bytes(), rebuild=[Scaled], dtype="F16")
