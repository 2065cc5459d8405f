"""What a side of a case is given to work on, and what it gives back to be timed."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.checkpoints import Checkpoint, make_arrays
from benchmarks.files import Format, path_of
from benchmarks.frameworks import handling

__all__ = ["Call", "Setting", "call"]


@dataclass(frozen=True)
class Setting:
    """Files, tensors and framework of one sample.

    Attributes:
        framework: As in `benchmarks.frameworks`, or ``"none"``.
        checkpoint: Which tensors; a call that needs none ignores it.
        scale: How much of them: 1 for a measurement, less for a warm-up or a test.
        folder: Where the checkpoint's file lies and others may be written.
        kind: The format of the file to read.
        device: Where loaded tensors go.
    """

    framework: str
    checkpoint: Checkpoint
    scale: float
    folder: str
    kind: Format = "safetensors"
    device: str = "cpu"

    @property
    def path(self) -> str:
        """The checkpoint's file, to read."""
        return path_of(self.folder, self.checkpoint, self.scale, self.kind)

    @property
    def target(self) -> str:
        """A file to write, which does not exist yet."""
        return os.path.join(self.folder, f"saved-{os.getpid()}-{self.scale:g}.{self.kind}")

    def tensors(self) -> dict[str, Any]:
        """The checkpoint's tensors in memory."""
        framework = handling(self.framework)
        arrays = make_arrays(self.checkpoint, self.scale)
        tensors = {name: framework.tensor(array) for name, array in arrays.items()}
        framework.wait(tensors)
        return tensors

    def finished(self, load: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
        """A call that loads tensors and returns when nothing of it goes on in the background.

        Args:
            load: Loads tensors of the framework.

        Returns:
            The call.
        """
        wait = handling(self.framework).wait

        def load_and_wait() -> dict[str, Any]:
            tensors = load()
            wait(tensors)
            return tensors

        return load_and_wait


@dataclass(frozen=True)
class Call:
    """What one side does in a case.

    Attributes:
        says: The call as a user writes it.
        prepare: Does what is not timed (imports, tensors) and returns the call that is.
        value: What all sides must agree on, found after the clock has stopped, where it is found
            in another way than for the other sides of the case: in a file of another format.
    """

    says: str
    prepare: Callable[[Setting], Callable[[], Any]]
    value: Callable[[Setting, Any], str] | None = None


def call(
    says: str, value: Callable[[Setting, Any], str] | None = None
) -> Callable[[Callable[[Setting], Callable[[], Any]]], Call]:
    """Turn a function that prepares a call into a `Call`.

    Args:
        says: The call as a user writes it.
        value: As for `Call`.

    Returns:
        The decorator.
    """
    return lambda prepare: Call(says, prepare, value)
