"""Which tensor goes into which file of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from safetensors_core.errors import InvalidInputError
from safetensors_core.shards.index import ShardIndex, leaves_folder
from safetensors_core.sizes import parse_size
from safetensors_core.sources.local import check_path

__all__ = ["FilePattern", "ShardPlan", "plan_shards"]

_SUFFIX = "{suffix}"
_ENDING = ".safetensors"


class FilePattern:
    """How the files of a checkpoint are called.

    Args:
        pattern: A file name that contains ``{suffix}`` once and ends with ``.safetensors``.

    Raises:
        InvalidInputError: It is no such name.

    Example:
        >>> pattern = FilePattern("model{suffix}.safetensors")
        >>> pattern.single, pattern.shard(1, 2)
        ('model.safetensors', 'model-00001-of-00002.safetensors')
        >>> pattern.index
        'model.safetensors.index.json'
    """

    def __init__(self, pattern: str) -> None:
        self._pattern = _checked_pattern(pattern)

    @property
    def single(self) -> str:
        """Name of the file where one is enough.

        Example:
            >>> FilePattern("adapter{suffix}.safetensors").single
            'adapter.safetensors'
        """
        return self._pattern.replace(_SUFFIX, "")

    @property
    def index(self) -> str:
        """Name of the index where one file is not enough.

        Example:
            >>> FilePattern("adapter{suffix}.safetensors").index
            'adapter.safetensors.index.json'
        """
        return f"{self.single}.index.json"

    def shard(self, number: int, count: int) -> str:
        """Name of one of several files.

        Args:
            number: Which, from 1 on.
            count: How many there are.

        Returns:
            The name, with both numbers in five digits.

        Example:
            >>> FilePattern("{suffix}m.safetensors").shard(7, 12)
            '-00007-of-00012m.safetensors'
        """
        return self._pattern.replace(_SUFFIX, f"-{number:05d}-of-{count:05d}")


def _checked_pattern(pattern: Any) -> str:
    if not isinstance(pattern, str) or pattern.count(_SUFFIX) != 1:
        raise InvalidInputError(
            f"expected a file name that contains {_SUFFIX!r} once, got {pattern!r}"
        )
    check_path(pattern)
    if "/" in pattern or leaves_folder(pattern) or not pattern.endswith(_ENDING):
        raise InvalidInputError(
            f"expected a file name that ends with '.safetensors', without a folder, got {pattern!r}"
        )
    return pattern


class ShardPlan(NamedTuple):
    """Which tensor goes into which file.

    Attributes:
        pattern: How the files are called.
        files: Names of the tensors by name of the file; files in their order, and in each the
            tensors in the order in which they were given.
        total_size: Bytes of all tensors.

    Example:
        >>> plan = plan_shards({"a": 3, "b": 4, "c": 5}, "8B")
        >>> plan.is_sharded, plan.make_index().metadata
        (True, {'total_size': 12})
    """

    pattern: FilePattern
    files: dict[str, list[str]]
    total_size: int

    @property
    def is_sharded(self) -> bool:
        """Whether there are several files, which need an index.

        Example:
            >>> plan_shards({"a": 3}, 3).is_sharded
            False
        """
        return len(self.files) > 1

    def make_index(self, metadata: Mapping[str, str] | None = None) -> ShardIndex:
        """The index of the files.

        Args:
            metadata: What it shall say besides the size of all tensors.

        Returns:
            The index; for a single file, what its index would say.

        Example:
            >>> plan_shards({"a": 3}, 3).make_index({"by": "me"}).weight_map
            {'a': 'model.safetensors'}
        """
        weight_map = {name: file for file, names in self.files.items() for name in names}
        return ShardIndex(weight_map, {**(metadata or {}), "total_size": self.total_size})


def plan_shards(
    sizes: Mapping[str, int],
    max_shard_size: int | str = "5GB",
    filename_pattern: str = "model{suffix}.safetensors",
) -> ShardPlan:
    """Distribute tensors over files as the Hugging Face libraries do.

    Tensors are taken in the order in which they are given, and a file ends where the next one
    would make it too large. A tensor larger than the limit gets a file of its own, which comes
    before the one that is being filled.

    Args:
        sizes: Bytes of each tensor by name.
        max_shard_size: Most bytes of tensors per file: a number, or a text such as ``"5GB"``.
        filename_pattern: How the files are called; ``{suffix}`` stands for the number of a shard.

    Returns:
        The files; one, without a number, where that is enough.

    Raises:
        InvalidInputError: The size or the pattern cannot be used.

    Example:
        >>> list(plan_shards({"a": 2, "b": 9, "c": 2}, max_shard_size=4).files.values())
        [['b'], ['a', 'c']]
    """
    pattern = FilePattern(filename_pattern)
    limit = parse_size(max_shard_size)
    shards: list[list[str]] = []
    shard: list[str] = []
    room = limit
    for name, nbytes in sizes.items():
        if nbytes > limit:
            shards.append([name])
            continue
        if nbytes > room:
            shards.append(shard)
            shard, room = [], limit
        shard.append(name)
        room -= nbytes
    if shard or not shards:
        shards.append(shard)
    if len(shards) == 1:
        files = {pattern.single: shards[0]}
    else:
        files = {pattern.shard(i, len(shards)): names for i, names in enumerate(shards, 1)}
    return ShardPlan(pattern, files, sum(sizes.values()))
