"""Installing the names of the reference into a process, and taking them out again."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType

from safetensors_core.compat.settings import check_environment, choose_strict, chosen_strictness
from safetensors_core.errors import SafetensorError

__all__ = [
    "FOLDER",
    "CompatError",
    "install",
    "install_for_children",
    "installed",
    "is_installed",
    "uninstall",
]

FOLDER = str(Path(__file__).with_name("drop_in"))
"""The folder that holds our package `safetensors`, for `sys.path` and the like."""

_NAME = "safetensors"
_replaced: dict[str, ModuleType] = {}  # modules of the reference that nobody was using


class CompatError(SafetensorError, RuntimeError):
    """The names cannot be changed: a program holds what it imported before, say.

    Args:
        message: What is in the way.
        users: Modules that hold objects of the reference, if those are.

    Attributes:
        users: The same.

    Example:
        >>> CompatError("the reference is in use", ["transformers.modeling_utils"]).users
        ['transformers.modeling_utils']
    """

    def __init__(self, message: str, users: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.users = list(users)


def install(*, strict: bool | None = None) -> None:
    """Let ``import safetensors`` find our modules, here and in workers of `multiprocessing`.

    Other processes that this one starts do so after `install_for_children`. Frameworks are
    imported when their module is. Calling it again does nothing more.

    Args:
        strict: Whether to refuse all that the reference refuses; by default as the environment
            variable ``SAFETENSORS_COMPAT_STRICT`` says, which is set for the processes that
            this one starts.

    Raises:
        CompatError: The reference was imported before, and modules hold objects of it; or
            something on `sys.meta_path` finds it before `sys.path` is asked.
        InvalidInputError: A variable of the environment is neither 0 nor 1.

    Example:
        >>> install()
        >>> from safetensors import safe_open
        >>> safe_open.__module__
        'safetensors_core.compat.handle'
        >>> uninstall()
    """
    check_environment()
    if not is_installed():
        _replaced.update(_withdraw())
        sys.path.insert(0, FOLDER)
        importlib.invalidate_caches()
        if not is_installed():
            found = _origin()
            uninstall()
            raise CompatError(f"an import hook finds {found} before sys.path is searched")
    if strict is not None:
        choose_strict(strict)


def uninstall() -> None:
    """Undo `install`: ``import safetensors`` finds the reference again, where there is one.

    What a program imported meanwhile stays as it is: functions and classes of ours go on
    working.

    Example:
        >>> install()
        >>> uninstall()
        >>> is_installed()
        False
    """
    if FOLDER not in sys.path:
        return
    while FOLDER in sys.path:
        sys.path.remove(FOLDER)
    for name in _modules():
        del sys.modules[name]
    sys.modules.update(_replaced)
    _replaced.clear()
    choose_strict(None)
    importlib.invalidate_caches()


@contextlib.contextmanager
def installed(*, strict: bool | None = None) -> Iterator[None]:
    """Install for the length of a block; what was installed before it stays so.

    Args:
        strict: As for `install`.

    Raises:
        CompatError: The reference was imported before, and modules hold objects of it.

    Example:
        >>> with installed():
        ...     from safetensors.numpy import load_file
        >>> load_file(model_path)["bias"]
        array([0., 0., 0.], dtype=float32)
    """
    outer, chosen = is_installed(), chosen_strictness()
    install(strict=strict)
    try:
        yield
    finally:
        if not outer:
            uninstall()
        choose_strict(chosen)


def is_installed() -> bool:
    """Whether ``import safetensors`` finds our modules.

    Example:
        >>> is_installed()
        False
    """
    return os.path.dirname(_origin()) == os.path.join(FOLDER, _NAME)


def install_for_children() -> None:
    """Let Python processes that this one starts find our modules too.

    Example:
        >>> before = os.environ.get("PYTHONPATH")
        >>> install_for_children()
        >>> os.environ["PYTHONPATH"].startswith(FOLDER)
        True
        >>> os.environ["PYTHONPATH"] = before or ""
    """
    inherited = os.environ.get("PYTHONPATH", "")
    if FOLDER not in inherited.split(os.pathsep):
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (FOLDER, inherited)))


def _origin() -> str:
    """The file that ``import safetensors`` gives; empty where there is none."""
    try:
        found = importlib.util.find_spec(_NAME)
    except ValueError:  # a module that somebody made by hand says nothing of its origin
        return ""
    return (found.origin or "") if found else ""


def _modules() -> dict[str, ModuleType]:
    """What is imported of the package `safetensors`, whoever's it is."""
    return {
        name: module
        for name, module in list(sys.modules.items())
        if name == _NAME or name.startswith(f"{_NAME}.")
    }


def _withdraw() -> dict[str, ModuleType]:
    """Make the next import of `safetensors` a fresh one; refused while somebody uses the last."""
    imported = _modules()
    users = _users(imported)
    if users:
        more = f" and {len(users) - 5} more" if len(users) > 5 else ""
        raise CompatError(
            "safetensors of the reference is already imported and in use, by "
            f"{', '.join(users[:5])}{more}: they would go on using it. Call install() before they "
            "are imported, or run the program with python -m safetensors_core.compat",
            users,
        )
    for name in imported:
        del sys.modules[name]
    return imported


def _users(imported: Mapping[str, ModuleType]) -> list[str]:
    """Modules outside of a package whose globals hold the package or something it made."""
    theirs = {id(module) for module in imported.values()}
    for module in imported.values():
        for name, value in list(vars(module).items()):
            home = getattr(value, "__module__", None)
            made_here = isinstance(home, str) and home.split(".")[0] == _NAME
            # Classes of a compiled module may say that they are Python's own.
            exported = not name.startswith("__") and module.__name__ == _NAME and callable(value)
            if made_here or exported:
                theirs.add(id(value))
    return sorted(
        name
        for name, module in list(sys.modules.items())
        if name not in imported and any(id(value) in theirs for value in _globals(module))
    )


def _globals(module: object) -> list[object]:
    """What a module holds, which is nothing yet where it is loaded on first use."""
    try:
        # Not by getattr, which is a use.
        return list(object.__getattribute__(module, "__dict__").values())
    except AttributeError:  # an object that stands in for a module
        return []
