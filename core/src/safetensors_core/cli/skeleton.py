"""The package of a new plugin: what it is called, what is in it, and how it gets on the disk."""

from __future__ import annotations

import errno
import os
import stat
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import safetensors_core
from safetensors_core.cli.scratch import unwinding_on_signals

__all__ = ["Package", "render", "write"]

_TEMPLATE = Path(__file__).with_name("template")
_PLACEHOLDER = "safetensors_NAME"
_SUFFIX = ".jinja"


class Package(NamedTuple):
    """A plugin that is to be written, by names that have been checked.

    Attributes:
        name: Name under which users ask for the plugin: lower-case words joined by hyphens.
        framework: Import name of its framework, dotted.
        distribution: Distribution that provides the framework; empty for the first part of
            `framework`.

    Example:
        >>> package = Package("my-framework", "mine.core")
        >>> package.project, package.module, package.class_name
        ('safetensors-my-framework', 'safetensors_my_framework', 'MyFrameworkFramework')
    """

    name: str
    framework: str
    distribution: str = ""

    @property
    def project(self) -> str:
        """Name of the distribution."""
        return f"safetensors-{self.name}"

    @property
    def module(self) -> str:
        """Import name of the package."""
        return self.project.replace("-", "_")

    @property
    def class_name(self) -> str:
        """Name of the class that describes the framework."""
        return "".join(word.capitalize() for word in self.name.split("-")) + "Framework"

    @property
    def native_package(self) -> str:
        """The framework's package, by which its tensors are recognised."""
        return self.framework.partition(".")[0]

    @property
    def requirement(self) -> str:
        """What the plugin depends on beside core; empty for a module of Python's own."""
        if self.distribution or self.native_package in sys.stdlib_module_names:
            return self.distribution
        return self.native_package


def render(package: Package) -> dict[str, str]:
    """Fill in the template.

    Args:
        package: The plugin.

    Returns:
        The text of each file, by its path in the package's folder.

    Raises:
        ImportError: The template engine is not installed.

    Example:
        >>> files = render(Package("acme", "acme"))
        >>> sorted(files)[:3]
        ['README.md', 'pyproject.toml', 'src/safetensors_acme/__init__.py']
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATE),
        # Not HTML: the names that are filled in are checked instead, and need no quoting.
        autoescape=False,  # noqa: S701
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    values = {
        "package": package,
        "core": _same_minor_version(safetensors_core.__version__),
        "api_version": safetensors_core.API_VERSION,
    }
    return {
        name.removesuffix(_SUFFIX).replace(_PLACEHOLDER, package.module): (
            environment.get_template(name).render(values)
        )
        for name in environment.list_templates(extensions=[_SUFFIX[1:]])
    }


def write(files: Mapping[str, str], target: str) -> None:
    """Write files to a new folder, which is there whole or not at all.

    Args:
        files: Texts by path in the folder.
        target: Path of the folder, in one that exists.

    Raises:
        OSError: The target exists, or the file system refuses; with `errno` and `filename`.

    Example:
        >>> target = str(tmp_path / "new")
        >>> write({"src/a.py": "a = 1"}, target)
        >>> write({"src/a.py": "a = 1"}, target)
        Traceback (most recent call last):
        FileExistsError: [Errno 17] it exists, and is left as it is. Choose another --folder, ...
    """
    parent = os.path.dirname(target) or os.curdir
    if not stat.S_ISDIR(os.stat(parent).st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), parent)
    if os.path.lexists(target):
        raise FileExistsError(
            errno.EEXIST,
            "it exists, and is left as it is. Choose another --folder, or move it away",
            target,
        )
    try:
        with (
            unwinding_on_signals(),
            tempfile.TemporaryDirectory(prefix=".safetensors-core-", dir=parent) as scratch,
        ):
            # A folder in the temporary one, which nobody else may look into.
            whole = Path(scratch, "new")
            for name, text in files.items():
                path = whole / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8", newline="\n")
            whole.rename(target)
    except OSError as error:
        # The temporary folder is gone and nothing to talk about.
        raise OSError(error.errno, error.strerror, target) from error


def _same_minor_version(version: str) -> str:
    """The versions that keep what this one promises."""
    major, minor = version.split(".")[:2]
    return f">={version},<{major}.{int(minor) + 1}"
