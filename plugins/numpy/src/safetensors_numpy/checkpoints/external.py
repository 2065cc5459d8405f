"""The files beside an ONNX model that hold bytes of its tensors."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from safetensors_core import ConversionError, TensorSpec, UnsafeCheckpointError
from safetensors_core.convert import StoredTensor
from safetensors_numpy.checkpoints.stored import region_of, stored_tensor

__all__ = ["ExternalFiles"]

_DRIVE = re.compile(r"[A-Za-z]:")


class _Region(NamedTuple):
    begin: int
    end: int
    tensor: str


class ExternalFiles:
    """Finds the bytes of tensors in the files beside a model, and checks that they are there.

    Args:
        model: Path of the model.

    Example:
        >>> (tmp_path / "weights").write_bytes(bytes(4))
        4
        >>> files = ExternalFiles(str(tmp_path / "model.onnx"))
        >>> from safetensors_core import Dtype
        >>> spec = TensorSpec(Dtype.F32, (1,))
        >>> files.tensor("w", spec, {"location": "weights"}).read()
        array([0.], dtype=float32)
    """

    def __init__(self, model: str) -> None:
        self._location = model
        self._folder = os.path.dirname(model) or os.curdir
        # In a cache of the Hugging Face Hub, model and data are links to files of one folder.
        self._roots = {os.path.realpath(self._folder), os.path.dirname(os.path.realpath(model))}
        self._regions: dict[str, set[_Region]] = {}

    def tensor(self, name: str, spec: TensorSpec, entries: Mapping[str, str]) -> StoredTensor:
        """A tensor whose bytes lie in a file beside the model.

        Args:
            name: Its name.
            spec: Its dtype and shape.
            entries: What the model says of the place: ``location``, ``offset``, ``length``.

        Returns:
            The tensor. Two that lie at one place have one key.

        Raises:
            UnsafeCheckpointError: The file is outside of the model's folder, or tensors overlap.
            ConversionError: The file is not there, or does not hold so many bytes.

        Example:
            >>> from safetensors_core import Dtype
            >>> files = ExternalFiles(str(tmp_path / "model.onnx"))
            >>> files.tensor("w", TensorSpec(Dtype.F32, (1,)), {"location": "../../secret"})
            Traceback (most recent call last):
            safetensors_core.errors.UnsafeCheckpointError: ...'../../secret', outside of its folder
        """
        path = self._path(name, entries.get("location", ""))
        size = os.path.getsize(path)
        begin = int(entries.get("offset") or 0)
        length = int(entries.get("length") or size - begin)
        if begin < 0 or length < 0 or begin + length > size or length != spec.nbytes:
            raise ConversionError(
                f"tensor {name!r} needs {spec.nbytes:,} bytes; the model says they are {length:,} "
                f"from byte {begin:,} of {entries['location']!r}, which has {size:,}",
                self._location,
            )
        if length:
            self._regions.setdefault(path, set()).add(_Region(begin, begin + length, name))
        key = (path, begin, spec.dtype, spec.shape) if length else None
        return stored_tensor(name, spec, region_of(path, begin), self._location, key=key)

    def check_overlaps(self) -> None:
        """Refuse tensors that share a part of their bytes; a small file could claim to be huge.

        Raises:
            UnsafeCheckpointError: Some do, and are not at the very same place.

        Example:
            >>> ExternalFiles(str(tmp_path / "model.onnx")).check_overlaps()
        """
        for regions in self._regions.values():
            last = _Region(0, 0, "")
            for region in sorted(regions):
                if region.begin < last.end and region[:2] != last[:2]:
                    raise UnsafeCheckpointError(
                        f"tensors {last.tensor!r} and {region.tensor!r} overlap", self._location
                    )
                last = region

    def _path(self, name: str, relative: str) -> str:
        where = f"the bytes of tensor {name!r} are in {relative!r}"
        leaves = ".." in re.split(r"[/\\]", relative) or _DRIVE.match(relative)
        if not relative or "\0" in relative or leaves or relative.startswith(("/", "\\")):
            raise UnsafeCheckpointError(f"{where}, outside of its folder", self._location)
        path = os.path.realpath(os.path.join(self._folder, relative))
        if not any(os.path.commonpath((root, path)) == root for root in self._roots):
            raise UnsafeCheckpointError(
                f"{where}, a link to what is outside of its folder", self._location
            )
        if not os.path.isfile(path):
            raise ConversionError(f"{where}, and there is no such file", self._location)
        return path
