"""Run a test suite against our implementation: `pytest -p safetensors_core.compat.pytest_plugin`.

The names are installed when pytest loads the plugin, which is before it loads any test, and in
the processes that tests start.
"""

from __future__ import annotations

from safetensors_core.compat.activation import install, install_for_children
from safetensors_core.compat.settings import is_strict

__all__ = ["pytest_report_header"]

install()
install_for_children()


def pytest_report_header() -> str:
    """Say which implementation is tested, at the top of the report.

    Example:
        >>> pytest_report_header()
        'safetensors: served by safetensors_core.compat'
    """
    strictly = ", strictly" if is_strict() else ""
    return f"safetensors: served by safetensors_core.compat{strictly}"
