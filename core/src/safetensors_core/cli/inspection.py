"""`safetensors-core inspect`: what the headers of a file or a checkpoint say."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import click

import safetensors_core
from safetensors_core import collector
from safetensors_core.cli import output
from safetensors_core.cli.failure import ReportingCommand
from safetensors_core.cli.options import max_header_option, storage_option
from safetensors_core.cli.output import Column
from safetensors_core.cli.text import inert, shortened, without_surrogates
from safetensors_core.sizes import size_text

if TYPE_CHECKING:
    from safetensors_core import Header, TensorInfo
    from safetensors_core.checkpoint.metadata import CheckpointMetadata

__all__ = ["inspect"]

_MAX_VALUE = 200  # characters of a metadata value that people are shown


class Total(NamedTuple):
    """What tensors add up to."""

    tensors: int
    parameters: int
    nbytes: int


@click.command(cls=ReportingCommand)
@click.argument("location", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--revision",
    metavar="NAME",
    help="Branch, tag or commit of a repository of the Hugging Face Hub.",
)
@max_header_option
@storage_option
def inspect(
    location: str,
    as_json: bool,
    revision: str | None,
    max_header: int,
    storage_options: dict[str, Any] | None,
) -> None:
    """Show the tensors and the metadata of LOCATION.

    LOCATION is a file, an index, a folder, the URL of one, or a repository of the Hugging Face
    Hub (hf://org/name). Only headers are read, and no framework is needed.
    """
    if revision is None and _is_local_file(location):
        _report_file(
            location, safetensors_core.read_header(location, max_header=max_header), as_json
        )
        return
    from safetensors_core.checkpoint.metadata import read_metadata
    from safetensors_core.cli.progress import progress_bar
    from safetensors_core.cli.warned import collected_warnings
    from safetensors_core.sources.urls import shown

    with (
        collected_warnings(as_json=as_json) as warned,
        progress_bar("reading headers", " files", wanted=not as_json) as progress,
    ):
        checkpoint = read_metadata(
            location,
            revision=revision,
            max_header=max_header,
            storage_options=storage_options,
            progress=progress,
        )
    location = shown(location)
    only = _only_file(location, checkpoint)
    if only is not None:
        _report_file(location, only, as_json)
        return
    with collector.paused():
        if as_json:
            output.write_json(_checkpoint_document(location, checkpoint, warned))
        else:
            _write_checkpoint(location, checkpoint)


def _is_local_file(location: str) -> bool:
    """Whether a location is no checkpoint of possibly many files: so also what does not exist."""
    from safetensors_core.sources.local import is_url

    return not (is_url(location) or location.endswith(".json") or os.path.isdir(location))


def _only_file(location: str, checkpoint: CheckpointMetadata) -> Header | None:
    """The header of a file that was named itself, by its URL."""
    for name, header in checkpoint.files.items():
        if not checkpoint.sharded and location.rpartition("/")[2] == name.rpartition("/")[2]:
            return header
    return None


def _report_file(location: str, header: Header, as_json: bool) -> None:
    with collector.paused():
        if as_json:
            document = {"path": without_surrogates(location), **_file_document(header)}
            output.write_json({**document, **_sums([header])})
        else:
            _write_text(location, header)


def _file_document(header: Header) -> dict[str, object]:
    return {
        "nbytes": header.file_nbytes,
        "header_nbytes": header.length,
        "metadata": header.metadata,
        "tensors": {
            name: {
                "dtype": info.dtype.value,
                "shape": info.shape,
                "data_offsets": info.data_offsets,
                "nbytes": info.nbytes,
                "parameters": _elements(info),
            }
            for name, info in header.tensors.items()
        },
    }


def _sums(headers: Iterable[Header]) -> dict[str, object]:
    totals = _totals(headers)
    return {
        "dtypes": {dtype: total._asdict() for dtype, total in totals.items()},
        "total": _sum(totals.values())._asdict(),
    }


def _checkpoint_document(
    location: str, checkpoint: CheckpointMetadata, warned: list[str]
) -> dict[str, object]:
    headers = checkpoint.files.values()
    return {
        "path": without_surrogates(location),
        "nbytes": sum(header.file_nbytes for header in headers),
        "sharded": checkpoint.sharded,
        "metadata": checkpoint.metadata,
        "files": {
            without_surrogates(name): _file_document(header)
            for name, header in checkpoint.files.items()
        },
        **_sums(headers),
        "warnings": warned,
    }


def _write_text(location: str, header: Header) -> None:
    output.write(
        f"{inert(location)}: {size_text(header.file_nbytes)}, "
        f"header {size_text(header.length)}, {len(header.tensors):,} tensors\n"
    )
    if header.tensors:
        columns = [Column("name"), Column("dtype"), Column("shape"), Column("bytes", right=True)]
        # A model has few different shapes, and many tensors of each.
        shapes = {shape: str(list(shape)) for shape in {i.shape for i in header.tensors.values()}}
        rows = [
            (name, info.dtype.value, shapes[info.shape], f"{info.nbytes:,}")
            for name, info in header.tensors.items()
        ]
        output.write_table(columns, rows)
        output.write("")
    totals = _totals([header])
    _write_totals("dtype", [*totals.items(), ("total", _sum(totals.values()))])
    output.write(f"\n{_metadata_text('metadata', header.metadata)}")


def _write_checkpoint(location: str, checkpoint: CheckpointMetadata) -> None:
    headers = checkpoint.files.values()
    totals = _totals(headers)
    total = _sum(totals.values())
    count = f"{len(headers):,} {'file' if len(headers) == 1 else 'files'}"
    nbytes = sum(header.file_nbytes for header in headers)
    output.write(f"{inert(location)}: {count}, {size_text(nbytes)}, {total.tensors:,} tensors\n")
    if headers:
        rows = [(name, _sum(_totals([one]).values())) for name, one in checkpoint.files.items()]
        _write_totals("file", rows)
        output.write("")
    _write_totals("dtype", [*totals.items(), ("total", total)])
    texts = [_metadata_text("metadata of the index", checkpoint.metadata)]
    texts += [
        _metadata_text(f"metadata of {_files_text(names)}", checkpoint.files[names[0]].metadata)
        for names in _by_metadata(checkpoint.files)
    ]
    output.write("")
    output.write("\n".join(texts if checkpoint.metadata is not None else texts[1:]))


def _by_metadata(files: Mapping[str, Header]) -> list[list[str]]:
    """Names of the files, those with the same metadata together."""
    groups: dict[object, list[str]] = {}
    for name, header in files.items():
        key = None if header.metadata is None else tuple(sorted(header.metadata.items()))
        groups.setdefault(key, []).append(name)
    return list(groups.values())


def _files_text(names: list[str]) -> str:
    more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
    return f"{inert(names[0])}{more}"


def _write_totals(title: str, totals: Iterable[tuple[str, Total]]) -> None:
    counts = [Column(field, right=True) for field in ("tensors", "parameters", "bytes")]
    rows = [(name, *(f"{count:,}" for count in total)) for name, total in totals]
    output.write_table([Column(title), *counts], rows)


def _metadata_text(title: str, metadata: Mapping[str, Any] | None) -> str:
    if not metadata:
        return f"{title}: none"
    lines = [f"{title}:"]
    for key, value in metadata.items():
        shown = value if isinstance(value, str) else _json_text(value)
        lines.append(
            f"  {inert(shortened(key, _MAX_VALUE))}: {inert(shortened(shown, _MAX_VALUE))}"
        )
    return "\n".join(lines)


def _json_text(value: object) -> str:
    import json

    return json.dumps(value, ensure_ascii=False)


def _elements(info: TensorInfo) -> int:
    # A header is only valid where the elements fill the bytes.
    return info.nbytes * 8 // info.dtype.bits


def _totals(headers: Iterable[Header]) -> dict[str, Total]:
    """Totals by dtype, in the order in which the files have the dtypes."""
    sums: dict[str, list[int]] = {}
    for header in headers:
        for info in header.tensors.values():
            total = sums.setdefault(info.dtype.value, [0, 0, 0])
            total[0] += 1
            total[1] += _elements(info)
            total[2] += info.nbytes
    return {dtype: Total(*total) for dtype, total in sums.items()}


def _sum(totals: Iterable[Total]) -> Total:
    tensors, parameters, nbytes = zip((0, 0, 0), *totals, strict=True)
    return Total(sum(tensors), sum(parameters), sum(nbytes))
