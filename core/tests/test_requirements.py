"""What a distribution requires, and whether it is there: as `packaging` says, only sooner."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from packaging.requirements import Requirement
from packaging.version import Version

from core.tests.plugin_site import Site
from safetensors_core import requirements
from safetensors_core.requirements import Unmet, unmet


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Distributions that this process sees, beside its own."""
    monkeypatch.syspath_prepend(tmp_path)
    return Site(tmp_path)


def found(folder: Site, requirement: str, version: str | None = None) -> list[Unmet]:
    """What is unmet of one requirement, with one version of what it is about."""
    if version is not None:
        folder.install("st-base", {}, version)
    folder.install("st-user", {}, requires=[requirement])
    return unmet("st-user")


@pytest.mark.parametrize(
    ("requirement", "version"),
    [
        ("st-base", "0.1"),
        ("st-base>=1.0,<2", "1.0"),
        ("ST_Base >= 1.0 , < 2", "1.9.9"),
        ("st.base (>=1.0)", "1"),
        ("st-base>=1.0", "1.0+cpu"),
        ("st-base<=1.0", "1.0+cpu"),
        ("st-base>=1.0", "1.1.dev20260101"),
        ("st-base>=2.13", "2.13.0a0+07cecf4168.nv26.5"),
        ("st-base>=2.0,<3", "2.0rc1"),
        ("st-base==2.0", "2.0rc1"),
        ("st-base==2.0rc1", "2.0rc1"),
        ("st-base!=2.0", "2.0rc1"),
        ("st-base==1.*", "1.5"),
        ("st-base~=1.4", "1.9"),
        ("st-base!=1.5", "1.6"),
        ("st-base[fast]>=1", "1"),
        ("st-base @ https://localhost/base.whl", "7"),
        ("st-base>=9; python_version < '3'", "1"),
        ("st-nothing; extra == 'test'", None),
        ("st-nothing>=3; extra == 'a' and python_version > '3'", None),
        ("st-nothing; python_version < '3'", None),
    ],
)
def test_a_requirement_that_is_met_is_no_fault(
    folder: Site, requirement: str, version: str | None
) -> None:
    assert found(folder, requirement, version) == []


@pytest.mark.parametrize(
    ("requirement", "version", "shown", "too_new"),
    [
        ("st-base>=2,<3", "1.9.9", "st-base>=2,<3", False),
        ("st-base>=2,<3", "3.0", "st-base>=2,<3", True),
        ("st-base>=2; python_version > '3'", "1", "st-base>=2", False),
        ("st-base==1.0", "0.9", "st-base==1.0", False),
        ("st-base==1.*", "2.0", "st-base==1.*", True),
        ("st-base~=1.4", "2.0", "st-base~=1.4", True),
        ("st-base>1.0", "1.0+cpu", "st-base>1.0", False),
        ("st-base>=2.1", "2.0rc1", "st-base>=2.1", False),
        ("st-base<2", "2.0rc1", "st-base<2", True),
        ("st-base<2", "1!0.0", "st-base<2", True),
    ],
)
def test_a_version_outside_the_bounds_is_told(
    folder: Site, requirement: str, version: str, shown: str, too_new: bool
) -> None:
    expected = [Unmet("st-base", shown, version, too_new=too_new)]
    assert found(folder, requirement, version) == expected


@pytest.mark.parametrize(
    "requirement", ["st-nothing", "st-nothing>=2", "st-nothing[x]>=2", "st-nothing; os_name != ''"]
)
def test_a_missing_distribution_is_told(folder: Site, requirement: str) -> None:
    shown = requirement.partition(";")[0]
    assert found(folder, requirement) == [Unmet("st-nothing", shown, "")]


@pytest.mark.parametrize(
    "requirement",
    [
        "",
        "?!",
        "st-nothing >",
        "st-nothing>=1.",
        "st-nothing>=not-a-version!",
        "st-nothing; nonsense == 'x'",
        "st-nothing; python_version ~= 'x'",
        "st-nothing; python_version >",
        "st-nothing>=" + "9" * 5000 + "!",
    ],
)
def test_a_requirement_that_cannot_be_understood_is_no_fault(
    folder: Site, requirement: str
) -> None:
    assert found(folder, requirement) == []


@pytest.mark.parametrize("version", ["not a version", "1.0-is-mine-@", ""])
@pytest.mark.parametrize("requirement", ["st-base>=2", "st-base~=2.0"])
def test_a_version_that_cannot_be_understood_is_no_fault(
    folder: Site, requirement: str, version: str
) -> None:
    assert found(folder, requirement, version) == []


def test_damaged_metadata_is_no_fault(folder: Site) -> None:
    folder.install("st-base", {})
    folder.install("st-user", {}, requires=["st-base>=2"])
    assert [wrong.found for wrong in unmet("st-user")] == ["1.0"]
    (folder.folder / "st_base-1.0.dist-info" / "METADATA").write_bytes(b"\xff\xfe")
    assert unmet("st-user") == []
    (folder.folder / "st_user-1.0.dist-info" / "METADATA").write_bytes(b"\xff\xfe")
    assert unmet("st-user") == []
    assert unmet("no-such-distribution") == []


def test_a_package_without_metadata_under_the_required_name_is_no_fault(folder: Site) -> None:
    # A variant of a framework is a distribution of another name with the same modules.
    folder.module("st_base", "raise RuntimeError('this is not the time to import it')")
    assert found(folder, "st-base>=2") == []
    assert "st_base" not in sys.modules


def test_a_folder_that_is_no_package_is_not_taken_for_one(folder: Site) -> None:
    (folder.folder / "st_base").mkdir()
    assert found(folder, "st-base>=2") == [Unmet("st-base", "st-base>=2", "")]


numbers = st.lists(st.integers(0, 3), min_size=1, max_size=4).map(lambda n: ".".join(map(str, n)))
spaces = st.sampled_from(["", " ", "  "])
bounds = st.tuples(spaces, st.sampled_from([">=", "<"]), spaces, numbers, spaces).map("".join)
versions = st.tuples(numbers, st.sampled_from(["", "+cpu", "+1.x", "rc1", ".dev0", ".post1"]))


@given(st.lists(bounds, max_size=3).map(",".join), versions.map("".join))
@example(">=1.0", "1")
@example(">=1.0", "1.0.dev0")
@example("<1.0", "1.0+cpu")
@example("<1.0", "1.0rc1")
@example(">=1,<0", "0")
def test_plain_bounds_mean_what_packaging_says(bounds: str, version: str) -> None:
    text = f"base{bounds}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metadata, "version", lambda name: {"base": version}[name])
        wrong = requirements._check(text)
        expected = requirements._check_any(text)
    either = (version, Version(version).base_version if Version(version).is_prerelease else version)
    assert (wrong is None) == all(
        any(bound.contains(one, prereleases=True) for one in either)
        for bound in Requirement(text).specifier
    )
    assert (wrong is None) == (expected is None)
    assert wrong is None or expected is None or wrong.too_new == expected.too_new


def test_plain_requirements_are_judged_without_importing_packaging(site: Site) -> None:
    extra = 'st-nothing~=1.0; extra == "test"'
    site.framework("acme", requires=["st-base>=1.0,<2", "packaging", extra])
    site.install("st-base", {}, "1.5+cpu")
    imported = site.run("""
        get_framework("acme")
        print(json.dumps([name for name in sys.modules if name.startswith("packaging.")]))
    """)
    assert imported == []


def test_a_plugin_is_not_imported_before_its_requirements_are_met(site: Site) -> None:
    site.framework("acme", requires=["st-base>=2", "st-other"])
    site.framework("good", requires=["st-base>=1"])
    site.install("st-base", {}, "1.5")
    asked, status, other, imported = site.run("""
        import good_native
        found = error(get_framework, "acme")
        good = get_framework(good_native.Tensor()).name
        print(json.dumps([found, status(), good, "acme_plugin" in sys.modules]))
    """)
    assert asked == (
        "PluginError: plugin 'acme' of safetensors-acme 1.0 needs st-base>=2 (1.5 is installed), "
        'st-other (not installed). Try: pip install "st-base>=2" "st-other"'
    )
    assert status == {"acme": asked.removeprefix("PluginError: "), "good": "ok"}
    assert other == "good"
    assert not imported


@pytest.mark.parametrize(
    ("name", "bounds"),
    [("safetensors-core", "<0.1"), ("safetensors_core", "~=0.0.1"), ("Safetensors-Core", "<0.1")],
)
def test_a_plugin_for_an_older_core_is_to_be_upgraded(site: Site, name: str, bounds: str) -> None:
    site.framework("acme", requires=[f"{name}{bounds}"])
    site.install(name, {}, "0.1.0")
    assert site.run('print(json.dumps(error(get_framework, "acme")))') == (
        "PluginError: plugin 'acme' of safetensors-acme 1.0 was made for an older "
        f"safetensors-core: it needs {name}{bounds}, and 0.1.0 is installed. "
        "Try: pip install --upgrade safetensors-acme"
    )


def test_a_framework_that_is_newer_than_the_plugin_knows_is_tried(site: Site) -> None:
    site.framework("acme", requires=["st-base<0.1,>=0.0.1"])
    site.install("st-base", {}, "0.1.0")
    assert site.run('print(json.dumps([get_framework("acme").name, status()]))') == [
        "acme",
        {"acme": "ok"},
    ]


def test_a_plugin_for_a_newer_core_asks_for_it(site: Site) -> None:
    site.framework("acme", requires=["safetensors-core>=0.2,<0.3"])
    site.install("safetensors-core", {}, "0.1.0")
    assert site.run('print(json.dumps(error(get_framework, "acme")))') == (
        "PluginError: plugin 'acme' of safetensors-acme 1.0 needs safetensors-core>=0.2,<0.3 "
        '(0.1.0 is installed). Try: pip install "safetensors-core>=0.2,<0.3"'
    )


def test_a_plugin_that_cannot_be_used_is_told_to_who_may_need_it(site: Site) -> None:
    # The tensor's package is not the plugin's name, so only its module could say whose it is.
    site.framework("acme", requires=["acme-native>=2"])
    site.install("acme-native", {}, "1.0")
    tensor, url, other = site.run("""
        import acme_native
        print(json.dumps([error(get_framework, acme_native.Tensor()),
            error(open_source, "acme://x"), error(get_framework, [1])]))
    """)
    end = (
        ". Not asked: plugin 'acme' of safetensors-acme 1.0 needs acme-native>=2 "
        '(1.0 is installed). Try: pip install "acme-native>=2"'
    )
    assert tensor.endswith(f"Make it a tensor of a framework{end}")
    assert url.endswith(f"no installed plugin opens 'acme://x' (found: none){end}")
    assert other.endswith("Make it a tensor of a framework")
