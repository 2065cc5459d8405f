"""The command `safetensors-core`.

| module | what lives there |
|---|---|
| `inspection`, `verification`, `comparison`, `splitting`, `conversion` | the commands for files |
| `plugins`, `demo`, `new_plugin` | the other commands |
| `options` | options that several commands have |
| `gpt2`, `roundtrip`, `scratch` | what the demonstration makes, what it does, and where |
| `skeleton` | what `new_plugin` writes, from the files in the folder `template` |
| `output`, `text` | standard output: JSON, tables, text that a terminal cannot be fooled by |
| `progress`, `warned` | how far a command is, and what the library warned of |
| `failure` | errors as one line or one JSON object, and the exit status |

Exit status: 0 done, 1 not healthy or not equal, 2 failed, 130 interrupted, 141 the reader of a pipe
went away. With ``--json`` standard output holds exactly one JSON object, also for an error: then it
has the keys `error`, `message`, `path` and `reason`. Of `convert` it holds one a line, and that of
the end or of an error is the last.

Starting up imports click and nothing heavier; a command imports what it needs when it runs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from io import TextIOWrapper

import click

from safetensors_core import __version__
from safetensors_core.cli import output
from safetensors_core.cli.comparison import diff
from safetensors_core.cli.conversion import convert
from safetensors_core.cli.demo import demo
from safetensors_core.cli.failure import Failure
from safetensors_core.cli.inspection import inspect
from safetensors_core.cli.new_plugin import new_plugin
from safetensors_core.cli.output import OUTPUT, OutputError
from safetensors_core.cli.plugins import plugins
from safetensors_core.cli.splitting import merge, split
from safetensors_core.cli.verification import verify

__all__ = ["main"]

_NAME = "safetensors-core"


@click.group(
    _NAME,
    commands=[convert, demo, diff, inspect, merge, new_plugin, plugins, split, verify],
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, message="%(prog)s %(version)s")
@click.pass_context
def commands(context: click.Context) -> None:
    """Look into safetensors files, check, compare, split, merge, convert them; begin a plugin."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: What follows the command's name; the process's own by default.

    Returns:
        The exit status: 0 done, 1 not healthy or not equal, 2 failed, 130 interrupted, 141 the
        reader of a pipe went away.

    Example:
        >>> main(["--version"])
        safetensors-core ...
        0
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if isinstance(sys.stdout, TextIOWrapper):
        # A name that the terminal's encoding lacks is shown as escapes instead of failing.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = commands.main(arguments, prog_name=_NAME, standalone_mode=False)
    except (click.ClickException, click.Abort) as error:
        failure = Failure.of(error)
    except OSError as error:
        # Commands describe their own errors: here it was click that wrote a help text.
        failure = Failure.of(OutputError(error.errno, error.strerror, OUTPUT))
    else:
        return output.finish(status if isinstance(status, int) else 0)
    failure.report(as_json=_wants_json(arguments))
    return output.finish(failure.exit_code)


def _wants_json(arguments: Sequence[str]) -> bool:
    """Whether `--json` was given, also where the arguments as a whole cannot be used."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--json" in options
