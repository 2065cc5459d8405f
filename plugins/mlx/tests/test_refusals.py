"""What cannot be saved is refused by the array's name, before the file is touched."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx import nn

from safetensors_core import (
    InvalidInputError,
    SafetensorError,
    UnsupportedDtypeError,
    get_framework,
)
from safetensors_mlx import framework as plugin
from safetensors_mlx import load, save, save_file


def elsewhere(make: Callable[[], mx.array]) -> mx.array:
    """What a thread made that has ended since."""
    made: list[mx.array] = []
    thread = threading.Thread(target=lambda: made.append(make()))
    thread.start()
    thread.join()
    return made[0]


def lazy_elsewhere() -> mx.array:
    return elsewhere(lambda: mx.ones(3) + 1)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A file that is there already."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"the old file")
    return path


def assert_untouched(target: Path) -> None:
    assert target.read_bytes() == b"the old file"
    assert os.listdir(target.parent) == [target.name]


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "lazy in another thread": (lazy_elsewhere, r"cannot be evaluated here.*mlx\.core\.eval\(\)"),
    "a list": (lambda: [1.0, 2.0], "list"),
    "a number": (lambda: 1.0, "float"),
    "a name": (lambda: "mlx", "expected a tensor, got str"),
    "nothing": (lambda: None, "NoneType"),
    "a tree": (lambda: {"a": mx.ones(3)}, "dict"),
    "a module": (lambda: nn.Linear(1, 1), "Linear"),
    "a dtype": (lambda: mx.float32, "Dtype"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_saved_is_refused_with_its_name(target: Path, case: str) -> None:
    make, message = REFUSED[case]
    before = target.parent.stat().st_mtime_ns
    with pytest.raises(SafetensorError, match=rf"tensor 'layer\.7': .*{message}"):
        save_file({"fine": mx.zeros(3), "layer.7": make()}, target)
    assert_untouched(target)
    assert target.parent.stat().st_mtime_ns == before


def test_what_another_thread_evaluated_can_be_saved() -> None:
    def make() -> mx.array:
        array = mx.ones(3) + 1
        mx.eval(array)
        return array

    assert load(save({"w": elsewhere(make)}))["w"].tolist() == [2, 2, 2]


def save_inside(transform: Any) -> list[float]:
    """What is saved of the argument of a function that MLX transforms."""
    saved: list[bytes] = []

    def function(x: mx.array) -> mx.array:
        saved.append(save({"w": x}))
        return x.sum()

    mx.eval(transform(function)(mx.array([1.0, 2.0])))
    numbers: Any = load(saved[0])["w"].tolist()
    return list(numbers)


@pytest.mark.parametrize("transform", [mx.compile, mx.vmap], ids=["compile", "vmap"])
def test_a_save_where_arrays_have_no_values_is_refused(transform: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"tensor 'w': .*while a function is transformed"):
        save_inside(transform)


def test_a_save_where_arrays_have_values_is_right() -> None:
    assert save_inside(mx.grad) == [1, 2]


def test_describing_a_lazy_array_does_not_evaluate_it() -> None:
    # Evaluating it would be an error.
    assert get_framework("mlx").describe(lazy_elsewhere()).shape == (3,)


def test_bytes_of_a_lazy_array_of_another_thread_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="cannot be evaluated here"):
        get_framework("mlx").to_buffer(lazy_elsewhere())


def test_a_dtype_that_the_format_has_not_is_refused_with_its_name(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # MLX has none today.
    monkeypatch.delitem(plugin._CODES, mx.uint16)
    with pytest.raises(
        UnsupportedDtypeError, match=r"tensor 'w': dtype mlx\.core\.uint16"
    ) as caught:
        save_file({"w": mx.zeros(2, dtype=mx.uint16)}, target)
    assert caught.value.tensor == "w"
    assert_untouched(target)


@pytest.mark.parametrize("shape", [[0, 2**31], [2**40, 0]])
def test_a_shape_that_no_array_can_have_is_refused_with_its_name(shape: list[int]) -> None:
    entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}
    header = json.dumps({"layer.7": entry}).encode()
    data = len(header).to_bytes(8, "little") + header
    with pytest.raises(InvalidInputError, match=r"tensor 'layer\.7'.*shape"):
        load(data)


def test_an_array_of_more_than_64_dimensions_is_refused_by_name() -> None:
    with pytest.raises(InvalidInputError, match=r"'w': an array of 65 dimensions .* reshape"):
        save({"w": mx.ones([1] * 65)})
    assert load(save({"w": mx.ones([1] * 64)}))["w"].ndim == 64
