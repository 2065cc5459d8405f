"""Weights cross from any framework to any other and back, in memory and through files."""

from __future__ import annotations

import gc
import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from safetensors_core import (
    Dtype,
    UnsupportedDtypeError,
    exchange,
    get_framework,
    load,
    load_file,
    save,
    save_file,
)
from safetensors_core.testing.golden import golden_file
from tests.frameworks.installed import INSTALLED

PAIRS = list(itertools.permutations(INSTALLED, 2))
# JAX says so when it is given 64 bits that it would not compute with: its own tests hold that.
pytestmark = pytest.mark.filterwarnings("ignore:.*jax_enable_x64:UserWarning")

# Whose memory the tensors of each framework can use, where it begins at a multiple of 64 bytes.
# JAX and TensorFlow never change a tensor, so their memory is not lent to those who do.
ALIASES = {
    "numpy": {"torch", "paddle", "jax", "tensorflow"},
    "torch": {"numpy", "paddle", "jax", "tensorflow"},
    "paddle": {"numpy", "torch", "jax", "tensorflow"},
    "jax": {"numpy", "tensorflow"},
    "tensorflow": {"numpy", "jax"},
    "mlx": {"numpy", "torch", "paddle"},
}
# These use memory at any address.
ANYWHERE = ("numpy", "torch", "paddle")


def held_by(first: str, second: str) -> list[Dtype]:
    both = get_framework(first).dtypes.keys() & get_framework(second).dtypes.keys()
    return sorted(both, key=lambda dtype: dtype.rank)


CROSSINGS = [(*pair, dtype) for pair in PAIRS for dtype in held_by(*pair)]


def identify(value: object) -> str:
    return str(value.value if isinstance(value, Dtype) else value)


@pytest.mark.parametrize(("first", "second", "dtype"), CROSSINGS, ids=identify)
def test_a_file_saved_by_one_keeps_its_bytes_through_the_other(
    first: str, second: str, dtype: Dtype, tmp_path: Path
) -> None:
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    save_file(load(golden_file(dtype), first), one, {"dtype": dtype.value})
    save_file(load_file(one, second), two, {"dtype": dtype.value})
    assert one.read_bytes() == two.read_bytes() == golden_file(dtype)


@pytest.mark.parametrize(("first", "second", "dtype"), CROSSINGS, ids=identify)
def test_tensors_exchanged_in_memory_keep_their_bits(first: str, second: str, dtype: Dtype) -> None:
    given = load(golden_file(dtype), first)
    names = dict(given)
    there = exchange(given, second)
    assert list(there) == list(given)
    assert all(get_framework(second).is_tensor(tensor) for tensor in there.values())
    assert save(there, {"dtype": dtype.value}) == golden_file(dtype)
    assert save(exchange(there, first), {"dtype": dtype.value}) == golden_file(dtype)
    assert given.keys() == names.keys()
    assert all(given[name] is names[name] for name in names)


@pytest.mark.parametrize(
    ("first", "second", "dtype"),
    [
        (first, second, dtype)
        for first, second in PAIRS
        for dtype in sorted(
            get_framework(first).dtypes.keys() - get_framework(second).dtypes.keys()
        )
    ],
    ids=identify,
)
def test_a_dtype_that_the_other_lacks_is_refused_by_name(
    first: str, second: str, dtype: Dtype
) -> None:
    given = load(golden_file(dtype), first)
    with pytest.raises(UnsupportedDtypeError, match=f"tensor '.*': dtype {dtype.value} .*"):
        exchange(given, second)


def address(tensor: Any) -> int:
    """Where a tensor's bytes lie; an address of its own each time where its framework copies."""
    buffer = memoryview(get_framework(tensor).to_buffer(tensor))
    return int(np.frombuffer(buffer, np.uint8).ctypes.data)


def tensor_at(framework: str, offset: int) -> Any:
    """A tensor of a framework; where it uses the memory given, so far from a multiple of 64."""
    memory = np.zeros(128 + 4096, np.uint8)
    begin = -memory.ctypes.data % 64 + offset
    array = memory[begin : begin + 4096].view(np.float32)
    array[:] = np.arange(1024)
    return exchange({"w": array}, framework)["w"]


# MLX makes its own memory, at an address that may or may not suit those who need a certain one.
@pytest.mark.parametrize(
    ("first", "second"), [pair for pair in PAIRS if pair[0] != "mlx" or pair[1] in ANYWHERE]
)
def test_aligned_tensors_are_exchanged_without_a_copy_where_that_is_possible(
    first: str, second: str
) -> None:
    tensor = tensor_at(first, 0)
    there = exchange({"w": tensor}, second)["w"]
    assert (address(there) == address(tensor)) == (second in ALIASES[first])


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(ANYWHERE, 2)))
def test_frameworks_that_use_any_address_are_given_unaligned_tensors_too(
    first: str, second: str
) -> None:
    tensor = tensor_at(first, 16)
    assert address(exchange({"w": tensor}, second)["w"]) == address(tensor)


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_the_result_outlives_what_it_was_made_from(first: str, second: str) -> None:
    there = exchange({"w": tensor_at(first, 0)}, second)
    gc.collect()
    assert save(there) == save({"w": np.arange(1024, dtype=np.float32)})


@pytest.mark.parametrize("second", ["torch", "paddle"])
@pytest.mark.parametrize("first", ["jax", "tensorflow"])
def test_a_tensor_that_never_changes_is_not_changed_through_its_exchange(
    first: str, second: str
) -> None:
    tensor = tensor_at(first, 0)
    before = save({"w": tensor})
    exchange({"w": tensor}, second)["w"][:] = 7
    assert save({"w": tensor}) == before
    array = exchange({"w": tensor}, "numpy")["w"]
    with pytest.raises(ValueError, match="read-only"):
        array[:] = 7


def test_paddle_after_tensorflow_is_an_error_and_no_crash() -> None:
    program = (
        "import tensorflow, safetensors_core\n"
        "try: safetensors_core.get_framework('paddle')\n"
        "except safetensors_core.PluginError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    assert b"import paddle first" in done.stdout
    assert b"einstall" not in done.stdout  # which would not help
