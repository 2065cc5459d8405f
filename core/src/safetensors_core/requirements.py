"""What a distribution requires of others, and whether that is installed, from metadata alone.

Only what a distribution requires itself is looked at, not what others require in turn. What cannot
be known is no fault: a requirement or a version that breaks the rules, or a package that can be
imported but has no metadata under the required name (a variant such as ``tensorflow-cpu``). A
pre-release counts as its release, too: builds from source and those of hardware vendors have such
versions, as in ``torch 2.13.0a0+nv26.5``.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from typing import NamedTuple

__all__ = ["Unmet", "unmet"]

# Importing `packaging` takes longer than loading a small model. Most requirements have this form,
# where versions are numbers and dots and their order is beyond doubt.
_NUMBERS = r"[0-9]{1,9}(?:\.[0-9]{1,9})*"
_BOUND = rf"(?:>=|<) *{_NUMBERS}"
_PLAIN = re.compile(rf"([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?) *({_BOUND}(?: *, *{_BOUND})*)?")
_PLAIN_VERSION = re.compile(rf"({_NUMBERS})(?:\+[a-z0-9]+(?:\.[a-z0-9]+)*)?")
# What is only required by those who ask for an extra.
_OF_AN_EXTRA = re.compile(r"""[^;]*; *extra *== *(?:"[A-Za-z0-9._-]+"|'[A-Za-z0-9._-]+')""")


class Unmet(NamedTuple):
    """A requirement that what is installed does not meet.

    Attributes:
        name: The distribution that is required.
        requirement: The requirement as pip takes it, without its marker.
        found: The version that is installed; empty if none is.
        too_new: Whether the version that is installed is above those that are required.

    Example:
        >>> Unmet("acme", "acme<2,>=1", "2.1", too_new=True).found
        '2.1'
    """

    name: str
    requirement: str
    found: str
    too_new: bool = False


def unmet(distribution: str) -> list[Unmet]:
    """The requirements of an installed distribution that are not met.

    Args:
        distribution: Its name.

    Returns:
        One entry for each, in the order of the metadata. Those of extras are left out, and those
        whose markers do not hold here.

    Example:
        >>> unmet("safetensors-core")
        []
    """
    from importlib import metadata

    try:
        requirements = metadata.requires(distribution) or ()
    except Exception:  # noqa: BLE001  # nobody's damaged metadata may keep others from loading
        return []
    return [wrong for text in requirements if (wrong := _check(text))]


def _check(text: str) -> Unmet | None:
    if _OF_AN_EXTRA.fullmatch(text):
        return None
    plain = _PLAIN.fullmatch(text)
    if plain is None:
        return _check_any(text)
    name, bounds = plain.groups()
    found = _installed_version(name)
    if found is None:
        return Unmet(name, text, "")
    if bounds is None:
        return None
    version = _PLAIN_VERSION.fullmatch(found)
    if version is None:
        return _check_any(text)
    return _compare(Unmet(name, text, found), _release(version[1]), bounds)


def _compare(suspect: Unmet, release: tuple[int, ...], bounds: str) -> Unmet | None:
    failing = [
        bound
        for bound in bounds.replace(" ", "").split(",")
        if (release >= _release(bound.lstrip("<>="))) != bound.startswith(">=")
    ]
    if not failing:
        return None
    return suspect._replace(too_new=any(bound.startswith("<") for bound in failing))


def _release(numbers: str) -> tuple[int, ...]:
    """The numbers of a version; zeros at its end mean nothing."""
    release = [int(number) for number in numbers.split(".")]
    while release and release[-1] == 0:
        release.pop()
    return tuple(release)


def _check_any(text: str) -> Unmet | None:
    from packaging.markers import UndefinedComparison, UndefinedEnvironmentName
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.version import InvalidVersion, Version

    try:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            return None
    except (InvalidRequirement, InvalidVersion, UndefinedComparison, UndefinedEnvironmentName):
        return None
    requirement.marker = None
    found = _installed_version(requirement.name)
    if found is None:
        return Unmet(requirement.name, str(requirement), "")
    try:
        version = Version(found)
    except InvalidVersion:
        return None
    release = Version(version.base_version) if version.is_prerelease else version
    failing = [
        specifier
        for specifier in requirement.specifier
        if not specifier.contains(version, prereleases=True) and not specifier.contains(release)
    ]
    if not failing:
        return None
    too_new = any(
        specifier.operator in {"<", "<=", "==", "~="}
        and release >= Version(specifier.version.removesuffix(".*"))
        for specifier in failing
    )
    return Unmet(requirement.name, str(requirement), found, too_new=too_new)


def _installed_version(name: str) -> str | None:
    """The version of a distribution: empty if it cannot be known, None if it is not installed."""
    from importlib import metadata

    try:
        return metadata.version(name) or ""
    except metadata.PackageNotFoundError:
        return "" if _can_be_imported(name.replace("-", "_").replace(".", "_")) else None
    except Exception:  # noqa: BLE001  # it is there, and its metadata is damaged
        return ""


def _can_be_imported(module: str) -> bool:
    if module in sys.modules:
        return True
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return False
    # Any folder of that name would do for a package without a file.
    return spec is not None and spec.origin is not None
