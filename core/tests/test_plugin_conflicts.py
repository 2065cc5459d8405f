"""What one plugin cannot do to another, nor to who does not ask for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.tests.plugin_site import Site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_a_stranger_cannot_take_a_framework_away_by_claiming_its_alias(site: Site) -> None:
    site.framework("acme", "ac")
    site.framework("stranger", "ac")
    name, alias, status = site.run("""
        print(json.dumps([get_framework("acme").name, error(get_framework, "ac"), status()]))
    """)
    assert name == "acme"
    assert alias.startswith("PluginError: plugin name 'ac' is claimed by safetensors-acme 1.0 and")
    assert status == {"acme": "ok", "stranger": "ok"}


def test_a_disabled_plugin_claims_no_name(site: Site) -> None:
    site.framework("acme", "ac")
    site.framework("stranger", "ac")
    assert site.run('print(json.dumps(get_framework("ac").name))', disabled="stranger") == "acme"


def test_a_distribution_whose_metadata_is_lost_harms_no_other(site: Site) -> None:
    site.framework("acme")
    site.framework("lost")
    (site.folder / "safetensors_lost-1.0.dist-info" / "METADATA").unlink()
    names, lost = site.run("""
        print(json.dumps([[info.name for info in list_plugins()], get_framework("lost").name]))
    """)
    assert names == ["acme", "lost"]
    assert lost == "lost"


@pytest.mark.parametrize(
    ("answer", "fault"),
    [("{}['x']", "KeyError: 'x'"), ("3", "it answered int instead of a ByteSource")],
)
def test_a_broken_storage_plugin_keeps_nobody_from_local_files(
    site: Site, answer: str, fault: str
) -> None:
    site.module(
        "broken_plugin",
        f"""
from safetensors_core import hookimpl

@hookimpl
def safetensors_open_source(location, backend):
    return {answer}
""",
    )
    site.install("safetensors-broken", {"broken": "broken_plugin"})
    path = site.folder / "model.safetensors"
    unknown, tensors, warned = site.run(f"""
        import pathlib, warnings
        pathlib.Path({str(path)!r}).write_bytes(save({{}}))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            unknown = error(open_source, "acme://x")
            tensors = list(read_header({str(path)!r}).tensors)
        print(json.dumps([unknown, tensors, [str(warning.message) for warning in caught]]))
    """)
    assert unknown.startswith("InvalidInputError: no installed plugin opens 'acme://x'")
    assert tensors == []
    assert len(warned) == 2
    assert all("broken_plugin" in message and fault in message for message in warned)


def test_a_registered_framework_is_listed_without_importing_its_module_again(site: Site) -> None:
    site.framework("acme")
    listed = site.run("""
        import acme_native_framework
        register_framework(type("Mine", (acme_native_framework.Plugged,), {"name": "mine"})())
        info = {info.name: info for info in list_plugins()}["mine"]
        print(json.dumps([info.status, info.api_version, info.native_package, info.distribution]))
    """)
    assert listed == ["ok", 1, "acme_native", ""]


def hook(name: str, mark: str = "hookimpl", body: str = "return None") -> str:
    return f"from safetensors_core import hookimpl\n@{mark}\ndef {name}():\n    {body}\n"


@pytest.mark.parametrize(
    ("source", "function", "wrong", "advice"),
    [
        (
            hook("safetensors_framwork"),
            *("safetensors_framwork", "safetensors_framwork"),
            "Did you mean 'safetensors_framework'?",
        ),
        (
            hook("opener", 'hookimpl(specname="safetensors_open_sources")'),
            *("opener", "safetensors_open_sources"),
            "Did you mean 'safetensors_open_source'?",
        ),
        (
            hook("xyz"),
            *("xyz", "xyz"),
            "Hooks: safetensors_framework, safetensors_open_source, safetensors_read_checkpoint.",
        ),
    ],
)
def test_a_hook_that_does_not_exist_is_told_with_the_nearest(
    site: Site, source: str, function: str, wrong: str, advice: str
) -> None:
    site.framework("acme")
    site.module("broken_plugin", source)
    site.install("safetensors-broken", {"broken": "broken_plugin"})
    found, other = site.run("""
        print(json.dumps([error(get_framework, "broken"), get_framework("acme").name]))
    """)
    assert found == (
        "PluginError: plugin 'broken' of safetensors-broken 1.0 is broken: its function "
        f"{function!r} is marked as the answer to a hook, and no hook is called {wrong!r}. "
        f"{advice} Correct the name or set SAFETENSORS_DISABLED_PLUGINS=broken"
    )
    assert other == "acme"


def test_a_hook_of_a_later_core_can_be_marked_as_optional(site: Site) -> None:
    site.framework("acme")
    with (site.folder / "acme_plugin.py").open("a") as module:
        module.write(hook("safetensors_later", "hookimpl(optionalhook=True)"))
    assert site.run('print(json.dumps(get_framework("acme").name))') == "acme"


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("raise type('Panic', (BaseException,), {})('in Rust')", "Panic: in Rust"),
        ("raise type('Mute', (Exception,), {'__str__': lambda e: 1 / 0})", "Mute"),
        ("return {}['x']", "KeyError: 'x'"),
    ],
)
@pytest.mark.parametrize("place", ["import", "hook"])
def test_a_plugin_may_fail_in_any_way(site: Site, place: str, failure: str, told: str) -> None:
    if place == "import":
        # A function that is called at once, because `return` needs one.
        source = f"def fail():\n    {failure}\nfail()\n"
    else:
        source = hook("safetensors_framework", body=failure)
    site.module("broken_plugin", source)
    site.install("safetensors-broken", {"broken": "broken_plugin"})
    assert site.run('print(json.dumps(error(get_framework, "broken")))') == (
        f"PluginError: plugin 'broken' of safetensors-broken 1.0 is broken: {told}. "
        "Reinstall it or set SAFETENSORS_DISABLED_PLUGINS=broken"
    )


def test_a_damaged_list_of_entry_points_hides_its_own_plugins_only(site: Site) -> None:
    site.framework("acme", "ac")
    site.framework("damaged")
    (site.folder / "safetensors_damaged-1.0.dist-info" / "entry_points.txt").write_bytes(
        b"[safetensors_core]\n\xff = \xfe\n"
    )
    names, name, warned = site.run("""
        import warnings
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            names = [info.names for info in list_plugins()]
        warnings.simplefilter("ignore")
        warned = [str(warning.message) for warning in caught]
        print(json.dumps([names, get_framework("ac").name, warned]))
    """)
    assert (names, name) == ([["acme", "ac"]], "acme")
    [warning] = warned
    assert "safetensors_damaged-1.0.dist-info: its plugins, if it has any, are not found" in warning
    assert "UnicodeDecodeError" in warning


def test_a_framework_that_fails_on_a_tensor_keeps_nobody_from_another(site: Site) -> None:
    site.framework("acme")
    site.framework("broken")
    with (site.folder / "broken_native_framework.py").open("a") as module:
        module.write("\n    def is_tensor(self, obj):\n        return obj.no_such_attribute\n")
    size, warned = site.run("""
        import acme_native, warnings
        get_framework("broken")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            data = save({"a": acme_native.Tensor()})
        print(json.dumps([len(load(data, "acme")["a"]), [str(w.message) for w in caught]]))
    """)
    assert size == 3
    assert warned
    assert all(
        "plugin 'broken' of broken_native_framework is broken: its is_tensor raised AttributeError"
        in message
        for message in warned
    )


def test_a_native_package_that_is_no_name_keeps_nobody_from_another(site: Site) -> None:
    site.framework("acme")
    site.module("aaa_plugin", "native_package = ['acme_native']")
    site.install("safetensors-aaa", {"aaa": "aaa_plugin"})
    name = site.run("""
        import acme_native
        print(json.dumps(get_framework(acme_native.Tensor()).name))
    """)
    assert name == "acme"


@pytest.mark.parametrize(
    "source",
    [
        "def __getattr__(name):\n    import st_no_such_framework",
        "def __dir__():\n    raise RuntimeError('no driver')",
    ],
)
def test_a_module_that_fails_to_give_its_attributes_keeps_nobody_from_another(
    site: Site, source: str
) -> None:
    site.framework("acme")
    site.module("lazy_plugin", source)
    site.install("safetensors-lazy", {"lazy": "lazy_plugin"})
    name, lazy, status = site.run("""
        import acme_native
        name = get_framework(acme_native.Tensor()).name
        print(json.dumps([name, error(get_framework, "lazy"), status()]))
    """)
    assert name == "acme"
    assert lazy.startswith("PluginError: plugin 'lazy' of safetensors-lazy 1.0 is broken: ")
    assert status == {"acme": "ok", "lazy": lazy.removeprefix("PluginError: ")}
