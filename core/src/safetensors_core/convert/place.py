"""Where the result of a conversion goes, and what must stay there."""

from __future__ import annotations

import errno
import os

from safetensors_core.convert.finding import SourceFiles
from safetensors_core.convert.plan import ConversionPlan
from safetensors_core.errors import CheckpointError, InvalidInputError
from safetensors_core.parts import stat_target
from safetensors_core.shards.index import parse_index
from safetensors_core.sources.local import check_path, is_url, without_scheme
from safetensors_core.sources.urls import shown

__all__ = ["check_places", "join_place", "names_file", "place_of"]

_ENDING = ".safetensors"


def place_of(dest: str | os.PathLike[str] | None, source: SourceFiles) -> tuple[str, str]:
    """Find where a result goes.

    Args:
        dest: What the user gave: a file, a folder, or None for the folder of the source.
        source: The source.

    Returns:
        The folder, and the pattern of the names of the files in it.

    Raises:
        InvalidInputError: It is a URL.

    Example:
        >>> from safetensors_core.convert.finding import find_source
        >>> place_of("out/m.safetensors", find_source(model_path))
        ('out', 'm{suffix}.safetensors')
    """
    if dest is None:
        folder, stem = source.folder, source.stem
    else:
        check_path(dest)
        folder, stem = os.fsdecode(without_scheme(dest)), "model"
        if not folder:
            raise InvalidInputError("the place of the result is empty; '.' is this folder")
        if is_url(folder):
            raise InvalidInputError(
                f"{shown(folder)}: conversions write local files; upload the result"
            )
        if names_file(folder):
            folder, name = os.path.split(folder)
            stem = name.removesuffix(_ENDING)
    return folder or os.curdir, f"{stem}{{suffix}}{_ENDING}"


def names_file(dest: str | os.PathLike[str]) -> bool:
    """Whether a place is that of a file, by its ending.

    Args:
        dest: What the user gave.

    Returns:
        False for a folder.

    Example:
        >>> names_file("out/m.safetensors"), names_file("out")
        (True, False)
    """
    return os.fsdecode(dest).endswith(_ENDING)


def join_place(folder: str, name: str) -> str:
    """The path of a file of the result, as people see it.

    Args:
        folder: The folder.
        name: Name of the file in it.

    Returns:
        The path.

    Example:
        >>> join_place(".", "model.safetensors")
        'model.safetensors'
    """
    return os.path.normpath(os.path.join(folder, name))


def check_places(
    source: SourceFiles, folder: str, plan: ConversionPlan, *, overwrite: bool
) -> None:
    """Refuse to replace or to remove what must stay.

    Args:
        source: What is read, and stays in any case.
        folder: The folder of the result.
        plan: What would be written there.
        overwrite: Whether a checkpoint that is there already may go.

    Raises:
        InvalidInputError: A file of the source would go, or what is no file has a name.
        FileExistsError: Another file would go, and `overwrite` is not set.
        OSError: A file is read-only, or a folder.

    Example:
        >>> from safetensors_core.convert.changes import Changes
        >>> from safetensors_core.convert.finding import find_source
        >>> source, pattern = find_source(model_path), "copy{suffix}.safetensors"
        >>> from safetensors_core.convert.plan import plan_conversion
        >>> plan = plan_conversion(source, Changes(), pattern, None)
        >>> check_places(source, str(tmp_path), plan, overwrite=False)
    """
    index = plan.pattern.index
    for name in (plan.pattern.single, index, *plan.files, *_indexed(join_place(folder, index))):
        path = join_place(folder, name)
        if not os.path.lexists(path):
            continue
        if any(os.path.exists(path) and os.path.samefile(path, read) for read in source.files):
            raise InvalidInputError(
                f"{path}: it is read, and is left as it is. Choose another place for the result"
            )
        stat_target(path, path)
        if not overwrite:
            raise FileExistsError(
                errno.EEXIST,
                "it is there already, and is left as it is; pass overwrite=True to replace it",
                path,
            )


def _indexed(path: str) -> list[str]:
    """Files that an index names which is there already: they go with it."""
    if not os.path.isfile(path):
        return []
    with open(path, "rb") as file:
        data = file.read()
    try:
        return list(parse_index(data, path).files)
    except CheckpointError:
        return []
