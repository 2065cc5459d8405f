"""Errors keep what they say, and hold on to nothing else."""

from __future__ import annotations

import copy
import gc
import pickle
import subprocess
import sys
import weakref

import pytest

from safetensors_core import (
    CheckpointError,
    CheckpointReason,
    CheckpointWarning,
    ClosedFileError,
    ConversionError,
    FileChangedError,
    FrameworkNotFoundError,
    HeaderError,
    InvalidInputError,
    NotASafetensorsRepoError,
    PluginError,
    Reason,
    RemoteError,
    SafetensorError,
    SharedMemoryError,
    SliceError,
    StateDictError,
    TensorNotFoundError,
    UnsafeCheckpointError,
    UnsupportedDtypeError,
)
from safetensors_core import errors as module


class Names(list[str]):
    """A list that can be watched."""


class TwoPartError(PluginError):
    """As a plugin may define one: its constructor takes what `args` does not hold."""

    def __init__(self, first: str, *, second: str) -> None:
        super().__init__(f"{first} and {second}")
        self.second = second


def located() -> HeaderError:
    error = HeaderError(Reason.GAP, "a gap", tensor="w")
    error.location = "a.safetensors"
    return error


def placed() -> UnsupportedDtypeError:
    error = UnsupportedDtypeError("F4", "torch", remedy="Use numpy")
    error.tensor, error.location = "w", "a.safetensors"
    return error


ERRORS: list[SafetensorError] = [
    SafetensorError("anything"),
    HeaderError(Reason.EMPTY, "the file is empty"),
    located(),
    UnsupportedDtypeError(int, "torch"),
    placed(),
    TensorNotFoundError("wieght", "a.safetensors"),
    TensorNotFoundError("wieght", "a.safetensors", ["weight"]),
    SliceError("index 4 is out of bounds"),
    InvalidInputError("alignment 7"),
    SharedMemoryError([["a", "b"]], "clone() one"),
    ClosedFileError("a.safetensors is closed"),
    StateDictError("a.safetensors", ["b"], ["c"], {"w": ([1], [2])}),
    CheckpointError(CheckpointReason.MISSING_SHARD, "no such file", "model", ["a.safetensors"]),
    NotASafetensorsRepoError("org/name", ["model.safetensors"]),
    ConversionError("it is damaged", "a.bin"),
    UnsafeCheckpointError("its pickle asks for 'os.system'", "a.bin"),
    RemoteError("the connection broke", "https://example.org/a", status=503),
    FileChangedError("its ETag changed", "https://example.org/a"),
    PluginError("plugin 'acme' is disabled"),
    FrameworkNotFoundError("framework 'jax' is not installed"),
    TwoPartError("one", second="two"),
]


def test_the_errors_below_are_the_whole_tree() -> None:
    tree = {getattr(module, name) for name in module.__all__}
    tree -= {Reason, CheckpointReason, CheckpointWarning}
    assert tree == {type(error) for error in ERRORS} - {TwoPartError}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_an_error_survives_pickle(error: SafetensorError, protocol: int) -> None:
    found = pickle.loads(pickle.dumps(error, protocol))
    assert type(found) is type(error)
    assert (str(found), found.args, vars(found)) == (str(error), error.args, vars(error))


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_an_error_can_be_copied(error: SafetensorError) -> None:
    for found in (copy.copy(error), copy.deepcopy(error)):
        assert type(found) is type(error)
        assert (str(found), vars(found)) == (str(error), vars(error))


def test_an_unknown_name_does_not_keep_the_names_of_the_file() -> None:
    names = Names(["weight"])
    alive = weakref.ref(names)
    error = TensorNotFoundError("wieght", "a.safetensors", names)
    del names
    gc.collect()
    assert alive() is None
    assert error.suggestion == "weight"
    assert str(error) == "a.safetensors: no tensor 'wieght'. Did you mean 'weight'?"


LAYERS = [f"model.layers.{i}.attention.weight" for i in range(100_000)]


@pytest.mark.parametrize(
    ("wanted", "suggestion"),
    [
        ("model.layers.71234.attention.wieght", "model.layers.71234.attention.weight"),
        ("mdoel.norm.weight", "model.norm.weight"),
        ("model.norm.weigt", "model.norm.weight"),
        ("model.norm.weight_", "model.norm.weight"),
        ("model.layers.xxxxx.attention.weight", None),
        ("optimizer", None),
        ("", None),
    ],
)
def test_of_very_many_names_only_those_are_compared_that_share_a_half(
    wanted: str, suggestion: str | None
) -> None:
    error = TensorNotFoundError(wanted, "a.safetensors", [*LAYERS, "model.norm.weight"])
    assert error.suggestion == suggestion


def test_errors_are_imported_without_what_compares_names() -> None:
    program = "import sys, safetensors_core.errors; sys.exit('difflib' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_message_about_shared_memory_stays_short_and_ends_with_the_remedy() -> None:
    groups = [[f"layer.{i}.{j}" for j in range(100)] for i in range(100)]
    error = SharedMemoryError(groups, "clone() one")
    assert error.groups == groups
    assert len(str(error)) < 3000
    assert str(error).endswith("and 90 more. clone() one")
