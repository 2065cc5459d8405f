"""`safetensors-core diff`: how two checkpoints differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from safetensors_core.cli import output
from safetensors_core.cli.failure import ReportingCommand
from safetensors_core.cli.options import max_header_option, storage_option
from safetensors_core.cli.output import Column
from safetensors_core.cli.progress import progress_bar
from safetensors_core.cli.text import inert, shortened, without_surrogates

if TYPE_CHECKING:
    from safetensors_core.checkpoint.comparison import Comparison, TensorDifference

__all__ = ["diff"]

_MAX_ROWS = 300  # names and tensors that people are shown
_MAX_VALUE = 80  # characters of a metadata value


@click.command(cls=ReportingCommand)
@click.argument("a")
@click.argument("b")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@max_header_option
@storage_option
def diff(a: str, b: str, as_json: bool, **options: Any) -> int:
    """Compare A with B: names, dtypes, shapes, metadata, and every bit of the values.

    A and B are each a file, an index, a folder, or the URL of one. By how much values differ needs
    NumPy. The exit status is 0 if both are equal, 1 if they differ, and 2 if something could not be
    read or compared.
    """
    from safetensors_core.checkpoint.comparison import compare_checkpoints
    from safetensors_core.cli.scratch import unwinding_on_signals
    from safetensors_core.cli.warned import collected_warnings

    with (
        unwinding_on_signals(),
        collected_warnings(as_json=as_json) as warned,
        progress_bar("comparing", "B", wanted=not as_json) as progress,
    ):
        comparison = compare_checkpoints(a, b, progress=progress, **options)
    if as_json:
        output.write_json(_document(comparison, warned))
    else:
        _write_text(comparison)
    if not comparison.complete:
        return 2
    return 0 if comparison.equal else 1


def _document(comparison: Comparison, warned: list[str]) -> dict[str, object]:
    return {
        "a": without_surrogates(comparison.a),
        "b": without_surrogates(comparison.b),
        "equal": comparison.equal,
        "complete": comparison.complete,
        "only_in_a": comparison.only_in_a,
        "only_in_b": comparison.only_in_b,
        "metadata": comparison.metadata,
        "tensors": comparison.tensors,
        "equal_tensors": comparison.equal_tensors,
        "warnings": warned,
    }


def _write_text(comparison: Comparison) -> None:
    output.write(f"A: {inert(comparison.a)}\nB: {inert(comparison.b)}")
    _write_names("only in A", comparison.only_in_a)
    _write_names("only in B", comparison.only_in_b)
    if comparison.metadata:
        columns = [Column("metadata"), Column("A"), Column("B")]
        rows = [(repr(key), _values(a), _values(b)) for key, (a, b) in comparison.metadata.items()]
        output.write("")
        output.write_table(columns, rows)
    if comparison.tensors:
        output.write("")
        titles = ("tensor", "dtype", "shape")
        numbers = ("differing", "elements", "not finite", "max |a-b|", "max relative")
        columns = [*map(Column, titles), *(Column(title, right=True) for title in numbers)]
        shown = comparison.tensors[:_MAX_ROWS]
        output.write_table(columns, list(map(_row, shown)))
        _write_rest(len(comparison.tensors), len(shown))
        reasons = dict.fromkeys(one.not_compared for one in shown if one.not_compared is not None)
        for reason in reasons:
            output.write(f"not compared: {inert(reason)}")
    output.write(f"\n{_verdict(comparison)}")


def _write_names(title: str, names: list[str]) -> None:
    if names:
        shown = names[:_MAX_ROWS]
        output.write(f"\n{title}:")
        output.write("\n".join(f"  {inert(name)}" for name in shown))
        _write_rest(len(names), len(shown))


def _write_rest(count: int, shown: int) -> None:
    if count > shown:
        output.write(f"  … {count:,} in all, --json shows them")


def _values(values: list[str]) -> str:
    return ", ".join(repr(shortened(value, _MAX_VALUE)) for value in values) or "-"


def _row(tensor: TensorDifference) -> tuple[str, ...]:
    dtype, shape = (
        str(a) if a == b else f"{a} → {b}"
        for a, b in (tensor.dtypes, [str(list(shape)) for shape in tensor.shapes])
    )
    if tensor.values is None:
        numbers = ["-" if tensor.not_compared is None else "?"] * 5
    else:
        values = tensor.values
        numbers = [
            f"{values.differing:,}",
            f"{values.elements:,}",
            f"{values.not_finite:,}",
            f"{values.max_absolute:.4g}",
            f"{values.max_relative:.4g}",
        ]
    return (tensor.name, dtype, shape, *numbers)


def _verdict(comparison: Comparison) -> str:
    if comparison.equal:
        return f"no difference; tensors that are equal, bit for bit: {comparison.equal_tensors:,}"
    names = len(comparison.only_in_a) + len(comparison.only_in_b)
    parts = [
        f"tensors that differ: {len(comparison.tensors):,}",
        f"in A or B only: {names:,}",
        f"equal, bit for bit: {comparison.equal_tensors:,}",
        f"entries of the metadata that differ: {len(comparison.metadata):,}",
    ]
    left = sum(tensor.not_compared is not None for tensor in comparison.tensors)
    if left:
        parts.append(f"values that could not be compared: {left:,} tensors")
    return "; ".join(parts)
