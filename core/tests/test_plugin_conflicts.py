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
