"""The cases: what is timed for ours and for the peer, on what, and the ratio to reach."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks import ours, peer, values
from benchmarks.checkpoints import Checkpoint
from benchmarks.columns import packed_columns, used_columns
from benchmarks.frameworks import FrameworkName
from benchmarks.setting import Call, Setting

__all__ = ["CASES", "Case", "Target", "Work"]


@dataclass(frozen=True)
class Target:
    """What a case has to reach.

    Attributes:
        kind: ``"ratio"``: the peer's median is at least `bound` times ours. ``"extra"``: ours
            is at most `bound` above the peer's. ``"ours"``: ours is below `bound`.
        bound: A ratio, or seconds or bytes as the case measures.
    """

    kind: Literal["ratio", "extra", "ours"]
    bound: float

    def met(self, ours: float, peer: float) -> bool:
        """Whether two medians reach it.

        Args:
            ours: Our median.
            peer: The peer's.

        Returns:
            True if they do.
        """
        if self.kind == "ratio":
            return peer >= self.bound * ours
        if self.kind == "extra":
            return ours - peer <= self.bound
        return ours < self.bound


@dataclass(frozen=True)
class Work:
    """The same work done by both sides.

    Attributes:
        ours: What is timed here.
        peer: What is timed there.
        value: What both must agree on, found after the clock has stopped.
        touch: Whether the time includes reading every byte of the tensors.
        metric: Seconds, or the peak of extra memory: resident (``"rss"``, which includes pages
            of a mapped file) or anonymous (``"anon"``).
    """

    ours: Call
    peer: Call
    value: Callable[[Setting, Any], str]
    touch: bool = False
    metric: Literal["seconds", "rss", "anon"] = "seconds"


@dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
        name: What ``--case`` matches.
        work: What both sides do.
        framework: Whose tensors; ``"none"`` where there are none.
        checkpoint: Tensors or file that both sides work on; None for no tensors at all.
        cache: State of the file in the page cache; ``"none"`` where no file is read.
        target: What to reach, if anything was promised.
    """

    name: str
    work: Work
    framework: FrameworkName | Literal["none"]
    checkpoint: Checkpoint | None
    cache: Literal["warm", "cold", "none"]
    target: Target | None = None


OURS, PEER = "safetensors_core", "safetensors"
_BARE = ours.program("pass")
_CORE = ours.program("import safetensors_core")
_LOAD_FILE = ours.program("from safetensors_core import load_file")
_PEER_OPEN = ours.program("from safetensors import safe_open")

OPEN = Work(ours.open_file, peer.open_file, values.of_names)
HEADER = Work(ours.read_header, peer.open_file, values.of_names)
METADATA = Work(ours.read_metadata(0), peer.read_metadata(0), values.of_metadata)
METADATA_FAR = Work(ours.read_metadata(0.05), peer.read_metadata(0.05), values.of_metadata)
LOAD = Work(ours.load, peer.load, values.of_tensors)
TOUCH = Work(ours.load, peer.load, values.of_tensors, touch=True)
OWNED = Work(ours.load_owned, peer.load_pread, values.of_tensors)
OWNED_DEFAULT = Work(ours.load_owned, peer.load, values.of_tensors)
SAVE = Work(ours.save_unsynced, peer.save_unsynced, values.of_saved_file)
SAVE_DEFAULT = Work(ours.save_durable, peer.save_unsynced, values.of_saved_file)
SAVE_DURABLE = Work(ours.save_durable, peer.save_synced, values.of_saved_file)
BYTES = Work(ours.save_bytes, peer.save_bytes, values.of_bytes)
HALF = Work(packed_columns(OURS, 2), packed_columns(PEER, 2), values.of_tensor)
EIGHTH = Work(packed_columns(OURS, 8), packed_columns(PEER, 8), values.of_tensor)
HALF_USED = Work(used_columns(OURS, 2), used_columns(PEER, 2), values.of_tensors, touch=True)
EIGHTH_USED = Work(used_columns(OURS, 8), used_columns(PEER, 8), values.of_tensors, touch=True)
IMPORT_CORE = Work(_CORE, _BARE, values.of_nothing)
IMPORT_LOAD = Work(_LOAD_FILE, _BARE, values.of_nothing)
IMPORT_PEER = Work(_LOAD_FILE, _PEER_OPEN, values.of_nothing)
LIST_PLUGINS = Work(ours.list_plugins, _BARE, values.of_nothing)
TOUCH_RSS = Work(ours.load, peer.load, values.of_tensors, touch=True, metric="rss")
TOUCH_ANON = Work(ours.load, peer.load, values.of_tensors, touch=True, metric="anon")
OWNED_RSS = Work(ours.load_owned, peer.load_pread, values.of_tensors, metric="rss")
SAVE_RSS = Work(ours.save_unsynced, peer.save_unsynced, values.of_saved_file, metric="rss")
BYTES_RSS = Work(ours.save_bytes, peer.save_bytes, values.of_bytes, metric="rss")

IMPORT = Target("extra", 0.030)  # seconds
LISTING = Target("ours", 0.3)  # seconds
HEADERS = Target("ours", 3.0)  # seconds
STAGING = Target("ours", 32 * 1024 * 1024)  # bytes


def _ratio(bound: float) -> Target:
    return Target("ratio", bound)


CASES = [
    # The header of 20,000 tensors.
    Case("open-small", OPEN, "numpy", "small", "warm", _ratio(1)),
    Case("open-small-cold", OPEN, "numpy", "small", "cold"),
    Case("header-small", HEADER, "numpy", "small", "warm", _ratio(1)),
    # The headers of BLOOM's 72 files, from a Hub on this machine, and from one that takes 50 ms to
    # answer, as one far away does.
    Case("metadata-bloom", METADATA, "none", None, "none"),
    Case("metadata-bloom-far", METADATA_FAR, "none", None, "none", HEADERS),
    # 20,000 small tensors.
    Case("load-small-numpy", LOAD, "numpy", "small", "warm"),
    Case("load-small-torch", LOAD, "torch", "small", "warm", _ratio(4)),
    Case("load-small-jax", LOAD, "jax", "small", "warm"),
    Case("load-small-tensorflow", LOAD, "tensorflow", "small", "warm"),
    Case("load-small-paddle", LOAD, "paddle", "small", "warm", _ratio(3)),
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
    Case("load-gpt2-torch", LOAD, "torch", "gpt2", "warm"),
    Case("touch-gpt2-numpy", TOUCH, "numpy", "gpt2", "warm"),
    Case("touch-gpt2-torch", TOUCH, "torch", "gpt2", "warm"),
    # 13 tensors, 545 MB.
    Case("load-large-numpy", LOAD, "numpy", "large", "warm"),
    Case("load-large-torch", LOAD, "torch", "large", "warm"),
    Case("load-large-jax", LOAD, "jax", "large", "warm"),
    Case("load-large-tensorflow", LOAD, "tensorflow", "large", "warm"),
    Case("load-large-paddle", LOAD, "paddle", "large", "warm"),
    Case("load-large-mlx", LOAD, "mlx", "large", "warm"),
    Case("touch-large-numpy", TOUCH, "numpy", "large", "warm", _ratio(3)),
    Case("touch-large-torch", TOUCH, "torch", "large", "warm"),
    Case("touch-large-jax", TOUCH, "jax", "large", "warm", _ratio(2)),
    Case("touch-large-tensorflow", TOUCH, "tensorflow", "large", "warm", _ratio(3)),
    Case("touch-large-paddle", TOUCH, "paddle", "large", "warm", _ratio(1)),
    Case("touch-large-mlx", TOUCH, "mlx", "large", "warm", _ratio(1)),
    Case("touch-large-numpy-cold", TOUCH, "numpy", "large", "cold"),
    Case("touch-large-torch-cold", TOUCH, "torch", "large", "cold"),
    # The same 13 tensors in a file with alignment=64, which JAX needs to share memory.
    Case("load-aligned-jax", LOAD, "jax", "aligned", "warm", _ratio(10)),
    Case("touch-aligned-jax", TOUCH, "jax", "aligned", "warm"),
    # Memory that the tensors own. The peer's default copies too, but for PyTorch and Paddle.
    Case("owned-large-numpy", OWNED, "numpy", "large", "warm", _ratio(2)),
    Case("owned-large-numpy-default", OWNED_DEFAULT, "numpy", "large", "warm", _ratio(2)),
    Case("owned-large-torch", OWNED, "torch", "large", "warm", _ratio(2)),
    Case("owned-large-jax-default", OWNED_DEFAULT, "jax", "large", "warm"),
    Case("owned-large-tensorflow-default", OWNED_DEFAULT, "tensorflow", "large", "warm"),
    Case("owned-large-mlx-default", OWNED_DEFAULT, "mlx", "large", "warm"),
    Case("owned-large-numpy-cold", OWNED, "numpy", "large", "cold"),
    Case("owned-large-torch-cold", OWNED, "torch", "large", "cold"),
    # Saving: like for like without a sync, our default beside the peer's, and both on disk.
    Case("save-large-numpy", SAVE, "numpy", "large", "none", _ratio(1.3)),
    Case("save-large-torch", SAVE, "torch", "large", "none", _ratio(1.3)),
    Case("save-large-jax", SAVE, "jax", "large", "none", _ratio(1.3)),
    Case("save-large-tensorflow", SAVE, "tensorflow", "large", "none", _ratio(1.3)),
    Case("save-large-paddle", SAVE, "paddle", "large", "none", _ratio(1.3)),
    Case("save-large-mlx", SAVE, "mlx", "large", "none", _ratio(1.3)),
    Case("save-large-numpy-default", SAVE_DEFAULT, "numpy", "large", "none"),
    Case("save-large-numpy-durable", SAVE_DURABLE, "numpy", "large", "none"),
    Case("save-small-numpy", SAVE, "numpy", "small", "none"),
    Case("save-small-torch", SAVE, "torch", "small", "none"),
    Case("save-small-jax", SAVE, "jax", "small", "none"),
    Case("save-small-tensorflow", SAVE, "tensorflow", "small", "none"),
    Case("save-small-paddle", SAVE, "paddle", "small", "none"),
    Case("save-small-mlx", SAVE, "mlx", "small", "none"),
    Case("bytes-large-numpy", BYTES, "numpy", "large", "none", _ratio(1.7)),
    Case("bytes-large-torch", BYTES, "torch", "large", "none", _ratio(1.7)),
    # Columns of GPT-2's word embeddings, as each of 2 or of 8 devices would take them.
    # Used where they lie, and packed into memory of their own.
    Case("slice-half-numpy", HALF_USED, "numpy", "gpt2", "warm", _ratio(2)),
    Case("slice-half-torch", HALF_USED, "torch", "gpt2", "warm", _ratio(2)),
    Case("slice-eighth-numpy", EIGHTH_USED, "numpy", "gpt2", "warm", _ratio(2)),
    Case("slice-eighth-torch", EIGHTH_USED, "torch", "gpt2", "warm", _ratio(2)),
    Case("slice-half-numpy-packed", HALF, "numpy", "gpt2", "warm", _ratio(2)),
    Case("slice-half-torch-packed", HALF, "torch", "gpt2", "warm", _ratio(2)),
    Case("slice-eighth-numpy-packed", EIGHTH, "numpy", "gpt2", "warm", _ratio(2)),
    Case("slice-eighth-torch-packed", EIGHTH, "torch", "gpt2", "warm", _ratio(2)),
    Case("slice-half-numpy-cold", HALF_USED, "numpy", "gpt2", "cold"),
    Case("slice-half-torch-cold", HALF_USED, "torch", "gpt2", "cold"),
    # What a program pays before it does anything: over bare Python, and beside the peer.
    Case("import-core", IMPORT_CORE, "none", None, "none", IMPORT),
    Case("import-load-file", IMPORT_LOAD, "none", None, "none"),
    Case("import-beside-peer", IMPORT_PEER, "none", None, "none"),
    Case("list-plugins", LIST_PLUGINS, "none", None, "none", LISTING),
    # Peaks of extra memory.
    Case("memory-touch-numpy", TOUCH_RSS, "numpy", "large", "warm"),
    Case("memory-touch-numpy-anon", TOUCH_ANON, "numpy", "large", "warm"),
    Case("memory-touch-torch", TOUCH_RSS, "torch", "large", "warm"),
    Case("memory-touch-torch-anon", TOUCH_ANON, "torch", "large", "warm"),
    Case("memory-owned-numpy", OWNED_RSS, "numpy", "large", "warm"),
    Case("memory-owned-torch", OWNED_RSS, "torch", "large", "warm"),
    Case("memory-save-numpy", SAVE_RSS, "numpy", "large", "none", STAGING),
    Case("memory-save-torch", SAVE_RSS, "torch", "large", "none", STAGING),
    Case("memory-bytes-numpy", BYTES_RSS, "numpy", "large", "none"),
    Case("memory-bytes-torch", BYTES_RSS, "torch", "large", "none"),
]
