"""What a plugin says of itself is well formed, and true as far as that can be seen."""

from __future__ import annotations

from typing import Any

import pytest

from safetensors_core import (
    API_VERSION,
    OLDEST_API_VERSION,
    Dtype,
    Framework,
    PluginInfo,
    TensorSpec,
    get_framework,
)
from safetensors_core.testing.samples import GRID, make


class Unfriendly:
    """An object that answers no question about itself."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"{name} was asked of an object that is no tensor")


def test_the_name_is_one_that_the_plugin_is_installed_under(
    framework: Framework, info: PluginInfo
) -> None:
    assert framework.name in info.names, (
        f"name is {framework.name!r}, but the entry points are {', '.join(info.names)}"
    )


def test_the_contract_version_is_one_that_core_implements(framework: Framework) -> None:
    assert type(framework.api_version) is int, "api_version must be an integer"
    assert OLDEST_API_VERSION <= framework.api_version <= API_VERSION


def test_the_module_states_the_version_of_the_class(framework: Framework, info: PluginInfo) -> None:
    assert info.api_version == framework.api_version, (
        f"{info.module} states {info.api_version}, its framework {framework.api_version}"
    )


def test_dtypes_maps_codes_of_the_format_to_types_of_the_framework(framework: Framework) -> None:
    assert framework.dtypes, "dtypes is empty: list what the framework represents exactly"
    keys: list[object] = list(framework.dtypes)
    assert all(isinstance(key, Dtype) for key in keys), (
        "the keys of dtypes must be members of safetensors_core.Dtype"
    )


def test_alignment_is_a_power_of_two_up_to_a_page(framework: Framework) -> None:
    assert framework.alignment in {1 << i for i in range(13)}


def test_native_package_is_where_tensors_come_from(framework: Framework, some_dtype: Dtype) -> None:
    kind = type(make(framework, some_dtype, GRID))
    packages = {base.__module__.partition(".")[0] for base in kind.__mro__}
    assert framework.native_package in packages, (
        f"native_package is {framework.native_package!r}, but tensors are of "
        f"{', '.join(sorted(packages - {'builtins', 'abc'}))}: core would not find the plugin"
    )


def test_a_tensor_leads_to_its_framework(framework: Framework, dtype: Dtype) -> None:
    assert get_framework(make(framework, dtype, GRID)) is framework, (
        "another plugin takes this tensor: see is_tensor and native_package"
    )


def test_the_framework_takes_its_own_tensors(framework: Framework, dtype: Dtype) -> None:
    assert framework.is_tensor(make(framework, dtype, GRID)), "is_tensor refuses what was loaded"


@pytest.mark.parametrize(
    "other", [None, True, 1, 1.5, "text", b"bytes", [1.0], (), {}, object, Unfriendly()], ids=repr
)
def test_the_framework_takes_no_other_objects(framework: Framework, other: Any) -> None:
    assert not framework.is_tensor(other), f"is_tensor takes {other!r}"


def test_the_class_of_tensors_is_no_tensor(framework: Framework, some_dtype: Dtype) -> None:
    kind = type(make(framework, some_dtype, GRID))
    assert not framework.is_tensor(kind), "is_tensor takes a class for a tensor"


def test_a_tensor_has_the_type_that_dtypes_names(framework: Framework, dtype: Dtype) -> None:
    tensor = make(framework, dtype, GRID)
    if not hasattr(tensor, "dtype"):
        pytest.skip("the attribute dtype: tensors do not have it")
    assert tensor.dtype == framework.dtypes[dtype], (
        f"from_buffers makes {tensor.dtype} of {dtype}, dtypes says {framework.dtypes[dtype]}"
    )


def test_describe_gives_dtype_and_shape(framework: Framework, dtype: Dtype) -> None:
    spec = framework.describe(make(framework, dtype, GRID))
    assert isinstance(spec, TensorSpec), "describe must return a TensorSpec"
    assert spec == TensorSpec(dtype, GRID), "describe does not say what from_buffers was given"
    assert type(spec.shape) is tuple, "the shape that describe gives must be a tuple"
    assert all(type(size) is int for size in spec.shape), "a shape must hold plain integers"
