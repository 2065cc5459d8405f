"""What `safetensors-core new-plugin` promises, also to those who give it names that cannot be."""

from __future__ import annotations

import inspect
import json
import os
import re
import shlex
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from core.tests.command_line import run
from core.tests.new_package import contents, refused
from safetensors_core import API_VERSION, Framework, __version__
from safetensors_core.cli import main
from safetensors_core.cli.skeleton import Package, render

FILES = {
    "README.md",
    "pyproject.toml",
    "src/safetensors_acme/__init__.py",
    "src/safetensors_acme/_plugin.py",
    "src/safetensors_acme/framework.py",
    "src/safetensors_acme/py.typed",
    "tests/test_conformance.py",
}
# What would end a string, a line, a table or an expression of the template.
HOSTILE = [
    'a"b',
    "a'b",
    "a\\",
    "a\nb",
    "acme\n",
    "a\rb",
    "a]\n[x",
    "{{ 7 * 7 }}",
    "{% raw %}",
    "{# #}",
    '"""',
    "a;b",
    "a b",
    " a",
    "a\0",
    "a\u2028b",
    "`a`",
    "$(a)",
    "\u0430cme",  # looks like "acme"
    "a\udcff",
    "../x",
    "/x",
    "a/b",
    "~",
    "",
]


# What it writes.


def test_the_package_is_complete_and_the_next_steps_are_shown(home: Path) -> None:
    done = run("new-plugin", "acme", "--framework", "acme")
    assert (done.returncode, done.stderr) == (0, "")
    assert contents(home) == {f"safetensors-acme/{name}" for name in FILES}
    lines = done.stdout.splitlines()
    assert lines[0] == "made ./safetensors-acme, 7 files"
    assert [line.strip() for line in lines if line.startswith("  ")] == [
        "python -m pip install -e './safetensors-acme[test]'",
        "python -m safetensors_core.testing acme",
        "grep -rn 'FILL IN' ./safetensors-acme/src",
    ]
    assert lines[-1] == "Read: Your first plugin (docs/plugin-authors/first-plugin.md)"


def test_json_says_what_was_made(home: Path) -> None:
    (home / "my plugins").mkdir()
    arguments = ("acme", "--framework", "acme.core", "--folder", "my plugins", "--json")
    done = run("new-plugin", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    install, _, search = map(shlex.split, document.pop("commands"))
    assert install[-1] == "my plugins/safetensors-acme[test]"
    assert search[-1] == "my plugins/safetensors-acme/src"
    assert document == {
        "path": "my plugins/safetensors-acme",
        "distribution": "safetensors-acme",
        "module": "safetensors_acme",
        "framework": "acme.core",
        "files": sorted(FILES),
        "documentation": "docs/plugin-authors/first-plugin.md",
    }
    assert contents(home / "my plugins" / "safetensors-acme") == FILES


def test_the_search_that_is_shown_finds_every_place_to_fill_in(home: Path) -> None:
    done = run("new-plugin", "acme", "--framework", "acme", "--json")
    command = json.loads(done.stdout)["commands"][-1]
    found = subprocess.run(
        shlex.split(command), check=True, cwd=home, capture_output=True, text=True
    )
    places = found.stdout.splitlines()
    abstract = Framework.__abstractmethods__
    assert all("framework.py:" in place for place in places)
    for name in abstract:
        assert sum(f"to fill in: {name}" in place for place in places) == 1
    # The methods, the types, the import, and what the module's docstring says of it all.
    assert len(places) == len(abstract) + 3


def framework_of(package: Package) -> Any:
    """An instance of the class in a package that was not filled in."""
    source = render(package)[f"src/{package.module}/framework.py"]
    module = types.ModuleType(f"{package.module}.framework")
    exec(compile(source, "framework.py", "exec", dont_inherit=True), vars(module))
    return vars(module)[package.class_name]()


def test_the_framework_has_every_method_and_says_which_one_is_to_fill_in() -> None:
    framework = framework_of(Package("acme", "acme.core"))
    assert (framework.name, framework.native_package) == ("acme", "acme")
    assert (framework.dtypes, framework.api_version) == ({}, API_VERSION)
    for name in Framework.__abstractmethods__:
        method = getattr(type(framework), name)
        assert method.__doc__
        parameters = list(inspect.signature(method).parameters)
        assert parameters == list(inspect.signature(getattr(Framework, name)).parameters)
        with pytest.raises(NotImplementedError, match=f"to fill in: {name}"):
            method(framework, *parameters[1:])


def test_what_can_be_declared_is_there_with_its_default() -> None:
    declared = vars(type(framework_of(Package("acme", "acme"))))
    for name in ("alignment", "aliases_on_load", "aliases_on_save"):
        assert declared[name] == getattr(Framework, name)


@pytest.mark.parametrize(
    ("name", "module", "class_name"),
    [
        ("a", "safetensors_a", "AFramework"),
        ("my-framework", "safetensors_my_framework", "MyFrameworkFramework"),
        ("x86-64", "safetensors_x86_64", "X8664Framework"),
        ("framework", "safetensors_framework", "FrameworkFramework"),
        ("a" * 40, f"safetensors_{'a' * 40}", f"{'a' * 40}Framework".capitalize()),
    ],
)
def test_names_of_all_kinds_are_used_throughout(name: str, module: str, class_name: str) -> None:
    package = Package(name, "mine")
    assert (package.project, package.module) == (f"safetensors-{name}", module)
    files = render(package)
    assert framework_of(package).name == name
    assert f'name = "safetensors-{name}"\n' in files["pyproject.toml"]
    assert f'\n{name} = "{module}._plugin"\n' in files["pyproject.toml"]
    assert f"    from {module} import framework\n" in files[f"src/{module}/_plugin.py"]
    assert type(framework_of(package)).__name__.lower() == class_name.lower()
    for path, text in files.items():
        assert not re.search("NAME|{{|{%", path + text)
        if path.endswith(".py"):
            compile(text, path, "exec")


def dependencies(package: Package) -> list[str]:
    [listed] = re.findall(
        r"^dependencies = \[\n(.*?)^\]", render(package)["pyproject.toml"], re.MULTILINE | re.DOTALL
    )
    return [line.strip(' ",') for line in listed.splitlines()]


def test_it_depends_on_this_minor_version_of_core_and_on_the_framework() -> None:
    major, minor, *_ = __version__.split(".")
    core = f"safetensors-core>={__version__},<{major}.{int(minor) + 1}"
    assert dependencies(Package("acme", "acme.core")) == ["acme", core]
    assert dependencies(Package("acme", "acme", "acme-gpu")) == ["acme-gpu", core]


def test_a_module_of_python_itself_is_nothing_to_install() -> None:
    [core] = dependencies(Package("buffers", "array"))
    assert core.startswith("safetensors-core>=")
    assert dependencies(Package("buffers", "array", "real-arrays"))[0] == "real-arrays"


def test_the_template_engine_is_imported_only_when_it_is_needed() -> None:
    program = (
        "import sys; from safetensors_core.cli import main; main(['new-plugin', '--help']); "
        "main(['new-plugin', 'core', '--framework', 'x']); assert 'jinja2' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_without_the_template_engine_the_remedy_is_shown(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    line = refused(capsys, "acme", "--framework", "acme")
    assert line.endswith('Try: pip install "safetensors-core[testing]"\n')
    assert main(["new-plugin", "acme", "--framework", "acme", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"] == "ModuleNotFoundError"
    assert os.listdir(home) == []


# Names that cannot be.


@pytest.mark.parametrize(
    "name",
    [*HOSTILE, "Acme", "a_b", "a.b", "1a", "a--b", "a-", "-a", "safetensors-acme", "a" * 41],
)
def test_a_name_that_cannot_be_is_refused(
    name: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, "--framework", "acme", "--", name)
    assert "Invalid value for 'NAME': " in line
    assert os.listdir(home) == []


@pytest.mark.parametrize("name", ["class", "import", "lambda"])
def test_a_keyword_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"'{name}' is a keyword of Python" in refused(capsys, name, "--framework", "acme")
    line = refused(capsys, "acme", "--framework", f"acme.{name}")
    assert f"Invalid value for '--framework': '{name}' is a keyword" in line


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("My_Framework", "my-framework"),
        ("ACME", "acme"),
        ("my framework", "my-framework"),
        ("safetensors-acme", "acme"),
    ],
)
def test_a_name_that_is_almost_right_is_corrected(
    name: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"Did you mean '{meant}'?" in refused(capsys, name, "--framework", "acme")


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        ("core", "safetensors-core"),
        ("torch", "safetensors-torch"),
        ("pt", "safetensors-torch"),
        ("jax", "safetensors-jax"),
        ("tf", "safetensors-tensorflow"),
    ],
)
def test_a_name_of_ours_is_taken_installed_or_not(
    name: str, owner: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"'{name}' is taken by {owner}." in refused(capsys, name, "--framework", "acme")


@pytest.mark.parametrize("name", ["taken", "other-name", "named-otherwise", "no-plugin"])
def test_a_name_of_what_is_installed_is_taken(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def install(distribution: str, entries: str = "") -> None:
        info = tmp_path / "site" / f"{distribution.replace('-', '_')}-1.5.dist-info"
        info.mkdir(parents=True)
        metadata = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.5\n"
        (info / "METADATA").write_text(metadata, encoding="utf-8")
        (info / "entry_points.txt").write_text(entries, encoding="utf-8")

    install("st-taken", "[safetensors_core]\ntaken = no_module\nother_name = no_module\n")
    install("Safetensors_Named.Otherwise", "[safetensors_core]\nno = no_module2\n")
    install("safetensors-no-plugin")
    monkeypatch.syspath_prepend(tmp_path / "site")
    line = refused(capsys, name, "--framework", "acme")
    assert re.search(rf"'{name}' is taken by [\w.-]+ 1\.5\. Choose another name\.", line)


@pytest.mark.parametrize("module", [*HOSTILE, "a-b", ".a", "a.", "a..b", "1a", "a.1"])
def test_a_module_that_cannot_be_is_refused(
    module: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, "acme", f"--framework={module}")
    assert "Invalid value for '--framework': " in line
    assert os.listdir(home) == []


@pytest.mark.parametrize("distribution", [*HOSTILE, "-a", "a-", "a>=1", "a[b]", "a @ file:///x"])
def test_a_distribution_that_cannot_be_is_refused(
    distribution: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, "acme", "--framework=acme", f"--distribution={distribution}")
    assert "Invalid value for '--distribution': " in line
    assert os.listdir(home) == []


def test_what_pip_could_not_install_is_refused_unless_pip_is_told_otherwise(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "--distribution" in refused(capsys, "acme", "--framework", "_acme")
    assert os.listdir(home) == []
    assert main(["new-plugin", "acme", "--framework", "_acme", "--distribution", "acme"]) == 0


@pytest.mark.parametrize(
    "arguments",
    [["--framework", "safetensors_acme.x"], ["--framework=a", "--distribution=Safetensors.Acme"]],
)
def test_a_plugin_for_itself_is_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "cannot be a plugin for itself" in refused(capsys, "acme", *arguments)


def test_the_framework_must_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Missing option '--framework'" in refused(capsys, "acme")
