"""TensorFlow checkpoints, of TensorFlow 1 and 2, and the variables of a SavedModel."""

from __future__ import annotations

import re

from safetensors_core.convert import ForeignCheckpoint, StoredTensor
from safetensors_core.errors import ConversionError, SafetensorError, UnsupportedDtypeError
from safetensors_tensorflow.checkpoints.bundle import STRING, Bundle, Entry
from safetensors_tensorflow.checkpoints.object_graph import VALUE, name_variables

__all__ = ["read_bundle"]

_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_COUNTERS = ("save_counter", "global_step")
_OPTIMIZER = "state of an optimizer"
_POWERS = re.compile(r"(^|/)beta[12]_power(_\d+)?$")


def read_bundle(prefix: str, optimizer: bool) -> ForeignCheckpoint:
    """Read a TensorFlow checkpoint, a piece of a tensor at a time.

    TensorFlow is not needed. Only a tensor that is stored in parts is in memory as a whole.

    Args:
        prefix: Its prefix.
        optimizer: Whether the state of an optimizer is wanted, too.

    Returns:
        Its tensors, as arrays of NumPy. Those of a dtype that the format lacks are refused.

    Raises:
        ConversionError: It is damaged.
        OSError: A file cannot be read.

    Example:
        >>> _ = tf.train.Checkpoint(w=tf.Variable([1.0, 2.0])).write(str(tmp_path / "ckpt"))
        >>> read_bundle(str(tmp_path / "ckpt"), False).tensors["w"].read()
        array([1., 2.], dtype=float32)
    """
    bundle = Bundle(prefix)
    left_out: dict[str, str] = {}
    metadata: dict[str, str] = {}
    numeric = []
    for key, entry in bundle.entries.items():
        if key == _GRAPH:
            left_out[key] = "which object holds which variable"
        elif entry.dtype == STRING:
            left_out[key] = "text, no numbers"
        elif key.removesuffix(VALUE) in _COUNTERS and entry.shape == ():
            name = key.removesuffix(VALUE)
            metadata[name] = str(bundle.tensor(key, name).read())
            left_out[name] = "a count of steps: in the metadata"
        else:
            numeric.append(key)
    names = _names(bundle, numeric)
    taken = set(names.values())
    tensors: dict[str, StoredTensor] = {}
    refused: dict[str, SafetensorError] = {}
    for key in numeric:
        state = key.removesuffix(VALUE)
        if key in names:
            name = names[key]
        elif optimizer:
            name = key if state in taken else state
        else:
            left_out[state] = _OPTIMIZER
            continue
        try:
            tensors[name] = bundle.tensor(key, name)
        except UnsupportedDtypeError as error:
            refused[name] = error.with_traceback(None)  # whose frames would hold the index
    return ForeignCheckpoint(tensors, "numpy", "tf", metadata, left_out, refused)


def _names(bundle: Bundle, keys: list[str]) -> dict[str, str]:
    """Names of all weights by their keys; what is missing is the state of an optimizer."""
    if _GRAPH in bundle.entries:
        try:
            return name_variables(bundle.text(_GRAPH), set(keys))
        except ValueError as error:
            raise ConversionError(f"it cannot be read: {error}", bundle.location) from None
    return {key: key for key in keys if not _is_slot(key, bundle.entries)}


def _is_slot(key: str, entries: dict[str, Entry]) -> bool:
    """Whether TensorFlow 1 keeps this for an optimizer, by its name.

    Slots are called after their variable, ``dense/kernel/Adam`` and ``dense/kernel_slot_vc``; the
    first kind has its shape, too.
    """
    variable, _, slot = key.rpartition("/")
    if variable in entries and slot != "ExponentialMovingAverage":
        return entries[variable].shape == entries[key].shape
    return key.rpartition("_slot_")[0] in entries or _POWERS.search(key) is not None
