"""Leaves what must run once for each implementation to the tests that start those runs."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
FOR_EACH_IMPLEMENTATION = [HERE / "behaviour", HERE / "reference_pages"]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Collect those folders only where the command line names them, or what is in them."""
    if collection_path not in FOR_EACH_IMPLEMENTATION:
        return None
    named = [(config.invocation_params.dir / part.split("::")[0]).resolve() for part in config.args]
    return None if any(path.is_relative_to(collection_path) for path in named) else True


def pytest_report_header() -> str:
    """Say whose `safetensors` a run found, which `test_behaviour.py` reads."""
    import safetensors

    return f"import safetensors: {safetensors.__file__}"
