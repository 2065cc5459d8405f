"""Storage systems of the tests that write: S3 by moto, and file systems of fsspec."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from safetensors_core import Dtype, TensorSpec, save_stream

__all__ = ["BLOCK", "Disk", "Place", "stream"]

BLOCK = 5 << 20  # what S3 takes at least as one part


@dataclass
class Place:
    """A folder of a storage system, as a user and as fsspec know it."""

    url: str
    options: dict[str, Any]

    @property
    def filesystem(self) -> Any:
        filesystem, _ = fsspec.core.url_to_fs(self.url, **self.options)
        filesystem.invalidate_cache()
        return filesystem

    def names(self) -> list[str]:
        """What is visible in the folder."""
        try:
            return sorted(path.rpartition("/")[2] for path in self.filesystem.find(self.url))
        except FileNotFoundError:
            return []

    def read(self, name: str) -> bytes:
        data: bytes = self.filesystem.cat_file(f"{self.url}/{name}")
        return data

    def uploads(self) -> list[Any]:
        """Uploads to S3 that were begun and neither completed nor given up."""
        if not self.url.startswith("s3:"):
            return []
        found = self.filesystem.call_s3("list_multipart_uploads", Bucket="bucket")
        return list(found.get("Uploads", []))


class Disk(LocalFileSystem):  # type: ignore[misc]  # fsspec has no types
    """A file system with folders, whose files are seen while they are written."""

    protocol = "disk"

    @classmethod
    def _strip_protocol(cls, path: Any) -> str:
        stripped: str = super()._strip_protocol(str(path).removeprefix("disk://"))
        return stripped


def stream(url: str, size: int, chunks: Callable[[], Any], options: dict[str, Any]) -> None:
    entry = ("w", TensorSpec(Dtype.U8, (size,)), chunks)
    save_stream([entry], url, storage_options=options)
