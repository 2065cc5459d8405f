"""`convert_file`: a foreign checkpoint becomes a safetensors one."""

from __future__ import annotations

import errno
import glob
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from safetensors_core.checkpoint.local_folder import LocalFolder
from safetensors_core.convert.changes import Changes, parse_dtype, parse_rename
from safetensors_core.convert.copying import OpenFiles, check_copy
from safetensors_core.convert.finding import SourceFiles, find_source
from safetensors_core.convert.layouts import read_table
from safetensors_core.convert.plan import ConversionPlan, PlannedTensor, plan_conversion
from safetensors_core.convert.staging import Staging
from safetensors_core.dtypes import Dtype
from safetensors_core.errors import HeaderError, InvalidInputError
from safetensors_core.reader import read_header
from safetensors_core.shards.index import ShardIndex, encode_index
from safetensors_core.sizes import parse_size
from safetensors_core.sources.local import check_path, is_url, without_scheme
from safetensors_core.sources.urls import shown
from safetensors_core.writer import save_stream

__all__ = ["Conversion", "ConvertedFile", "convert_file"]

_ENDING = ".safetensors"


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
    at one tensor, or at one file of the source where its format gives no less. The result appears
    whole or not at all. An interrupted conversion goes on where it was when it is called again.

    Args:
        source: A file, an index such as ``pytorch_model.bin.index.json``, or a folder.
        dest: Path of a file if it ends with ``.safetensors``, else of a folder, made if missing.
            None for the folder of the source, under its name; ``pytorch_model.bin`` becomes
            ``model.safetensors``.
        shard_size: Most bytes of tensors in a file, such as ``"5GB"``. None for a file for each
            of the source.
        dtype: What floating-point tensors become, such as ``"bf16"``; None for what they are.
        rename: Regular expressions, and what takes the place of their matches in names.
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
    folder, pattern = _place(dest, files)
    plan = plan_conversion(files, changes, pattern, limit)
    _check_places(files, folder, plan, overwrite=overwrite)
    if not dry_run:
        identity = _identity(files, changes, limit, verify=verify)
        job = _Job(plan, folder, changes, verify=verify, fsync=fsync, progress=progress)
        resumed = job.run(identity, on_file)
    else:
        resumed = set()
    index = _join(folder, plan.pattern.index) if len(plan.files) > 1 else None
    done = [
        ConvertedFile(_join(folder, name), tensors, name in resumed)
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

    def run(self, identity: str, on_file: Callable[[ConvertedFile], object] | None) -> set[str]:
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
                    path = _join(self._folder, name)
                    on_file(ConvertedFile(path, tensors, name in resumed))
            sources.only([])
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
                error.filename = _join(self._folder, name)
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


def _patterns(patterns: str | Iterable[str]) -> tuple[str, ...]:
    return (patterns,) if isinstance(patterns, str) else tuple(patterns)


def _place(dest: str | os.PathLike[str] | None, source: SourceFiles) -> tuple[str, str]:
    """The folder of the result, and the pattern of the names of its files."""
    if dest is None:
        folder, stem = source.folder, source.stem
    else:
        check_path(dest)
        folder, stem = os.fsdecode(without_scheme(dest)), "model"
        if is_url(folder):
            raise InvalidInputError(
                f"{shown(folder)}: conversions write local files; upload the result"
            )
        if folder.endswith(_ENDING):
            folder, name = os.path.split(folder)
            stem = name.removesuffix(_ENDING)
    return folder or os.curdir, f"{stem}{{suffix}}{_ENDING}"


def _join(folder: str, name: str) -> str:
    return os.path.normpath(os.path.join(folder, name))


def _check_places(
    source: SourceFiles, folder: str, plan: ConversionPlan, *, overwrite: bool
) -> None:
    """Refuse to write where something is that must stay."""
    for name in (plan.pattern.single, plan.pattern.index, *plan.files):
        path = _join(folder, name)
        if not os.path.lexists(path):
            continue
        if any(os.path.exists(path) and os.path.samefile(path, read) for read in source.files):
            raise InvalidInputError(
                f"{path}: it is read, and is left as it is. Choose another place for the result"
            )
        if not overwrite:
            raise FileExistsError(
                errno.EEXIST,
                "it is there already, and is left as it is; pass overwrite=True to replace it",
                path,
            )


def _identity(
    source: SourceFiles, changes: Changes, shard_size: int | None, *, verify: bool
) -> str:
    """A text that changes with all that the result depends on."""
    table = changes.table
    document: dict[str, Any] = {
        "files": [_stamp(path) for path in source.files],
        "metadata": source.metadata,
        "shard_size": shard_size,
        "verify": verify,
        **changes._replace(table=None, rename=())._asdict(),
        "rename": [(expression.pattern, to) for expression, to in changes.rename],
        "rules": None if table is None else table.digest,
    }
    return json.dumps(document, sort_keys=True)


def _stamp(path: str) -> list[Any]:
    """What tells a version of a file, a folder or a group of files from another one."""
    if os.path.isdir(path):
        held = [os.path.join(root, name) for root, _, names in os.walk(path) for name in names]
    else:
        # A checkpoint of TensorFlow is named by how its files begin.
        held = [path] if os.path.exists(path) else glob.glob(f"{glob.escape(path)}.*")
    stamps = [(name, os.stat(name)) for name in sorted(held)]
    return [[os.path.realpath(name), s.st_size, s.st_mtime_ns] for name, s in stamps]
