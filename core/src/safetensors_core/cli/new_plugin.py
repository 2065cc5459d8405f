"""`safetensors-core new-plugin`: the package of a plugin, with the places to fill in marked."""

from __future__ import annotations

import keyword
import os
import re
import shlex
from typing import TYPE_CHECKING

import click

import safetensors_core
from safetensors_core.cli import output
from safetensors_core.cli.failure import Failure, ReportingCommand
from safetensors_core.cli.text import inert, without_surrogates

if TYPE_CHECKING:
    from safetensors_core.cli.skeleton import Package

__all__ = ["new_plugin"]

# Each of these keeps to ASCII, and to what needs no quoting in TOML, Python and Markdown.
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_MODULE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")
_DISTRIBUTION = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")

# Longer ones would be hard to type, and the files would have lines that linters break.
_MAX_NAME = 40  # characters

_PAGE = "docs/plugin-authors/first-plugin.md"


def _checked_name(_context: click.Context, _parameter: click.Parameter, name: str) -> str:
    if not _NAME.fullmatch(name) or name.startswith("safetensors-"):
        raise click.BadParameter(
            f"{name!r} must be lower-case letters and digits, in words joined by single hyphens, "
            f"begin with a letter and leave out 'safetensors-'.{_suggestion(name)}"
        )
    if len(name) > _MAX_NAME:
        raise click.BadParameter(
            f"{name!r} has {len(name)} characters, {_MAX_NAME} are allowed. Choose a shorter name."
        )
    if keyword.iskeyword(name):
        raise click.BadParameter(f"{name!r} is a keyword of Python. Choose another name.")
    owner = _owner(name)
    if owner:
        raise click.BadParameter(f"{name!r} is taken by {owner}. Choose another name.")
    return name


def _suggestion(name: str) -> str:
    """A name that can be used, where it is clear which one is meant."""
    if not re.fullmatch(r"[\w. -]+", name, re.ASCII):
        return ""
    usable = re.sub("[^a-z0-9]+", "-", name.lower()).strip("-").removeprefix("safetensors-")
    return f" Did you mean {usable!r}?" if _NAME.fullmatch(usable) else ""


def _owner(name: str) -> str | None:
    """The distribution that has a name already."""
    from importlib import metadata

    from safetensors_core.plugin_info import EXTRAS

    if name == "core" or name in EXTRAS:
        return f"safetensors-{EXTRAS.get(name, name)}"
    project = f"safetensors-{name}"
    for info in safetensors_core.list_plugins():
        if name in map(_normalised, info.names) or project == _normalised(info.distribution):
            return info.origin
    try:
        return f"{project} {metadata.version(project)}"
    except metadata.PackageNotFoundError:
        return None


def _normalised(name: str) -> str:
    return re.sub("[-_.]+", "-", name).lower()


def _checked_module(_context: click.Context, _parameter: click.Parameter, module: str) -> str:
    if not _MODULE.fullmatch(module):
        raise click.BadParameter(
            f"{module!r} must be what Python imports: names of ASCII letters, digits and "
            "underscores, joined by dots."
        )
    for part in module.split("."):
        if keyword.iskeyword(part):
            raise click.BadParameter(f"{part!r} is a keyword of Python.")
    return module


def _checked_distribution(
    _context: click.Context, _parameter: click.Parameter, distribution: str | None
) -> str:
    if distribution is None:
        return ""
    if not _DISTRIBUTION.fullmatch(distribution):
        raise click.BadParameter(
            f"{distribution!r} must be a name alone, as pip installs it: ASCII letters and digits, "
            "with dots, hyphens and underscores between them."
        )
    return distribution


@click.command(cls=ReportingCommand)
@click.argument("name", callback=_checked_name)
@click.option(
    "--framework",
    metavar="MODULE",
    required=True,
    callback=_checked_module,
    help="What users of the framework import. It need not be installed.",
)
@click.option(
    "--distribution",
    metavar="NAME",
    callback=_checked_distribution,
    help="What pip installs to get the framework, if that is not the first part of MODULE.",
)
@click.option(
    "--folder",
    type=click.Path(),
    metavar="DIR",
    default=os.curdir,
    help="An existing folder in which the package's own folder is made; the current one by "
    "default.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def new_plugin(name: str, framework: str, distribution: str, folder: str, as_json: bool) -> None:
    """Write the package of a plugin, to be filled in.

    It is called safetensors-NAME, can be installed as it is, and comes with the conformance kit as
    its test. The places to fill in are marked. Nothing that exists is changed.
    """
    from safetensors_core.cli import skeleton

    package = skeleton.Package(name, framework, distribution)
    _check_requirement(package)
    try:
        files = skeleton.render(package)
    except ImportError as error:
        raise Failure(
            f"the template engine cannot be imported: {error}. "
            'Try: pip install "safetensors-core[testing]"',
            error=type(error).__name__,
        ) from error
    target = os.path.join(folder, package.project)
    if target.startswith("-"):  # not an option to the commands that are shown
        target = os.path.join(os.curdir, target)
    skeleton.write(files, target)
    _report(package, target, sorted(files), as_json=as_json)


def _check_requirement(package: Package) -> None:
    """Refuse a plugin that would depend on itself, or on what pip cannot install."""
    if package.native_package == package.module or _normalised(package.requirement) == (
        package.project
    ):
        raise click.UsageError(f"{package.project} cannot be a plugin for itself.")
    if package.requirement and not _DISTRIBUTION.fullmatch(package.requirement):
        raise click.UsageError(
            f"{package.requirement!r} can be imported but not installed. Name what pip installs "
            "with --distribution."
        )


def _report(package: Package, target: str, files: list[str], *, as_json: bool) -> None:
    commands = [
        f"python -m pip install -e {shlex.quote(f'{target}[test]')}",
        f"python -m safetensors_core.testing {package.name}",
        f"grep -rn 'FILL IN' {shlex.quote(os.path.join(target, 'src'))}",
    ]
    if as_json:
        output.write_json(
            {
                "path": without_surrogates(target),
                "distribution": package.project,
                "module": package.module,
                "framework": package.framework,
                "files": files,
                "commands": [without_surrogates(command) for command in commands],
                "documentation": _PAGE,
            }
        )
        return
    lines = [f"made {target}, {len(files)} files", "", "Install it, check it, and fill it in:", ""]
    lines += [f"  {command}" for command in commands]
    lines += ["", f"Read: Your first plugin ({_PAGE})"]
    output.write("\n".join(inert(line) for line in lines))
