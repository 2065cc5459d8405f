"""Every dtype that TensorFlow and the format share comes back bit for bit, from every function."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

import safetensors_numpy
from safetensors_core import Dtype, UnsupportedDtypeError, parse_header, safe_open
from safetensors_core import load as load_with
from safetensors_tensorflow import load, load_file, save, save_file

Array = npt.NDArray[Any]
experimental = tf.dtypes.experimental

DTYPES = {
    Dtype.BOOL: (tf.bool, np.bool_),
    Dtype.F4: (experimental.float4_e2m1fn, ml_dtypes.float4_e2m1fn),
    Dtype.U8: (tf.uint8, np.uint8),
    Dtype.I8: (tf.int8, np.int8),
    Dtype.F8_E5M2: (experimental.float8_e5m2, ml_dtypes.float8_e5m2),
    Dtype.F8_E4M3: (experimental.float8_e4m3fn, ml_dtypes.float8_e4m3fn),
    Dtype.F8_E4M3FNUZ: (experimental.float8_e4m3fnuz, ml_dtypes.float8_e4m3fnuz),
    Dtype.F8_E5M2FNUZ: (experimental.float8_e5m2fnuz, ml_dtypes.float8_e5m2fnuz),
    Dtype.I16: (tf.int16, np.int16),
    Dtype.U16: (tf.uint16, np.uint16),
    Dtype.F16: (tf.float16, np.float16),
    Dtype.BF16: (tf.bfloat16, ml_dtypes.bfloat16),
    Dtype.I32: (tf.int32, np.int32),
    Dtype.U32: (tf.uint32, np.uint32),
    Dtype.F32: (tf.float32, np.float32),
    Dtype.C64: (tf.complex64, np.complex64),
    Dtype.F64: (tf.float64, np.float64),
    Dtype.I64: (tf.int64, np.int64),
    Dtype.U64: (tf.uint64, np.uint64),
}
MISSING = {Dtype.F6_E2M3, Dtype.F6_E3M2, Dtype.F8_E8M0}
# TensorFlow has no kernel that puts these into a variable.
NO_VARIABLES = {Dtype.F4, Dtype.F8_E4M3FNUZ, Dtype.F8_E5M2FNUZ}
# A scalar, one element, odd counts, nothing in several ways, and more than one dimension. F4
# needs an even number of elements to fill its bytes.
SHAPES = [(), (1,), (7,), (33, 3), (0,), (2, 0, 3), (1, 1, 1, 1, 1), (2, 3, 4)]
# Infinities, NaNs that carry a payload, quiet and signalling; zeros and subnormals of both signs.
SPECIAL = {
    4: "00000000 80000000 00000001 807fffff 7f800000 ff800000 7f800001 7fc12345",
    8: "0000000000000000 8000000000000000 0000000000000001 800fffffffffffff "
    "7ff0000000000000 fff0000000000000 7ff0000000000001 7ff8000012345678",
}


def patterns(code: Dtype) -> Array:
    """All bit patterns of a narrow type, the telling ones of a wide one."""
    kind = np.dtype(DTYPES[code][1])
    width = kind.itemsize
    if code in (Dtype.BOOL, Dtype.F4):
        numbers = list(range(2 if code is Dtype.BOOL else 16))
    elif width in SPECIAL:
        numbers = [int(word, 16) for word in SPECIAL[width].split()]
    else:
        numbers = list(range(256**width))
    raw = b"".join(number.to_bytes(width, "little") for number in numbers)
    return np.frombuffer(raw, kind)


def random_array(code: Dtype, shape: tuple[int, ...], seed: int = 0) -> Array:
    """An array of random bits."""
    kind = np.dtype(DTYPES[code][1])
    raw = np.random.default_rng(seed).bytes(int(np.prod(shape)) * kind.itemsize)
    bits: Array = np.frombuffer(bytearray(raw), np.uint8)
    if code in (Dtype.BOOL, Dtype.F4):
        bits &= 1 if code is Dtype.BOOL else 15
    array: Array = bits.view(kind).reshape(shape)
    return array


def bits_of(tensor: tf.Tensor) -> bytes:
    """The bytes of every element in logical order, which tell apart what ``==`` does not."""
    return bytes(np.asarray(tf.reshape(tensor, (-1,))).view(np.uint8).tobytes())


def assert_same(loaded: tf.Tensor, code: Dtype, expected: Array) -> None:
    assert isinstance(loaded, tf.Tensor)
    assert (loaded.dtype, tuple(loaded.shape)) == (DTYPES[code][0], expected.shape)
    assert bits_of(loaded) == expected.tobytes()


def test_every_dtype_of_the_format_but_three_is_covered() -> None:
    assert set(Dtype) - set(DTYPES) == MISSING


@pytest.mark.parametrize("code", DTYPES)
def test_every_bit_pattern_comes_back_from_memory(code: Dtype) -> None:
    expected = patterns(code)
    data = save({"w": tf.constant(expected)})
    assert parse_header(data).tensors["w"].dtype is code
    assert_same(load(data)["w"], code, expected)
    assert_same(load(bytearray(data))["w"], code, expected)


@pytest.mark.parametrize("code", DTYPES)
@pytest.mark.parametrize("alignment", [8, 64])
def test_every_dtype_and_shape_comes_back_from_every_function(
    code: Dtype, alignment: int, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    # In F4, two elements fill a byte.
    shapes = [s for s in SHAPES if code is not Dtype.F4 or int(np.prod(s)) % 2 == 0]
    arrays = {str(shape): random_array(code, shape, seed) for seed, shape in enumerate(shapes)}
    tensors = {name: tf.constant(array) for name, array in arrays.items()}
    save_file(tensors, path, alignment=alignment)
    assert path.read_bytes() == save(tensors, alignment=alignment)
    for backend in ("mmap", "pread"):
        loaded = load_file(path, backend=backend)
        with safe_open(path, "tf", backend=backend) as file:
            for name, array in arrays.items():
                assert_same(loaded[name], code, array)
                assert_same(file.get_tensor(name), code, array)
                assert_same(file.get_slice(name)[...], code, array)


@pytest.mark.parametrize("code", DTYPES)
def test_slices_of_every_dtype_have_the_bits_of_numpy_s(code: Dtype, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    array = random_array(code, (4, 6, 2))
    save_file({"w": tf.constant(array)}, path)
    for backend in ("mmap", "pread"):
        with safe_open(path, "tf", backend=backend) as file:
            part = file.get_slice("w")
            for index in (
                (1,),
                (-1, 3, 1),
                (slice(None, None, -2),),
                (..., 1),
                (None, [3, 0], slice(1, 4)),
            ):
                assert_same(part[index], code, np.asarray(array[index]))


@pytest.mark.parametrize("code", DTYPES)
def test_files_are_those_of_numpy_with_the_same_bits(code: Dtype) -> None:
    arrays = {"a": random_array(code, (6, 4)), "b": random_array(code, (2,), 1)}
    expected = safetensors_numpy.save(arrays, {"by": "test"})
    tensors = {name: tf.constant(array) for name, array in arrays.items()}
    assert save(tensors, {"by": "test"}) == expected


@pytest.mark.parametrize("code", [code for code in DTYPES if code not in NO_VARIABLES])
def test_files_of_variables_are_those_of_their_values(code: Dtype) -> None:
    arrays = {"a": random_array(code, (6, 4)), "b": random_array(code, ())}
    expected = safetensors_numpy.save(arrays, {"by": "test"})
    variables = {name: tf.Variable(array) for name, array in arrays.items()}
    assert save(variables, {"by": "test"}) == expected


@pytest.mark.parametrize("code", DTYPES)
def test_transposed_tensors_are_saved_as_they_read(code: Dtype) -> None:
    array = random_array(code, (3, 4))
    carrier = tf.constant(array.view(f"u{array.dtype.itemsize}"))
    transposed = tf.constant(np.asarray(tf.transpose(carrier)).view(array.dtype))
    assert_same(load(save({"w": transposed}))["w"], code, np.ascontiguousarray(array.T))


@given(
    st.dictionaries(
        st.text("abc.", min_size=1, max_size=4),
        st.tuples(
            st.sampled_from([code for code in DTYPES if code is not Dtype.F4]),
            st.lists(st.integers(0, 5), max_size=4).map(tuple),
            st.integers(0, 1000),
        ),
        max_size=6,
    ),
    st.sampled_from([8, 64, 4096]),
)
def test_any_mixture_comes_back(wanted: dict[str, Any], alignment: int) -> None:
    arrays = {name: (code, random_array(code, *rest)) for name, (code, *rest) in wanted.items()}
    given_tensors = {name: tf.constant(array) for name, (_, array) in arrays.items()}
    before = dict(given_tensors)
    data = save(given_tensors, alignment=alignment)
    assert list(given_tensors) == list(before)
    assert all(given_tensors[name] is tensor for name, tensor in before.items())
    for loaded in (load(data), load(bytearray(data))):
        assert loaded.keys() == arrays.keys()
        for name, (code, array) in arrays.items():
            assert_same(loaded[name], code, array)


@pytest.mark.parametrize("code", MISSING)
def test_what_tensorflow_lacks_is_refused_by_name(code: Dtype, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    entry = f'{{"w":{{"dtype":"{code}","shape":[8],"data_offsets":[0,{code.nbytes(8)}]}}}}'
    header = entry.encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(code.nbytes(8)))
    assert load_with(path.read_bytes(), "numpy")["w"].shape == (8,)
    with safe_open(path, "tf") as file:
        for call in (
            lambda: load(path.read_bytes()),
            lambda: load_file(path),
            lambda: file.get_tensor("w"),
            lambda: file.get_slice("w"),
        ):
            with pytest.raises(UnsupportedDtypeError) as caught:
                call()
            error = caught.value
            assert (error.dtype, error.framework, error.tensor) == (code.value, "tensorflow", "w")
