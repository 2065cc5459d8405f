"""Standard output: lines, tables and JSON, and what to do when nobody takes them."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import os
import re
import sys
from collections.abc import Sequence
from typing import NamedTuple, TextIO

from safetensors_core.cli.text import inert

__all__ = ["OUTPUT", "Column", "OutputError", "finish", "write", "write_json", "write_table"]

#: What errors call standard output.
OUTPUT = "standard output"

#: From more rows on, a terminal gets plain lines too: laying out a table takes its time.
MAX_TABLE_ROWS = 300

_MAX_PADDING = 72  # characters; one very long name shall not indent all the others
_BEYOND_ASCII = re.compile(r"[^\x20-\x7e]+")


class OutputError(OSError):
    """Standard output does not take what is written to it.

    Example:
        >>> OutputError(errno.ENOSPC, "No space left on device", OUTPUT).filename
        'standard output'
    """


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        title: Its heading.
        right: Whether its cells are numbers, which line up on the right.

    Example:
        >>> Column("bytes", right=True).title
        'bytes'
    """

    title: str
    right: bool = False


def write(text: str) -> None:
    r"""Write lines to standard output now.

    Args:
        text: The lines, without the last line break.

    Raises:
        OutputError: Standard output does not take them.

    Example:
        >>> write("two\nlines")
        two
        lines
    """
    if sys.stdout is None:
        raise OutputError(errno.EBADF, os.strerror(errno.EBADF), OUTPUT)
    try:
        _write_all(sys.stdout, text + "\n")
    except OSError as error:
        _abandon()
        raise OutputError(error.errno, error.strerror, OUTPUT) from error


def write_json(document: object) -> None:
    r"""Write an object as one line of JSON, in ASCII so that every terminal and pipe takes it.

    Args:
        document: What msgspec can encode.

    Raises:
        OutputError: Standard output does not take it.

    Example:
        >>> write_json({"name": "caf\xe9 \x1b[1m"})
        {"name":"caf\u00e9 \u001b[1m"}
    """
    import json

    import msgspec

    try:
        text = msgspec.json.encode(document).decode()
    except UnicodeEncodeError:  # the metadata of an index may hold lone surrogates
        text = json.dumps(msgspec.to_builtins(document))
    if not (text.isascii() and text.isprintable()):
        text = _BEYOND_ASCII.sub(lambda run: json.dumps(run[0])[1:-1], text)
    write(text)


def write_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Write a table: drawn by rich on a terminal that is not flooded by it, else aligned lines.

    Args:
        columns: The columns.
        rows: One text per column, at least one row; shown inert.

    Raises:
        OutputError: Standard output does not take it.

    Example:
        >>> write_table([Column("name"), Column("bytes", right=True)], [["w", "8"], ["b", "16"]])
        name  bytes
        w         8
        b        16
    """
    texts = [list(map(inert, texts)) for texts in zip(*rows, strict=True)]
    drawn = sys.stdout is not None and sys.stdout.isatty() and len(rows) <= MAX_TABLE_ROWS
    if drawn and importlib.util.find_spec("rich") is not None:
        write(_drawn(columns, texts))
    else:
        write(_aligned(columns, texts))


def finish(status: int) -> int:
    """Hand over what is still buffered, so that the interpreter's own end finds nothing to say.

    Args:
        status: The exit status so far.

    Returns:
        That status, or 2 for a success whose output got lost.

    Example:
        >>> finish(0)
        0
    """
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        _abandon()
        return status or 2
    return status


def _write_all(stream: TextIO, text: str) -> None:
    buffer = getattr(stream, "buffer", None)
    if buffer is None:
        stream.write(text)
    else:
        stream.flush()
        # Without Python's own buffering (PYTHONUNBUFFERED), the stream would forget the rest of
        # what the system took only a part of, on a full disk for example.
        data = memoryview(text.encode(stream.encoding, stream.errors or "strict"))
        while data:
            data = data[buffer.write(data) :]
    stream.flush()


def _aligned(columns: Sequence[Column], texts: Sequence[list[str]]) -> str:
    """The table as lines; `texts` are the columns' cells."""
    fields = []
    for column, cells in zip(columns, texts, strict=True):
        width = min(max(len(column.title), *map(len, cells)), _MAX_PADDING)
        fields.append(f"{{:{'>' if column.right else '<'}{width}}}")
    if not columns[-1].right:
        fields[-1] = "{}"  # lines end where their text does
    line = "  ".join(fields).format
    return "\n".join([line(*(column.title for column in columns)), *map(line, *texts)])


def _drawn(columns: Sequence[Column], texts: Sequence[list[str]]) -> str:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(header_style="bold")
    for column in columns:
        table.add_column(
            column.title,
            justify="right" if column.right else "left",
            no_wrap=column.right,
            overflow="fold",
        )
    for row in zip(*texts, strict=True):
        # As Text, because rich reads markup and emoji codes out of a str.
        table.add_row(*map(Text, row))
    console = Console()
    with console.capture() as capture:
        console.print(table)
    return capture.get().rstrip("\n")


def _abandon() -> None:
    """Send what is left to nowhere: the interpreter writes it at exit and would fail loudly."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
