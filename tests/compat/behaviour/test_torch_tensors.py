"""`safetensors.torch`: saving and loading tensors."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError, deserialize, safe_open
from safetensors.torch import (
    _SIZE,
    _TYPES,
    _getdtype,
    _to_ndarray,
    load,
    load_file,
    save,
    save_file,
    storage_ptr,
    storage_size,
)

DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "U16": torch.uint16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "I64": torch.int64,
    "U64": torch.uint64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
}
T = torch.arange(6, dtype=torch.float32).reshape(2, 3)


def pattern(dtype: torch.dtype, rows: int = 2) -> torch.Tensor:
    """Rows of 16 bytes each, which are 0 and 1 in turn."""
    return (torch.arange(16 * rows, dtype=torch.uint8) % 2).reshape(rows, 16).view(dtype)


def raw(tensor: torch.Tensor) -> list[int]:
    found: list[int] = tensor.contiguous().reshape(-1).view(torch.uint8).tolist()
    return found


@pytest.mark.parametrize("code", DTYPES)
def test_every_dtype_comes_back_from_bytes_and_files(code: str, tmp_path: Path) -> None:
    tensor = pattern(DTYPES[code])
    data = save({"a": tensor})
    save_file({"a": tensor}, tmp_path / "x.safetensors")
    assert (tmp_path / "x.safetensors").read_bytes() == data
    assert deserialize(data)[0][1]["dtype"] == code
    for found in (
        load(data)["a"],
        load_file(tmp_path / "x.safetensors")["a"],
        load_file(tmp_path / "x.safetensors", backend="pread")["a"],
        safe_open(tmp_path / "x.safetensors", "pt").get_tensor("a"),
    ):
        assert found.dtype == tensor.dtype
        assert found.shape == tensor.shape
        assert raw(found) == raw(tensor)


@pytest.mark.parametrize("backend", ["mmap", "pread"])
@pytest.mark.parametrize("code", [*DTYPES, "F8_E8M0"])
def test_every_dtype_is_sliced_in_a_file(code: str, backend: str, tmp_path: Path) -> None:
    tensor = pattern(DTYPES.get(code, torch.float8_e8m0fnu), 4)
    save_file({"a": tensor}, tmp_path / "x.safetensors")
    part = safe_open(tmp_path / "x.safetensors", "pt", backend=backend).get_slice("a")
    assert part.get_dtype() == code
    for index in (slice(1, 3), slice(2, None), 3, ..., (slice(None), slice(1, None))):
        assert part[index].dtype == tensor.dtype
        assert raw(part[index]) == raw(tensor[index])


def test_the_scales_of_block_formats_come_back_from_files(tmp_path: Path) -> None:
    tensor = pattern(torch.float8_e8m0fnu)
    save_file({"a": tensor}, tmp_path / "x.safetensors")
    found = load_file(tmp_path / "x.safetensors")["a"]
    assert found.dtype == tensor.dtype
    assert raw(found) == raw(tensor)


def test_packed_fours_are_saved_by_their_elements(tmp_path: Path) -> None:
    tensor = pattern(torch.float4_e2m1fn_x2)
    save_file({"a": tensor}, tmp_path / "x.safetensors")
    assert (tmp_path / "x.safetensors").read_bytes() == save({"a": tensor})
    found = dict(deserialize(save({"a": tensor})))["a"]
    assert (found["dtype"], found["shape"]) == ("F4", [2, 32])
    assert list(found["data"]) == raw(tensor)
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert file.get_slice("a").get_shape() == [2, 32]
        assert file.get_slice("a").get_dtype() == "F4"


@pytest.mark.parametrize("shape", [(), (1,), (0,), (2, 0), (0, 3), (3, 0, 2), (1, 1, 1, 1, 1)])
def test_every_shape_comes_back(shape: tuple[int, ...], tmp_path: Path) -> None:
    tensor = torch.ones(shape)
    save_file({"a": tensor}, tmp_path / "x.safetensors")
    for found in (load(save({"a": tensor})), load_file(tmp_path / "x.safetensors")):
        assert found["a"].shape == shape
        assert torch.equal(found["a"], tensor)


def test_many_tensors_without_elements_share_nothing() -> None:
    found = load(save({"a": torch.zeros(2, 0), "b": torch.zeros(0), "c": torch.zeros(0, 2)}))
    assert {name: tuple(tensor.shape) for name, tensor in found.items()} == {
        "a": (2, 0),
        "b": (0,),
        "c": (0, 2),
    }


def test_the_bytes_are_exact_and_those_of_numpy() -> None:
    from safetensors.numpy import save as save_arrays

    assert save({"a": T}, metadata={"k": "v"}) == save_arrays({"a": T.numpy()}, {"k": "v"})
    assert save({}) == b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "
    assert save(tensors={"a": T}) == (
        b'@\x00\x00\x00\x00\x00\x00\x00{"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}'
        b"       " + T.numpy().tobytes()
    )


def test_parameters_and_tensors_with_gradients_are_saved_as_data() -> None:
    expected = save({"a": T})
    assert save({"a": torch.nn.Parameter(T)}) == expected
    assert save({"a": T.clone().requires_grad_()}) == expected
    assert not load(expected)["a"].requires_grad


SPARSE = "You are trying to save a sparse tensors: `{}` which this library does not support."
SCATTERED = "You are trying to save a non contiguous tensor: `{}` which is not allowed."


def test_sparse_tensors_are_refused_by_name(tmp_path: Path) -> None:
    tensors = {"a": torch.eye(3).to_sparse(), "b": T, "c": torch.eye(3).to_sparse()}
    for refuse in (lambda: save(tensors), lambda: save_file(tensors, tmp_path / "x.safetensors")):
        with pytest.raises(ValueError, match="sparse") as caught:
            refuse()
        assert str(caught.value).startswith(SPARSE.format(["a", "c"]))
        assert "`.to_dense()`" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_tensors_that_are_not_contiguous_are_refused_by_name(tmp_path: Path) -> None:
    for name, tensor in (("a", T.t()), ("b", torch.zeros(4, 4)[:, 1]), ("c", T[:, ::2])):
        tensors = {name: tensor, "other": torch.zeros(1)}
        for refuse in (
            lambda given=tensors: save(given),
            lambda given=tensors: save_file(given, tmp_path / "x.safetensors"),
        ):
            with pytest.raises(ValueError, match="contiguous") as caught:
                refuse()
            assert str(caught.value).startswith(SCATTERED.format(name))
            assert "`.contiguous()`" in str(caught.value)
    assert not list(tmp_path.iterdir())


SHARED = "Some tensors share memory, this will lead to duplicate memory on disk and potential"


@pytest.mark.parametrize(
    "tensors",
    [
        {"a": T, "b": T},
        {"a": T, "b": T.view(3, 2)},
        {"a": T, "b": T[1:]},
        {"a": T[:1], "b": T[:1]},
        {"a": T.view(6)[:4], "b": T.view(6)[2:]},
    ],
    ids=["twice", "another shape", "a part", "a part twice", "overlapping parts"],
)
def test_tensors_that_share_memory_are_refused(
    tensors: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    tensors = tensors | {"alone": torch.zeros(2)}
    for refuse in (lambda: save(tensors), lambda: save_file(tensors, tmp_path / "x.safetensors")):
        with pytest.raises(RuntimeError) as caught:
            refuse()
        assert SHARED in str(caught.value)
        assert "alone" not in str(caught.value)
        assert "[{'a', 'b'}]" in str(caught.value) or "[{'b', 'a'}]" in str(caught.value)
        assert "`save_model`" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_parts_of_one_tensor_that_do_not_overlap_are_saved(tmp_path: Path) -> None:
    tensors = {"a": T[:1], "b": T[1:], "c": T[:0]}
    save_file(tensors, tmp_path / "x.safetensors")
    found = load_file(tmp_path / "x.safetensors")
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert (tmp_path / "x.safetensors").stat().st_size < 8 + 256 + 24


def test_what_is_no_dict_of_tensors_is_refused() -> None:
    call: Any = save
    with pytest.raises(ValueError, match="received <class 'list'>") as caught:
        call([T])
    assert str(caught.value).startswith("Expected a dict of [str, torch.Tensor]")
    for wrong in (1, None, "text", np.zeros(1), [1.0]):
        with pytest.raises(
            ValueError, match=r"^Key `a` is invalid, expected torch.Tensor"
        ) as caught:
            call({"a": wrong})
        assert str(caught.value).endswith(f"received {type(wrong)}")


@pytest.mark.parametrize("data", ["x", None, bytearray(16), memoryview(bytes(16))])
def test_load_takes_bytes_only(data: Any) -> None:
    with pytest.raises(TypeError, match=r"^argument 'bytes': .* is not an instance of 'bytes'$"):
        load(data)


def test_load_file_takes_what_safe_open_takes(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": T}, str(path), metadata={"format": "pt"})
    for found in (
        load_file(str(path)),
        load_file(filename=path, device="cpu"),
        load_file(path, "cpu"),
        load_file(path, backend="pread"),
    ):
        assert torch.equal(found["a"], T)
        assert found["a"].device.type == "cpu"
    assert safe_open(path, "pt").metadata() == {"format": "pt"}
    with pytest.raises(SafetensorError, match=r"^device foo is invalid$"):
        load_file(path, device="foo")
    with pytest.raises(SafetensorError, match=r'^backend "foo" is invalid'):
        load_file(path, backend="foo")
    for missing in ("nope", Path("nope")):
        with pytest.raises(FileNotFoundError, match=r"^No such file or directory: nope$"):
            load_file(missing)


@pytest.mark.skipif(torch.cuda.is_available(), reason="promises what happens without a GPU")
def test_a_device_that_the_machine_lacks_is_a_runtime_error(tmp_path: Path) -> None:
    save_file({"a": T}, tmp_path / "x.safetensors")
    for device in ("cuda", "cuda:0", 0):
        with pytest.raises(RuntimeError):
            load_file(tmp_path / "x.safetensors", device)


def test_loaded_tensors_can_be_changed_without_changing_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": T, "b": T.clone()}, path)
    found = load_file(path)
    found["a"].fill_(-1)
    assert torch.equal(found["b"], T)
    assert torch.equal(load_file(path)["a"], T)


def test_what_was_loaded_can_be_saved_over_its_own_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": T, "b": torch.ones(1000)}, path)
    for _ in range(3):
        found = load_file(path)
        found["a"] += 1
        save_file(found, path)
    assert torch.equal(load_file(path)["a"], T + 3)
    assert torch.equal(load_file(path)["b"], torch.ones(1000))


def test_saving_leaves_the_dict_alone(tmp_path: Path) -> None:
    tensor = T.clone()
    tensors = {"b": tensor}
    save(tensors)
    save_file(tensors, tmp_path / "x.safetensors")
    assert tensors["b"] is tensor
    assert torch.equal(tensor, T)


def test_metadata_and_names_must_be_strings(tmp_path: Path) -> None:
    call: Any = save
    with pytest.raises(TypeError, match="'int' object is not an instance of 'str'"):
        call({"a": T}, {"step": 1})
    with pytest.raises(TypeError, match="'int' object is not an instance of 'str'"):
        call({1: T})
    with pytest.raises(SafetensorError, match=r"^Error while serializing: I/O error: "):
        save_file({"a": T}, tmp_path / "no" / "x.safetensors")


def test_dtypes_have_their_format_names_and_sizes() -> None:
    assert {code: _TYPES[code] for code in DTYPES} == DTYPES
    assert {_SIZE[dtype] == dtype.itemsize for dtype in DTYPES.values()} == {True}
    assert {_SIZE[torch.float8_e8m0fnu], _SIZE[torch.float4_e2m1fn_x2]} == {1}
    assert _getdtype("BF16") is torch.bfloat16
    with pytest.raises(KeyError, match="F128"):
        _getdtype("F128")


def test_the_bytes_of_a_tensor_are_an_array() -> None:
    for tensor in (T, T.bfloat16(), torch.tensor(3), torch.zeros(0), torch.zeros(3, 0), T > 2):
        array, owner = _to_ndarray(tensor)
        assert array.ndim == 1
        assert array.dtype == np.uint8 or not array.size
        assert array.tobytes() == bytes(raw(tensor))
        assert isinstance(owner, torch.Tensor) or not array.size
    assert _to_ndarray(T)[0].ctypes.data == T.data_ptr()


def test_storages_have_an_address_and_a_size() -> None:
    assert storage_ptr(T[1:]) == T.untyped_storage().data_ptr()
    assert storage_size(T[1:]) == storage_size(T) == 24
    assert storage_size(T.to(torch.bfloat16)) == 12
    assert storage_size(torch.zeros(0)) == storage_ptr(torch.zeros(0)) == 0
    memory = (ctypes.c_float * 4)(1, 2, 3, 4)
    assert storage_ptr(torch.frombuffer(memory, dtype=torch.float32)) == ctypes.addressof(memory)
