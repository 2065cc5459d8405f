"""Installing the names of the reference into a process, and taking them out again."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.tests.stand_in import FRAMEWORK_MODULES, ProgramSite


@pytest.fixture
def bare(tmp_path: Path) -> ProgramSite:
    """A place where the reference is not installed."""
    return ProgramSite(tmp_path)


@pytest.fixture
def site(bare: ProgramSite) -> ProgramSite:
    """A place where something else is found as `safetensors`."""
    bare.reference()
    return bare


@pytest.fixture(params=["absent", "installed"])
def either(request: pytest.FixtureRequest, bare: ProgramSite) -> ProgramSite:
    """A place without the reference, and one with it."""
    if request.param == "installed":
        bare.reference()
    return bare


def test_after_install_the_import_finds_ours(either: ProgramSite) -> None:
    either.check("""
        from safetensors_core import compat
        compat.install()
        assert compat.is_installed()
        import safetensors
        assert safetensors.__file__.startswith(compat.FOLDER), safetensors.__file__
        assert safetensors.safe_open.__module__ == "safetensors_core.compat.handle"
        assert safetensors.serialize({}) == safetensors.serialize({}, None)
    """)


def test_without_install_the_import_does_not_find_ours(bare: ProgramSite) -> None:
    bare.check("""
        import importlib.util, safetensors_core, safetensors_core.compat
        assert importlib.util.find_spec("safetensors") is None
        assert not safetensors_core.compat.is_installed()
    """)


def test_uninstall_leaves_nothing_behind(bare: ProgramSite) -> None:
    bare.check("""
        import importlib.metadata, importlib.util, sys
        from safetensors_core import compat
        path = list(sys.path)
        compat.install(strict=True)
        import safetensors
        del safetensors
        compat.uninstall()
        assert sys.path == path
        assert importlib.util.find_spec("safetensors") is None
        assert not [name for name in sys.modules if name.split(".")[0] == "safetensors"]
        assert not compat.settings.is_strict()
        try:
            importlib.metadata.version("safetensors")
        except importlib.metadata.PackageNotFoundError:
            pass
        else:
            raise AssertionError
    """)


def test_uninstall_gives_the_reference_back(site: ProgramSite) -> None:
    site.check("""
        from safetensors_core import compat
        compat.install()
        from safetensors import serialize as ours
        compat.uninstall()
        import safetensors.torch
        assert safetensors.__version__ == "9.9.9"
        assert safetensors.torch.load_file("") == "the stand-in"
        assert safetensors.serialize is not ours
    """)


def test_uninstall_gives_back_the_same_modules(site: ProgramSite) -> None:
    site.check("""
        import importlib, sys
        from safetensors_core import compat
        names = ("safetensors", "safetensors.torch")
        before = [importlib.import_module(name) for name in names]
        compat.install()
        assert importlib.import_module("safetensors") is not before[0]
        compat.uninstall()
        assert importlib.import_module("safetensors") is before[0]
        assert importlib.import_module("safetensors.torch") is before[1]
        assert before[0].torch is before[1]
    """)


def test_what_was_imported_of_ours_goes_on_working(either: ProgramSite) -> None:
    either.check("""
        from safetensors_core import compat
        compat.install()
        from safetensors import deserialize, serialize
        compat.uninstall()
        assert deserialize(serialize({}, {"a": "b"})) == []
    """)


def test_installing_twice_is_installing_once(either: ProgramSite) -> None:
    either.check("""
        import sys
        from safetensors_core import compat
        compat.install()
        import safetensors
        compat.install()
        assert sys.modules["safetensors"] is safetensors
        assert sys.path.count(compat.FOLDER) == 1
        compat.uninstall()
        assert not compat.is_installed()
        compat.uninstall()
    """)


def test_a_block_restores_what_was_there_before(either: ProgramSite) -> None:
    either.check("""
        import importlib, importlib.util
        from safetensors_core import compat
        before = importlib.util.find_spec("safetensors")
        try:
            with compat.installed():
                with compat.installed(strict=True):
                    assert compat.settings.is_strict()
                assert compat.is_installed()
                assert not compat.settings.is_strict()
                raise KeyError
        except KeyError:
            pass
        assert not compat.is_installed()
        after = importlib.util.find_spec("safetensors")
        assert (after and after.origin) == (before and before.origin)
    """)


def test_a_block_leaves_installed_what_was_installed(either: ProgramSite) -> None:
    either.check("""
        from safetensors_core import compat
        compat.install()
        import safetensors
        with compat.installed():
            pass
        assert compat.is_installed()
        import sys
        assert sys.modules["safetensors"] is safetensors
    """)


USES = [
    "import safetensors",
    "import safetensors.torch as renamed",
    "from safetensors import torch",
    "from safetensors import safe_open",
    "from safetensors import serialize as renamed",
    "from safetensors.torch import load_file",
]


@pytest.mark.parametrize("statement", USES)
def test_install_is_refused_while_a_module_uses_the_reference(
    site: ProgramSite, statement: str
) -> None:
    site.module("their_library", statement)
    site.check("""
        import sys, their_library
        from safetensors_core import compat
        path, modules = list(sys.path), dict(sys.modules)
        try:
            compat.install()
        except compat.CompatError as error:
            assert error.users == ["their_library"], error.users
            assert "their_library" in str(error)
            assert "python -m safetensors_core.compat" in str(error)
        else:
            raise AssertionError
        assert not compat.is_installed()
        assert (sys.path, sys.modules) == (path, modules)
    """)


def test_a_refused_block_changes_nothing(site: ProgramSite) -> None:
    site.check("""
        import safetensors
        from safetensors_core import compat
        try:
            with compat.installed(strict=True):
                raise AssertionError
        except compat.CompatError as error:
            assert error.users == ["__main__"]
        assert not compat.is_installed() and not compat.settings.is_strict()
        import safetensors.torch
        assert safetensors.torch.load_file("") == "the stand-in"
    """)


def test_the_error_names_five_users_and_counts_the_rest(site: ProgramSite) -> None:
    for number in range(7):
        site.module(f"user{number}", "import safetensors")
    site.check("""
        import user0, user1, user2, user3, user4, user5, user6
        from safetensors_core import compat
        try:
            compat.install()
        except compat.CompatError as error:
            assert "by user0, user1, user2, user3, user4 and 2 more: they" in str(error), error
            assert len(error.users) == 7
        else:
            raise AssertionError
    """)


def test_a_module_that_loads_on_first_use_is_not_loaded_by_the_search_for_users(
    site: ProgramSite,
) -> None:
    site.module("lazy", "raise SystemExit('lazy was loaded')")
    site.check("""
        import importlib.util, sys
        spec = importlib.util.find_spec("lazy")
        spec.loader = importlib.util.LazyLoader(spec.loader)
        sys.modules["lazy"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["lazy"])
        import safetensors
        del safetensors
        from safetensors_core import compat
        compat.install()
        assert compat.is_installed()
    """)


def test_ours_goes_before_what_the_search_path_names_first(site: ProgramSite) -> None:
    site.check("""
        import sys
        from safetensors_core import compat
        sys.path.append(compat.FOLDER)
        assert not compat.is_installed()
        compat.install()
        assert compat.is_installed()
        compat.uninstall()
        assert compat.FOLDER not in sys.path
    """)


def test_an_import_hook_that_goes_before_the_search_path_is_an_error(site: ProgramSite) -> None:
    site.check("""
        import importlib.util, sys
        from safetensors_core import compat
        theirs = importlib.util.find_spec("safetensors")
        class Editable:
            @staticmethod
            def find_spec(name, path=None, target=None):
                return theirs if name == "safetensors" else None
        sys.meta_path.insert(0, Editable)
        path = list(sys.path)
        try:
            compat.install()
        except compat.CompatError as error:
            assert f"an import hook finds {theirs.origin}" in str(error), error
            assert error.users == []
        else:
            raise AssertionError
        assert sys.path == path and not compat.is_installed()
    """)


def test_the_package_is_found_by_those_who_only_look(either: ProgramSite) -> None:
    either.check("""
        import importlib.metadata, importlib.util
        from safetensors_core import compat
        compat.install()
        import safetensors
        assert importlib.util.find_spec("safetensors.torch").origin.startswith(compat.FOLDER)
        assert importlib.util.find_spec("safetensors.nothing") is None
        assert importlib.metadata.version("safetensors") == safetensors.__version__ != "9.9.9"
    """)


def test_the_package_imports_no_framework(bare: ProgramSite) -> None:
    for module, _ in FRAMEWORK_MODULES.values():
        bare.module(module.partition(".")[0], "raise SystemExit(__name__ + ' was imported')")
    bare.check("""
        from safetensors_core import compat
        compat.install()
        import safetensors
        assert safetensors.deserialize(safetensors.serialize({})) == []
    """)


@pytest.mark.parametrize("module", FRAMEWORK_MODULES)
def test_a_module_whose_framework_is_missing_is_an_import_error(
    bare: ProgramSite, module: str
) -> None:
    framework, _ = FRAMEWORK_MODULES[module]
    bare.check(f"""
        from safetensors_core import compat
        compat.install()
        try:
            import safetensors.{module}
        except ModuleNotFoundError as error:
            assert error.name == {framework.partition(".")[0]!r}, error.name
        else:
            raise AssertionError
    """)


@pytest.mark.parametrize("module", FRAMEWORK_MODULES)
def test_a_module_whose_plugin_is_missing_says_how_to_install_it(
    bare: ProgramSite, module: str
) -> None:
    framework, plugin = FRAMEWORK_MODULES[module]
    package = bare.folder / framework.partition(".")[0]
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "core.py").touch()
    bare.check(f"""
        from safetensors_core import compat
        compat.install()
        try:
            import safetensors.{module}
        except ImportError as error:
            assert 'pip install "safetensors-core[{plugin}]"' in str(error), error
        else:
            raise AssertionError
    """)


def test_a_file_cannot_be_opened_for_a_framework_whose_plugin_is_missing(
    bare: ProgramSite,
) -> None:
    bare.check(f"""
        from safetensors_core import compat
        compat.install()
        from safetensors import safe_open, serialize_file
        path = {str(bare.folder / "model.safetensors")!r}
        serialize_file({{}}, path)
        try:
            safe_open(path, framework="np")
        except ImportError as error:
            assert 'pip install "safetensors-core[numpy]"' in str(error), error
        else:
            raise AssertionError
    """)


CHILD = """
import multiprocessing, subprocess, sys
from safetensors_core.compat import install

def work():
    import safetensors
    print(safetensors.serialize({}) != b"the stand-in", flush=True)

if __name__ == "__main__":
    install()
    process = multiprocessing.get_context(sys.argv[1]).Process(target=work)
    process.start()
    process.join()
    assert process.exitcode == 0
    program = "import safetensors; print(safetensors.serialize({}))"
    subprocess.run([sys.executable, "-c", program], check=True)
"""


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_install_reaches_workers_and_not_other_programs(site: ProgramSite, method: str) -> None:
    program = site.folder / "program.py"
    program.write_text(CHILD)
    assert site.python(str(program), method).stdout == "True\nb'the stand-in'\n"


def test_installing_writes_nothing(site: ProgramSite) -> None:
    site.check("""
        import sys
        sys.dont_write_bytecode = True
        from pathlib import Path
        import safetensors_core
        from safetensors_core import compat
        def files():
            folders = (Path(safetensors_core.__file__).parent, Path(sys.path[1]))
            return {path: path.stat().st_mtime_ns for top in folders for path in top.rglob("*")}
        before = files()
        compat.install()
        import safetensors
        compat.uninstall()
        assert files() == before
        assert Path(compat.FOLDER).is_relative_to(Path(safetensors_core.__file__).parent)
    """)
