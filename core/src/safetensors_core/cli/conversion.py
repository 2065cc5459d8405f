"""`safetensors-core convert`: foreign checkpoints, and safetensors ones of another layout."""

from __future__ import annotations

import os
import re
import time
from typing import TYPE_CHECKING, Any

import click

from safetensors_core.cli import output
from safetensors_core.cli.failure import Failure, ReportingCommand
from safetensors_core.cli.output import Column
from safetensors_core.cli.progress import progress_bar
from safetensors_core.cli.text import duration_text, inert, without_surrogates
from safetensors_core.sizes import size_text

if TYPE_CHECKING:
    from safetensors_core.convert.conversion import Conversion, ConvertedFile
    from safetensors_core.convert.plan import PlannedTensor
    from safetensors_core.errors import UnsupportedDtypeError as DtypeError

__all__ = ["convert"]

_MAX_LEFT_OUT = 10  # names that people are shown
_SHARD = re.compile(r"-\d{5}-of-\d{5}(?=\.safetensors$)")


def _pairs(
    _context: click.Context, _parameter: click.Parameter, given: tuple[str, ...]
) -> list[tuple[str, str]]:
    pairs = []
    for text in given:
        # Expressions such as (?=...) hold the character; what takes the place of names does not.
        expression, equals, replacement = text.rpartition("=")
        if not equals:
            raise click.BadParameter(f"expected REGEX=REPLACEMENT, got {text!r}")
        pairs.append((expression, replacement))
    return pairs


@click.command(cls=ReportingCommand)
@click.argument("location", metavar="SOURCE")
@click.argument("dest", required=False, type=click.Path())
@click.option(
    "--shard-size",
    metavar="SIZE",
    help="Most bytes of tensors in a file, such as 500MB or 2GiB. Without it, there is a file for "
    "each of SOURCE, or one where DEST is a file.",
)
@click.option(
    "--dtype", metavar="DTYPE", help="What floating-point tensors become, such as bf16 or float16."
)
@click.option(
    "--rename",
    multiple=True,
    callback=_pairs,
    metavar="REGEX=REPLACEMENT",
    help="Replace what a regular expression matches in names; may be given often. The last = is "
    "where REPLACEMENT begins; \\1 in it is the first group.",
)
@click.option(
    "--keep",
    multiple=True,
    metavar="PATTERN",
    help="Convert only names of SOURCE such as model.*; may be given often.",
)
@click.option(
    "--drop",
    multiple=True,
    metavar="PATTERN",
    help="Leave out names of SOURCE such as head.*; may be given often.",
)
@click.option("--optimizer", is_flag=True, help="Convert the state of an optimizer, too.")
@click.option(
    "--from",
    "source_layout",
    metavar="LAYOUT",
    help="Layout of SOURCE if its format does not say it: torch, flax or tensorflow.",
)
@click.option(
    "--to",
    "target_layout",
    metavar="LAYOUT",
    help="Give weights the names and axes of another layout: torch, flax or tensorflow.",
)
@click.option(
    "--layout-rules",
    type=click.Path(),
    metavar="FILE",
    help="Rules for --to that come before the built-in ones.",
)
@click.option("--overwrite", is_flag=True, help="Replace what is there already.")
@click.option("--dry-run", is_flag=True, help="Show what would be written, and write nothing.")
@click.option(
    "--verify/--no-verify",
    default=True,
    show_default=True,
    help="Read every file back and compare it with SOURCE, bit by bit.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON objects, one a line.")
def convert(location: str, dest: str | None, as_json: bool, **options: Any) -> None:
    """Convert SOURCE to safetensors, without running code from it.

    SOURCE is a file, an index or a folder of any format that an installed plugin reads, or of
    safetensors. It stays as it is. DEST is a file if it ends with .safetensors, else a folder; by
    default the folder of SOURCE. It gets all files, or is left as it was. A conversion that was
    interrupted goes on where it was when the same command is run again.
    """
    if options["target_layout"] is None and (options["source_layout"] or options["layout_rules"]):
        raise click.UsageError("--from and --layout-rules say how to do what --to asks for")
    from safetensors_core.cli.scratch import unwinding_on_signals
    from safetensors_core.cli.warned import collected_warnings
    from safetensors_core.convert.conversion import convert_file
    from safetensors_core.errors import UnsupportedDtypeError

    finished: list[ConvertedFile] = []

    def note(file: ConvertedFile) -> None:
        finished.append(file)
        if as_json:
            output.write_json(_file_event(file))

    start = time.perf_counter()
    try:
        with (
            unwinding_on_signals(),
            collected_warnings(as_json=as_json) as warned,
            progress_bar("converting", "B", wanted=not as_json) as progress,
        ):
            converted = convert_file(location, dest, progress=progress, on_file=note, **options)
    except UnsupportedDtypeError as error:
        if not error.remedy:
            error.remedy = _remedy_of_dtype(error)
        raise
    except SystemExit:  # SIGTERM or SIGHUP
        Failure.of(KeyboardInterrupt(), location, _prospect(finished)).report(as_json=as_json)
        raise
    except (KeyboardInterrupt, OSError, MemoryError) as error:
        raise Failure.of(error, location, _prospect(finished)) from error
    seconds = time.perf_counter() - start
    target = _target(dest, converted)
    dry_run: bool = options["dry_run"]
    if dry_run and as_json:
        _write_tensors(converted)
    elif dry_run:
        _write_table(converted)
    if as_json:
        done = {"dry_run": dry_run, "seconds": seconds, "warnings": warned}
        output.write_json({**_document(location, target, converted), **done})
        return
    for line in _remarks(converted):
        output.write(line)
    verified = "verified" if converted.verified else "not verified"
    result = "; nothing was written" if dry_run else f" in {duration_text(seconds)}, {verified}"
    output.write(f"{inert(target)}: {_sums(converted)}{result}")


def _remedy_of_dtype(error: DtypeError) -> str:
    if error.tensor is None:
        return "Try another --dtype"
    return "Give it another dtype in its framework first"


def _prospect(finished: list[ConvertedFile]) -> str | None:
    """What to do once a conversion was interrupted that has left finished files."""
    from safetensors_core.convert.staging import Staging

    for file in finished:
        folder, name = os.path.split(file.path)
        if os.path.isdir(Staging(folder, _SHARD.sub("", name), "").folder):
            return "Finished files are kept: the same command goes on from there"
    return None


def _target(dest: str | None, converted: Conversion) -> str:
    """What was written, in one word: a file or a folder."""
    if dest is not None:
        return dest
    if converted.index_location is None:
        return converted.files[0].path
    return os.path.dirname(converted.index_location) or os.curdir


def _file_event(file: ConvertedFile) -> dict[str, object]:
    return {
        "event": "file",
        "path": without_surrogates(file.path),
        "tensors": len(file.tensors),
        "nbytes": file.nbytes,
        "resumed": file.resumed,
    }


def _write_tensors(converted: Conversion) -> None:
    for file in converted.files:
        for tensor in file.tensors:
            output.write_json(_tensor_event(tensor, file))


def _tensor_event(tensor: PlannedTensor, file: ConvertedFile) -> dict[str, object]:
    return {
        "event": "tensor",
        "name": tensor.name,
        "dtype": tensor.spec.dtype.value,
        "shape": tensor.spec.shape,
        "nbytes": tensor.spec.nbytes,
        "path": without_surrogates(file.path),
        "source": {
            "name": tensor.source,
            "dtype": tensor.stored.dtype.value,
            "shape": tensor.stored.shape,
            "path": without_surrogates(tensor.path),
        },
        "axes": tensor.axes,
    }


def _document(location: str, target: str, converted: Conversion) -> dict[str, object]:
    index = converted.index_location
    return {
        "event": "done",
        "source": without_surrogates(location),
        "target": without_surrogates(target),
        "files": [without_surrogates(file.path) for file in converted.files],
        "index": index and without_surrogates(index),
        "tensors": converted.tensors,
        "nbytes": converted.nbytes,
        "aliases": converted.aliases,
        "left_out": converted.left_out,
        "metadata": converted.metadata,
        "verified": converted.verified,
    }


def _write_table(converted: Conversion) -> None:
    columns = [Column(title) for title in ("name", "dtype", "shape", "file", "name in the source")]
    rows: list[tuple[str, ...]] = [
        (
            tensor.name,
            _changed(tensor.stored.dtype.value, tensor.spec.dtype.value),
            _shape(tensor),
            os.path.basename(file.path),
            tensor.source,
        )
        for file in converted.files
        for tensor in file.tensors
    ]
    if all(name == source for name, *_, source in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    output.write_table(columns, rows)
    output.write("")


def _changed(old: str, new: str) -> str:
    return new if old == new else f"{old} → {new}"


def _shape(tensor: PlannedTensor) -> str:
    shape = str(list(tensor.spec.shape))
    # A square one is still another one with its axes in another order.
    return shape if tensor.axes is None else f"{list(tensor.stored.shape)} → {shape}"


def _remarks(converted: Conversion) -> list[str]:
    left_out = list(converted.left_out.items())
    lines = [f"left out: {inert(name)} ({inert(why)})" for name, why in left_out[:_MAX_LEFT_OUT]]
    if len(left_out) > len(lines):
        lines.append(f"left out: {len(left_out) - len(lines):,} more, --json shows all")
    count = len(converted.aliases)
    if count:
        stand = "name stands" if count == 1 else "names stand"
        lines.append(f"{count:,} {stand} for a tensor that is written under another name")
    return lines


def _sums(converted: Conversion) -> str:
    resumed = sum(file.resumed for file in converted.files)
    before = f" ({resumed:,} finished before)" if resumed else ""
    return (
        f"{_count(len(converted.files), 'file')}{before}, {_count(converted.tensors, 'tensor')}, "
        f"{size_text(converted.nbytes)}"
    )


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
