"""Replacing the checkpoint in a folder at a URL."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from safetensors_core.errors import CheckpointError
from safetensors_core.remote_writing import RemoteFile, connect, naming
from safetensors_core.shards.index import ShardIndex, parse_index
from safetensors_core.shards.location import join

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["RemoteFolder"]


class RemoteFolder:
    """The files of a new checkpoint at a URL, of which none is visible before all are sent.

    Then they become visible one by one, the index last. An object store cannot undo that.

    Args:
        url: URL of the folder.
        single: Name of the file where one is enough.
        index: Name of the index where one is not.
        storage_options: Settings of the file system.

    Raises:
        InvalidInputError: The URL cannot be written to.
        OSError: The storage refuses, with the URL.

    Example:
        >>> import fsspec
        >>> with RemoteFolder("memory://m", "a", "a.json", None) as target:
        ...     with target.new_file("a") as file:
        ...         file.write([memoryview(b"abc")])
        ...     target.replace("a")
        >>> fsspec.filesystem("memory").ls("/m", detail=False)
        ['/m/a']
    """

    def __init__(
        self, url: str, single: str, index: str, storage_options: Mapping[str, Any] | None
    ) -> None:
        self.url = url
        self._single = single
        self._index = index
        self._options = storage_options
        self._fs, self._path = connect(url, storage_options)
        self._files: dict[str, RemoteFile] = {}

    def __enter__(self) -> Self:
        with naming(self.url):
            self._old = self._old_index()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for file in self._files.values():
            file.discard()

    @contextlib.contextmanager
    def new_file(self, name: str) -> Iterator[RemoteFile]:
        """Send a file, which becomes visible later.

        Args:
            name: Its name.

        Yields:
            What to hand its bytes to.

        Raises:
            OSError: The storage refuses.

        Example:
            >>> import fsspec
            >>> with RemoteFolder("memory://m", "a", "a.json", None) as target:
            ...     with target.new_file("a") as file:
            ...         file.reserve(10)
        """
        file = RemoteFile(join(self.url, name), self._options)
        self._files[name] = file
        try:
            file.open()
        except FileNotFoundError:
            # Only where there are folders: in an object store, this would make a bucket.
            with naming(self.url):
                self._fs.makedirs(self._path, exist_ok=True)
            file.open()
        yield file
        file.finish()

    def replace(self, last: str) -> None:
        """Let the files become visible, and remove those of the old checkpoint.

        Args:
            last: The file that comes last, and makes the checkpoint the new one.

        Raises:
            OSError: The storage refuses. Some files may be visible already.

        Example:
            >>> import fsspec
            >>> with RemoteFolder("memory://m", "a", "a.json", None) as target:
            ...     with target.new_file("a") as file:
            ...         file.write([memoryview(b"abc")])
            ...     target.replace("a")
            >>> fsspec.filesystem("memory").ls("/m", detail=False)
            ['/m/a']
        """
        for name, file in self._files.items():
            if name != last:
                file.commit()
        self._files[last].commit()
        files = [self._index, self._single]  # a stale index first: it would name missing files
        files += sorted(set(self._old.weight_map.values())) if self._old is not None else []
        for name in files:
            ours = name.endswith(".safetensors") or name == self._index
            if ours and "/" not in name and name not in self._files:
                with naming(join(self.url, name)), contextlib.suppress(FileNotFoundError):
                    if self._fs.isfile(self._at(name)):
                        self._fs.rm_file(self._at(name))

    def _at(self, name: str) -> str:
        return f"{self._path.rstrip('/')}/{name}"

    def _old_index(self) -> ShardIndex | None:
        """What the index at the URL says; None if there is none, or none that is valid."""
        self._fs.invalidate_cache(self._path)
        try:
            data = self._fs.cat_file(self._at(self._index))
            return parse_index(data, self._at(self._index))
        except (FileNotFoundError, CheckpointError):
            return None
