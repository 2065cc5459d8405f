"""`PluginInfo`: one installed plugin, from its metadata to its checked framework."""

from __future__ import annotations

import functools
import os
import threading
from types import ModuleType
from typing import Any

import pluggy

from safetensors_core import hookspecs
from safetensors_core.errors import PluginError
from safetensors_core.framework import API_VERSION, OLDEST_API_VERSION, Framework

__all__ = ["DISABLED", "EXTRAS", "PluginInfo", "manager", "remedy"]

#: Environment variable with the names of plugins to leave alone, separated by commas.
DISABLED = "SAFETENSORS_DISABLED_PLUGINS"

#: Extras of this distribution by the names that people type, to suggest what to install.
EXTRAS = {
    "numpy": "numpy",
    "np": "numpy",
    "torch": "torch",
    "pt": "torch",
    "pytorch": "torch",
    "jax": "jax",
    "jaxlib": "jax",
    "flax": "jax",
    "tensorflow": "tensorflow",
    "tf": "tensorflow",
    "paddle": "paddle",
    "mlx": "mlx",
}


class PluginInfo:
    """One installed plugin, as its distribution's metadata describes it.

    Attributes:
        name: Name of the plugin.
        aliases: Other names that it answers to.
        distribution: Distribution that provides it; empty for one registered at run time.
        version: Version of that distribution.
        module: Module that holds its hooks.
        framework: The instance that was registered at run time; None for an installed plugin.
        rivals: Other plugins that claim one of its names, by that name.

    Example:
        >>> info = PluginInfo("acme", ("ac",), "safetensors-acme", "1.0", "safetensors_acme")
        >>> info.names, info.origin
        (('acme', 'ac'), 'safetensors-acme 1.0')
    """

    def __init__(
        self,
        name: str,
        aliases: tuple[str, ...],
        distribution: str,
        version: str,
        module: str,
        *,
        framework: Framework | None = None,
    ) -> None:
        self.name = name
        self.aliases = aliases
        self.distribution = distribution
        self.version = version
        self.module = module
        self.framework = framework
        self.rivals: dict[str, list[PluginInfo]] = {}

    def __repr__(self) -> str:
        return f"<PluginInfo {self.name!r} of {self.origin}>"

    @property
    def names(self) -> tuple[str, ...]:
        """All names of the plugin, its own first."""
        return (self.name, *self.aliases)

    @property
    def origin(self) -> str:
        """Distribution and version as one text."""
        return f"{self.distribution} {self.version}" if self.distribution else self.module

    @property
    def disabled(self) -> bool:
        """Whether the environment says to leave the plugin alone."""
        listed = os.environ.get(DISABLED, "").replace(",", " ").split()
        return not set(self.names).isdisjoint(listed)

    @functools.cached_property
    def api_version(self) -> int | None:
        """Version of the contract that the plugin states, or 1; None if it is broken.

        Imports the plugin's module, not its framework.
        """
        if self.framework is not None:
            return self.framework.api_version
        try:
            stated: int | None = self._stated("api_version", API_VERSION)
        except PluginError:
            return None
        return stated

    @functools.cached_property
    def native_package(self) -> str:
        """Import name of the framework, where the plugin's module states it; else empty.

        Imports the plugin's module, not its framework.
        """
        if self.framework is not None:
            return self.framework.native_package
        try:
            stated = self._stated("native_package", "")
        except PluginError:
            return ""
        return stated if isinstance(stated, str) else ""

    @property
    def status(self) -> str:
        """``"ok"``, or why the plugin cannot be used.

        Imports the plugin's module, not its framework.
        """
        if self.framework is not None:
            return "ok"
        try:
            self._activate()
            self.check_rivals(self.name)
        except PluginError as error:
            return str(error)
        return "ok"

    @functools.cached_property
    def _module(self) -> ModuleType:
        """The plugin's module, imported unless the plugin is disabled."""
        from importlib import import_module

        if self.disabled:
            raise PluginError(f"plugin {self.name!r} of {self.origin} is disabled by {DISABLED}")
        self._check_requirements()
        try:
            return import_module(self.module)
        except KeyboardInterrupt:
            raise
        # A plugin's module may fail in any way that code can fail, also by sys.exit().
        except BaseException as error:
            raise self._raised(error) from error

    def _raised(self, error: BaseException) -> PluginError:
        """The error for what a plugin raised."""
        if isinstance(error, PluginError):  # it says itself what is wrong, and what to do
            return PluginError(f"plugin {self.name!r} of {self.origin}: {error}")
        kind = type(error).__name__
        try:
            fault = f"{kind}: {error}"
        except Exception:  # noqa: BLE001  # an exception of the plugin's own may fail in this, too
            fault = kind
        return self._broken(f"{fault}. Reinstall it")

    def _broken(self, fault: str) -> PluginError:
        return PluginError(
            f"plugin {self.name!r} of {self.origin} is broken: {fault} "
            f"or set {DISABLED}={self.name}"
        )

    def _activate(self) -> None:
        """Import the plugin's module, check it, and let its hooks be called."""
        self.check_version(self._stated("api_version", API_VERSION))
        try:
            self._check_hooks()
            _register(self._module)
        except PluginError:
            raise
        except Exception as error:
            raise self._raised(error) from error

    def _stated(self, attribute: str, default: Any) -> Any:
        """What the plugin's module states; its own `__getattr__` may fail in any way."""
        try:
            return getattr(self._module, attribute, default)
        except PluginError:
            raise
        except Exception as error:
            raise self._raised(error) from error

    def _check_requirements(self) -> None:
        """Refuse a plugin whose distribution requires what is not installed."""
        from safetensors_core.requirements import unmet  # not needed to import this package

        wrong = []
        origin = f"plugin {self.name!r} of {self.origin}"
        for entry in unmet(self.distribution) if self.distribution else []:
            if not entry.too_new:
                wrong.append(entry)
            # Whatever else is newer than the plugin knows may well work, and its user chose it.
            elif entry.name.replace("_", "-").lower() == "safetensors-core":
                raise PluginError(
                    f"{origin} was made for an older safetensors-core: it needs "
                    f"{entry.requirement}, and {entry.found} is installed. "
                    f"Try: pip install --upgrade {self.distribution}"
                )
        if not wrong:
            return
        needed = ", ".join(
            f"{requirement} ({f'{found} is' if found else 'not'} installed)"
            for _, requirement, found, _ in wrong
        )
        wanted = " ".join(f'"{requirement}"' for _, requirement, _, _ in wrong)
        raise PluginError(f"{origin} needs {needed}. Try: pip install {wanted}")

    def _check_hooks(self) -> None:
        """Refuse a module that answers a hook which does not exist: pluggy would never call it."""
        for name in dir(self._module):
            options = manager.parse_hookimpl_opts(self._module, name)
            if options is None or options.get("optionalhook"):
                continue
            hook = options.get("specname") or name
            if hook not in _HOOKS:
                raise self._broken(
                    f"its function {name!r} is marked as the answer to a hook, and no hook is "
                    f"called {hook!r}. {_meant(hook)} Correct the name"
                )

    def _unmarked(self) -> str:
        """The end of an error, where the module has the function that was asked for unmarked."""
        hook = "safetensors_framework"
        unmarked = manager.parse_hookimpl_opts(self._module, hook) is None
        if not (unmarked and hasattr(self._module, hook)):
            return ""
        return f": its function {hook!r} is not marked with hookimpl"

    def check_rivals(self, name: str) -> None:
        """Refuse a name that another plugin claims too.

        Args:
            name: One of the plugin's names.

        Raises:
            PluginError: Another plugin that is not disabled claims it.
        """
        rivals = [rival.origin for rival in self.rivals.get(name, ()) if not rival.disabled]
        if rivals:
            raise PluginError(
                f"plugin name {name!r} is claimed by {self.origin} and by {', '.join(rivals)}. "
                f"Uninstall all but one, or name what else one is called in {DISABLED}"
            )

    def check_version(self, version: object) -> None:
        """Refuse a version of the plugin contract that this core does not implement.

        Args:
            version: What the plugin states.

        Raises:
            PluginError: It is newer, too old, or no integer.
        """
        if not isinstance(version, int) or isinstance(version, bool):
            raise PluginError(
                f"plugin {self.name!r} of {self.origin} states {version!r} as the version of the "
                "plugin contract: it must be an integer"
            )
        if version > API_VERSION:
            raise PluginError(
                f"plugin {self.name!r} of {self.origin} needs version {version} of the plugin "
                f"contract, this safetensors-core has {API_VERSION}. "
                "Try: pip install --upgrade safetensors-core"
            )
        if version < OLDEST_API_VERSION:
            remedy = (
                f"Try: pip install --upgrade {self.distribution}"
                if self.distribution
                else "Upgrade it"
            )
            raise PluginError(
                f"plugin {self.name!r} of {self.origin} was written for version {version} of the "
                f"plugin contract, this safetensors-core needs {OLDEST_API_VERSION} or newer. "
                f"{remedy}"
            )

    def load_framework(self) -> Framework:
        """Import the framework and return its plugin's instance.

        Returns:
            The framework, checked against the contract.

        Raises:
            PluginError: The plugin is disabled, duplicate, broken, too new or too old, or what it
                needs is not installed.
        """
        self._activate()
        others = [plugin for plugin in manager.get_plugins() if plugin is not self._module]
        try:
            results = manager.subset_hook_caller("safetensors_framework", others)()
        except ImportError as error:
            raise PluginError(
                f"plugin {self.name!r} of {self.origin} cannot import its framework: {error}. "
                f"{remedy(self.name)}"
            ) from error
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise self._raised(error) from error
        if not results:
            raise PluginError(
                f"plugin {self.name!r} of {self.origin} provides no framework{self._unmarked()}"
            )
        framework = results[0]
        if not isinstance(framework, Framework):
            raise PluginError(
                f"plugin {self.name!r} of {self.origin} returned {type(framework).__name__} "
                "instead of a Framework"
            )
        self.check_version(framework.api_version)
        return framework


manager = pluggy.PluginManager(hookspecs.GROUP)
manager.add_hookspecs(hookspecs)
_HOOKS = [name for name in hookspecs.__all__ if name.startswith("safetensors_")]
_lock = threading.Lock()


def _register(module: ModuleType) -> None:
    with _lock:
        if manager.is_registered(module):
            return
        try:
            manager.register(module)
        except Exception:
            # Some versions of pluggy keep a plugin whose hooks they found wrong.
            if manager.is_registered(module):
                manager.unregister(module)
            raise


def _meant(hook: str) -> str:
    """A question about the hook whose name is nearest; else the names of all."""
    import difflib

    nearest = difflib.get_close_matches(hook, _HOOKS, n=1)
    return f"Did you mean {nearest[0]!r}?" if nearest else f"Hooks: {', '.join(_HOOKS)}."


def remedy(name: str) -> str:
    """What to do to get a framework.

    Args:
        name: Name or alias of the framework.

    Returns:
        A sentence for the end of an error.

    Example:
        >>> remedy("flax")
        'Try: pip install "safetensors-core[jax]"'
    """
    if name in EXTRAS:
        return f'Try: pip install "safetensors-core[{EXTRAS[name]}]"'
    return "Install the plugin that provides it"
