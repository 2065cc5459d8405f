"""The frameworks of the environment that the tests run in."""

from __future__ import annotations

import os
from typing import Any

from safetensors_core import list_plugins, load

__all__ = ["INSTALLED", "sample"]

#: Names of the frameworks to test. An environment says which it has been made for, so that one
#: that cannot be found is a failure; elsewhere, they are those whose plugins are installed.
INSTALLED: list[str] = os.environ.get("SAFETENSORS_TEST_FRAMEWORKS", "").split() or [
    info.name for info in list_plugins()
]

_HEADER = b'{"w":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}}'
_FILE = len(_HEADER).to_bytes(8, "little") + _HEADER + bytes(range(12))


def sample(framework: str) -> Any:
    """A tensor of a framework.

    Args:
        framework: Its name.

    Returns:
        Three numbers of 32 bits.
    """
    return load(_FILE, framework)["w"]
