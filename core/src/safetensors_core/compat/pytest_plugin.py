"""Run a test suite against our implementation: `pytest -p safetensors_core.compat.pytest_plugin`.

The names are installed when pytest registers the plugin, which is before it loads any test, and in
the processes that tests start.
"""

from __future__ import annotations

from safetensors_core.compat.activation import install, install_for_children, is_installed
from safetensors_core.compat.settings import is_strict

__all__ = ["pytest_addhooks", "pytest_report_header"]


def pytest_addhooks() -> None:
    """Install the names: of all hooks, this one is called first.

    Example:
        >>> pytest_addhooks.__name__
        'pytest_addhooks'
    """
    install()
    install_for_children()


def pytest_report_header() -> str:
    """Say which implementation is tested, at the top of the report.

    Example:
        >>> pytest_report_header()
        'safetensors: not served by safetensors_core.compat'
    """
    served = "" if is_installed() else "not "
    strictly = ", strictly" if is_strict() else ""
    return f"safetensors: {served}served by safetensors_core.compat{strictly}"
