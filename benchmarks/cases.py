"""The cases: who does what, on what, and what is to be reached."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks import values
from benchmarks.checkpoints import Checkpoint
from benchmarks.frameworks import FrameworkName
from benchmarks.setting import Setting
from benchmarks.sides import SIDES, Side

__all__ = ["CASES", "DEVICE_CASES", "MORE_CASES", "TARGET_CASES", "Case", "Target", "Work"]


@dataclass(frozen=True)
class Target:
    """What a case has to reach.

    Attributes:
        kind: ``"peer"``: the median of the best peer is at least `bound` times ours. ``"limit"``:
            ours is at most `bound` times that of the side. ``"extra"``: ours is at most `bound`
            above it. ``"ours"``: ours is below `bound`.
        bound: A ratio, or seconds or bytes as the case measures.
        side: Name of a limit, for the kinds that have one.
    """

    kind: Literal["peer", "limit", "extra", "ours"]
    bound: float
    side: str = ""

    def met(self, ours: float, other: float) -> bool:
        """Whether two medians reach it.

        Args:
            ours: Our median.
            other: That of the best peer, or of the side; not used by ``"ours"``.

        Returns:
            True if they do.
        """
        if self.kind == "peer":
            return other >= self.bound * ours
        if self.kind == "limit":
            return ours <= self.bound * other
        if self.kind == "extra":
            return ours - other <= self.bound
        return ours < self.bound


@dataclass(frozen=True)
class Work:
    """The same work done by every side.

    Attributes:
        task: What sides call it.
        value: What all must agree on, found after the clock has stopped.
        touch: Whether the time includes reading every byte of the tensors.
        metric: Seconds, or the peak of extra memory: resident (``"rss"``, which includes pages
            of a mapped file) or anonymous (``"anon"``).
        device: Where loaded tensors go.
        before: How often the process has done the same before.
    """

    task: str
    value: Callable[[Setting, Any], str]
    touch: bool = False
    metric: Literal["seconds", "rss", "anon"] = "seconds"
    device: str = "cpu"
    before: int = 0


@dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
        name: What ``--case`` matches.
        work: What all sides do.
        framework: Whose tensors; ``"none"`` where there are none.
        checkpoint: Tensors or file that all sides work on; None for no tensors at all.
        cache: State of the file in the page cache; ``"none"`` where no file is read.
        targets: What to reach, if anything was promised.
    """

    name: str
    work: Work
    framework: FrameworkName | Literal["none"]
    checkpoint: Checkpoint | None
    cache: Literal["warm", "cold", "none"]
    targets: tuple[Target, ...] = ()

    @property
    def sides(self) -> list[Side]:
        """Who can do the work, whether they are installed or not; limits are limits of time."""
        return [
            side
            for side in SIDES
            if self.work.task in side.calls
            and (not side.frameworks or self.framework in side.frameworks)
            and (side.role != "limit" or self.work.metric == "seconds")
        ]


OPEN = Work("open", values.of_names)
HEADER = Work("header", values.of_names)
METADATA = Work("metadata", values.of_metadata)
METADATA_FAR = Work("metadata-far", values.of_metadata)
LOAD = Work("load", values.of_tensors)
LOAD_AGAIN = Work("load", values.of_tensors, before=10)
TOUCH = Work("touch", values.of_tensors, touch=True)
OWNED = Work("owned", values.of_tensors)
OWNED_DEFAULT = Work("owned-default", values.of_tensors)
DEVICE = Work("device", values.of_tensors, device="cuda:0")
SAVE = Work("save", values.of_saved_file)
SAVE_DEFAULT = Work("save-default", values.of_saved_file)
SAVE_DURABLE = Work("save-durable", values.of_saved_file)
BYTES = Work("bytes", values.of_bytes)
HALF = Work("half-packed", values.of_tensor)
EIGHTH = Work("eighth-packed", values.of_tensor)
HALF_USED = Work("half-used", values.of_tensors, touch=True)
EIGHTH_USED = Work("eighth-used", values.of_tensors, touch=True)
IMPORT_CORE = Work("import-core", values.of_nothing)
IMPORT_LOAD = Work("import-load-file", values.of_nothing)
IMPORT_PEER = Work("import-beside-peer", values.of_nothing)
LIST_PLUGINS = Work("list-plugins", values.of_nothing)
TOUCH_RSS = Work("touch", values.of_tensors, touch=True, metric="rss")
TOUCH_ANON = Work("touch", values.of_tensors, touch=True, metric="anon")
OWNED_RSS = Work("owned", values.of_tensors, metric="rss")
SAVE_RSS = Work("save", values.of_saved_file, metric="rss")
BYTES_RSS = Work("bytes", values.of_bytes, metric="rss")

IMPORT = Target("extra", 0.030, "bare Python")  # seconds
LISTING = Target("ours", 0.3)  # seconds
HEADERS = Target("ours", 3.0)  # seconds
STAGING = Target("ours", 32 * 1024 * 1024)  # bytes


def _best(bound: float) -> tuple[Target]:
    return (Target("peer", bound),)


def _within(bound: float, side: str) -> tuple[Target]:
    return (Target("limit", bound, side),)


#: What the project has promised to reach, each with the limits of the machine beside it.
TARGET_CASES = [
    Case(
        "load-small-torch", LOAD, "torch", "small", "warm", _best(6) + _within(2.5, "empty tensors")
    ),
    Case("load-gpt2-torch", LOAD, "torch", "gpt2", "warm", _best(4)),
    # In a process that has loaded the file before: code, memory and caches are there.
    Case("load-small-torch-again", LOAD_AGAIN, "torch", "small", "warm", _best(6)),
    Case("load-gpt2-torch-again", LOAD_AGAIN, "torch", "gpt2", "warm", _best(4)),
    # The header of 20,000 tensors; and 90,000, to be opened in two thirds of the time.
    Case("header-small", HEADER, "numpy", "small", "warm", _best(1.5)),
    Case("open-many", OPEN, "numpy", "many", "warm", _best(1.5)),
    Case("touch-large-numpy", TOUCH, "numpy", "large", "warm", _best(5)),
    # At least 80 % of what `preadv` does, so 1 / 0.8 of its time at most.
    Case("owned-large-numpy", OWNED, "numpy", "large", "warm", _best(3) + _within(1.25, "preadv")),
    Case("owned-large-torch", OWNED, "torch", "large", "warm", _best(3) + _within(1.25, "preadv")),
    Case("save-large-numpy", SAVE, "numpy", "large", "none", _best(1.8)),
    Case("save-large-torch", SAVE, "torch", "large", "none", _best(1.8)),
    Case("save-large-numpy-default", SAVE_DEFAULT, "numpy", "large", "none"),
    Case("save-small-torch", SAVE, "torch", "small", "none", _best(8)),
    Case("bytes-large-numpy", BYTES, "numpy", "large", "none", _best(2)),
    Case("bytes-large-torch", BYTES, "torch", "large", "none", _best(2)),
]

#: Loads to a CUDA device; they are left out where PyTorch finds none.
DEVICE_CASES = [
    Case("load-huge-cuda", DEVICE, "torch", "huge", "warm"),
    Case("load-huge-cuda-cold", DEVICE, "torch", "huge", "cold"),
]

#: All that is worth watching besides.
MORE_CASES = [
    # The header of 20,000 tensors.
    Case("open-small", OPEN, "numpy", "small", "warm", _best(1)),
    Case("open-small-cold", OPEN, "numpy", "small", "cold"),
    # The headers of BLOOM's 72 files, from a Hub on this machine, and from one that takes 50 ms to
    # answer, as one far away does.
    Case("metadata-bloom", METADATA, "none", None, "none"),
    Case("metadata-bloom-far", METADATA_FAR, "none", None, "none", (HEADERS,)),
    # 20,000 small tensors.
    Case("load-small-numpy", LOAD, "numpy", "small", "warm"),
    Case("load-small-jax", LOAD, "jax", "small", "warm"),
    Case("load-small-tensorflow", LOAD, "tensorflow", "small", "warm"),
    Case("load-small-paddle", LOAD, "paddle", "small", "warm", _best(3)),
    Case("load-small-mlx", LOAD, "mlx", "small", "warm"),
    Case("touch-small-numpy", TOUCH, "numpy", "small", "warm"),
    Case("touch-small-torch", TOUCH, "torch", "small", "warm"),
    Case("touch-small-jax", TOUCH, "jax", "small", "warm"),
    Case("touch-small-tensorflow", TOUCH, "tensorflow", "small", "warm"),
    Case("touch-small-paddle", TOUCH, "paddle", "small", "warm"),
    Case("touch-small-mlx", TOUCH, "mlx", "small", "warm"),
    Case("touch-small-numpy-cold", TOUCH, "numpy", "small", "cold"),
    Case("touch-small-torch-cold", TOUCH, "torch", "small", "cold"),
    # The 160 tensors of GPT-2, 548 MB.
    Case("load-gpt2-numpy", LOAD, "numpy", "gpt2", "warm"),
    Case("touch-gpt2-numpy", TOUCH, "numpy", "gpt2", "warm"),
    Case("touch-gpt2-torch", TOUCH, "torch", "gpt2", "warm"),
    # 13 tensors, 545 MB.
    Case("load-large-numpy", LOAD, "numpy", "large", "warm"),
    Case("load-large-torch", LOAD, "torch", "large", "warm"),
    Case("load-large-jax", LOAD, "jax", "large", "warm"),
    Case("load-large-tensorflow", LOAD, "tensorflow", "large", "warm"),
    Case("load-large-paddle", LOAD, "paddle", "large", "warm"),
    Case("load-large-mlx", LOAD, "mlx", "large", "warm"),
    Case("touch-large-torch", TOUCH, "torch", "large", "warm"),
    Case("touch-large-jax", TOUCH, "jax", "large", "warm", _best(2)),
    Case("touch-large-tensorflow", TOUCH, "tensorflow", "large", "warm", _best(3)),
    Case("touch-large-paddle", TOUCH, "paddle", "large", "warm", _best(1)),
    Case("touch-large-mlx", TOUCH, "mlx", "large", "warm", _best(1)),
    Case("touch-large-numpy-cold", TOUCH, "numpy", "large", "cold"),
    Case("touch-large-torch-cold", TOUCH, "torch", "large", "cold"),
    # The same 13 tensors in a file with alignment=64, which JAX needs to share memory.
    Case("load-aligned-jax", LOAD, "jax", "aligned", "warm", _best(10)),
    Case("touch-aligned-jax", TOUCH, "jax", "aligned", "warm"),
    # Memory that the tensors own. The peer's default copies too, but for PyTorch and Paddle.
    Case("owned-large-numpy-default", OWNED_DEFAULT, "numpy", "large", "warm", _best(2)),
    Case("owned-large-jax-default", OWNED_DEFAULT, "jax", "large", "warm"),
    Case("owned-large-tensorflow-default", OWNED_DEFAULT, "tensorflow", "large", "warm"),
    Case("owned-large-mlx-default", OWNED_DEFAULT, "mlx", "large", "warm"),
    Case("owned-large-numpy-cold", OWNED, "numpy", "large", "cold"),
    Case("owned-large-torch-cold", OWNED, "torch", "large", "cold"),
    # Saving: like for like without a sync, our default beside the peer's, and both on disk.
    Case("save-large-jax", SAVE, "jax", "large", "none", _best(1.3)),
    Case("save-large-tensorflow", SAVE, "tensorflow", "large", "none", _best(1.3)),
    Case("save-large-paddle", SAVE, "paddle", "large", "none", _best(1.3)),
    Case("save-large-mlx", SAVE, "mlx", "large", "none", _best(1.3)),
    Case("save-large-numpy-durable", SAVE_DURABLE, "numpy", "large", "none"),
    Case("save-small-numpy", SAVE, "numpy", "small", "none"),
    Case("save-small-jax", SAVE, "jax", "small", "none"),
    Case("save-small-tensorflow", SAVE, "tensorflow", "small", "none"),
    Case("save-small-paddle", SAVE, "paddle", "small", "none"),
    Case("save-small-mlx", SAVE, "mlx", "small", "none"),
    # Columns of GPT-2's word embeddings, as each of 2 or of 8 devices would take them.
    # Used where they lie, and packed into memory of their own.
    Case("slice-half-numpy", HALF_USED, "numpy", "gpt2", "warm", _best(2)),
    Case("slice-half-torch", HALF_USED, "torch", "gpt2", "warm", _best(2)),
    Case("slice-eighth-numpy", EIGHTH_USED, "numpy", "gpt2", "warm", _best(2)),
    Case("slice-eighth-torch", EIGHTH_USED, "torch", "gpt2", "warm", _best(2)),
    Case("slice-half-numpy-packed", HALF, "numpy", "gpt2", "warm", _best(2)),
    Case("slice-half-torch-packed", HALF, "torch", "gpt2", "warm", _best(2)),
    Case("slice-eighth-numpy-packed", EIGHTH, "numpy", "gpt2", "warm", _best(2)),
    Case("slice-eighth-torch-packed", EIGHTH, "torch", "gpt2", "warm", _best(2)),
    Case("slice-half-numpy-cold", HALF_USED, "numpy", "gpt2", "cold"),
    Case("slice-half-torch-cold", HALF_USED, "torch", "gpt2", "cold"),
    # What a program pays before it does anything: over bare Python, and beside the peer.
    Case("import-core", IMPORT_CORE, "none", None, "none", (IMPORT,)),
    Case("import-load-file", IMPORT_LOAD, "none", None, "none"),
    Case("import-beside-peer", IMPORT_PEER, "none", None, "none"),
    Case("list-plugins", LIST_PLUGINS, "none", None, "none", (LISTING,)),
    # Peaks of extra memory.
    Case("memory-touch-numpy", TOUCH_RSS, "numpy", "large", "warm"),
    Case("memory-touch-numpy-anon", TOUCH_ANON, "numpy", "large", "warm"),
    Case("memory-touch-torch", TOUCH_RSS, "torch", "large", "warm"),
    Case("memory-touch-torch-anon", TOUCH_ANON, "torch", "large", "warm"),
    Case("memory-owned-numpy", OWNED_RSS, "numpy", "large", "warm"),
    Case("memory-owned-torch", OWNED_RSS, "torch", "large", "warm"),
    Case("memory-save-numpy", SAVE_RSS, "numpy", "large", "none", (STAGING,)),
    Case("memory-save-torch", SAVE_RSS, "torch", "large", "none", (STAGING,)),
    Case("memory-bytes-numpy", BYTES_RSS, "numpy", "large", "none"),
    Case("memory-bytes-torch", BYTES_RSS, "torch", "large", "none"),
]

CASES = [*TARGET_CASES, *MORE_CASES, *DEVICE_CASES]
