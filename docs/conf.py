"""Configuration of the documentation site."""

from __future__ import annotations

import contextlib
from importlib.metadata import version as installed_version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

# The plugins import their frameworks when their names are looked at, and Paddle ends a process that
# has imported TensorFlow before.
with contextlib.suppress(ImportError):
    import paddle  # noqa: F401

project = "safetensors-core"
author = "The safetensors-core developers"
project_copyright = author
version = release = installed_version("safetensors-core")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_click",
]
# examples: packages of their own, with their own readme; the site links to them.
exclude_patterns = ["_build", "examples"]

html_theme = "furo"
html_title = "safetensors-core"

myst_heading_anchors = 3

# In docstrings, single backticks are code, as they are in the Markdown around them.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True


def literal_blocks(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Turn the fences and tables of a docstring, which are Markdown, into literal blocks."""
    converted: list[str] = []
    fenced = literal = False
    for line in lines:
        fence = line.strip() == "```"
        fenced ^= fence
        if (fenced or line.startswith("|")) and not literal:
            converted += ["", ".. code-block:: text", ""]
        literal = fenced or line.startswith("|")
        if literal and not fence:
            converted.append(f"   {line}")
        else:
            converted.append("" if fence else line)
    lines[:] = converted


def setup(app: Sphinx) -> None:
    """Connect what is defined here; Sphinx calls it."""
    app.connect("autodoc-process-docstring", literal_blocks)
