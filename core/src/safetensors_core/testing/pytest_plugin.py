"""What the checks get from pytest: the framework, its dtypes, devices and known failures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from safetensors_core.dtypes import Dtype
from safetensors_core.errors import SafetensorError
from safetensors_core.framework import Framework
from safetensors_core.plugins import PluginInfo, get_framework, list_plugins
from safetensors_core.testing.report_card import ReportCard
from safetensors_core.testing.samples import shapes_of

__all__: list[str] = []

_FRAMEWORK = pytest.StashKey[Framework]()
_INFO = pytest.StashKey["PluginInfo | None"]()

# The same examples every time: a plugin that passed does not fail on the next run.
settings.register_profile(
    "conformance",
    database=None,
    deadline=None,
    derandomize=True,
    max_examples=60,
    report_multiple_bugs=False,  # the card has one cause for each check
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("safetensors", "conformance of a safetensors-core plugin")
    group.addoption("--framework", metavar="NAME", help="the plugin to check")
    group.addoption("--xfails", metavar="FILE", type=Path, help="ids of checks known to fail")


def pytest_configure(config: pytest.Config) -> None:
    name = config.getoption("framework")
    if not name:
        raise pytest.UsageError("which plugin? Give --framework=NAME")
    settings.load_profile("conformance")
    try:
        framework = get_framework(name)
    except SafetensorError as error:
        raise pytest.UsageError(str(error)) from error
    # What the checks are made from.
    if not isinstance(framework.dtypes, Mapping):
        raise pytest.UsageError(f"dtypes of {name!r} must be a mapping, not {framework.dtypes!r}")
    if not isinstance(framework.devices(), tuple):
        raise pytest.UsageError(f"devices() of {name!r} must give a tuple")
    installed = (info for info in list_plugins() if name in info.names and info.framework is None)
    config.stash[_FRAMEWORK] = framework
    config.stash[_INFO] = next(installed, None)
    card = ReportCard(framework, config.stash[_INFO])
    config.pluginmanager.register(card, "safetensors-report-card")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    framework = metafunc.config.stash[_FRAMEWORK]
    declared = [dtype for dtype in Dtype if dtype in framework.dtypes]
    lists = {
        "dtype": declared,
        "byte_dtype": [dtype for dtype in declared if dtype.bits >= 8],
        "sized_dtype": list({dtype.bits: dtype for dtype in declared if dtype.bits >= 8}.values()),
        "undeclared": [dtype for dtype in Dtype if dtype not in framework.dtypes],
        "device": list(framework.devices()),
    }
    if {"dtype", "shape"} <= set(metafunc.fixturenames):
        shaped = [(dtype, *named) for dtype in declared for named in shapes_of(dtype).items()]
        metafunc.parametrize(
            ("dtype", "shape"),
            [(dtype, shape) for dtype, _, shape in shaped],
            ids=[f"{dtype}-{name}" for dtype, name, _ in shaped],
        )
        return
    for argument, values in lists.items():
        if argument in metafunc.fixturenames:
            metafunc.parametrize(argument, values, ids=str)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    path = config.getoption("xfails")
    if path is None:
        return
    reasons = dict(_known_failures(path))
    for item in items:
        identity = item.nodeid.rpartition("/")[2]
        if identity in reasons:
            reason = reasons.pop(identity)
            item.add_marker(pytest.mark.xfail(reason=reason, strict=True))
    if reasons:
        unknown = "\n".join(f"  {identity}" for identity in reasons)
        raise pytest.UsageError(f"{path}: there are no such checks:\n{unknown}")


def _known_failures(path: Path) -> Iterator[tuple[str, str]]:
    """The ids in a file, and why each of them fails."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise pytest.UsageError(f"--xfails: {error}") from error
    for line in lines:
        # An id may hold a "#"; a comment stands behind white space, or alone.
        identity, _, reason = f" {line}".partition(" #")
        if identity.strip():
            yield identity.strip(), reason.strip() or f"listed in {path}"


@pytest.fixture(scope="session")
def framework(pytestconfig: pytest.Config) -> Framework:
    """The framework whose plugin is checked."""
    return pytestconfig.stash[_FRAMEWORK]


@pytest.fixture
def some_dtype(framework: Framework) -> Dtype:
    """A dtype of the framework, for what need not be checked with each of them."""
    if not framework.dtypes:
        pytest.fail("dtypes is empty: list what the framework represents exactly", pytrace=False)
    return next(iter(framework.dtypes))


@pytest.fixture(scope="session")
def info(pytestconfig: pytest.Config, framework: Framework) -> PluginInfo:
    """The plugin as it is installed."""
    found = pytestconfig.stash[_INFO]
    if found is None:
        pytest.skip(f"discovery: {framework.name} was registered in this process, not installed")
    return found
