"""What a conversion will write: which tensors, under which names, as what, in which files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from safetensors_core.checkpoint.shard_plan import FilePattern, plan_shards
from safetensors_core.convert.changes import Changes
from safetensors_core.convert.finding import SourceFiles, opened
from safetensors_core.convert.foreign import ForeignCheckpoint
from safetensors_core.convert.layouts import layout_of, translate
from safetensors_core.dtypes import Dtype
from safetensors_core.errors import (
    CheckpointError,
    CheckpointReason,
    InvalidInputError,
    UnsupportedDtypeError,
)
from safetensors_core.float_dtypes import FLOATS
from safetensors_core.framework import TensorSpec
from safetensors_core.layout import check_metadata, check_name
from safetensors_core.plugins import get_framework

__all__ = ["ConversionPlan", "PlannedTensor", "plan_conversion"]


class PlannedTensor(NamedTuple):
    """A tensor of the result.

    Attributes:
        name: Its name.
        spec: Its dtype and shape.
        source: Name in the source.
        path: The file that it comes from.
        stored: Its dtype and shape there.
        axes: The order of its dimensions, as `numpy.transpose` has it; None for that of the
            source.

    Example:
        >>> spec = TensorSpec(Dtype.F32, (3,))
        >>> PlannedTensor("b", spec, "b", "a.bin", spec).is_copied
        True
    """

    name: str
    spec: TensorSpec
    source: str
    path: str
    stored: TensorSpec
    axes: tuple[int, ...] | None = None

    @property
    def is_copied(self) -> bool:
        """Whether its bytes stay as they are.

        Example:
            >>> one, other = TensorSpec(Dtype.F32, (3,)), TensorSpec(Dtype.F16, (3,))
            >>> PlannedTensor("b", other, "b", "a.bin", one).is_copied
            False
        """
        return self.axes is None and self.spec.dtype is self.stored.dtype


class ConversionPlan(NamedTuple):
    """All that a conversion will write.

    Attributes:
        pattern: How the files are called.
        files: Tensors by name of the file.
        metadata: Texts for the header of every file.
        aliases: Names that are not written, with the name of the very same tensor that is.
        left_out: What is not converted, with the reason.

    Example:
        >>> ConversionPlan(FilePattern("m{suffix}.safetensors"), {}, {}, {}, {}).nbytes
        0
    """

    pattern: FilePattern
    files: dict[str, list[PlannedTensor]]
    metadata: dict[str, str]
    aliases: dict[str, str]
    left_out: dict[str, str]

    @property
    def tensors(self) -> list[PlannedTensor]:
        """The tensors of all files.

        Example:
            >>> ConversionPlan(FilePattern("m{suffix}.safetensors"), {}, {}, {}, {}).tensors
            []
        """
        return [tensor for tensors in self.files.values() for tensor in tensors]

    @property
    def nbytes(self) -> int:
        """Size of all tensors in bytes.

        Example:
            >>> ConversionPlan(FilePattern("m{suffix}.safetensors"), {}, {}, {}, {}).nbytes
            0
        """
        return sum(tensor.spec.nbytes for tensor in self.tensors)

    def file_nbytes(self, file: str) -> int:
        """Size of the tensors of a file in bytes.

        Example:
            >>> plan = ConversionPlan(FilePattern("m{suffix}.safetensors"), {"a": []}, {}, {}, {})
            >>> plan.file_nbytes("a")
            0
        """
        return sum(tensor.spec.nbytes for tensor in self.files[file])

    def file_metadata(self, file: str) -> dict[str, str]:
        """What the header of a file says: the metadata, and the names that its tensors stand for.

        Example:
            >>> plan = ConversionPlan(FilePattern("m{suffix}.safetensors"), {"a": []}, {}, {}, {})
            >>> plan.file_metadata("a")
            {}
        """
        held = {tensor.name for tensor in self.files[file]}
        aliases = {name: kept for name, kept in self.aliases.items() if kept in held}
        return {**self.metadata, **aliases}


def plan_conversion(
    source: SourceFiles,
    changes: Changes,
    filename_pattern: str,
    shard_size: int | None,
) -> ConversionPlan:
    """Look into all files of a source, and decide what is written. Reads no tensor.

    Args:
        source: The files.
        changes: What is done to the tensors.
        filename_pattern: How the files of the result are called, with ``{suffix}`` in it.
        shard_size: Most bytes of tensors in a file; None for a file for each of the source.

    Returns:
        The plan.

    Raises:
        InvalidInputError: A pattern matches nothing, two tensors get one name, or one that the
            format reserves, no layout rule fits, or nothing is left to convert.
        CheckpointError: The files lack tensors that their index names.
        UnsupportedDtypeError: The framework has no such dtype to convert to.
        ConversionError: A file is damaged, or no installed plugin reads it.
        UnsafeCheckpointError: Reading a file would do harm.
        OSError: A file cannot be read.

    Example:
        >>> from safetensors_core.convert.finding import find_source
        >>> source, pattern = find_source(model_path), "copy{suffix}.safetensors"
        >>> plan = plan_conversion(source, Changes(), pattern, None)
        >>> [tensor.name for tensor in plan.files["copy.safetensors"]]
        ['bias', 'weight']
    """
    gathered = _Gathered(source, changes)
    for path in source.files:
        with opened(path, optimizer=changes.optimizer) as checkpoint:
            gathered.add(path, checkpoint)
    gathered.check()
    tensors, format_name = _laid_out(gathered, changes)
    aliases: dict[str, str] = {}
    if changes.target_layout in (None, "torch"):  # loaders of the others know no such notes
        tensors, aliases = _without_repeats(tensors, gathered.keys)
    metadata = {**source.metadata, **gathered.metadata}
    if format_name:
        metadata["format"] = format_name
    files = _files(tensors, filename_pattern, shard_size)
    pattern = FilePattern(filename_pattern)
    plan = ConversionPlan(pattern, files, metadata, aliases, gathered.left_out)
    _check_headers(source.location, plan)
    return plan


class _Gathered:
    """What is in the files of a source, and shall be converted."""

    def __init__(self, source: SourceFiles, changes: Changes) -> None:
        self._location = source.location
        self._expected = source.names
        self._changes = changes
        self._seen: set[str] = set()
        self._matched: set[re.Pattern[str]] = set()
        self.tensors: list[PlannedTensor] = []
        self.keys: dict[tuple[str, str], object] = {}  # by file and name in the source
        self.formats: set[str] = set()
        self.metadata: dict[str, str] = {}
        self.left_out: dict[str, str] = {}

    def add(self, path: str, checkpoint: ForeignCheckpoint) -> None:
        changes = self._changes
        self.formats.add(checkpoint.format)
        for key, value in checkpoint.metadata.items():
            self.metadata.setdefault(key, value)
        self.left_out.update(checkpoint.left_out)
        self._seen.update(checkpoint.tensors, checkpoint.refused)
        for name, error in checkpoint.refused.items():
            if changes.keeps(name):
                raise error
        for name, stored in checkpoint.tensors.items():
            if not changes.keeps(name):
                continue
            spec = stored.spec
            if changes.dtype is not None and spec.dtype in FLOATS and spec.dtype != changes.dtype:
                _check_castable(checkpoint.framework, changes.dtype, path)
                spec = TensorSpec(changes.dtype, spec.shape)
            renamed = changes.renamed(name, self._matched)
            self.tensors.append(PlannedTensor(renamed, spec, name, path, stored.spec))
            if stored.key is not None:
                self.keys[path, name] = stored.key

    def check(self) -> None:
        self._check_complete()
        for pattern in (*self._changes.keep, *self._changes.drop):
            if not any(fnmatchcase(name, pattern) for name in self._seen):
                raise InvalidInputError(
                    f"{self._location}: no tensor is called like {pattern!r}; it holds "
                    f"{_listed(sorted(self._seen))}"
                )
        if not self.tensors:
            reasons = sorted(set(self.left_out.values()))
            left_out = f"; what is left out: {_listed(reasons)}" if reasons else ""
            if self._seen:
                left_out = f"; keep and drop leave none of {len(self._seen):,}"
            raise InvalidInputError(f"{self._location}: there are no tensors to convert{left_out}")
        for expression, _ in self._changes.rename:
            if expression not in self._matched:
                raise InvalidInputError(
                    f"{self._location}: no name that is to be changed matches "
                    f"{expression.pattern!r}; there are "
                    f"{_listed(sorted(tensor.source for tensor in self.tensors))}"
                )
        _check_unique(self._location, self.tensors)

    def _check_complete(self) -> None:
        """Refuse files that lack tensors which their index names."""
        # Indexes of Flax separate the parts of names by another character.
        held = {name.replace("/", ".") for name in (*self._seen, *self.left_out)}
        missing = [name for name in self._expected if name.replace("/", ".") not in held]
        # An index of wholly other names is of a format whose files hold them in another form.
        if missing and len(missing) < len(self._expected):
            detail = "the index names tensors that its files do not hold"
            raise CheckpointError(CheckpointReason.MISSING_TENSOR, detail, self._location, missing)


def _check_headers(location: str, plan: ConversionPlan) -> None:
    """Refuse now what a header or the index could not hold when it is written."""
    try:
        for tensor in plan.tensors:
            check_name(tensor.name)
        check_metadata({**plan.metadata, **plan.aliases})
    except InvalidInputError as error:
        raise InvalidInputError(f"{location}: {error}") from None
    try:
        plan.pattern.single.encode()
    except UnicodeEncodeError:
        if len(plan.files) > 1:
            raise InvalidInputError(
                f"{location}: an index cannot name files like {plan.pattern.single!a}, which is "
                "no UTF-8. Choose another name for the result"
            ) from None


def _check_castable(framework: str, dtype: Dtype, path: str) -> None:
    if dtype not in get_framework(framework).dtypes:
        error = UnsupportedDtypeError(dtype, framework)
        error.location = path
        raise error


def _check_unique(location: str, tensors: Sequence[PlannedTensor]) -> None:
    counts = Counter(tensor.name for tensor in tensors)
    for name, count in counts.items():
        if count > 1:
            sources = [tensor.source for tensor in tensors if tensor.name == name]
            raise InvalidInputError(
                f"{location}: {count} tensors would be called {name!r}: {_listed(sources)}"
            )


def _laid_out(gathered: _Gathered, changes: Changes) -> tuple[list[PlannedTensor], str]:
    """The tensors in the layout that is wanted, and what metadata calls its framework."""
    location, tensors = gathered._location, gathered.tensors
    format_name = next(iter(gathered.formats)) if len(gathered.formats) == 1 else ""
    target = changes.target_layout
    if target is None:
        return tensors, format_name
    source = changes.source_layout or layout_of(format_name)
    if source is None:
        raise InvalidInputError(
            f"{location}: its format ({format_name or 'unknown'}) does not say which layout it "
            "has; say so, with source_layout or --from"
        )
    assert changes.table is not None
    specs = {tensor.name: tensor.spec for tensor in tensors}
    try:
        moves = translate(specs, source, target, changes.table)
    except InvalidInputError as error:
        raise InvalidInputError(f"{location}: {error}") from None
    moved = []
    for tensor in tensors:
        name, axes = moves[tensor.name]
        shape = tensor.spec.shape
        if axes is not None:
            shape = tuple(shape[axis] for axis in axes)
        spec = TensorSpec(tensor.spec.dtype, shape)
        moved.append(tensor._replace(name=name, spec=spec, axes=axes))
    _check_unique(location, moved)
    return moved, _FORMATS.get(target, target)


_FORMATS = {"torch": "pt", "tensorflow": "tf"}


def _without_repeats(
    tensors: Iterable[PlannedTensor], keys: Mapping[tuple[str, str], object]
) -> tuple[list[PlannedTensor], dict[str, str]]:
    """One of each group of names for the very same tensor, and which name stands for the others."""
    groups: dict[Any, list[str]] = {}
    tensors = list(tensors)
    for tensor in tensors:
        key = keys.get((tensor.path, tensor.source), (tensor.source,))
        # In another layout they may have become two.
        groups.setdefault((tensor.path, key, tensor.axes), []).append(tensor.name)
    aliases = {}
    for names in groups.values():
        kept = min(names)  # as `save_model` of the PyTorch plugin and of the reference keep it
        aliases.update({name: kept for name in names if name != kept})
    return [tensor for tensor in tensors if tensor.name not in aliases], aliases


def _files(
    tensors: Sequence[PlannedTensor], filename_pattern: str, shard_size: int | None
) -> dict[str, list[PlannedTensor]]:
    if shard_size is not None:
        by_name = {tensor.name: tensor for tensor in tensors}
        sizes = {name: tensor.spec.nbytes for name, tensor in by_name.items()}
        files = plan_shards(sizes, shard_size, filename_pattern).files
        return {file: [by_name[name] for name in names] for file, names in files.items()}
    by_path: dict[str, list[PlannedTensor]] = {}
    for tensor in tensors:
        by_path.setdefault(tensor.path, []).append(tensor)
    pattern, held = FilePattern(filename_pattern), list(by_path.values())
    if len(held) == 1:
        return {pattern.single: held[0]}
    return {pattern.shard(i, len(held)): tensors for i, tensors in enumerate(held, 1)}


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(map(repr, names[:10])) + more
