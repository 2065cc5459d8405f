"""`safetensors-core inspect`: what a file's header says."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import click

import safetensors_core
from safetensors_core import collector
from safetensors_core.cli import output
from safetensors_core.cli.failure import ReportingCommand
from safetensors_core.cli.output import Column
from safetensors_core.cli.text import inert, shortened, without_surrogates
from safetensors_core.sizes import size_text

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from safetensors_core import Header, TensorInfo

    Decorated = TypeVar("Decorated", bound=Callable[..., Any])

__all__ = ["inspect", "max_header_option"]

_MAX_VALUE = 200  # characters of a metadata value that people are shown


class Total(NamedTuple):
    """What tensors add up to."""

    tensors: int
    parameters: int
    nbytes: int


def max_header_option(command: Decorated) -> Decorated:
    """Give a command the option `--max-header`.

    Args:
        command: The command's function.

    Returns:
        The same function, which click now calls with `max_header` too.

    Example:
        >>> @click.command()
        ... @max_header_option
        ... def show(max_header):
        ...     print(max_header)
        >>> show.main(["--max-header", "10"], standalone_mode=False)
        10
    """
    return click.option(
        "--max-header",
        type=click.INT,
        # Asked for when a command runs: importing the limit would slow every start down.
        default=lambda: safetensors_core.MAX_HEADER,
        show_default="100000000",
        metavar="BYTES",
        help="Longest header to accept.",
    )(command)


@click.command(cls=ReportingCommand)
@click.argument("file", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@max_header_option
def inspect(file: str, as_json: bool, max_header: int) -> None:
    """Show the tensors and the metadata of FILE.

    Only the header is read, and no framework is needed.
    """
    header = safetensors_core.read_header(file, max_header=max_header)
    with collector.paused():
        if as_json:
            output.write_json(_document(file, header))
        else:
            _write_text(file, header)


def _document(file: str, header: Header) -> dict[str, object]:
    totals = _totals(header.tensors.values())
    return {
        "path": without_surrogates(file),
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
        "dtypes": {dtype: total._asdict() for dtype, total in totals.items()},
        "total": _sum(totals.values())._asdict(),
    }


def _write_text(file: str, header: Header) -> None:
    output.write(
        f"{inert(file)}: {size_text(header.file_nbytes)}, "
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
    totals = _totals(header.tensors.values())
    counts = [Column(title, right=True) for title in Total._fields]
    counts[-1] = Column("bytes", right=True)
    rows_by_dtype = [
        (dtype, *(f"{count:,}" for count in total))
        for dtype, total in [*totals.items(), ("total", _sum(totals.values()))]
    ]
    output.write_table([Column("dtype"), *counts], rows_by_dtype)
    output.write(f"\n{_metadata_text(header.metadata)}")


def _metadata_text(metadata: dict[str, str] | None) -> str:
    if not metadata:
        return "metadata: none"
    lines = ["metadata:"]
    for key, value in metadata.items():
        lines.append(
            f"  {inert(shortened(key, _MAX_VALUE))}: {inert(shortened(value, _MAX_VALUE))}"
        )
    return "\n".join(lines)


def _elements(info: TensorInfo) -> int:
    # A header is only valid where the elements fill the bytes.
    return info.nbytes * 8 // info.dtype.bits


def _totals(infos: Iterable[TensorInfo]) -> dict[str, Total]:
    """Totals by dtype, in the order in which the file has the dtypes."""
    sums: dict[str, list[int]] = {}
    for info in infos:
        total = sums.setdefault(info.dtype.value, [0, 0, 0])
        total[0] += 1
        total[1] += _elements(info)
        total[2] += info.nbytes
    return {dtype: Total(*total) for dtype, total in sums.items()}


def _sum(totals: Iterable[Total]) -> Total:
    tensors, parameters, nbytes = zip((0, 0, 0), *totals, strict=True)
    return Total(sum(tensors), sum(parameters), sum(nbytes))
