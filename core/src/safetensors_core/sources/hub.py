"""Files of the Hugging Face Hub: `hf://` locations, read from where the Hub serves them."""

from __future__ import annotations

import errno
import functools
import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, unquote

from safetensors_core.errors import InvalidInputError, RemoteError
from safetensors_core.sources.base import ByteSource
from safetensors_core.sources.file import FileSource
from safetensors_core.sources.http import HttpSource

if TYPE_CHECKING:
    from aiohttp import ClientResponse

    from safetensors_core.sources.parts import Part

__all__ = ["HubLocation", "is_hub", "open_hub", "parse_hub"]

_SCHEME = "hf://"
_KINDS = {"models": "model", "datasets": "dataset", "spaces": "space"}
# These revisions contain a slash, and are written without quoting it.
_SPECIAL_REVISION = re.compile(r"refs/(?:convert/[\w.-]+|pr/\d+)(?=/|$)")
# What ends like this is a file of a repository without organisation, not a repository.
_FILE = (".safetensors", ".json")
# Options that are used here, and those that mean something to HfFileSystem alone.
_NOT_HTTP = {"token", "endpoint", "revision"}
_NOT_HTTP |= {"block_size", "expand_info", "live_follow", "max_workers"}
_LOG_IN = "Log in with `hf auth login`, or pass storage_options={'token': ...}"


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


def open_hub(location: str | os.PathLike[str], storage_options: Mapping[str, Any]) -> ByteSource:
    """Open a file of the Hub where the Hub serves it, or where it is cached if it is offline.

    Nothing is asked until something is read.

    Args:
        location: An ``hf://`` location of a file.
        storage_options: ``token`` (a text; True for the one that is logged in with, False for
            none), ``endpoint`` (URL of another Hub) and ``revision``; what else there is goes to
            fsspec's HTTP file system.

    Returns:
        The source, its header not read yet.

    Raises:
        InvalidInputError: It is no file of the Hub, or huggingface_hub is not installed.
        FileNotFoundError: ``HF_HUB_OFFLINE`` is set, and the file is not cached.
        PermissionError: ``token=True``, and nobody is logged in.

    Example:
        >>> open_hub("hf://org/name", {})
        Traceback (most recent call last):
        safetensors_core.errors.InvalidInputError: 'hf://org/name' is a repository ...
    """
    hub_location = parse_hub(location).at(storage_options.get("revision"))
    if not hub_location.path:
        raise InvalidInputError(
            f"{os.fspath(location)!r} is a repository of the Hugging Face Hub: name a file of it, "
            "as in hf://org/name/model.safetensors"
        )
    _check_name(hub_location)
    from huggingface_hub import constants, hf_hub_url

    if constants.HF_HUB_OFFLINE:
        return _open_cached(hub_location)
    others = {key: value for key, value in storage_options.items() if key not in _NOT_HTTP}
    return _HubSource(
        hf_hub_url(
            hub_location.repository,
            hub_location.path,
            repo_type=hub_location.kind,
            revision=hub_location.revision,
            endpoint=_endpoint(storage_options),
        ),
        location=hub_location.url,
        headers=_headers(hub_location, storage_options),
        storage_options=others,
    )


class _HubSource(HttpSource):
    """A file that the Hub serves, with what the Hub says of files that it does not serve."""

    def _refuse(self, response: ClientResponse, part: Part, *, redirected: bool) -> None:
        code = response.headers.get("X-Error-Code")
        if code is None and response.status == 401 and not redirected:
            code = "InvalidToken"  # the Hub has no code for it
        refusal = _refusal(code, self.location)
        if refusal is not None:
            raise refusal
        super()._refuse(response, part, redirected=redirected)


def _refusal(code: str | None, location: str) -> OSError | None:
    """What a code of the Hub means; None where it says no more than the status does."""
    if code == "EntryNotFound":
        return FileNotFoundError(errno.ENOENT, "the repository has no such file", location)
    if code == "RevisionNotFound":
        return RemoteError("the repository has no such revision", location, status=404)
    text = {
        # The Hub does not tell strangers which of the two it is.
        "RepoNotFound": "the repository does not exist, or it is private and not open to you",
        "GatedRepo": "the repository is gated: accept its conditions on its page of the Hub",
        "InvalidToken": "the Hub does not accept the token",
    }.get(code or "")
    if text is None:
        return None
    return PermissionError(errno.EACCES, f"{text}. {_LOG_IN}", location)


def _check_name(location: HubLocation) -> None:
    """Refuse what can be no repository; this also is the first use of huggingface_hub."""
    try:
        import huggingface_hub.utils
    except ImportError as error:
        raise InvalidInputError(
            f"{location.url} is on the Hugging Face Hub, which is read with huggingface_hub, and "
            f"that cannot be imported ({error}). Try: pip install huggingface_hub"
        ) from None
    try:
        huggingface_hub.utils.validate_repo_id(location.repository)
    except huggingface_hub.utils.HFValidationError as error:
        raise InvalidInputError(f"{location.url} names no repository: {error}") from None


def _endpoint(storage_options: Mapping[str, Any]) -> str:
    from huggingface_hub import constants

    # huggingface_hub looks at the environment once, when it is imported.
    endpoint = storage_options.get("endpoint") or os.environ.get("HF_ENDPOINT")
    return str(endpoint or constants.ENDPOINT).rstrip("/")


def _headers(location: HubLocation, storage_options: Mapping[str, Any]) -> dict[str, str]:
    from huggingface_hub.utils import build_hf_headers

    try:
        headers: dict[str, str] = build_hf_headers(
            token=storage_options.get("token"),
            library_name="safetensors-core",
            library_version=_version(),
        )
    except OSError:  # token=True where there is none
        text = "token=True asks for the token that you are logged in with, and there is none"
        raise PermissionError(errno.EACCES, f"{text}. {_LOG_IN}", location.url) from None
    return headers


@functools.cache
def _version() -> str:
    from importlib.metadata import version

    return version("safetensors-core")


def _open_cached(location: HubLocation) -> ByteSource:
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(
        location.repository,
        location.path,
        revision=location.revision,
        repo_type=location.kind,
    )
    if not isinstance(path, str):
        raise FileNotFoundError(
            errno.ENOENT,
            "it is not in the cache of huggingface_hub, and HF_HUB_OFFLINE keeps it from being "
            "looked for on the Hub",
            location.url,
        )
    return FileSource(path)
