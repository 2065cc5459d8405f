"""`safetensors-core split` and `merge`: a checkpoint as several files, or as one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from safetensors_core.cli import output
from safetensors_core.cli.failure import ReportingCommand
from safetensors_core.cli.options import max_header_option, storage_option
from safetensors_core.cli.progress import progress_bar
from safetensors_core.cli.text import duration_text, inert, without_surrogates

if TYPE_CHECKING:
    from safetensors_core.checkpoint.splitting import CopiedCheckpoint

__all__ = ["merge", "split"]

_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
_OVERWRITE = click.option("--overwrite", is_flag=True, help="Replace what is there already.")


@click.command(cls=ReportingCommand)
@click.argument("location", metavar="SOURCE")
@click.argument("folder", type=click.Path())
@click.option(
    "--max-shard-size",
    metavar="SIZE",
    default="5GB",
    show_default=True,
    help="Most bytes of tensors in a file, such as 500MB or 2GiB.",
)
@click.option(
    "--filename-pattern",
    metavar="PATTERN",
    default="model{suffix}.safetensors",
    show_default=True,
    help="Names of the files; {suffix} becomes -00001-of-00002, or nothing for one file.",
)
@_OVERWRITE
@_JSON
@max_header_option
@storage_option
def split(
    location: str,
    folder: str,
    max_shard_size: str,
    filename_pattern: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Write SOURCE to FOLDER as several files and an index.

    SOURCE is a file, an index, a folder, or the URL of one. Its bytes are copied as they are, and
    no framework is needed. SOURCE stays as it is. FOLDER gets all files, or is left as it was.
    """
    from safetensors_core.checkpoint.splitting import split_checkpoint

    _report(
        location,
        folder,
        as_json,
        lambda progress: split_checkpoint(
            location, folder, max_shard_size, filename_pattern, progress=progress, **options
        ),
    )


@click.command(cls=ReportingCommand)
@click.argument("location", metavar="SOURCE")
@click.argument("target", metavar="FILE", type=click.Path())
@_OVERWRITE
@_JSON
@max_header_option
@storage_option
def merge(location: str, target: str, as_json: bool, **options: Any) -> None:
    """Write SOURCE to FILE, all tensors in one.

    SOURCE is a file, an index, a folder, or the URL of one. Its bytes are copied as they are, and
    no framework is needed. SOURCE stays as it is. FILE is written whole or not at all.
    """
    from safetensors_core.checkpoint.splitting import merge_checkpoint

    _report(
        location,
        target,
        as_json,
        lambda progress: merge_checkpoint(location, target, progress=progress, **options),
    )


def _report(
    location: str,
    target: str,
    as_json: bool,
    copy: Callable[[Callable[[int, int], None]], CopiedCheckpoint],
) -> None:
    """Copy a checkpoint and say what was written."""
    from safetensors_core.cli.scratch import unwinding_on_signals
    from safetensors_core.cli.warned import collected_warnings
    from safetensors_core.sizes import size_text
    from safetensors_core.sources.urls import shown

    start = time.perf_counter()
    with (
        unwinding_on_signals(),
        collected_warnings(as_json=as_json) as warned,
        progress_bar("copying", "B", wanted=not as_json) as progress,
    ):
        copied = copy(progress)
    seconds = time.perf_counter() - start
    location, target = shown(location), shown(target)
    if as_json:
        output.write_json(
            {
                "source": without_surrogates(location),
                "target": without_surrogates(target),
                "files": [without_surrogates(shown(file)) for file in copied.files],
                "index": copied.index_location and without_surrogates(shown(copied.index_location)),
                "tensors": copied.tensors,
                "nbytes": copied.nbytes,
                "seconds": seconds,
                "warnings": warned,
            }
        )
        return
    count = len(copied.files)
    output.write(
        f"{inert(target)}: {count:,} {'file' if count == 1 else 'files'}, "
        f"{copied.tensors:,} tensors, {size_text(copied.nbytes)} in {duration_text(seconds)}"
    )
