"""The hooks of the PaddlePaddle plugin. Importing this module does not import PaddlePaddle."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from safetensors_core import Framework, PluginError, hookimpl

if TYPE_CHECKING:
    from safetensors_core.convert import ForeignCheckpoint

api_version = 1
native_package = "paddle"

_SUFFIXES = (".pdparams", ".pdopt", ".pdiparams")
_BINARY = bytes(16)  # versions and a level of detail, all of them zero
_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the first pickle in a file of torch.save
_OLD_PICKLES = (b"(", b"]", b"c", b"}")  # those of protocols 0 and 1 that are not a bare value


@hookimpl
def safetensors_framework() -> Framework:
    """The PaddlePaddle framework; PaddlePaddle is imported now."""
    if "tensorflow" in sys.modules and "paddle" not in sys.modules:
        # Paddle 3.3 after TensorFlow 2.21 ends the process without a word.
        raise PluginError(
            "Paddle cannot be imported into a process that has imported TensorFlow before it: "
            "import paddle first"
        )
    from safetensors_paddle.framework import PaddleFramework

    return PaddleFramework()


@hookimpl
def safetensors_read_checkpoint(
    path: str | os.PathLike[str], optimizer: bool
) -> ForeignCheckpoint | None:
    """A file of `paddle.save`; Paddle is not imported."""
    # A pickle does not say whose it is, so here the name has to.
    if not os.fsdecode(path).lower().endswith(_SUFFIXES) or not os.path.isfile(path):
        return None
    with open(path, "rb") as file:
        head = file.read(16)
    if head == _BINARY:
        from safetensors_paddle.checkpoints import read_binary

        return read_binary(path)
    is_pickle = head[:1] == b"\x80" and b"\x02" <= head[1:2] <= b"\x05"
    if head.startswith(_TORCH) or not (is_pickle or head.startswith(_OLD_PICKLES)):
        return None
    from safetensors_paddle.checkpoints import read_pickle

    return read_pickle(path, optimizer)
