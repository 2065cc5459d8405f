"""What the documentation says of the code, compared with the code."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from pathlib import Path

import pytest

from safetensors_core import CheckpointReason, Framework, Reason, SafetensorError, errors

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
CORE = ROOT / "core" / "src" / "safetensors_core"
THIRD_PARTY = {"msgspec", "packaging", "pluggy"}
THIRD_PARTY_OF = {
    "checkpoint.numbers": {"numpy", "safetensors_numpy"},
    "remote_writing": {"fsspec"},
    "sources.connection": {"fsspec"},
    "sources.http": {"aiohttp", "yarl"},
    "sources.hub": {"huggingface_hub"},
    "sources.remote_source": {"fsspec"},
    "cli": {"click", "jinja2", "rich", "tqdm"},
    "testing": {"hypothesis", "pytest"},
}
# Packages that may import every room, and that no room imports.
EDGES = {"cli", "compat", "testing"}
# The one folder of core whose modules are about a framework each.
DROP_IN = CORE / "compat" / "drop_in"


def tables(page: str) -> list[list[list[str]]]:
    """The tables of a page: rows of cells, without the heading."""
    found = re.findall(r"^\|.*\n\|[-|]+\|\n((?:\|.*\n)+)", page_text(page), re.MULTILINE)
    return [
        [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()]
        for table in found
    ]


def page_text(page: str) -> str:
    return (DOCS / page).read_text("utf-8")


def code(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page_text(page), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("reasons", [Reason, CheckpointReason])
def test_every_reason_has_one_row(reasons: type[Reason | CheckpointReason]) -> None:
    codes = [reason.value for reason in reasons]
    rows = [row for table in tables("user/errors.md") for row in table]
    assert [code(row[0])[0] for row in rows if code(row[0])[0] in codes] == codes


def test_every_exception_has_one_row() -> None:
    exceptions = [
        name for name in errors.__all__ if issubclass(getattr(errors, name), SafetensorError)
    ]
    rows = [row for table in tables("user/errors.md") for row in table]
    documented = [code(row[0])[0] for row in rows if code(row[0])[0] in exceptions]
    assert sorted([*documented, "SafetensorError"]) == exceptions


def test_the_tree_of_exceptions_is_that_of_the_module() -> None:
    [tree] = blocks("user/errors.md", "text")
    assert tree.strip() in (inspect.getdoc(errors) or "")


# Architecture: a module of core imports only rooms that stand above its own.


def rooms() -> dict[str, set[str]]:
    """The rooms of core in the order of the table, and what each may import."""
    table = tables("maintainers/architecture.md")[0]
    return {code(row[0])[0]: set(code(row[2])) for row in table if code(row[0])[0] not in EDGES}


def room(path: Path) -> str:
    parts = path.relative_to(CORE).with_suffix("").parts
    if parts[0] in EDGES:
        return parts[0]
    return ".".join(parts).removesuffix(".__init__")


def runtime_imports(path: Path) -> set[str]:
    """Modules that a file imports, at its top or in a function, but not for type checking."""
    tree = ast.parse(path.read_bytes())
    ignored: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            ignored.update(inner for statement in node.body for inner in ast.walk(statement))
    found: set[str] = set()
    for node in ast.walk(tree):
        if node in ignored:
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                path_of_inner = CORE.parent / inner.replace(".", "/")
                is_module = path_of_inner.with_suffix(".py").exists() or path_of_inner.is_dir()
                found.add(inner if is_module else node.module)
    return found


MODULES = [path for path in sorted(CORE.rglob("*.py")) if path != CORE / "__init__.py"]
ROOMS = [path for path in MODULES if room(path) not in EDGES]
FRAMEWORK_FREE = [path for path in MODULES if not path.is_relative_to(DROP_IN)]


def test_every_module_of_core_has_a_room() -> None:
    assert sorted(rooms()) == sorted(room(path) for path in ROOMS)


def test_an_edge_has_a_row() -> None:
    table = tables("maintainers/architecture.md")[0]
    names = {code(row[0])[0] for row in table}
    assert names >= EDGES >= {room(path) for path in MODULES} - rooms().keys()


def test_rooms_only_import_rooms_above_them() -> None:
    above: set[str] = set()
    for name, allowed in rooms().items():
        assert allowed <= above, name
        above.add(name)


@pytest.mark.parametrize("path", ROOMS, ids=room)
def test_a_module_imports_what_architecture_allows(path: Path) -> None:
    imported = {
        name.removeprefix("safetensors_core").removeprefix(".")
        for name in runtime_imports(path)
        if name.split(".")[0] == "safetensors_core"
    }
    assert imported <= rooms()[room(path)]


@pytest.mark.parametrize("path", FRAMEWORK_FREE, ids=lambda path: path.relative_to(CORE).as_posix())
def test_core_imports_few_packages_and_no_framework(path: Path) -> None:
    allowed = THIRD_PARTY | THIRD_PARTY_OF.get(room(path), set()) | {"safetensors_core"}
    packages = {name.split(".")[0] for name in runtime_imports(path)}
    assert packages - sys.stdlib_module_names <= allowed


# "Your first plugin" lists the files of a package, which tests/third_party installs.

FIRST_PLUGIN = "plugin-authors/first-plugin.md"
ACME = DOCS / "examples" / "safetensors-acme" / "src" / "safetensors_acme"


def test_the_first_plugin_is_listed_whole() -> None:
    [framework] = [
        node
        for node in ast.parse((ACME / "framework.py").read_text("utf-8")).body
        if isinstance(node, ast.ClassDef)
    ]
    methods = {node.name for node in framework.body if isinstance(node, ast.FunctionDef)}
    option = rf"^:pyobject: {framework.name}\.(\w+)$"
    listed = re.findall(option, page_text(FIRST_PLUGIN), re.MULTILINE)
    assert sorted(listed) == sorted(methods)
    assert methods >= Framework.__abstractmethods__


def test_the_first_plugin_is_as_small_as_it_is_said_to_be() -> None:
    assert len((ACME / "framework.py").read_text("utf-8").splitlines()) < 100


PAGES = sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(DOCS).as_posix())
def test_the_pages_are_found_from_the_first_one(page: Path) -> None:
    name = page.relative_to(DOCS).as_posix()
    if name != "index.md" and not name.startswith("examples/"):
        assert f"]({name})" in page_text("index.md")
