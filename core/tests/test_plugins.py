"""Finding plugins: from metadata alone, one by one, and none that harms another.

Most tests lay out distributions in a folder and ask a Python process that sees only them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from core.tests.plugin_site import STORAGE, Site
from core.tests.raw import RawFramework, RawTensor, counting
from safetensors_core import (
    Dtype,
    Framework,
    FrameworkNotFoundError,
    InvalidInputError,
    PluginError,
    get_framework,
    list_plugins,
    load,
    plugins,
    register_framework,
    save,
)

HOOK = """
from safetensors_core import hookimpl

@hookimpl
def safetensors_framework({arguments}):
    return {result}
"""

UNMARKED = "provides no framework: its function 'safetensors_framework' is not marked with hookimpl"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture
def raw(monkeypatch: pytest.MonkeyPatch) -> RawFramework:
    """The raw framework, registered for one test."""
    monkeypatch.setattr(plugins, "_frameworks", dict(plugins._frameworks))
    framework = RawFramework()
    register_framework(framework)
    return framework


def test_a_plugin_is_found_by_its_name_and_aliases(site: Site) -> None:
    site.framework("acme", "ac", "a")
    found = site.run("""
        info, = list_plugins()
        one = {id(get_framework(name)) for name in info.names}
        print(json.dumps([info.name, info.aliases, info.distribution, info.version, info.status,
            info.api_version, info.native_package, len(one), get_framework("ac").name]))
    """)
    expected = ["acme", ["ac", "a"], "safetensors-acme", "1.0", "ok", 1, "acme_native", 1, "acme"]
    assert found == expected


def test_listing_imports_no_plugin_and_no_framework(site: Site) -> None:
    site.framework("acme")
    site.module("broken_plugin", "raise SystemExit")
    site.install("safetensors-broken", {"broken": "broken_plugin"})
    found = site.run("""
        names = [info.name for info in list_plugins()]
        imported = [name for name in sys.modules if "acme" in name or "broken" in name]
        print(json.dumps([names, imported]))
    """)
    assert found == [["acme", "broken"], []]


def test_reading_the_status_imports_the_plugin_but_not_its_framework(site: Site) -> None:
    site.framework("acme")
    found = site.run("""
        info, = list_plugins()
        before = "acme_plugin" in sys.modules
        print(json.dumps([before, info.status, "acme_plugin" in sys.modules,
            "acme_native_framework" in sys.modules]))
    """)
    assert found == [False, "ok", True, False]


def test_only_the_plugin_asked_for_is_imported(site: Site) -> None:
    site.framework("acme")
    site.framework("other")
    found = site.run("""
        get_framework("acme")
        print(json.dumps(sorted(name for name in sys.modules if name.endswith("_plugin"))))
    """)
    assert found == ["acme_plugin"]


@pytest.mark.parametrize(
    ("name", "extra"),
    [
        *(("jax", "jax"), ("flax", "jax"), ("tf", "tensorflow"), ("tensorflow", "tensorflow")),
        *(("pt", "torch"), ("pytorch", "torch"), ("np", "numpy"), ("mlx", "mlx")),
    ],
)
def test_a_framework_that_is_not_installed_says_what_is_and_how_to_get_it(
    site: Site, name: str, extra: str
) -> None:
    site.framework("other")
    site.framework("acme")
    found = site.run(f"print(json.dumps(error(get_framework, {name!r})))")
    assert found == (
        f"FrameworkNotFoundError: framework {name!r} is not installed (found: acme, other). "
        f'Try: pip install "safetensors-core[{extra}]"'
    )


def test_an_unknown_framework_says_that_none_is_installed(site: Site) -> None:
    assert site.run('print(json.dumps(error(get_framework, "nope")))') == (
        "FrameworkNotFoundError: framework 'nope' is not installed (found: none). "
        "Install the plugin that provides it"
    )


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("import no_such_package", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("def broken(:", "SyntaxError: "),
        ("raise RuntimeError('no driver')", "RuntimeError: no driver"),
        (HOOK.format(arguments="device", result="None"), "PluginValidationError: "),
    ],
    ids=["missing package", "syntax error", "exception", "wrong hook"],
)
def test_a_broken_plugin_is_named_and_harms_no_other(site: Site, source: str, cause: str) -> None:
    site.framework("acme")
    site.module("broken_plugin", source)
    site.install("safetensors-broken", {"broken": "broken_plugin"}, "2.1")
    found, status, other, unknown = site.run("""
        print(json.dumps([error(get_framework, "broken"), status(), get_framework("acme").name,
            error(open_source, "acme://x")]))
    """)
    message = f"plugin 'broken' of safetensors-broken 2.1 is broken: {cause}"
    assert found.startswith(f"PluginError: {message}")
    assert found.endswith("Reinstall it or set SAFETENSORS_DISABLED_PLUGINS=broken")
    assert status == {"acme": "ok", "broken": found.removeprefix("PluginError: ")}
    assert other == "acme"
    assert unknown.endswith(f"opens 'acme://x' (found: acme). Not asked: {status['broken']}")


def test_a_plugin_whose_framework_is_missing_says_so(site: Site) -> None:
    site.framework("acme")
    site.module("acme_native_framework", "import acme_gpu")
    found = site.run('print(json.dumps(error(get_framework, "acme")))')
    assert found == (
        "PluginError: plugin 'acme' of safetensors-acme 1.0 cannot import its framework: "
        "No module named 'acme_gpu'. Install the plugin that provides it"
    )


def test_a_plugin_whose_framework_fails_to_start_says_so(site: Site) -> None:
    site.framework("acme")
    site.module("acme_native_framework", "raise RuntimeError('no driver')")
    found = site.run('print(json.dumps(error(get_framework, "acme")))')
    assert found.startswith("PluginError: plugin 'acme' of safetensors-acme 1.0 ")
    assert "RuntimeError: no driver" in found


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "provides no framework"),
        (HOOK.replace("@hookimpl", "").format(arguments="", result="None"), UNMARKED),
        (
            HOOK.format(arguments="", result="'acme'"),
            "returned str instead of a Framework",
        ),
    ],
)
def test_a_plugin_without_a_framework_is_refused(site: Site, source: str, message: str) -> None:
    site.module("acme_plugin", source)
    site.install("safetensors-acme", {"acme": "acme_plugin"})
    found = site.run('print(json.dumps(error(get_framework, "acme")))')
    assert found == f"PluginError: plugin 'acme' of safetensors-acme 1.0 {message}"


def test_a_name_that_two_distributions_claim_is_refused_with_both(site: Site) -> None:
    site.framework("acme")
    site.framework("other", "alias")
    site.install("acme-fork", {"acme": "acme_plugin"}, "3.0")
    found, status, other = site.run("""
        print(json.dumps([error(get_framework, "acme"), [i.status for i in list_plugins()],
            get_framework("alias").name]))
    """)
    assert found.startswith("PluginError: plugin name 'acme' is claimed by ")
    assert "safetensors-acme 1.0" in found
    assert "acme-fork 3.0" in found
    assert [text.partition(" is ")[0] for text in status] == ["plugin name 'acme'"] * 2 + ["ok"]
    assert other == "other"


@pytest.mark.parametrize("disabled", ["acme", "ac", "x, acme", " acme other"])
def test_a_disabled_plugin_is_not_imported(site: Site, disabled: str) -> None:
    site.framework("acme", "ac")
    found, imported = site.run(
        """
        found = error(get_framework, "acme")
        print(json.dumps([found, "acme_plugin" in sys.modules]))
        """,
        disabled=disabled,
    )
    assert found == (
        "PluginError: plugin 'acme' of safetensors-acme 1.0 is disabled by "
        "SAFETENSORS_DISABLED_PLUGINS"
    )
    assert not imported


def test_a_plugin_for_a_newer_contract_is_refused(site: Site) -> None:
    site.framework("acme", api_version=2)
    site.framework("other")
    found, status, other = site.run("""
        print(json.dumps([error(get_framework, "acme"), status(), get_framework("other").name]))
    """)
    assert found == (
        "PluginError: plugin 'acme' of safetensors-acme 1.0 needs version 2 of the plugin "
        "contract, this safetensors-core has 1. Try: pip install --upgrade safetensors-core"
    )
    assert status["acme"] in found
    assert (status["other"], other) == ("ok", "other")


@pytest.mark.parametrize("version", [0, -1])
def test_a_plugin_for_a_contract_that_is_too_old_is_refused(site: Site, version: int) -> None:
    site.framework("acme", api_version=version)
    site.framework("other")
    found, other = site.run("""
        print(json.dumps([error(get_framework, "acme"), get_framework("other").name]))
    """)
    assert found == (
        f"PluginError: plugin 'acme' of safetensors-acme 1.0 was written for version {version} of "
        "the plugin contract, this safetensors-core needs 1 or newer. "
        "Try: pip install --upgrade safetensors-acme"
    )
    assert other == "other"


@pytest.mark.parametrize("version", [True, "1", 1.0, None])
def test_a_version_of_the_contract_is_an_integer(site: Site, version: object) -> None:
    site.framework("acme")
    site.module("acme_plugin", f"api_version = {version!r}")
    assert site.run('print(json.dumps(error(get_framework, "acme")))') == (
        f"PluginError: plugin 'acme' of safetensors-acme 1.0 states {version!r} as the version of "
        "the plugin contract: it must be an integer"
    )


def test_a_plugin_that_is_installed_while_a_process_runs_is_found(site: Site) -> None:
    site.framework("acme")
    source = HOOK.format(arguments="", result="None")
    late = site.folder / "late_plugin.py"
    names = site.run(f"""
        import os, pathlib
        times = os.stat(sys.argv[1])
        names = [[info.name for info in list_plugins()], error(get_framework, "late")]
        pathlib.Path({str(late)!r}).write_text({source!r})
        metadata = pathlib.Path({str(site.folder)!r}) / "late-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\\nName: late\\nVersion: 1.0\\n")
        (metadata / "entry_points.txt").write_text("[safetensors_core]\\nlate = late_plugin\\n")
        # As if all of that had happened within the resolution of the folder's time stamp.
        os.utime(sys.argv[1], ns=(times.st_atime_ns, times.st_mtime_ns))
        names += [error(get_framework, "late"), [info.name for info in list_plugins()]]
        print(json.dumps(names))
    """)
    assert names[0] == ["acme"]
    assert names[1].startswith("FrameworkNotFoundError: framework 'late' is not installed")
    assert names[2] == "PluginError: plugin 'late' of late 1.0 provides no framework"
    assert names[3] == ["acme", "late"]


def test_a_plugin_opens_locations_of_its_own_storage(site: Site) -> None:
    site.module("acme_plugin", STORAGE)
    site.install("safetensors-acme", {"acme": "acme_plugin"})
    found = site.run("""
        print(json.dumps([list(read_header("acme://weights").tensors),
            error(read_header, "other://weights")]))
    """)
    assert found[0] == []
    assert found[1] == (
        "InvalidInputError: no installed plugin opens 'other://weights' (found: acme)"
    )


def test_a_local_file_is_opened_without_importing_any_plugin(site: Site, tmp_path: Path) -> None:
    site.module("acme_plugin", STORAGE)
    site.install("safetensors-acme", {"acme": "acme_plugin"})
    path = tmp_path / "model.safetensors"
    path.write_bytes(save({}))
    found = site.run(f"""
        header = read_header({str(path)!r})
        print(json.dumps([len(header.tensors), "acme_plugin" in sys.modules]))
    """)
    assert found == [0, False]


def test_a_tensor_finds_its_framework_and_only_that(site: Site) -> None:
    site.framework("acme")
    site.framework("other")
    found = site.run("""
        import acme_native
        class Special(acme_native.Tensor):
            __module__ = "acme_native"
        data = save({"a": acme_native.Tensor(), "b": Special()})
        print(json.dumps([get_framework(acme_native.Tensor()).name, len(load(data, "acme")),
            load(data, "acme")["a"].decode(), error(save, {"x": 5}),
            "other_native_framework" in sys.modules]))
    """)
    assert found[:3] == ["acme", 2, "abc"]
    assert found[3] == (
        "FrameworkNotFoundError: tensor 'x': no installed plugin takes objects of type "
        "builtins.int (found: acme, other). Make it a tensor of a framework"
    )
    assert not found[4]


def test_a_registered_framework_is_known_by_name_and_by_tensor(raw: RawFramework) -> None:
    tensor = counting(Dtype.U8, 3)
    assert get_framework("raw") is raw
    assert get_framework(tensor) is raw
    assert load(save({"w": tensor}), "raw") == {"w": tensor}
    [info] = [info for info in list_plugins() if info.name == "raw"]
    assert (info.distribution, info.origin) == ("", RawFramework.__module__)


@pytest.mark.usefixtures("raw")
def test_a_registered_framework_takes_precedence() -> None:
    class Another(RawFramework):
        pass

    another = Another()
    register_framework(another)
    assert get_framework("raw") is another


def test_a_framework_is_taken_as_it_is() -> None:
    framework = RawFramework()
    assert get_framework(framework) is framework


@pytest.mark.parametrize("wrong", ["torch", RawFramework, None])
def test_only_an_instance_can_be_registered(wrong: Any) -> None:
    with pytest.raises(InvalidInputError, match="expected an instance of Framework"):
        register_framework(wrong)


@pytest.mark.parametrize("nameless", ["", None, 5])
def test_a_framework_without_a_name_cannot_be_registered(nameless: Any) -> None:
    class Nameless(RawFramework):
        name = nameless

    with pytest.raises(InvalidInputError, match=f"Nameless has no name: .*, not {nameless!r}$"):
        register_framework(Nameless())


def test_a_framework_for_a_newer_contract_cannot_be_registered() -> None:
    class Newer(RawFramework):
        api_version = 2

    with pytest.raises(PluginError, match="needs version 2 of the plugin contract"):
        register_framework(Newer())


def test_an_object_that_is_no_tensor_is_refused_with_its_type() -> None:
    with pytest.raises(FrameworkNotFoundError, match=r"objects of type builtins\.dict"):
        get_framework({})


def test_a_framework_without_the_four_methods_cannot_be_made() -> None:
    class Incomplete(Framework):
        name = "incomplete"

    with pytest.raises(TypeError, match="abstract"):
        Incomplete()  # type: ignore[abstract]


def test_loading_uses_no_tensor_of_another_framework(raw: RawFramework) -> None:
    loaded = load(save({"w": counting(Dtype.F32, 2)}), raw)
    assert type(loaded["w"]) is RawTensor
