"""Files of the Hub: where they are read, with whose token, and what its refusals become."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from string import ascii_letters
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants
from hypothesis import assume, given
from hypothesis import strategies as st

from core.tests.raw import RawFramework, counting, file_bytes, take
from safetensors_core import Dtype, InvalidInputError, RemoteError, load_file, safe_open
from safetensors_core.plugins import open_source
from safetensors_core.sources.hub import open_hub
from safetensors_core.sources.hub_location import HubLocation, parse_hub
from tests.remote.hub_server import COMMIT, HubServer, log_out

TENSORS = {"w": counting(Dtype.F32, 64, 1024), "b": counting(Dtype.I16, 9)}
FILE = file_bytes(TENSORS, {"format": "pt"})


@pytest.fixture(autouse=True)
def _nobody_is_logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log_out(tmp_path, monkeypatch)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    for folder in ("org/name", "org/name@v1", "org/name@refs%2Fpr%2F1", "gpt2", "datasets/org/set"):
        add(tmp_path / "hub" / folder / "model.safetensors")
    with HubServer(tmp_path / "hub") as server:
        yield server


def add(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(FILE)


def bytes_of(location: str, options: dict[str, Any]) -> bytes:
    source = open_hub(location, options)
    data = bytearray(source.size)
    source.read_into(0, memoryview(data))
    source.close()
    return bytes(data)


def asked(hub: HubServer) -> set[str]:
    """What was asked for, without the host."""
    return {request.path for request in hub.requests}


@pytest.mark.parametrize(
    ("location", "path"),
    [
        ("hf://org/name/model.safetensors", "/org/name/resolve/main"),
        ("hf://models/org/name/model.safetensors", "/org/name/resolve/main"),
        ("hf://org/name@v1/model.safetensors", "/org/name/resolve/v1"),
        (f"hf://org/name@{COMMIT}/model.safetensors", f"/org/name/resolve/{COMMIT}"),
        ("hf://org/name@refs/pr/1/model.safetensors", "/org/name/resolve/refs%2Fpr%2F1"),
        ("hf://org/name@refs%2Fpr%2F1/model.safetensors", "/org/name/resolve/refs%2Fpr%2F1"),
        ("hf://datasets/org/set/model.safetensors", "/datasets/org/set/resolve/main"),
        ("hf://gpt2/model.safetensors", "/gpt2/resolve/main"),
        ("hf://gpt2@main/model.safetensors", "/gpt2/resolve/main"),
    ],
)
def test_a_location_is_read_at_its_address(hub: HubServer, location: str, path: str) -> None:
    assert bytes_of(location, hub.options) == FILE
    assert asked(hub) == {f"{path}/model.safetensors"}


@pytest.mark.parametrize(
    "name", ["folder/a b.safetensors", "100%.safetensors", "a?b#c.safetensors"]
)
def test_a_name_with_any_characters_is_found(hub: HubServer, name: str) -> None:
    add(hub.folder / "org" / "name" / name)
    assert bytes_of(f"hf://org/name/{name}", hub.options) == FILE


@pytest.mark.parametrize(
    "location",
    [
        "hf://org/name/model.safetensors",
        "hf://org/name/folder/model.safetensors",
        "hf://org/name@v1/model.safetensors",
        "hf://org/name@refs/pr/1/model.safetensors",
        "hf://datasets/org/set/model.safetensors",
        "hf://org/name@v1",
        "hf://org/name",
    ],
)
def test_locations_mean_what_they_mean_to_huggingface_hub(hub: HubServer, location: str) -> None:
    filesystem = huggingface_hub.HfFileSystem(endpoint=hub.url, token=False)
    theirs = filesystem.resolve_path(location)
    ours = parse_hub(location)
    assert (ours.kind, ours.repository, ours.revision or "main", ours.path) == (
        theirs.repo_type,
        theirs.repo_id,
        theirs.revision,
        theirs.path_in_repo,
    )


def test_the_server_of_these_tests_answers_the_file_system_of_huggingface_hub(
    hub: HubServer,
) -> None:
    filesystem = huggingface_hub.HfFileSystem(endpoint=hub.url, token=False)
    assert filesystem.ls("org/name", detail=False) == ["org/name/model.safetensors"]
    assert filesystem.cat_file("org/name/model.safetensors") == FILE


names = st.from_regex(r"[A-Za-z0-9][\w.-]{0,8}", fullmatch=True, alphabet=ascii_letters + "09_.-")


@given(
    kind=st.sampled_from(["model", "dataset", "space"]),
    repository=st.builds("{}/{}".format, names, names),
    revision=st.none() | st.text(min_size=1) | st.sampled_from(["refs/pr/7", "refs/convert/a"]),
    path=st.lists(st.text("a0 %?#@é.", min_size=1)).map("/".join),
)
def test_a_location_survives_being_written(
    kind: str, repository: str, revision: str | None, path: str
) -> None:
    assume({"", ".", ".."}.isdisjoint(path.split("/")) or not path)
    assume(repository.partition("/")[0] not in {"models", "datasets", "spaces", "buckets"})
    location = HubLocation(kind, repository, revision, path)
    assert parse_hub(location.url) == location


@pytest.mark.parametrize(
    "location",
    ["hf://", "hf://org//name", "hf://org/name@/a", "hf://org/name/../a", "hf://buckets/org/b/a"],
)
def test_what_is_no_location_is_refused(location: str) -> None:
    with pytest.raises(InvalidInputError, match="is no file or repository of the Hugging Face Hub"):
        open_hub(location, {})


@pytest.mark.parametrize("name", ["hf://org/na--me/a", "hf://org/na me/a", "hf://-org/name/a"])
def test_what_is_no_name_of_a_repository_is_refused(name: str) -> None:
    with pytest.raises(InvalidInputError, match="names no repository"):
        open_hub(name, {})


def test_a_repository_is_no_file() -> None:
    with pytest.raises(InvalidInputError, match="name a file of it"):
        open_hub("hf://org/name", {})


def test_a_header_is_one_request(hub: HubServer) -> None:
    source = open_source("hf://org/name/model.safetensors", "auto", hub.options)
    assert source.read_header().tensors.keys() == TENSORS.keys()
    assert [request.method for request in hub.requests] == ["GET"]
    assert hub.sent == source.first_read


def test_tensors_of_a_file_and_of_a_repository_are_loaded(hub: HubServer) -> None:
    raw = RawFramework()
    for location in ("hf://org/name/model.safetensors", "hf://org/name", "hf://gpt2@main"):
        assert load_file(location, raw, storage_options=hub.options) == TENSORS
        with safe_open(location, raw, storage_options=hub.options) as file:
            assert file.get_slice("w")[3:5, ::7] == take(
                TENSORS["w"], (slice(3, 5), slice(None, None, 7))
            )


def test_nothing_is_asked_before_something_is_read(hub: HubServer) -> None:
    open_hub("hf://org/name/model.safetensors", hub.options).close()
    assert hub.requests == []


def test_the_revision_may_be_an_option(hub: HubServer) -> None:
    options = hub.options | {"revision": "refs/pr/1"}
    assert bytes_of("hf://org/name/model.safetensors", options) == FILE
    assert asked(hub) == {"/org/name/resolve/refs%2Fpr%2F1/model.safetensors"}


def test_two_revisions_are_refused(hub: HubServer) -> None:
    with pytest.raises(InvalidInputError, match="'v1', but 'v2' was asked for"):
        open_hub("hf://org/name@v1/model.safetensors", hub.options | {"revision": "v2"})


def test_the_endpoint_may_come_from_the_environment(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"{hub.url}/")
    assert bytes_of("hf://org/name/model.safetensors", {}) == FILE


def test_options_of_the_file_system_of_huggingface_hub_do_no_harm(hub: HubServer) -> None:
    options = hub.options | {"block_size": 4096, "expand_info": True}
    assert bytes_of("hf://org/name/model.safetensors", options) == FILE


def test_other_options_go_to_the_http_file_system(hub: HubServer) -> None:
    options = hub.options | {"headers": {"X-Mine": "yes"}}
    assert bytes_of("hf://org/name/model.safetensors", options) == FILE
    assert {request.headers["x-mine"] for request in hub.requests} == {"yes"}


def test_a_token_opens_a_private_repository(hub: HubServer) -> None:
    hub.private.add("org/name")
    options = {"endpoint": hub.url, "token": hub.token}
    assert bytes_of("hf://org/name/model.safetensors", options) == FILE


def test_the_token_of_who_is_logged_in_is_used(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.private.add("org/name")
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert bytes_of("hf://org/name/model.safetensors", {"endpoint": hub.url}) == FILE


def test_no_token_is_sent_if_that_is_asked_for(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.token)
    bytes_of("hf://org/name/model.safetensors", hub.options)
    assert [request for request in hub.requests if "authorization" in request.headers] == []


def test_a_token_that_must_exist_and_does_not_is_an_error(hub: HubServer) -> None:
    with pytest.raises(PermissionError, match=r"there is none\. Log in with `hf auth login`"):
        open_hub("hf://org/name/model.safetensors", {"endpoint": hub.url, "token": True})


def test_large_files_are_read_from_another_host_which_sees_no_token(
    hub: HubServer, tmp_path: Path
) -> None:
    with HubServer(tmp_path / "hub", contents=hub) as front:
        options = {"endpoint": front.url, "token": "hf_secret", "headers": {"X-Mine": "secret"}}
        assert bytes_of("hf://org/name/model.safetensors", options) == FILE
    assert {request.headers["authorization"] for request in front.requests} == {"Bearer hf_secret"}
    assert front.sent == 0
    assert hub.sent >= len(FILE)
    for request in hub.requests:
        assert "secret" not in " ".join(request.headers.values())


def test_the_token_goes_along_to_the_new_name_of_a_repository(hub: HubServer) -> None:
    hub.private.add("org/name")
    hub.renamed["old/name"] = "org/name"
    options = {"endpoint": hub.url, "token": hub.token}
    assert bytes_of("hf://old/name/model.safetensors", options) == FILE
    with pytest.raises(FileNotFoundError, match="has no such file"):
        bytes_of("hf://old/name/none.safetensors", options)


def test_headers_that_the_user_gives_replace_those_for_the_hub(hub: HubServer) -> None:
    theirs = {"Authorization": "Basic mine", "User-Agent": "mine"}
    options = {"endpoint": hub.url, "token": "hf_other", "headers": theirs}
    assert bytes_of("hf://org/name/model.safetensors", options) == FILE
    for request in hub.requests:
        assert (request.headers["authorization"], request.headers["user-agent"]) == (
            "Basic mine",
            "mine",
        )


@pytest.mark.parametrize("token", [False, "hf_wrong"])
@pytest.mark.parametrize("what", ["private", "gated", "missing"])
def test_who_may_not_read_a_repository_is_told_to_log_in(
    hub: HubServer, what: str, token: str | bool
) -> None:
    hub.private |= {"org/name"} if what == "private" else set()
    hub.gated |= {"org/name"} if what == "gated" else set()
    name = "none" if what == "missing" else "name"
    source = open_hub(f"hf://org/{name}/model.safetensors", {"endpoint": hub.url, "token": token})
    with pytest.raises(
        PermissionError, match="is gated" if what == "gated" else "private"
    ) as caught:
        source.read_header()
    assert caught.value.filename == f"hf://org/{name}/model.safetensors"
    assert "hf auth login" in str(caught.value)
    assert "hf_wrong" not in str(caught.value)


def test_a_file_that_the_repository_lacks_is_not_found(hub: HubServer) -> None:
    source = open_hub("hf://org/name/none.safetensors", hub.options)
    with pytest.raises(FileNotFoundError, match="has no such file") as caught:
        source.read_header()
    assert caught.value.filename == "hf://org/name/none.safetensors"


def test_a_revision_that_the_repository_lacks_is_named(hub: HubServer) -> None:
    source = open_hub("hf://org/name@v9/model.safetensors", hub.options)
    with pytest.raises(RemoteError, match=r"hf://org/name@v9/.*has no such revision") as caught:
        source.read_header()
    assert pickle.loads(pickle.dumps(caught.value)).status == 404


def test_a_cached_file_is_still_read_from_the_hub(hub: HubServer) -> None:
    huggingface_hub.hf_hub_download("org/name", "model.safetensors", endpoint=hub.url, token=False)
    hub.requests.clear()
    assert bytes_of("hf://org/name/model.safetensors", hub.options) == FILE
    assert hub.sent >= len(FILE)


def test_offline_a_cached_file_is_opened_from_the_cache(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    huggingface_hub.hf_hub_download("org/name", "model.safetensors", endpoint=hub.url, token=False)
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for location in ("hf://org/name", f"hf://org/name@{COMMIT}"):
        assert bytes_of(f"{location}/model.safetensors", hub.options) == FILE
    assert hub.requests == []


@pytest.mark.parametrize("repository", ["org/name", "org/name@v1", "org/none", "gpt2"])
def test_offline_what_is_not_cached_is_not_found(
    hub: HubServer, repository: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match=r"not in the cache.*HF_HUB_OFFLINE") as caught:
        open_hub(f"hf://{repository}/model.safetensors", hub.options)
    assert caught.value.filename == f"hf://{repository}/model.safetensors"
    assert hub.requests == []


def test_the_environment_says_that_the_hub_is_offline(tmp_path: Path) -> None:
    program = "from safetensors_core.sources.hub import open_hub; open_hub('hf://a/b/c.json', {})"
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.splitlines()[-1].startswith("FileNotFoundError: [Errno 2] it is not in the")


def test_without_huggingface_hub_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InvalidInputError, match="pip install huggingface_hub"):
        open_hub("hf://org/name/model.safetensors", {})
