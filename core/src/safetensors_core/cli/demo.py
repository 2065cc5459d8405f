"""`safetensors-core demo`: the main job of the package, on a model of yours or on one it makes."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

import safetensors_core
from safetensors_core.cli import output
from safetensors_core.cli.failure import ReportingCommand
from safetensors_core.cli.gpt2 import gpt2_shapes
from safetensors_core.cli.options import max_header_option
from safetensors_core.cli.roundtrip import Original, Step, compare_files, read_steps, save_step
from safetensors_core.cli.text import inert, without_surrogates

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from safetensors_core import Framework

__all__ = ["demo"]

# A prime number of bytes, repeated: cheap to make, and no two tensors begin alike.
_PATTERN_NBYTES = 1_000_003


def _framework_names(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Names for the shell to complete: those of the installed plugins."""
    from click.shell_completion import CompletionItem

    names = [name for info in safetensors_core.list_plugins() for name in info.names]
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


@click.command(cls=ReportingCommand)
@click.argument("file", type=click.Path(), required=False)
@click.option(
    "--framework",
    metavar="NAME",
    default="numpy",
    show_default=True,
    shell_complete=_framework_names,
    help="The plugin to use.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@max_header_option
def demo(file: str | None, framework: str, as_json: bool, max_header: int) -> None:
    """Show that tensors come back bit for bit.

    Saves a model, opens it lazily, reads one tensor, one slice and all, and compares every bit.

    Without FILE, a model of GPT-2's shapes is made in a temporary folder (about 500 MB). With
    FILE, that file is read and compared, and so is a temporary copy that is saved of it.
    Temporary files are removed at the end, whatever happens.
    """
    plugin = safetensors_core.get_framework(framework)
    steps: list[Step] = []

    def done(step: Step) -> None:
        steps.append(step)
        if not as_json:
            output.write(str(step))

    if not as_json:
        subject = "a model of GPT-2's shapes" if file is None else inert(file)
        output.write(f"{subject}, with {plugin.name}")
    if file is None:
        identical = None
        _made(plugin, max_header, done, bars=not as_json)
    else:
        identical = _given(file, plugin, max_header, done, bars=not as_json)
    if as_json:
        output.write_json(
            {
                "path": None if file is None else without_surrogates(file),
                "framework": plugin.name,
                "equal": True,
                "identical": identical,
                "steps": [_step_document(step) for step in steps],
            }
        )
    else:
        output.write("all equal, bit for bit")


def _made(plugin: Framework, max_header: int, done: Callable[[Step], None], *, bars: bool) -> None:
    """Round trip of a checkpoint that is made here."""
    import random

    from safetensors_core import Dtype, TensorInfo
    from safetensors_core.cli.scratch import temporary_folder

    infos: dict[str, TensorInfo] = {}
    position = 0
    for name, shape in gpt2_shapes().items():
        end = position + Dtype.F32.nbytes(math.prod(shape))
        infos[name] = TensorInfo(Dtype.F32, shape, (position, end))
        position = end
    with temporary_folder(position) as folder:
        start = time.perf_counter()
        data = memoryview(bytearray(position))
        pattern = random.Random(0).randbytes(_PATTERN_NBYTES)  # noqa: S311  # not for secrets
        for begin in range(0, position, _PATTERN_NBYTES):
            part = data[begin : begin + _PATTERN_NBYTES]
            part[:] = pattern[: len(part)]
        tensors = plugin.from_buffers(data, infos, "cpu")
        detail = f"{len(infos)} tensors, {position // 4:,} parameters, F32, random bits"
        done(Step("make", detail, position, time.perf_counter() - start))

        path = os.path.join(folder, "gpt2.safetensors")
        done(save_step(tensors, path, {"source": "safetensors-core demo"}, position, bars=bars))
        original = Original(infos, lambda begin, end: data[begin:end])
        for step in read_steps(path, plugin, original, max_header, {}, bars=bars):
            done(step)


def _given(
    file: str, plugin: Framework, max_header: int, done: Callable[[Step], None], *, bars: bool
) -> bool:
    """Round trip of a file that exists; whether the copy has the same bytes."""
    from safetensors_core.cli.scratch import temporary_folder
    from safetensors_core.plugins import open_source

    with contextlib.closing(open_source(file, "pread")) as source:
        header = source.read_header(max_header)
        original = Original.of_source(source)
        tensors: dict[str, Any] = {}
        for step in read_steps(file, plugin, original, max_header, tensors, bars=bars):
            done(step)
        with temporary_folder(header.file_nbytes) as folder:
            path = os.path.join(folder, "copy.safetensors")
            done(save_step(tensors, path, header.metadata, header.data_nbytes, bars=bars))
            with contextlib.closing(open_source(path, "pread")) as copy:
                copy.read_header(max_header)
                identical, step = compare_files(source, copy, bars=bars)
    done(step)
    return identical


def _step_document(step: Step) -> dict[str, object]:
    return {**step._asdict(), "detail": without_surrogates(step.detail)}
