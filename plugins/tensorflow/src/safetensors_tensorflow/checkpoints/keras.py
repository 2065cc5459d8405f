"""Files of Keras: ``.h5`` of Keras 2 and 3, ``.weights.h5`` and ``.keras`` of Keras 3."""

from __future__ import annotations

import json
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import IO, BinaryIO, cast

from safetensors_core.convert import ForeignCheckpoint, StoredTensor, open_archive
from safetensors_core.errors import ConversionError, SafetensorError, UnsupportedDtypeError
from safetensors_tensorflow.checkpoints.hdf5 import Hdf5File
from safetensors_tensorflow.checkpoints.hdf5_input import Hdf5Input
from safetensors_tensorflow.checkpoints.recognition import KERAS_WEIGHTS

__all__ = ["read_archive", "read_hdf5"]

_CONFIGURATION = "the configuration of a model, no tensor"
_OPTIMIZER = "state of an optimizer"
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # of an entry in a zip archive
_LONGEST_METADATA = 2**20  # bytes
_PIECE = 2**20  # bytes
_TOP = "top_level_model_weights"  # variables of a model that are in none of its layers


def read_hdf5(path: str, optimizer: bool) -> ForeignCheckpoint | None:
    """Read an HDF5 file of Keras, a tensor at a time; of large ones, a piece at a time.

    Args:
        path: The file.
        optimizer: Whether the state of an optimizer is wanted, too.

    Returns:
        Its tensors, as arrays of NumPy; None if Keras did not write the file. Those of a dtype
        that the format lacks are refused.

    Raises:
        ConversionError: It is damaged.
        UnsafeCheckpointError: It names other files, or would fill the memory.
        OSError: It cannot be read.

    Example:
        >>> import h5py
        >>> with h5py.File(tmp_path / "a.weights.h5", "w") as file:
        ...     file["layers/dense/vars/1"] = np.zeros(2, np.float32)
        >>> found = read_hdf5(str(tmp_path / "a.weights.h5"), False)
        >>> found.tensors["layers/dense/vars/1"].read()
        array([0., 0.], dtype=float32)
        >>> found.close()
    """
    with ExitStack() as opened:
        file = opened.enter_context(Hdf5Input(open(path, "rb")))  # noqa: SIM115  # closed with it
        return _read(file, path, optimizer, opened)


def read_archive(path: str, optimizer: bool) -> ForeignCheckpoint:
    """Read a ``.keras`` archive, a tensor at a time; its configuration is not even looked at.

    Args:
        path: The file.
        optimizer: Whether the state of an optimizer is wanted, too.

    Returns:
        Its tensors, as arrays of NumPy. If the weights are compressed, which Keras does not do,
        they are in a temporary file that has no name until it is closed. Those of a dtype that
        the format lacks are refused.

    Raises:
        ConversionError: It is damaged, or holds its weights in another way than HDF5.
        UnsafeCheckpointError: It names other files, or would fill the memory.
        OSError: It cannot be read.

    Example:
        >>> import h5py
        >>> with h5py.File(tmp_path / "model.weights.h5", "w") as file:
        ...     file["layers/dense/vars/1"] = np.zeros(2, np.float32)
        >>> with zipfile.ZipFile(tmp_path / "a.keras", "w") as archive:
        ...     archive.write(tmp_path / "model.weights.h5", "model.weights.h5")
        ...     archive.writestr("metadata.json", "{}")
        >>> found = read_archive(str(tmp_path / "a.keras"), False)
        >>> found.tensors["layers/dense/vars/1"].read()
        array([0., 0.], dtype=float32)
        >>> found.close()
    """
    with ExitStack() as opened:
        with open_archive(path) as archive:
            names = archive.namelist()
            if KERAS_WEIGHTS not in names:
                raise ConversionError(
                    f"it holds no {KERAS_WEIGHTS!r}: load it with Keras, and save it again", path
                )
            with _reading_archive(path):
                file = opened.enter_context(_weights(archive, path))
                metadata = _read_metadata(archive.open("metadata.json"))
        found = _read(file, path, optimizer, opened)
        if found is None:
            raise ConversionError(f"its {KERAS_WEIGHTS!r} is not one of Keras", path)
    others = {name: "no weights" for name in names if name != KERAS_WEIGHTS}
    others["config.json"] = _CONFIGURATION
    return replace(found, metadata=metadata, left_out={**others, **found.left_out})


@contextmanager
def _reading_archive(location: str) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, struct.error, ValueError, KeyError) as error:
        raise ConversionError(f"the archive is damaged: {error}", location) from None


def _weights(archive: zipfile.ZipFile, location: str) -> Hdf5Input:
    """The HDF5 file in an archive, of which the checksum was seen to be right."""
    entry = archive.getinfo(KERAS_WEIGHTS)
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ConversionError(
            f"its {KERAS_WEIGHTS!r} is compressed by method {entry.compress_type}", location
        )
    if entry.compress_type == zipfile.ZIP_DEFLATED:
        copy = tempfile.TemporaryFile()  # noqa: SIM115  # whoever reads the tensors closes it
        try:
            with archive.open(entry) as source:
                shutil.copyfileobj(source, copy)
        except BaseException:
            copy.close()
            raise
        return Hdf5Input(cast("BinaryIO", copy))
    with archive.open(entry) as source:
        while source.read(_PIECE):
            pass
    file = open(location, "rb")  # noqa: SIM115  # the window closes it
    try:
        file.seek(entry.header_offset)
        _, name, extra = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
        return Hdf5Input(
            file, entry.header_offset + _LOCAL_HEADER.size + name + extra, entry.file_size
        )
    except BaseException:
        file.close()
        raise


def _read_metadata(file: IO[bytes]) -> dict[str, str]:
    with file:
        document = json.loads(file.read(_LONGEST_METADATA))
    if not isinstance(document, dict):
        raise ValueError("its metadata.json is no object")  # noqa: TRY004
    return {name: value for name, value in document.items() if isinstance(value, str)}


def _read(
    file: Hdf5Input, location: str, optimizer: bool, opened: ExitStack
) -> ForeignCheckpoint | None:
    hdf5 = Hdf5File(file, location)
    opened.callback(hdf5.close)
    root = "model_weights" if "model_weights" in hdf5.groups else ""
    layers = hdf5.texts(root, "layer_names")
    if layers is not None:
        weights = _list_weights(hdf5, root, layers)
    elif "vars" in {part for path in hdf5.groups for part in path.split("/")}:
        weights = [
            ("", path, path) for path in hdf5.datasets if not _of_optimizer(path) and _in_vars(path)
        ]
    else:
        return None
    listed = {path for _, _, path in weights}
    others = [path for path in hdf5.datasets if path not in listed]
    states = dict.fromkeys(filter(_of_optimizer, others), _OPTIMIZER)
    left_out = {path: "not among the weights of a layer" for path in others if path not in states}
    if optimizer:
        weights += [("", path, path) for path in states]
    else:
        left_out.update(states)
    held: list[tuple[str, str, StoredTensor | UnsupportedDtypeError]] = []
    for layer, name, path in weights:
        tensor: StoredTensor | UnsupportedDtypeError | None
        try:
            tensor = hdf5.tensor(path, name)
        except UnsupportedDtypeError as error:
            tensor = error.with_traceback(None)  # whose frames would hold the file
        if tensor is None:
            left_out[path] = "text, no numbers"
        else:
            held.append((layer, name, tensor))
    for attribute in ("model_config", "training_config"):
        if hdf5.has(attribute):
            left_out[attribute] = _CONFIGURATION
    tensors, refused = _name(held, location)
    return ForeignCheckpoint(
        tensors,
        framework="numpy",
        format="tf",
        metadata=_describe(hdf5, root),
        left_out=left_out,
        refused=refused,
        close=opened.pop_all().close,
    )


def _describe(hdf5: Hdf5File, root: str) -> dict[str, str]:
    """What the file says of its origin."""
    metadata = {}
    for attribute in ("keras_version", "backend"):
        texts = hdf5.texts(root, attribute)
        if texts:
            metadata[attribute] = texts[0]
    return metadata


def _in_vars(path: str) -> bool:
    return "vars" in path.split("/")[:-1]


def _of_optimizer(path: str) -> bool:
    """Whether Keras 2 or 3 keeps the state of an optimizer there."""
    first, *_ = parts = path.split("/")
    return first == "optimizer_weights" or ("optimizer" in parts and "vars" in parts)


def _list_weights(hdf5: Hdf5File, root: str, layers: list[str]) -> list[tuple[str, str, str]]:
    """Layer, name and path of all weights, in the order in which the layers have them."""
    weights = []
    if _path(root, _TOP) in hdf5.groups:
        layers = [*layers, _TOP]
    for layer in layers:
        group = _path(root, layer)
        if group not in hdf5.groups:
            raise ConversionError(f"its layer {layer!r} is missing", hdf5.location)
        for name in hdf5.texts(group, "weight_names") or []:
            path = _path(group, name)
            if path not in hdf5.datasets:
                raise ConversionError(f"its weight {path!r} is missing", hdf5.location)
            weights.append((layer, name, path))
    return weights


def _path(*names: str) -> str:
    return "/".join(part for name in names for part in name.split("/") if part)


def _name(
    held: list[tuple[str, str, StoredTensor | UnsupportedDtypeError]], location: str
) -> tuple[dict[str, StoredTensor], dict[str, SafetensorError]]:
    """The weights by name, and the errors for those that have no equivalent in the format.

    The name of its layer comes first where several layers have one of that name.

    A layer that two models share is in the file with each. So are weights of two models that are
    called alike, and biases of zeros are equal without being shared: both are kept.
    """
    counts = Counter(name for _, name, _ in held)
    tensors: dict[str, StoredTensor] = {}
    refused: dict[str, SafetensorError] = {}
    for layer, name, tensor in held:
        unique = f"{layer}/{name}" if layer and counts[name] > 1 else name
        if unique in tensors or unique in refused:
            raise ConversionError(f"two weights of it have the name {unique!r}", location)
        if isinstance(tensor, StoredTensor):
            tensors[unique] = tensor
        else:
            tensor.tensor = unique
            refused[unique] = tensor
    return tensors, refused
