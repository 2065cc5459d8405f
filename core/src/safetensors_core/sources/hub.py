"""Files of the Hugging Face Hub, read from where the Hub serves them."""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from safetensors_core.errors import InvalidInputError, RemoteError
from safetensors_core.sources.base import ByteSource
from safetensors_core.sources.file import FileSource
from safetensors_core.sources.http import HttpSource
from safetensors_core.sources.hub_location import HubLocation, parse_hub

if TYPE_CHECKING:
    from aiohttp import ClientResponse

    from safetensors_core.sources.parts import Part

__all__ = ["open_hub"]

# Options that are used here, and those that mean something to HfFileSystem alone.
_NOT_HTTP = {"token", "endpoint", "revision"}
_NOT_HTTP |= {"block_size", "expand_info", "live_follow", "max_workers"}
_LOG_IN = "Log in with `hf auth login`, or pass storage_options={'token': ...}"


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
    given = {name.lower() for name in storage_options.get("headers", ())}
    return {name: value for name, value in headers.items() if name.lower() not in given}


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
