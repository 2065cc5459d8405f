"""`safe_open` as the reference has it, over a framework that tests register."""

from __future__ import annotations

import copy
import inspect
import pickle
import pydoc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.tests.raw import RawFramework, counting, file_bytes, take
from safetensors_core import (
    Dtype,
    HeaderError,
    SafetensorError,
    TensorNotFoundError,
    plugins,
    register_framework,
)
from safetensors_core.compat import functions, settings
from safetensors_core.compat.handle import PySafeSlice, safe_open
from safetensors_core.compat.serialization import (
    TensorSpec,
    deserialize,
    serialize,
    serialize_file,
)

TENSORS = {
    "z": counting(Dtype.F32, 4, 6),
    "a": counting(Dtype.F16, 3),
    "scalar": counting(Dtype.I64),
    "empty": counting(Dtype.U8, 0, 2),
}
METADATA = {"format": "raw"}


@pytest.fixture(autouse=True)
def _raw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_frameworks", {})
    register_framework(RawFramework())


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strict for one test."""
    monkeypatch.setenv(settings.STRICT, "1")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of `TENSORS`."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(file_bytes(TENSORS, METADATA))
    return path


@pytest.fixture(params=["mmap", "pread"])
def file(request: pytest.FixtureRequest, path: Path) -> safe_open:
    """That file, open with each backend."""
    return safe_open(path, "raw", backend=request.param)


def test_a_file_gives_names_metadata_and_tensors(file: safe_open) -> None:
    assert file.keys() == sorted(TENSORS)
    assert file.offset_keys() == list(TENSORS)
    assert file.metadata() == METADATA
    assert {name: file.get_tensor(name) for name in TENSORS} == TENSORS
    assert file.get_tensors() == TENSORS
    assert list(file.get_tensors()) == list(TENSORS)


def test_a_slice_gives_shape_dtype_and_what_is_indexed(file: safe_open) -> None:
    part = file.get_slice("z")
    assert isinstance(part, PySafeSlice)
    assert (part.get_shape(), part.get_dtype()) == ([4, 6], "F32")
    assert part[1:3, ::2] == take(TENSORS["z"], (slice(1, 3), slice(None, None, 2)))
    assert part[-1] == take(TENSORS["z"], -1)
    assert file.get_slice("scalar")[...] == TENSORS["scalar"]


USES: dict[str, Callable[[safe_open], Any]] = {
    "keys": lambda file: file.keys(),
    "offset_keys": lambda file: file.offset_keys(),
    "metadata": lambda file: file.metadata(),
    "get_tensor": lambda file: file.get_tensor("z"),
    "get_tensors": lambda file: file.get_tensors(),
    "get_slice": lambda file: file.get_slice("z"),
    "get_tensor_meta": lambda file: file.get_tensor_meta("z"),
    "prefetch": lambda file: file.prefetch(),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
def test_a_closed_file_says_so(file: safe_open, use: Callable[[safe_open], Any]) -> None:
    with file:
        use(file)
    with pytest.raises(SafetensorError, match=r"^File is closed$"):
        use(file)


def test_what_was_handed_out_outlives_the_file(file: safe_open, path: Path) -> None:
    with file:
        tensor, part = file.get_tensor("z"), file.get_slice("a")
    path.unlink()
    assert tensor == TENSORS["z"]
    assert part[1:] == take(TENSORS["a"], slice(1, None))


def test_tensors_own_their_memory(file: safe_open, path: Path) -> None:
    tensors = file.get_tensors()
    with path.open("r+b") as target:
        target.write(bytes(path.stat().st_size))
    assert tensors == TENSORS


def test_a_tensor_that_is_not_there_is_named_and_ours_is_the_cause(file: safe_open) -> None:
    for use in (file.get_tensor, file.get_slice, file.get_tensor_meta):
        with pytest.raises(SafetensorError, match=r"^File does not contain tensor no$") as caught:
            use("no")
        assert type(caught.value) is SafetensorError
        assert isinstance(caught.value.__cause__, TensorNotFoundError)


@pytest.mark.parametrize("name", [None, 1, b"z"])
def test_a_name_is_a_string(file: safe_open, name: Any) -> None:
    for use in (file.get_tensor, file.get_slice, file.get_tensor_meta):
        with pytest.raises(TypeError, match=r"argument 'name': .* is not an instance of 'str'"):
            use(name)


def test_a_rejected_header_says_it_as_the_reference_does(tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(b"\x02" + bytes(7) + b"[]")
    with pytest.raises(SafetensorError, match=r"^Error while deserializing header: ") as caught:
        safe_open(path, "raw")
    assert isinstance(caught.value.__cause__, HeaderError)


def test_a_missing_file_is_named_once(tmp_path: Path) -> None:
    path = tmp_path / "no.safetensors"
    with pytest.raises(FileNotFoundError) as caught:
        safe_open(path, "raw")
    assert str(caught.value) == f"No such file or directory: {path}"


ARGUMENTS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "framework": ({"framework": "no"}, SafetensorError, "^framework no is invalid$"),
    "framework of another type": ({"framework": 1}, TypeError, "argument 'framework': 'int'"),
    "backend": ({"backend": "no"}, SafetensorError, 'backend "no" is invalid'),
    "backend of another type": ({"backend": None}, TypeError, "argument 'backend': 'None'"),
    "bytes": ({"filename": b"model"}, TypeError, "argument 'filename': 'bytes' object"),
    "no path": ({"filename": 3}, TypeError, "expected str, bytes or os.PathLike object, not int"),
}


@pytest.mark.parametrize(("arguments", "error", "words"), ARGUMENTS.values(), ids=ARGUMENTS.keys())
def test_an_argument_that_is_none_is_refused(
    path: Path, arguments: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        safe_open(**{"filename": path, "framework": "raw", **arguments})


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Is a directory"):
        safe_open(tmp_path, "raw")


@pytest.mark.usefixtures("strict")
def test_strictly_there_are_the_frameworks_of_the_reference_only(path: Path) -> None:
    with pytest.raises(SafetensorError, match="framework raw is invalid"):
        safe_open(path, "raw")


def test_functions_load_what_they_saved(tmp_path: Path) -> None:
    path = tmp_path / "saved.safetensors"
    functions.save_file(TENSORS, path, METADATA)
    assert functions.load_file(path, "raw") == TENSORS
    assert functions.load(path.read_bytes(), "raw") == TENSORS
    assert functions.save(TENSORS, METADATA) == path.read_bytes()


@pytest.mark.parametrize("data", [bytearray(8), memoryview(bytes(8)), "text", None])
def test_only_bytes_are_loaded_from_memory(data: Any) -> None:
    with pytest.raises(TypeError, match=r"argument 'bytes': .* is not an instance of 'bytes'"):
        functions.load(data, "raw")


def test_a_tensor_cannot_have_the_name_of_the_metadata(tmp_path: Path) -> None:
    tensors = {"__metadata__": TENSORS["a"]}
    with pytest.raises(SafetensorError, match="cannot be named '__metadata__'"):
        functions.save(tensors, None)
    with pytest.raises(SafetensorError, match="cannot be named '__metadata__'"):
        functions.save_file(tensors, tmp_path / "model.safetensors", None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("copied", [pickle.dumps, copy.copy, copy.deepcopy])
def test_handles_cannot_be_pickled_or_copied(file: safe_open, copied: Callable[[Any], Any]) -> None:
    spec = TensorSpec(dtype="uint8", shape=[0], data_ptr=0, data_len=0)
    for made in (file, file.get_slice("z"), spec):
        with pytest.raises(TypeError, match=f"cannot pickle '{type(made).__name__}' object"):
            copied(made)


SIGNATURES: dict[Callable[..., Any], str] = {
    safe_open: "(filename, framework, device=Ellipsis, *, backend='mmap')",
    safe_open.get_tensor: "(self, name)",
    safe_open.get_slice: "(self, name)",
    safe_open.prefetch: "(self, plan=None, *, device=None, threads=8)",
    serialize: "(tensor_dict, metadata=None)",
    serialize_file: "(tensor_dict, filename, metadata=None)",
    deserialize: "(bytes)",
    TensorSpec: "(*, dtype, shape, data_ptr, data_len)",
}


@pytest.mark.parametrize("call", SIGNATURES, ids=lambda call: call.__qualname__)
def test_signatures_are_those_of_the_reference(call: Callable[..., Any]) -> None:
    signature = inspect.signature(call)
    bare = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    assert str(inspect.Signature(bare)) == SIGNATURES[call]


@pytest.mark.parametrize("subject", SIGNATURES, ids=lambda call: call.__qualname__)
def test_help_has_something_to_say(subject: Callable[..., Any]) -> None:
    assert ">>>" in pydoc.plain(pydoc.render_doc(subject))
