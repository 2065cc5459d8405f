"""Finding, loading and listing plugins.

Names come from the metadata of installed distributions; only the plugin that was asked for is
imported. pluggy would stop at the first broken entry point and drop duplicates silently, so
entries are loaded here one by one and pluggy registers, validates and orders their hooks.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from safetensors_core import hookspecs
from safetensors_core.errors import FrameworkNotFoundError, InvalidInputError, SafetensorError
from safetensors_core.framework import Framework
from safetensors_core.plugin_info import EXTRAS, PluginInfo, manager, remedy
from safetensors_core.sources import local, remote
from safetensors_core.sources.base import ByteSource
from safetensors_core.sources.urls import shown

if TYPE_CHECKING:
    from importlib.metadata import Distribution, EntryPoint

__all__ = [
    "PluginInfo",
    "found_plugins",
    "get_framework",
    "list_plugins",
    "open_source",
    "read_checkpoint",
    "register_framework",
    "unusable_plugins",
]

manager.register(local)
manager.register(remote)
_frameworks: dict[str, Framework] = {}
# Schemes of URLs that all plugins were loaded for.
_asked: set[str] = set()
_lock = threading.RLock()


def list_plugins() -> list[PluginInfo]:
    """List the plugins that are installed, from metadata alone.

    Returns:
        One entry per plugin, ordered by name, also of what was installed after this process
        started. Nothing is imported until `status` or `api_version` of an entry is read.

    Example:
        >>> all(info.name for info in list_plugins())
        True
    """
    grouped: dict[tuple[str, str, str], list[str]] = {}
    for entry in _entry_points():
        if entry.name:  # a damaged file of entry points can give empty ones
            grouped.setdefault((*_distribution(entry), entry.value), []).append(entry.name)
    plugins = []
    for (distribution, version, module), names in grouped.items():
        # The plugin's own name is the one that its distribution is named for.
        names.sort(key=lambda name: (not distribution.endswith(name), -len(name), name))
        plugins.append(PluginInfo(names[0], tuple(names[1:]), distribution, version, module))
    claims: dict[str, list[PluginInfo]] = {}
    for info in plugins:
        for name in info.names:
            claims.setdefault(name, []).append(info)
    for info in plugins:
        info.rivals = {n: [i for i in claims[n] if i is not info] for n in info.names}
    for name, framework in _frameworks.items():
        if name == framework.name and name not in claims:
            module = type(framework).__module__
            plugins.append(PluginInfo(name, (), "", "", module, framework=framework))
    return sorted(plugins, key=lambda info: info.name)


def _entry_points() -> Iterable[EntryPoint]:
    """The entry points of all plugins that are installed now."""
    import importlib
    from importlib import metadata  # a large part of the time to import this package

    # What was installed within the resolution of a folder's time stamp would not be seen.
    importlib.invalidate_caches()
    if sys.version_info < (3, 13):
        # These Pythons leave this cache out, and its method is no class method there.
        metadata.MetadataPathFinder().invalidate_caches()
    try:
        return metadata.entry_points(group=hookspecs.GROUP)
    except Exception:  # noqa: BLE001  # any distribution's file may be damaged in any way
        return _readable_entry_points(metadata.distributions())


def _readable_entry_points(distributions: Iterable[Distribution]) -> list[EntryPoint]:
    """The entry points of plugins, without those of distributions that cannot be read."""
    found: dict[str, list[EntryPoint]] = {}
    for distribution in distributions:
        # Of two with one name, Python uses the one that it finds first.
        found.setdefault(*_entry_points_of(distribution))
    return [entry for entries in found.values() for entry in entries]


def _entry_points_of(distribution: Distribution) -> tuple[str, list[EntryPoint]]:
    """The name of a distribution, and its plugins' entry points; none if they cannot be read."""
    try:
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()
        return name, list(distribution.entry_points.select(group=hookspecs.GROUP))
    except Exception as error:  # noqa: BLE001  # any file may be damaged in any way
        place = str(getattr(distribution, "_path", "an installed distribution"))
        warnings.warn(
            f"{place}: its plugins, if it has any, are not found, because its metadata is damaged: "
            f"{type(error).__name__}: {error}. Reinstall it",
            RuntimeWarning,
            stacklevel=6,
        )
        return place, []


def _distribution(entry: EntryPoint) -> tuple[str, str]:
    """Name and version of what an entry point came with; empty where its metadata is lost."""
    try:
        fields = entry.dist.metadata if entry.dist else None
        return (fields["Name"] or "", fields["Version"] or "") if fields else ("", "")
    except (AttributeError, KeyError, OSError, TypeError):
        return "", ""


def get_framework(framework: str | Framework | object) -> Framework:
    """The framework of a name or of a tensor.

    Args:
        framework: A name or alias such as ``"torch"`` or ``"pt"``, a tensor, or a `Framework`,
            which is returned as it is.

    Returns:
        The plugin's instance, the same on every call.

    Raises:
        FrameworkNotFoundError: No installed plugin answers; the error says what to install.
        PluginError: The plugin is disabled, duplicate, broken, too new or too old, or lacks what it
            needs.

    Example:
        >>> get_framework("no such framework")
        Traceback (most recent call last):
        safetensors_core.errors.FrameworkNotFoundError: framework 'no such framework' is not ...
    """
    if isinstance(framework, Framework):
        return framework
    if isinstance(framework, str):
        return _by_name(framework)
    return _by_tensor(framework)


def register_framework(framework: Framework) -> None:
    """Make a framework available under its name without installing a plugin.

    Args:
        framework: The instance; it takes precedence over an installed plugin of that name.

    Raises:
        InvalidInputError: It is not an instance of `Framework`, or it has no name.
        PluginError: It was written for a version of the contract that is not understood here.

    Example:
        >>> register_framework("torch")
        Traceback (most recent call last):
        safetensors_core.errors.InvalidInputError: expected an instance of Framework, got str
    """
    if not isinstance(framework, Framework):
        raise InvalidInputError(
            f"expected an instance of Framework, got {type(framework).__name__}"
        )
    module = type(framework).__module__
    name: object = getattr(framework, "name", None)
    if not isinstance(name, str) or not name:
        raise InvalidInputError(
            f"the framework {module}.{type(framework).__qualname__} has no name: set its attribute "
            f"`name` to what users will ask for, not {name!r}"
        )
    PluginInfo(name, (), "", "", module).check_version(framework.api_version)
    with _lock:
        _frameworks[name] = framework


def open_source(
    location: str | os.PathLike[str],
    backend: str = "auto",
    storage_options: Mapping[str, Any] | None = None,
) -> ByteSource:
    """Open a location with the first plugin that knows it.

    Args:
        location: A path, or a URL that an installed plugin understands.
        backend: ``"auto"``, ``"mmap"`` or ``"pread"``.
        storage_options: Settings of the storage system, as its plugin or fsspec names them.

    Returns:
        The source, its header not read yet.

    Raises:
        OSError: The file cannot be opened.
        InvalidInputError: No plugin knows the location.

    Example:
        >>> open_source("acme://weights")
        Traceback (most recent call last):
        safetensors_core.errors.InvalidInputError: no installed plugin opens 'acme://weights' ...
    """
    local.check_path(location)
    given = {
        "location": location,
        "backend": backend,
        "storage_options": {} if storage_options is None else storage_options,
    }
    # Core opens nearly every URL, and a plugin may know better: it is asked before.
    scheme = str(location).partition("://")[0] if local.is_url(location) else ""
    source = None if scheme and scheme not in _asked else _ask_plugins(given)
    if source is None:
        # Metadata does not say which locations are a plugin's, so now all of them are asked.
        usable = [info for info in list_plugins() if info.status == "ok"]
        source = _ask_plugins(given)
        if source is None:
            raise InvalidInputError(
                f"no installed plugin opens {shown(os.fsdecode(location))!r} "
                f"({found_plugins(usable)})"
                f"{unusable_plugins(list_plugins())}"
            )
        _asked.add(scheme)
    return source


def read_checkpoint(path: str | os.PathLike[str], *, optimizer: bool) -> Iterable[Any] | None:
    """Let the first plugin that knows a foreign checkpoint read it.

    Args:
        path: The file or folder.
        optimizer: Whether the state of an optimizer is wanted, too.

    Returns:
        What the plugin answers, a `ForeignCheckpoint` or pairs of names and tensors; None if no
        installed plugin reads it.

    Raises:
        UnsafeCheckpointError: Reading it would do harm.
        ConversionError: It is damaged, or holds what cannot be converted.
        OSError: It cannot be read.

    Example:
        >>> read_checkpoint(model_path, optimizer=False) is None
        True
    """
    for info in list_plugins():
        _ = info.status  # a plugin is asked from then on
    given = {"path": path, "optimizer": optimizer}
    answer: Iterable[Any] | None = _ask("safetensors_read_checkpoint", given, path, Iterable)
    return answer


def _ask_plugins(given: Mapping[str, Any]) -> ByteSource | None:
    hook = "safetensors_open_source"
    source: ByteSource | None = _ask(hook, given, given["location"], ByteSource)
    return source


def _ask(hook: str, given: Mapping[str, Any], location: str | os.PathLike[str], kind: type) -> Any:
    """The first answer of the plugins that are in use; one that fails is passed over."""
    # pluggy lists hooks in the reverse order of their calls, and would stop at a broken one.
    for implementation in reversed(getattr(manager.hook, hook).get_hookimpls()):
        try:
            answer = implementation.function(*(given[name] for name in implementation.argnames))
        except (OSError, SafetensorError):
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001  # a plugin may fail in any way
            fault = f"{type(error).__name__}: {error}"
        else:
            if answer is None:
                continue
            if isinstance(answer, kind):
                return answer
            article = "an" if kind.__name__[0] in "AEIOU" else "a"
            fault = f"it answered {type(answer).__name__} instead of {article} {kind.__name__}"
        asked = shown(os.fsdecode(location))
        warnings.warn(
            f"plugin {implementation.plugin_name} was asked for {asked!r} and is broken: {fault}",
            RuntimeWarning,
            stacklevel=5,
        )
    return None


def _by_name(name: str) -> Framework:
    framework = _frameworks.get(name)
    if framework is not None:
        return framework
    with _lock:
        if name not in _frameworks:
            info = _find(name)
            framework = info.load_framework()
            for known in info.names:
                if not info.rivals[known]:
                    _frameworks.setdefault(known, framework)
            _frameworks.setdefault(name, framework)
        return _frameworks[name]


def _find(name: str) -> PluginInfo:
    plugins = list_plugins()
    claiming = [info for info in plugins if name in info.names]
    if claiming:
        info = min(claiming, key=lambda info: info.disabled)
        info.check_rivals(name)
        return info
    if name.lower() != name and name.lower() in {known for info in plugins for known in info.names}:
        advice = f"Did you mean {name.lower()!r}?"
    else:
        advice = remedy(name)
    raise FrameworkNotFoundError(
        f"framework {name!r} is not installed ({found_plugins(plugins)}). {advice}"
    )


def _by_tensor(tensor: object) -> Framework:
    for framework in list(_frameworks.values()):
        if _takes(framework, tensor):
            return framework
    # A tensor's framework is imported already, under the name of a package among its classes'.
    kind = type(tensor)
    packages = dict.fromkeys(base.__module__.partition(".")[0] for base in kind.__mro__)
    plugins = list_plugins()
    named = [info for info in plugins if not packages.keys().isdisjoint(info.names)]
    for info in named or [info for info in plugins if info.native_package in packages]:
        framework = _by_name(info.name)
        if _takes(framework, tensor):
            return framework
    installed = {name for info in plugins for name in info.names}
    known = next((p for p in packages if p in EXTRAS and p not in installed), None)
    raise FrameworkNotFoundError(
        f"no installed plugin takes objects of type {kind.__module__}.{kind.__qualname__} "
        f"({found_plugins(plugins)}). "
        f"{remedy(known) if known else 'Make it a tensor of a framework'}"
        # What Python itself defines is nobody's tensor.
        f"{unusable_plugins(plugins) if packages.keys() > {'builtins'} else ''}"
    )


def _takes(framework: Framework, tensor: object) -> bool:
    """Whether a framework takes a tensor. One that fails keeps nobody from the others."""
    try:
        return framework.is_tensor(tensor)
    except Exception as error:  # noqa: BLE001  # a plugin may fail in any way
        warnings.warn(
            f"plugin {framework.name!r} of {type(framework).__module__} is broken: its is_tensor "
            f"raised {type(error).__name__}: {error}",
            RuntimeWarning,
            stacklevel=5,
        )
        return False


def unusable_plugins(plugins: list[PluginInfo]) -> str:
    """The end of an error that one of the plugins which cannot be used might have spared.

    Args:
        plugins: Those that are installed.

    Returns:
        What is wrong with each; empty where nothing is.

    Example:
        >>> unusable_plugins([])
        ''
    """
    faults = [info.status for info in plugins if not info.disabled]
    return "".join(f". Not asked: {fault}" for fault in faults if fault != "ok")


def found_plugins(plugins: list[PluginInfo]) -> str:
    """The plugins that are installed, as errors list them.

    Args:
        plugins: Those that are installed.

    Returns:
        Their names.

    Example:
        >>> found_plugins([])
        'found: none'
    """
    return f"found: {', '.join(info.name for info in plugins) or 'none'}"
