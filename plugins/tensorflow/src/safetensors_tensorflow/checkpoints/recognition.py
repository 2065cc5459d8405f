"""Which reader a file or folder is for, told by its first bytes and without any import."""

from __future__ import annotations

import glob
import os
import re

from safetensors_core.convert import ForeignCheckpoint, open_archive
from safetensors_core.errors import ConversionError, UnsafeCheckpointError

__all__ = ["KERAS_WEIGHTS", "TABLE_MAGIC", "find_prefix", "read_checkpoint"]

#: The last bytes of the index of a TensorFlow checkpoint.
TABLE_MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")

#: What holds the weights in a ``.keras`` archive.
KERAS_WEIGHTS = "model.weights.h5"

_HDF5 = b"\x89HDF\r\n\x1a\n"
_ZIP = b"PK\x03\x04"
_DATA = re.compile(r"\.(index|data-\d{5}-of-\d{5})$")
_LONGEST_STATE = 2**20  # bytes of the file `checkpoint`


def read_checkpoint(path: str, optimizer: bool) -> ForeignCheckpoint | None:
    """Read a checkpoint of Keras or TensorFlow.

    Args:
        path: A file, a folder, or the prefix of several files.
        optimizer: Whether the state of an optimizer is wanted, too.

    Returns:
        Its tensors; None if it is neither's.

    Raises:
        ConversionError: It is damaged, or holds what cannot be converted.
        UnsafeCheckpointError: Reading it would leave its folder, or fill the memory.
        OSError: It cannot be read.

    Example:
        >>> import h5py
        >>> with h5py.File(tmp_path / "a.weights.h5", "w") as file:
        ...     file["layers/dense/vars/0"] = np.zeros(2, np.float32)
        >>> list(read_checkpoint(str(tmp_path / "a.weights.h5"), False).tensors)
        ['layers/dense/vars/0']
    """
    prefix = find_prefix(path)
    if prefix is not None:
        from safetensors_tensorflow.checkpoints.tensorflow import read_bundle

        return read_bundle(prefix, optimizer)
    if not os.path.isfile(path):
        return None
    with open(path, "rb") as file:
        begin = file.read(len(_HDF5))
    if begin == _HDF5:
        from safetensors_tensorflow.checkpoints.keras import read_hdf5

        return read_hdf5(path, optimizer)
    if begin.startswith(_ZIP):
        with open_archive(path) as archive:
            names = set(archive.namelist())
        if {"config.json", "metadata.json"} <= names:
            from safetensors_tensorflow.checkpoints.keras import read_archive

            return read_archive(path, optimizer)
    return None


def find_prefix(path: str) -> str | None:
    """The prefix of the checkpoint that a path stands for.

    Args:
        path: The prefix itself, its index, a file of its data, a folder with a file
            ``checkpoint``, which names the newest, or the folder of a SavedModel.

    Returns:
        The prefix; None if the path is something else.

    Raises:
        UnsafeCheckpointError: The file ``checkpoint`` names one outside of its folder.
        ConversionError: The file ``checkpoint`` names none.
        OSError: A file cannot be read.

    Example:
        >>> find_prefix(str(tmp_path)) is None
        True
    """
    if os.path.isdir(path):
        saved_model = os.path.join(path, "variables", "variables")
        if os.path.isfile(f"{saved_model}.index"):
            return saved_model
        state = os.path.join(path, "checkpoint")
        return _newest(path, state) if os.path.isfile(state) else None
    prefix = _DATA.sub("", path)
    index = f"{prefix}.index"
    if not os.path.isfile(index) or (prefix == path and os.path.isfile(path)):
        return None
    if glob.glob(f"{glob.escape(prefix)}.data-?????-of-?????"):
        return prefix
    with open(index, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - len(TABLE_MAGIC)))
        return prefix if file.read() == TABLE_MAGIC else None


def _newest(folder: str, state: str) -> str | None:
    """The prefix that the file `checkpoint` calls the newest; None if that is no such file."""
    with open(state, "rb") as file:
        text = file.read(_LONGEST_STATE).decode("utf-8", "replace")
    found = re.search(r'^model_checkpoint_path: "((?:[^"\\]|\\.)*)"', text, re.MULTILINE)
    if found is None:
        return None
    name = found[1]
    if os.path.isabs(name) or re.match("[A-Za-z]:", name):
        # The folder may have been moved since, or come from another machine.
        name = re.split(r"[/\\]", name)[-1]
    if ".." in name.split("/") or "\\" in name:
        raise UnsafeCheckpointError(f"it names {name!r}, which leaves its folder", state)
    prefix = os.path.join(folder, name)
    if not os.path.isfile(f"{prefix}.index"):
        raise ConversionError(f"it names {name!r}, of which there is no index here", state)
    return prefix
