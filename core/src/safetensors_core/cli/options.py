"""Options that several commands have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

import safetensors_core

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    Decorated = TypeVar("Decorated", bound=Callable[..., Any])

__all__ = ["max_header_option", "storage_option"]


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


def storage_option(command: Decorated) -> Decorated:
    """Give a command the option `--storage-option`, which may be given often.

    Args:
        command: The command's function.

    Returns:
        The same function, which click now calls with `storage_options` too: a dict, or None
        where the option was not given.

    Example:
        >>> @click.command()
        ... @storage_option
        ... def show(storage_options):
        ...     print(storage_options)
        >>> show.main(
        ...     ["--storage-option", "anon=true", "--storage-option", "key=abc"],
        ...     standalone_mode=False,
        ... )
        {'anon': True, 'key': 'abc'}
    """
    return click.option(
        "--storage-option",
        "storage_options",
        multiple=True,
        callback=_parsed,
        metavar="KEY=VALUE",
        help="A setting of the storage system of a URL, as fsspec names it; may be given often. "
        "VALUE is read as JSON if it is JSON.",
    )(command)


def _parsed(
    _context: click.Context, _parameter: click.Parameter, given: tuple[str, ...]
) -> dict[str, Any] | None:
    return dict(map(_pair, given)) if given else None


def _pair(text: str) -> tuple[str, Any]:
    import json

    key, equals, value = text.partition("=")
    if not key or not equals:
        raise click.BadParameter(f"expected KEY=VALUE, got {text!r}")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value
