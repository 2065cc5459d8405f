"""What must stay true of the repository as a whole."""

from __future__ import annotations

import ast
import configparser
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = [ROOT / "core", *sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))]
# What third parties would publish: nothing of ours depends on it, and it has no part in a release.
EXAMPLES = sorted(path.parent for path in ROOT.glob("docs/examples/*/pyproject.toml"))
SOURCES = sorted(path for package in PACKAGES for path in (package / "src").rglob("*.py"))
# Modules whose name, or a parent's, begins with an underscore are nobody's to import.
PUBLIC = [path for path in SOURCES if not re.search(r"/_(?!_init__)", path.as_posix())]
# The folder that a user puts on the search path for programs that import the reference.
DROP_IN = ROOT / "core" / "src" / "safetensors_core" / "compat" / "drop_in"
MAX_LINES = 400


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def pyproject(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))
    return document


def module_name(path: Path) -> str:
    parts = path.parts[path.parts.index("src") + 1 :]
    return ".".join(parts).removesuffix(".py").removesuffix(".__init__")


def tracked_files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def first_block_under(heading: str) -> list[str]:
    """The lines of the first fenced block under a heading of the README."""
    section = (ROOT / "README.md").read_text("utf-8").split(f"\n## {heading}\n")[1]
    block = re.search(r"^```\w*\n(.*?)^```$", section.split("\n## ")[0], re.DOTALL | re.MULTILINE)
    assert block
    return block[1].splitlines()


@pytest.mark.parametrize("heading", ["Quick start", "Run the tests"])
def test_the_readme_needs_one_line_for(heading: str) -> None:
    assert len(first_block_under(heading)) == 1


def test_continuous_integration_runs_the_test_line_of_the_readme() -> None:
    lines = (ROOT / ".ci" / "run").read_text("utf-8").splitlines()
    commands = [line for line in lines if line and not line.startswith(("#", "set ", "cd "))]
    assert commands == first_block_under("Run the tests")
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


@pytest.mark.parametrize("package", PACKAGES, ids=relative)
def test_a_package_is_complete(package: Path) -> None:
    name = pyproject(package)["project"]["name"].replace("-", "_")
    expected = ["LICENSE", "README.md", "tests", f"src/{name}/__init__.py", f"src/{name}/py.typed"]
    assert [path for path in expected if not (package / path).exists()] == []
    assert list((package / "tests").glob("test_*.py"))
    assert (package / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_all_packages_have_one_version() -> None:
    assert len({pyproject(package)["project"]["version"] for package in PACKAGES}) == 1


def test_packages_require_each_other_within_one_minor_version() -> None:
    version = pyproject(ROOT / "core")["project"]["version"]
    major, minor, _ = map(int, version.split("."))
    bounds = f">={version},<{major}.{minor + 1}"
    wrong = []
    for package in PACKAGES:
        project = pyproject(package)["project"]
        requirements = list(project["dependencies"])
        for extra in project.get("optional-dependencies", {}).values():
            requirements += extra
        for requirement in requirements:
            found = re.fullmatch(r"(safetensors-\w+)(\[[\w,]+\])?(.*)", requirement)
            # An extra that collects other extras of its own package needs no bounds.
            if found and found[1] != project["name"] and found[3] != bounds:
                wrong.append((relative(package), requirement))
    assert wrong == []


def test_the_tools_know_every_package() -> None:
    tool = pyproject(ROOT)["tool"]
    assert tool["mypy"]["mypy_path"] == [
        f"{relative(package)}/src" for package in [*PACKAGES, *EXAMPLES]
    ]
    names = {pyproject(package)["project"]["name"] for package in PACKAGES}
    assert tool["uv"]["sources"].keys() == names


def test_every_test_environment_has_a_description() -> None:
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini", encoding="utf-8")
    factors = {
        name.split(":")[0].strip() for name in tox["testenv"]["description"].splitlines() if name
    }
    described = {
        section.removeprefix("testenv:")
        for section in tox.sections()
        if section.startswith("testenv:") and tox[section].get("description")
    }
    environments = {name.partition("-py")[0] for name in tox["tox"]["env_list"].split()}
    assert environments == factors | described


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_a_module_fits_in_the_head(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) < MAX_LINES


def test_the_folder_of_the_names_of_the_reference_is_no_package() -> None:
    # It goes on a search path; as a package, its modules would have two names.
    assert not (DROP_IN / "__init__.py").exists()
    assert (DROP_IN / "safetensors" / "__init__.py").exists()


def test_imports_are_absolute_and_nothing_imports_as_the_reference() -> None:
    # `safetensors` belongs to the reference implementation: only tests and benchmarks use it, and
    # only one folder, which is on no search path unless a user puts it there, offers its names.
    wrong = []
    for path in tracked_files():
        parts = path.relative_to(ROOT).parts
        taken = path.name in {"safetensors", "safetensors.py"} or "safetensors" in parts[:-1]
        if taken and not path.is_relative_to(DROP_IN):
            wrong.append(f"{relative(path)}: is found as `safetensors`")
        if path.suffix != ".py":
            continue
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
                if node.level:
                    wrong.append(f"{relative(path)}:{node.lineno}: relative import")
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            if path in SOURCES and any(name.split(".")[0] == "safetensors" for name in names):
                wrong.append(f"{relative(path)}:{node.lineno}: imports the reference")
    assert wrong == []


@pytest.fixture(params=PUBLIC, ids=relative)
def module(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(module_name(request.param))


def test_the_public_names_of_a_module_exist_once(module: ModuleType) -> None:
    # That they are sorted is the linter's rule.
    assert len(set(module.__all__)) == len(module.__all__)
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


def test_a_public_name_is_documented_with_an_example(module: ModuleType) -> None:
    assert module.__doc__
    without = []
    for name in module.__all__:
        value = getattr(module, name)
        # Constants are documented by their module; what is re-exported, by the module it is from.
        if not (inspect.isclass(value) or inspect.isroutine(value)):
            continue
        if value.__module__ == module.__name__ and ">>>" not in (value.__doc__ or ""):
            without.append(name)
    assert without == []
