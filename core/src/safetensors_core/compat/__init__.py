"""The names of the reference, served by this package: programs that import it run unchanged.

`install` makes ``import safetensors``, ``safetensors.torch``, ``.numpy``, ``.flax``,
``.tensorflow``, ``.paddle`` and ``.mlx`` find modules of ours, whether or not the reference is
installed. ``python -m safetensors_core.compat program.py`` does so for a program and all
processes that it starts; ``pytest -p safetensors_core.compat.pytest_plugin`` for a test suite.

Nothing is written anywhere: the modules lie in a folder of this package, `FOLDER`, and
installing puts that folder at the front of `sys.path`. ``PYTHONPATH`` and the search paths of
type checkers take it too.

| module | what lives there |
|---|---|
| `activation` | installing and uninstalling |
| `settings` | strictness and durability |
| `arguments`, `translation` | refusals and errors in the words of the reference |
| `indexing` | what it takes for an index |
| `prefetch`, `handle` | `safe_open` with all that it gives |
| `serialization`, `functions` | saving and loading |
| `drop_in` | the folder: one module for each of the reference's |
| `pytest_plugin`, `__main__` | running tests and programs |
"""

from __future__ import annotations

from safetensors_core.compat.activation import (
    FOLDER,
    CompatError,
    install,
    install_for_children,
    installed,
    is_installed,
    uninstall,
)

__all__ = [
    "FOLDER",
    "CompatError",
    "install",
    "install_for_children",
    "installed",
    "is_installed",
    "uninstall",
]
