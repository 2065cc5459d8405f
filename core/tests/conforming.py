"""Frameworks for tests of the conformance kit; importing this module registers one of them.

The environment variable FRAMEWORK names the class. None of them needs NumPy.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from typing import Any

from core.tests.raw import RawFramework, RawTensor
from safetensors_core import Framework, InvalidInputError, TensorInfo, register_framework


class Conforming(RawFramework):
    """The framework of raw bytes, with all that the contract asks for."""

    native_package = "core"
    aliases_on_load = True
    aliases_on_save = True
    index = Framework.index

    def from_buffers(
        self, buffer: memoryview, infos: Mapping[str, TensorInfo], device: Any
    ) -> dict[str, RawTensor]:
        if device != "cpu":
            raise InvalidInputError(f"there is no device {device!r}")
        return super().from_buffers(buffer, infos, device)

    def storage_key(self, tensor: RawTensor) -> Any:
        return None if isinstance(tensor.data, bytes) else id(tensor.data.obj)


class OneKey(Conforming):
    """All tensors have the same key, which one check finds out."""

    def storage_key(self, tensor: RawTensor) -> Any:
        return 1


class Deadly(Conforming):
    """Asking for a key ends the process, as memory that is gone may do."""

    def storage_key(self, tensor: RawTensor) -> Any:
        os.kill(os.getpid(), signal.SIGSEGV)


if "FRAMEWORK" in os.environ:
    register_framework(globals()[os.environ["FRAMEWORK"]]())
