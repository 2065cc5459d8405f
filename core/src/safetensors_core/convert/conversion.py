"""`convert_file`: a foreign checkpoint becomes a safetensors one."""

from __future__ import annotations

import glob
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from safetensors_core.checkpoint.local_folder import LocalFolder
from safetensors_core.convert.changes import Changes, parse_rename
from safetensors_core.convert.copying import OpenFiles, check_copy
from safetensors_core.convert.finding import SourceFiles, find_source
from safetensors_core.convert.layouts import read_table
from safetensors_core.convert.place import check_places, join_place, names_file, place_of
from safetensors_core.convert.plan import ConversionPlan, PlannedTensor, plan_conversion
from safetensors_core.convert.staging import ENDING, Staging
from safetensors_core.dtypes import Dtype
from safetensors_core.errors import (
    ConversionError,
    HeaderError,
    InvalidInputError,
)
from safetensors_core.float_dtypes import parse_dtype
from safetensors_core.reader import read_header
from safetensors_core.shards.index import ShardIndex, encode_index
from safetensors_core.sizes import parse_size
from safetensors_core.writer import save_stream

__all__ = ["Conversion", "ConvertedFile", "convert_file"]


class ConvertedFile(NamedTuple):
    """A file of the result.

    Attributes:
        path: Where it is, or would be.
        tensors: Its tensors.
        resumed: Whether an earlier conversion that was interrupted has written it.

    Example:
        >>> ConvertedFile("model.safetensors", []).nbytes
        0
    """

    path: str
    tensors: list[PlannedTensor]
    resumed: bool = False

    @property
    def nbytes(self) -> int:
        """Size of its tensors in bytes.

        Example:
            >>> ConvertedFile("model.safetensors", []).nbytes
            0
        """
        return sum(tensor.spec.nbytes for tensor in self.tensors)


class Conversion(NamedTuple):
    """What `convert_file` has written, or would write.

    Attributes:
        files: The files.
        index_location: Path of the index; None where one file is enough.
        metadata: Texts in the header of every file.
        aliases: Names that are not written, with that of the very same tensor that is; the
            header of its file says so, as `save_model` of the PyTorch plugin notes it.
        left_out: What was not converted, with the reason.
        verified: Whether every file was read back and compared.

    Example:
        >>> Conversion([], None, {}, {}, {}, verified=False).nbytes
        0
    """

    files: list[ConvertedFile]
    index_location: str | None
    metadata: dict[str, str]
    aliases: dict[str, str]
    left_out: dict[str, str]
    verified: bool

    @property
    def tensors(self) -> int:
        """Number of tensors.

        Example:
            >>> Conversion([], None, {}, {}, {}, verified=False).tensors
            0
        """
        return sum(len(file.tensors) for file in self.files)

    @property
    def nbytes(self) -> int:
        """Size of all tensors in bytes.

        Example:
            >>> Conversion([], None, {}, {}, {}, verified=False).nbytes
            0
        """
        return sum(file.nbytes for file in self.files)


def convert_file(
    source: str | os.PathLike[str],
    dest: str | os.PathLike[str] | None = None,
    *,
    shard_size: int | str | None = None,
    dtype: Dtype | str | None = None,
    rename: Mapping[str, str] | Sequence[tuple[str, str]] = (),
    keep: str | Iterable[str] = (),
    drop: str | Iterable[str] = (),
    optimizer: bool = False,
    source_layout: str | None = None,
    target_layout: str | None = None,
    layout_rules: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    verify: bool = True,
    dry_run: bool = False,
    fsync: bool = True,
    progress: Callable[[int, int], object] | None = None,
    on_file: Callable[[ConvertedFile], object] | None = None,
) -> Conversion:
    """Convert a foreign checkpoint, or a safetensors one of another layout, to safetensors.

    The plugin of the format's framework reads the file without running code from it. Memory stays
    at one tensor; where its format gives no less, at the files of the source that a file of the
    result is made of. The result appears whole or not at all. An interrupted conversion goes on
    where it was when it is called again.

    Args:
        source: A file, an index such as ``pytorch_model.bin.index.json``, or a folder.
        dest: Path of a file if it ends with ``.safetensors``, else of a folder, made if missing.
            With `shard_size`, the names of all files begin like that of the file. None for the
            folder of the source, under its name; ``pytorch_model.bin`` becomes
            ``model.safetensors``.
        shard_size: Most bytes of tensors in a file, such as ``"5GB"``. None for a file for each
            of the source, or for one where `dest` is a file.
        dtype: What floating-point tensors become, such as ``"bf16"``; None for what they are.
        rename: Regular expressions, and what takes the place of their matches in names. Each
            must match.
        keep: Patterns of names to convert, such as ``"model.*"``; none for all.
        drop: Patterns of names to leave out.
        optimizer: Whether to keep the state of an optimizer.
        source_layout: Layout of the source: ``"torch"``, ``"flax"``, ``"tensorflow"``; None for
            what its format says.
        target_layout: Layout of the result; None for that of the source.
        layout_rules: A file of layout rules that come before those of the package.
        overwrite: Whether to replace a checkpoint that is there already.
        verify: Whether to read every file back and compare it bit by bit.
        dry_run: Whether to write nothing and only say what would be written.
        fsync: Whether to wait until the files are on disk.
        progress: Called with the bytes that are done, and with those of all work: of a
            conversion that is verified, each tensor counts twice.
        on_file: Called with each file that is written and verified.

    Returns:
        What was written.

    Raises:
        UnsafeCheckpointError: Reading the source would do harm; nothing of it was run or written.
        ConversionError: It is damaged, or no installed plugin reads it.
        UnsupportedDtypeError: A tensor has a dtype that the format lacks, or the framework lacks
            `dtype`.
        InvalidInputError: An option cannot be used with this source.
        CheckpointError: An index and its files do not fit together.
        FileExistsError: A checkpoint is there already, and `overwrite` is not set.
        OSError: A file cannot be read or written.

    Example:
        >>> converted = convert_file(model_path, tmp_path / "copy", drop="bias")
        >>> [os.path.basename(file.path) for file in converted.files]
        ['model.safetensors']
        >>> converted.nbytes
        24
    """
    if target_layout is None and (source_layout is not None or layout_rules is not None):
        raise InvalidInputError("source_layout and layout_rules need a target_layout")
    pairs = rename.items() if isinstance(rename, Mapping) else rename
    changes = Changes(
        dtype=None if dtype is None else parse_dtype(dtype),
        rename=tuple(parse_rename(*pair) for pair in pairs),
        keep=_patterns(keep),
        drop=_patterns(drop),
        optimizer=optimizer,
        source_layout=source_layout,
        target_layout=target_layout,
        table=read_table(layout_rules) if target_layout is not None else None,
    )
    limit = None if shard_size is None else parse_size(shard_size)
    files = find_source(source)
    folder, pattern = place_of(dest, files)
    if limit is None and dest is not None and names_file(dest):
        limit = sys.maxsize  # all of it goes into that file
    stamps = _stamps(files)
    plan = plan_conversion(files, changes, pattern, limit)

    def check() -> None:
        check_places(files, folder, plan, overwrite=overwrite)
        if _stamps(files) != stamps:
            raise ConversionError("it changed while it was converted", files.location)

    resumed: set[str] = set()
    if dry_run:
        check()
    else:
        _remove_orphans(folder, plan)
        check()
        how = {"stamps": stamps, "shard_size": limit, "verify": verify, "fsync": fsync}
        identity = _identity(files, changes, how)
        job = _Job(plan, folder, changes, verify=verify, fsync=fsync, progress=progress)
        resumed = job.run(identity, on_file, check)
    index = join_place(folder, plan.pattern.index) if len(plan.files) > 1 else None
    done = [
        ConvertedFile(join_place(folder, name), tensors, name in resumed)
        for name, tensors in plan.files.items()
    ]
    verified = verify and not dry_run
    return Conversion(done, index, plan.metadata, plan.aliases, plan.left_out, verified)


class _Job:
    """A plan that is carried out."""

    def __init__(
        self,
        plan: ConversionPlan,
        folder: str,
        changes: Changes,
        *,
        verify: bool,
        fsync: bool,
        progress: Callable[[int, int], object] | None,
    ) -> None:
        self._plan = plan
        self._folder = folder
        self._changes = changes
        self._verify = verify
        self._fsync = fsync
        self._progress = progress
        self._done = 0
        self._total = plan.nbytes * (2 if verify else 1)

    def run(
        self,
        identity: str,
        on_file: Callable[[ConvertedFile], object] | None,
        check: Callable[[], object],
    ) -> set[str]:
        """Write all files; gives the names of those that were there from before."""
        single, resumed = self._plan.pattern.single, set()
        with (
            Staging(self._folder, single, identity) as staging,
            OpenFiles(optimizer=self._changes.optimizer) as sources,
        ):
            for name, tensors in self._plan.files.items():
                if self._is_finished(staging, name):
                    resumed.add(name)
                    self._advance(self._plan.file_nbytes(name) * (2 if self._verify else 1))
                else:
                    sources.only({tensor.path for tensor in tensors})
                    self._write(staging, name, sources)
                if on_file is not None:
                    path = join_place(self._folder, name)
                    on_file(ConvertedFile(path, tensors, name in resumed))
            sources.only([])
            check()  # hours may have passed
            self._publish(staging)
        return resumed

    def _is_finished(self, staging: Staging, name: str) -> bool:
        if not staging.holds(name):
            return False
        try:
            header = read_header(staging.path(name))
        except HeaderError:
            return False  # the disk lost a part of it
        written = {key: (info.dtype, info.shape) for key, info in header.tensors.items()}
        planned = {t.name: (t.spec.dtype, t.spec.shape) for t in self._plan.files[name]}
        return written == planned

    def _write(self, staging: Staging, name: str, sources: OpenFiles) -> None:
        tensors, part = self._plan.files[name], staging.part(name)
        entries = sources.entries(tensors, self._advance)
        metadata = self._plan.file_metadata(name) or None
        try:
            save_stream(entries, part, metadata, fsync=self._fsync)
        except OSError as error:
            if error.filename == part:  # where it is written is nobody's business
                error.filename = join_place(self._folder, name)
            raise
        if self._verify:
            check_copy(part, tensors, sources, self._advance)
        staging.finish(name)

    def _publish(self, staging: Staging) -> None:
        plan = self._plan
        names = list(plan.files)
        last = names[-1]
        with LocalFolder(
            self._folder, plan.pattern.single, plan.pattern.index, fsync=self._fsync
        ) as target:
            for name in names:
                target.adopt(name, staging.path(name))
            if len(names) > 1:
                weight_map = {t.name: name for name in names for t in plan.files[name]}
                index = ShardIndex(weight_map, {**plan.metadata, "total_size": plan.nbytes})
                last = plan.pattern.index
                with target.new_file(last) as output, output.naming():
                    output.write([memoryview(encode_index(index))])
            target.replace(last)
        staging.publish()

    def _advance(self, nbytes: int) -> None:
        self._done += nbytes
        if self._progress is not None:
            self._progress(self._done, self._total)


def _patterns(patterns: Any) -> tuple[str, ...]:
    if isinstance(patterns, str):
        return (patterns,)
    if isinstance(patterns, Iterable):
        given = tuple(patterns)
        if all(isinstance(pattern, str) for pattern in given):
            return given
    raise InvalidInputError(f"keep and drop are patterns of names, not {patterns!r}")


def _remove_orphans(folder: str, plan: ConversionPlan) -> None:
    """Remove files that a kill has left under their names before the last one had its own."""
    single = plan.pattern.single
    if os.path.isdir(Staging(folder, single, "").folder):
        with LocalFolder(folder, single, plan.pattern.index, fsync=False):
            pass  # to enter is enough


def _identity(source: SourceFiles, changes: Changes, how: Mapping[str, Any]) -> str:
    """A text that changes with all that the result depends on."""
    table = changes.table
    document: dict[str, Any] = {
        **how,
        "metadata": source.metadata,
        **changes._replace(table=None, rename=())._asdict(),
        "rename": [(expression.pattern, to) for expression, to in changes.rename],
        "rules": None if table is None else table.digest,
    }
    return json.dumps(document, sort_keys=True)


def _stamps(source: SourceFiles) -> list[Any]:
    """What tells a version of the files from another one."""
    held = sorted(name for path in source.files for name in _held(path))
    stamps = [(name, os.stat(name)) for name in held]
    return [[os.path.realpath(name), s.st_size, s.st_mtime_ns] for name, s in stamps]


def _held(path: str) -> Iterator[str]:
    """The files that a path of a source stands for."""
    if not os.path.isdir(path):
        # A checkpoint of TensorFlow is named by how its files begin.
        yield from [path] if os.path.exists(path) else glob.glob(f"{glob.escape(path)}.*")
        return
    for root, folders, names in os.walk(path):
        # The result may go into the folder of the source.
        folders[:] = [name for name in folders if not name.endswith(ENDING)]
        yield from (os.path.join(root, name) for name in names)
