"""`python -m safetensors_core.compat`: unmodified programs with ours behind `safetensors`."""

from __future__ import annotations

import json
import py_compile
import shutil
import sys
from pathlib import Path

import pytest

from core.tests.stand_in import ProgramSite
from safetensors_core.compat import FOLDER

# What a program can see of how it was started.
SEES = """
import json, os, sys
import safetensors
import sibling
sys.stdout.write(json.dumps({
    "argv": sys.argv,
    "name": __name__,
    "file": __file__,
    "main": sys.modules["__main__"].__dict__ is globals(),
    "package": __package__,
    "spec": __spec__ and __spec__.name,
    "builtins": __builtins__.len(sys.argv),
    "ours": safetensors.serialize({}) != b"the stand-in",
    "sibling": sibling.__file__,
    "path": sys.path,
}))
"""
SIDE = "import safetensors; print(safetensors.serialize({}) != b'the stand-in')"


@pytest.fixture
def site(tmp_path: Path) -> ProgramSite:
    """A place where something else is found as `safetensors`."""
    folder = tmp_path / "site"
    folder.mkdir()
    site = ProgramSite(folder)
    site.reference()
    return site


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A program that prints what it sees, in a folder of its own beside a module."""
    folder = tmp_path / "program"
    folder.mkdir()
    (folder / "sibling.py").touch()
    path = folder / "program.py"
    path.write_text(SEES)
    return path


def written(path: Path, source: str) -> Path:
    path.write_text(source)
    return path


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["a", "--flag", "-x", "b c"],
        ["--strict", "--path", "-m", "--help"],
        ["-h"],
        ["--", "-x"],
        ["a", "--", "b"],
        [""],
    ],
    ids=str,
)
def test_a_program_is_run_as_python_runs_it(
    site: ProgramSite, program: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(program.parent)
    same_as_python(site, program.name, *arguments)


def test_a_program_without_an_ending_or_compiled_is_run_as_python_runs_it(
    site: ProgramSite, program: Path
) -> None:
    bare = program.with_name("my program")
    bare.write_text(SEES)
    same_as_python(site, str(bare))
    compiled = str(program.with_suffix(".pyc"))
    py_compile.compile(str(program), compiled)
    same_as_python(site, compiled)


def test_a_folder_or_an_archive_is_run_as_python_runs_it(site: ProgramSite, program: Path) -> None:
    program.rename(program.with_name("__main__.py"))
    same_as_python(site, str(program.parent), "-x")
    same_as_python(site, shutil.make_archive(str(site.folder), "zip", program.parent))


@pytest.mark.skipif(sys.version_info < (3, 11), reason="-P is new in Python 3.11")
def test_where_python_does_not_search_beside_a_program_neither_do_we(
    site: ProgramSite, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    (site.folder / "sibling.py").touch()
    same_as_python(site, str(program))


def same_as_python(site: ProgramSite, program: str, *arguments: str) -> None:
    """Compare what a program sees with us and without."""
    seen = json.loads(site.compat(program, *arguments))
    plain = json.loads(site.python(program, *arguments).stdout)
    assert seen.pop("ours")
    assert not plain.pop("ours")
    # Where Python puts the folders of PYTHONPATH.
    assert seen["path"].pop(plain["path"].index(str(site.folder))) == site.compat("--path").strip()
    assert seen == plain


@pytest.mark.parametrize("tool", ["pdb", "cProfile", "trace"])
def test_a_program_in_a_tool_that_changes_the_search_path_finds_ours(
    site: ProgramSite, tmp_path: Path, tool: str
) -> None:
    program = written(tmp_path / "program.py", SIDE)
    options = {"pdb": ["-c", "continue", "-c", "quit"], "cProfile": [], "trace": ["--listfuncs"]}
    assert "True\n" in site.compat("-m", tool, *options[tool], program)


def test_the_current_folder_is_not_searched_for_modules_of_a_program(
    site: ProgramSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (here / "stray.py").touch()
    monkeypatch.chdir(here)
    program = written(
        tmp_path / "program.py",
        "import importlib.util; print(importlib.util.find_spec('stray') is None)",
    )
    assert site.python(str(program)).stdout == site.compat(program) == "True\n"


def test_a_module_is_run_as_python_runs_it(site: ProgramSite) -> None:
    package = site.folder / "tool"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(
        "import json, sys, safetensors\n"
        "spec = (__spec__.name, __package__, __name__)\n"
        "print(json.dumps([sys.argv, *spec, safetensors.__version__ != '9.9.9']))\n"
    )
    seen = json.loads(site.compat("-m", "tool", "-x", "--strict", "-m"))
    plain = json.loads(site.python("-m", "tool", "-x", "--strict", "-m").stdout)
    assert seen == [*plain[:-1], True]


def test_a_module_may_be_named_in_one_word(site: ProgramSite) -> None:
    site.module("tool", "import sys; print(sys.argv[1:])")
    assert site.compat("-mtool", "-x", "tool") == "['-x', 'tool']\n"


@pytest.mark.parametrize(
    ("ending", "status"), [("", 0), ("sys.exit(3)", 3), ("sys.exit('no')", 1), ("1 / 0", 1)]
)
def test_the_exit_status_is_that_of_the_program(
    site: ProgramSite, tmp_path: Path, ending: str, status: int
) -> None:
    program = written(tmp_path / "program.py", f"import sys\n{ending}\n")
    site.compat(program, status=status)


def test_a_traceback_ends_in_the_program(site: ProgramSite, tmp_path: Path) -> None:
    program = written(tmp_path / "program.py", "def work():\n    1 / 0\n\nwork()\n")
    lines = site.compat(program, status=1).splitlines()
    shown = [line.strip() for line in lines if line.startswith("  File ")]
    assert shown[-2].startswith(f'File "{program}", line 4')
    assert shown[-1] == f'File "{program}", line 2, in work'
    assert lines[-1] == "ZeroDivisionError: division by zero"


def test_what_a_program_leaves_for_its_end_still_finds_its_globals(
    site: ProgramSite, tmp_path: Path
) -> None:
    source = """
        import atexit, threading
        word = "there"
        def say(event=None):
            if event:
                event.wait()
            import __main__
            assert __main__.word is word
            print(word, flush=True)
        begun = threading.Event()
        threading.Thread(target=say, args=(begun,)).start()
        atexit.register(say)
        atexit.register(begun.set)
        class Last:
            def __del__(self):
                say()
        begun.set()
    """
    program = tmp_path / "program.py"
    program.write_text("\n".join(line[8:] for line in source.splitlines()))
    assert site.compat(program) == "there\nthere\n"


CHILDREN = {
    "a child by subprocess": "subprocess.run([sys.executable, __file__, 'child'], check=True)",
    "a child without the program": (
        f"subprocess.run([sys.executable, '-c', {SIDE!r}], check=True)"
    ),
    "a child by spawn": "run('spawn')",
    "a child by forkserver": "run('forkserver')",
    "a child by fork": "run('fork')",
}


@pytest.mark.parametrize("start", CHILDREN.values(), ids=CHILDREN.keys())
def test_children_find_ours_too(site: ProgramSite, tmp_path: Path, start: str) -> None:
    program = written(
        tmp_path / "program.py",
        f"""
import multiprocessing, subprocess, sys

def work():
    {SIDE}

def run(method):
    process = multiprocessing.get_context(method).Process(target=work)
    process.start()
    process.join()
    sys.exit(process.exitcode)

if __name__ == "__main__":
    if sys.argv[1:]:
        work()
    else:
        {start}
""",
    )
    assert site.compat(program) == "True\n"


def test_the_search_path_of_the_environment_is_kept(site: ProgramSite, tmp_path: Path) -> None:
    program = written(tmp_path / "program.py", "import os; print(os.environ['PYTHONPATH'])")
    first, *others = site.compat(program).strip().split(":")
    assert first == site.compat("--path").strip()
    assert others == [str(site.folder)]


@pytest.mark.parametrize(
    ("options", "strict"), [([], "False False"), (["--strict"], "True True")], ids=str
)
def test_strict_holds_for_a_program_and_its_children(
    site: ProgramSite, tmp_path: Path, options: list[str], strict: str
) -> None:
    program = written(
        tmp_path / "program.py",
        """
import subprocess, sys
from safetensors_core.compat.settings import is_strict

if sys.argv[1:]:
    print(is_strict())
else:
    print(is_strict(), end=" ", flush=True)
    subprocess.run([sys.executable, __file__, "child"], check=True)
""",
    )
    assert site.compat(*options, program).strip() == strict


def test_path_is_the_folder_to_search(site: ProgramSite) -> None:
    folder = Path(site.compat("--path").removesuffix("\n"))
    assert (folder / "safetensors" / "__init__.py").is_file()
    assert (folder / "safetensors" / "py.typed").is_file()
    assert folder.samefile(FOLDER)


def test_the_folder_on_the_search_path_is_enough(site: ProgramSite) -> None:
    folder = site.compat("--path").strip()
    path = f"{folder}:{site.folder}"
    assert site.python("-c", SIDE, environment={"PYTHONPATH": path}).stdout == "True\n"


@pytest.mark.parametrize("arguments", [[], ["--strict"], ["-m"], ["--unknown", "x"]], ids=str)
def test_a_call_that_names_no_program_is_refused_with_the_usage(
    site: ProgramSite, arguments: list[str]
) -> None:
    assert site.compat(*arguments, status=2).startswith("usage: python -m safetensors_core.compat")


def test_a_missing_program_is_named(site: ProgramSite) -> None:
    assert "there is no file 'nothing.py'" in site.compat("nothing.py", status=2)


def test_a_folder_without_a_program_is_named(site: ProgramSite, tmp_path: Path) -> None:
    assert "there is no module __main__ in '/" in site.compat(tmp_path, status=2)


def test_a_missing_module_is_named(site: ProgramSite) -> None:
    assert "No module named nothing" in site.compat("-m", "nothing", status=1)
