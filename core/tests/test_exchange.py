"""Tensors of one framework as those of another, where no framework is installed at all."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from core.tests.raw import RawFramework, RawTensor
from safetensors_core import (
    Dtype,
    FrameworkNotFoundError,
    InvalidInputError,
    TensorInfo,
    UnsupportedDtypeError,
    exchange,
    plugins,
    register_framework,
)


class OtherTensor(RawTensor):
    """A tensor of another framework."""


class OtherFramework(RawFramework):
    """Bytes and half-precision numbers, on one device."""

    name: ClassVar[str] = "other"
    dtypes: Mapping[Dtype, str] = {Dtype.U8: "U8", Dtype.F16: "F16"}

    def is_tensor(self, obj: object) -> bool:
        return isinstance(obj, OtherTensor)

    def from_buffers(
        self, buffer: memoryview, infos: Mapping[str, TensorInfo], device: Any
    ) -> dict[str, RawTensor]:
        if device != "cpu":
            raise InvalidInputError(f"there is no device {device!r}")
        tensors = super().from_buffers(buffer, infos, device)
        return {name: OtherTensor(t.dtype, t.shape, t.data) for name, t in tensors.items()}


@pytest.fixture(autouse=True)
def _frameworks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_frameworks", {})
    # The one that takes fewer tensors is asked first.
    register_framework(OtherFramework())
    register_framework(RawFramework())


def raw(dtype: Dtype, shape: tuple[int, ...], data: bytes) -> RawTensor:
    return RawTensor(dtype, shape, memoryview(bytearray(data)))


def test_tensors_come_in_the_order_given_with_their_dtypes_shapes_and_bytes() -> None:
    given = {
        "z": raw(Dtype.F16, (2, 1), b"abcd"),
        "empty": raw(Dtype.F16, (3, 0), b""),
        "a": raw(Dtype.U8, (), b"x"),
    }
    result = exchange(given, "other")
    assert list(result) == ["z", "empty", "a"]
    assert all(type(tensor) is OtherTensor for tensor in result.values())
    assert all(result[name] == given[name] for name in given)
    assert list(given) == ["z", "empty", "a"]


def test_the_result_shares_memory_and_keeps_it_alive() -> None:
    given = {"w": raw(Dtype.U8, (3,), b"abc")}
    result = exchange(given, "other")["w"]
    assert isinstance(given["w"].data, memoryview)
    given["w"].data[0] = ord("z")
    del given
    gc.collect()
    assert bytes(result.data) == b"zbc"


def test_one_dict_may_mix_frameworks_the_target_s_among_them() -> None:
    given = {
        "raw": raw(Dtype.U8, (1,), b"r"),
        "other": OtherTensor(Dtype.F16, (1,), b"ot"),
    }
    assert {n: bytes(t.data) for n, t in exchange(given, "other").items()} == {
        "raw": b"r",
        "other": b"ot",
    }


def test_a_dtype_that_the_target_lacks_is_refused_by_name() -> None:
    given = {"a": raw(Dtype.U8, (1,), b"a"), "w": raw(Dtype.F32, (1,), b"abcd")}
    with pytest.raises(UnsupportedDtypeError, match=r"tensor 'w': dtype F32 .* in other"):
        exchange(given, "other")


def test_a_device_that_the_target_lacks_is_refused_without_tensors_too() -> None:
    with pytest.raises(InvalidInputError, match="no device 'moon'"):
        exchange({}, "other", "moon")
    assert exchange({}, "other") == {}


@pytest.mark.parametrize("tensors", [None, [1], "w"], ids=repr)
def test_what_is_no_mapping_is_refused(tensors: Any) -> None:
    with pytest.raises(InvalidInputError, match="expected tensors by name"):
        exchange(tensors, "other")


def test_what_no_framework_takes_is_refused_by_name() -> None:
    with pytest.raises(FrameworkNotFoundError, match="tensor 'w': no installed plugin takes"):
        exchange({"w": 7}, "other")


def test_a_target_that_is_not_installed_is_refused() -> None:
    with pytest.raises(FrameworkNotFoundError, match="'acme' is not installed"):
        exchange({}, "acme")


def test_a_tensor_whose_elements_do_not_fill_bytes_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="'w'"):
        exchange({"w": RawTensor(Dtype.F4, (3,), b"ab")}, RawFramework())
