"""What the tests of this plugin share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from plugins.jax.tests.foreign import OPENED


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    while OPENED:
        OPENED.pop().close()
