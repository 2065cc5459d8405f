"""`hf://` locations: which file of which repository of the Hugging Face Hub they name."""

from __future__ import annotations

import os
import re
from typing import NamedTuple
from urllib.parse import quote, unquote

from safetensors_core.errors import InvalidInputError

__all__ = ["HubLocation", "is_hub", "parse_hub"]

_SCHEME = "hf://"
_KINDS = {"models": "model", "datasets": "dataset", "spaces": "space"}
# These revisions contain a slash, and are written without quoting it.
_SPECIAL_REVISION = re.compile(r"refs/(?:convert/[\w.-]+|pr/\d+)(?=/|$)")
# What ends like this is a file of a repository without organisation, not a repository.
_FILE = (".safetensors", ".json")


class HubLocation(NamedTuple):
    """A file or folder of a repository of the Hub.

    Attributes:
        kind: ``"model"``, ``"dataset"`` or ``"space"``.
        repository: Its name, with its organisation where it has one.
        revision: Branch, tag or commit; None for the main branch.
        path: The file or folder in the repository; empty for the repository itself.

    Example:
        >>> HubLocation("dataset", "org/name", "refs/pr/1", "data").url
        'hf://datasets/org/name@refs/pr/1/data'
    """

    kind: str
    repository: str
    revision: str | None
    path: str

    @property
    def url(self) -> str:
        """The location as text.

        Example:
            >>> HubLocation("model", "gpt2", None, "model.safetensors").url
            'hf://gpt2/model.safetensors'
        """
        kind = "" if self.kind == "model" else f"{self.kind}s/"
        revision = ""
        if self.revision is not None:
            special = _SPECIAL_REVISION.fullmatch(self.revision)
            revision = "@" + (self.revision if special else quote(self.revision, safe=""))
        return f"{_SCHEME}{kind}{self.repository}{revision}{'/' if self.path else ''}{self.path}"

    def at(self, revision: str | None) -> HubLocation:
        """The same at a revision that was asked for apart from the location.

        Args:
            revision: Branch, tag or commit; None if none was asked for.

        Returns:
            The location with the revision.

        Raises:
            InvalidInputError: The location has another revision already.

        Example:
            >>> HubLocation("model", "gpt2", None, "").at("v1").url
            'hf://gpt2@v1'
        """
        if revision is None:
            return self
        if self.revision not in {None, revision}:
            raise InvalidInputError(
                f"{self.url} has the revision {self.revision!r}, but {revision!r} was asked for: "
                "give one of them"
            )
        return self._replace(revision=revision)


def is_hub(location: str | os.PathLike[str]) -> bool:
    """Whether a location is one of the Hugging Face Hub.

    Args:
        location: What a user gave.

    Returns:
        True for a text that begins with ``hf://``.

    Example:
        >>> is_hub("hf://gpt2"), is_hub("gpt2")
        (True, False)
    """
    return isinstance(location, str) and location.startswith(_SCHEME)


def parse_hub(location: str | os.PathLike[str]) -> HubLocation:
    """Take an ``hf://`` location apart.

    Without a revision, the first two parts are the repository. Only where the second is the name
    of a safetensors or JSON file, and the last part, the first alone is.

    Args:
        location: ``hf://[models/|datasets/|spaces/][org/]name[@revision][/path]``.

    Returns:
        Its parts.

    Raises:
        InvalidInputError: It is no such location.

    Example:
        >>> parse_hub("hf://org/name@v1/model.safetensors")
        HubLocation(kind='model', repository='org/name', revision='v1', path='model.safetensors')
        >>> parse_hub("hf://gpt2/model.safetensors").repository
        'gpt2'
    """
    text = os.fspath(location).removeprefix(_SCHEME).rstrip("/")
    first, slash, rest = text.partition("/")
    kind = _KINDS.get(first) if slash else None
    if kind is None:
        kind, rest = "model", text
    repository, at, behind = rest.partition("@")
    revision: str | None = None
    if at and repository.count("/") <= 1:
        special = _SPECIAL_REVISION.match(behind)
        revision = special[0] if special else behind.partition("/")[0]
        path = behind[len(revision) + 1 :]
        revision = unquote(revision)
    else:
        parts = rest.split("/")
        alone = len(parts) == 2 and parts[1].endswith(_FILE)
        repository, path = "/".join(parts[: 2 - alone]), "/".join(parts[2 - alone :])
    bad = {"", ".", ".."}.intersection([*repository.split("/"), *(path.split("/") if path else [])])
    if first == "buckets" or bad or revision == "":
        raise InvalidInputError(
            f"{os.fspath(location)!r} is no file or repository of the Hugging Face Hub: expected "
            "hf://org/name/FILE, hf://org/name@REVISION/FILE or hf://datasets/org/name/FILE"
        )
    return HubLocation(kind, repository, revision, path)
