"""Every dtype that JAX and the format share comes back bit for bit, from every function."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import safetensors_numpy
from safetensors_core import Dtype, UnsupportedDtypeError, safe_open
from safetensors_jax import load, load_file, save, save_file

WIDE = {Dtype.I64: np.int64, Dtype.U64: np.uint64, Dtype.F64: np.float64}
DTYPES: dict[Dtype, Any] = {
    Dtype.BOOL: np.bool_,
    Dtype.F4: ml_dtypes.float4_e2m1fn,
    Dtype.U8: np.uint8,
    Dtype.I8: np.int8,
    Dtype.F8_E5M2: ml_dtypes.float8_e5m2,
    Dtype.F8_E4M3: ml_dtypes.float8_e4m3fn,
    Dtype.F8_E8M0: ml_dtypes.float8_e8m0fnu,
    Dtype.F8_E4M3FNUZ: ml_dtypes.float8_e4m3fnuz,
    Dtype.F8_E5M2FNUZ: ml_dtypes.float8_e5m2fnuz,
    Dtype.I16: np.int16,
    Dtype.U16: np.uint16,
    Dtype.F16: np.float16,
    Dtype.BF16: ml_dtypes.bfloat16,
    Dtype.I32: np.int32,
    Dtype.U32: np.uint32,
    Dtype.F32: np.float32,
    Dtype.C64: np.complex64,
    **WIDE,
}
SHAPES = [(), (1,), (0,), (3, 0, 2), (7,), (2, 3, 4), (70_001,)]
# Infinities, NaNs that carry a payload, quiet and signalling; zeros and subnormals of both signs.
SPECIAL = {
    4: "00000000 80000000 00000001 807fffff 7f800000 ff800000 7f800001 7fc12345",
    8: "0000000000000000 8000000000000000 0000000000000001 800fffffffffffff "
    "7ff0000000000000 fff0000000000000 7ff0000000000001 7ff8000012345678",
}
# The tests of 64-bit types say so where they expect it.
pytestmark = pytest.mark.filterwarnings("ignore:these tensors have 64 bits:UserWarning")


def from_bytes(raw: bytes, code: Dtype, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """An array with the bits given, as far as the type has them."""
    mask = np.uint8({Dtype.BOOL: 1, Dtype.F4: 15}.get(code, 255))
    octets: Any = np.frombuffer(bytearray(raw), np.uint8) & mask
    array: np.ndarray[Any, Any] = octets.view(DTYPES[code]).reshape(shape)
    return array


def random_array(code: Dtype, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    nbytes = int(np.prod(shape)) * np.dtype(DTYPES[code]).itemsize
    return from_bytes(np.random.default_rng(7).bytes(nbytes), code, shape)


def patterns(code: Dtype) -> np.ndarray[Any, Any]:
    """All bit patterns of a narrow type, the telling ones of a wide one; an even number."""
    width = np.dtype(DTYPES[code]).itemsize
    if width in SPECIAL:
        numbers = [int(word, 16) for word in SPECIAL[width].split()]
    else:
        numbers = list(range(256**width))
    raw = b"".join(number.to_bytes(width, "little") for number in numbers)
    return from_bytes(raw, code, (len(numbers),))


def shapes_of(code: Dtype) -> list[tuple[int, ...]]:
    """Shapes with a whole number of bytes."""
    return [s for s in SHAPES if int(np.prod(s)) * code.bits % 8 == 0]


def assert_same(loaded: Any, expected: np.ndarray[Any, Any]) -> None:
    assert isinstance(loaded, jax.Array)
    assert (loaded.dtype, loaded.shape) == (expected.dtype, expected.shape)
    assert np.asarray(loaded).tobytes() == expected.tobytes()


def test_every_dtype_of_the_format_but_f6_is_covered() -> None:
    assert set(Dtype) - set(DTYPES) == {Dtype.F6_E2M3, Dtype.F6_E3M2}


@pytest.mark.parametrize("code", DTYPES)
@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_every_bit_pattern_comes_back(tmp_path: Path, code: Dtype, backend: Any) -> None:
    array = patterns(code)
    tensors = {"w": array, "matrix": array.reshape(2, -1)}
    path = tmp_path / "model.safetensors"
    safetensors_numpy.save_file(tensors, path, fsync=False)
    data = path.read_bytes()
    for loaded in (load_file(path, backend=backend), load(data), load(bytearray(data))):
        for name, expected in tensors.items():
            assert_same(loaded[name], expected)
        assert save(loaded) == data
    with safe_open(path, "jax", backend=backend) as file:
        assert_same(file.get_tensor("w"), array)


# Slices of 64-bit types warn, which has tests of its own.
@pytest.mark.parametrize("code", [code for code in DTYPES if code not in WIDE])
@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_slices_keep_every_bit(tmp_path: Path, code: Dtype, backend: Any) -> None:
    array = patterns(code)
    path = tmp_path / "model.safetensors"
    safetensors_numpy.save_file({"matrix": array.reshape(2, -1)}, path, fsync=False)
    with safe_open(path, "jax", backend=backend) as file:
        view = file.get_slice("matrix")
        assert view.get_dtype() == code
        assert_same(view[1:], array.reshape(2, -1)[1:])
        assert_same(view[-1, ::-2], array.reshape(2, -1)[-1, ::-2])
        assert_same(view[:, 1], array.reshape(2, -1)[:, 1])


@pytest.mark.parametrize("code", DTYPES)
@pytest.mark.parametrize("wide", [False, True], ids=["32 bits", "64 bits"])
def test_every_kind_of_shape_comes_back_on_every_kind_of_place(
    tmp_path: Path, code: Dtype, wide: bool
) -> None:
    tensors = {str(shape): random_array(code, shape) for shape in shapes_of(code)}
    path = tmp_path / "model.safetensors"
    safetensors_numpy.save_file(tensors, path, fsync=False)
    mesh = jax.sharding.Mesh(jax.devices()[:1], "x")
    replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    places: list[Any] = ["cpu", "cpu:0", None, jax.devices()[0], replicated]
    with jax.enable_x64(wide):
        for device in [*places, {"(7,)": replicated}]:
            loaded = load_file(path, device)
            assert list(loaded) == list(safetensors_numpy.load_file(path))
            for name, expected in tensors.items():
                assert_same(loaded[name], expected)
            save_file(loaded, tmp_path / "again.safetensors", fsync=False)
            assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("code", DTYPES)
def test_arrays_that_jax_made_and_laid_out_are_saved_as_numpy_would(code: Dtype) -> None:
    with jax.enable_x64(True):
        array = jax.device_put(random_array(code, (4, 6)))
        made = {
            "plain": array,
            "transposed": array.T,
            "row": array[1],
            "scalar": array[0, 0] if code.bits >= 8 else array[0, :2],
            "strided": array[::2, ::3],
            "reversed": array[::-1],
            "computed": jax.jit(lambda x: x.reshape(2, 12).T)(array),
        }
    expected = {name: np.array(array) for name, array in made.items()}
    assert save(made) == safetensors_numpy.save(expected)


@given(data=st.data())
def test_any_tensors_come_back_and_are_saved_byte_for_byte_as_by_numpy(data: Any) -> None:
    made = {}
    for name in data.draw(st.lists(st.text("abc.é", max_size=5), unique=True, max_size=6)):
        code = data.draw(st.sampled_from(list(DTYPES)))
        shape = tuple(data.draw(st.lists(st.integers(0, 4), max_size=3)))
        if code is Dtype.F4:
            shape = (*shape, 2)
        nbytes = int(np.prod(shape)) * np.dtype(DTYPES[code]).itemsize
        raw = data.draw(st.binary(min_size=nbytes, max_size=nbytes))
        made[name] = from_bytes(raw, code, shape)
    stored = safetensors_numpy.save(made)
    loaded = load(stored)
    for name, expected in made.items():
        assert_same(loaded[name], expected)
    assert save(loaded) == stored


@pytest.mark.parametrize("padding", range(0, 64, 7))
@pytest.mark.parametrize("backend", ["mmap", "pread", "memory"])
def test_tensors_at_any_address_are_read_right(tmp_path: Path, padding: int, backend: Any) -> None:
    # By hand: a writer may pad the header to any length, or not at all. One is copied by this
    # package if it does not lie at 64 bytes, the other by XLA.
    large, small = np.arange(20_000, dtype=np.float32), np.arange(3, dtype=np.int16)
    header = b'{"a":{"dtype":"F32","shape":[20000],"data_offsets":[0,80000]},'
    header += b'"b":{"dtype":"I16","shape":[3],"data_offsets":[80000,80006]}}'
    header += b" " * (-(len(header) + 8) % 64 + padding)
    data = len(header).to_bytes(8, "little") + header + large.tobytes() + small.tobytes()
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    loaded = load(bytearray(data)) if backend == "memory" else load_file(path, backend=backend)
    assert_same(loaded["a"], large)
    assert_same(loaded["b"], small)


@pytest.mark.parametrize("code", ["F6_E2M3", "F6_E3M2"])
@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_f6_is_refused_with_tensor_dtype_framework_and_file(
    tmp_path: Path, code: str, backend: Any
) -> None:
    header = json.dumps({"w": {"dtype": code, "shape": [4], "data_offsets": [0, 3]}}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(3))
    message = f"{path}: tensor 'w': dtype {code} has no exact equivalent in jax"
    with pytest.raises(UnsupportedDtypeError) as caught:
        load_file(path, backend=backend)
    assert str(caught.value) == message
    with (
        safe_open(path, "flax", backend=backend) as file,
        pytest.raises(UnsupportedDtypeError) as caught,
    ):
        file.get_slice("w")
    assert str(caught.value) == message


@pytest.mark.parametrize("name", ["int4", "uint4", "int2", "float8_e3m4", "float8_e4m3b11fnuz"])
def test_a_dtype_that_the_format_has_not_is_refused_with_its_name(name: str) -> None:
    array = jnp.zeros(4, getattr(jnp, name))
    with pytest.raises(UnsupportedDtypeError, match=rf"tensor 'w': dtype {name} .*astype"):
        save({"w": array})


def test_complex_numbers_of_128_bits_are_refused() -> None:
    with jax.enable_x64(True):
        array = jnp.zeros(2, jnp.complex128)
    with pytest.raises(UnsupportedDtypeError, match="tensor 'w': dtype complex128"):
        save({"w": array})


def test_arrays_of_numpy_may_stand_beside_those_of_jax() -> None:
    mixed = {"a": jnp.ones(2), "b": np.arange(3), "c": np.float32(1)}
    assert save(mixed) == safetensors_numpy.save({n: np.asarray(a) for n, a in mixed.items()})
