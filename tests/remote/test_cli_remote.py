"""What the command line promises of URLs: it inspects, splits, merges, and gives nothing away."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import s3fs
from moto.server import ThreadedMotoServer

from core.tests.checkpoints import INDEX, write_shards
from core.tests.command_line import COMMAND, run
from core.tests.raw import RawTensor, counting, file_bytes
from safetensors_core import Dtype
from tests.remote.hub_server import HubServer
from tests.remote.servers import Fault, RangeServer, Request

SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
LARGE = counting(Dtype.U8, 300_000)
TENSORS = {
    SHARDS[0]: {"a": counting(Dtype.F32, 64, 1024), "b": counting(Dtype.I16, 9)},
    SHARDS[1]: {"c": LARGE, "d": counting(Dtype.F4, 4)},
}


def in_order(*files: dict[str, RawTensor]) -> dict[str, RawTensor]:
    """Tensors as `save_file` orders them."""
    tensors = {name: tensor for file in files for name, tensor in file.items()}
    names = sorted(tensors, key=lambda name: (-tensors[name].dtype.rank, name))
    return {name: tensors[name] for name in names}


MERGED = file_bytes(in_order(*TENSORS.values()), {"format": "pt"})


@pytest.fixture
def served(tmp_path: Path) -> Iterator[RangeServer]:
    """A folder `model` with two files and an index, and a file `one.safetensors`."""
    folder = tmp_path / "served"
    folder.mkdir()
    write_shards(folder / "model", TENSORS, {"format": "pt"})
    (folder / "one.safetensors").write_bytes(MERGED)
    with RangeServer(folder) as server:
        yield server


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    """Repositories org/name, of two files and an index, and org/other, of something else."""
    (tmp_path / "hub" / "org" / "other").mkdir(parents=True)
    (tmp_path / "hub" / "org" / "other" / "config.json").write_text("{}")
    write_shards(tmp_path / "hub" / "org" / "name", TENSORS, {"format": "pt"})
    write_shards(tmp_path / "hub" / "org" / "name@v1", {SHARDS[0]: TENSORS[SHARDS[0]]})
    with HubServer(tmp_path / "hub") as server:
        yield server


@pytest.fixture
def bucket() -> Iterator[list[str]]:
    """The options with which an S3 server of this machine is reached; it has a bucket."""
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    settings = {"endpoint_url": f"http://{host}:{port}", "key": "me", "secret": "s3cr3t"}
    # All servers of a process have the same buckets.
    filesystem = s3fs.S3FileSystem(**settings, skip_instance_cache=True)
    filesystem.mkdirs("bucket", exist_ok=True)
    yield options_of(settings)
    filesystem.rm("bucket", recursive=True)
    server.stop()


def options_of(settings: dict[str, Any]) -> list[str]:
    return [
        part
        for key, value in settings.items()
        for part in ("--storage-option", f"{key}={json.dumps(value)}")
    ]


def answer(*arguments: str | Path, status: int = 0) -> Any:
    """The object that a command prints."""
    done = run(*arguments, "--json")
    assert (done.returncode, done.stderr) == (status, "")
    return json.loads(done.stdout)


def test_inspect_of_a_url_of_a_file_says_what_it_says_of_the_file(served: RangeServer) -> None:
    url = served.url("one.safetensors")
    of_url, of_file = answer("inspect", url), answer("inspect", served.folder / "one.safetensors")
    assert of_url.pop("path") == url
    del of_file["path"]
    assert of_url == of_file
    assert run("inspect", url).stdout.startswith(f"{url}: ")


@pytest.mark.parametrize("name", ["model/", f"model/{INDEX}"])
def test_inspect_of_a_url_of_a_checkpoint_reads_headers_only(
    served: RangeServer, name: str
) -> None:
    of_url, of_folder = (
        answer("inspect", served.url(name)),
        answer("inspect", served.folder / "model"),
    )
    assert of_url.pop("path") == served.url(name)
    del of_folder["path"]
    assert of_url == of_folder
    assert served.sent < 10_000


def test_inspect_of_a_repository_asks_for_the_index_and_each_file_once(hub: HubServer) -> None:
    of_hub = answer("inspect", "hf://org/name", *options_of(hub.options))
    assert of_hub["path"] == "hf://org/name"
    assert list(of_hub["files"]) == SHARDS
    assert of_hub["total"]["tensors"] == 4
    assert sorted(hub.read) == sorted([INDEX, *SHARDS])


def test_inspect_reads_the_revision_that_is_asked_for(hub: HubServer) -> None:
    of_hub = answer("inspect", "hf://org/name", "--revision", "v1", *options_of(hub.options))
    assert list(of_hub["files"]) == SHARDS[:1]


def test_a_repository_without_safetensors_is_an_error_that_says_so(hub: HubServer) -> None:
    error = answer("inspect", "hf://org/other", *options_of(hub.options), status=2)
    assert error["reason"] == "no-checkpoint"
    assert "hf://org/other" in error["message"]


def test_a_private_repository_is_an_error_that_says_what_to_do(hub: HubServer) -> None:
    hub.private.add("org/name")
    done = run("inspect", "hf://org/name", *options_of(hub.options))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.endswith("or pass --storage-option token=...\n")


def test_a_url_that_nobody_can_read_is_named_without_what_gives_access() -> None:
    error = answer("inspect", "acme://me:s3cr3t@bucket/w", status=2)
    assert error["path"] == "acme://bucket/w"
    assert "s3cr3t" not in error["message"]


def test_a_url_that_is_not_there_is_one_line(served: RangeServer) -> None:
    for command in (["inspect"], ["merge"], ["split"]):
        target = [] if command == ["inspect"] else [served.folder / "out"]
        url = served.url("none.safetensors")
        done = run(*command, url, *target)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"safetensors-core: {url}: ")
        assert done.stderr.count("\n") == 1
        error = answer(*command, url, *target, status=2)
        assert (error["error"], error["path"]) == ("FileNotFoundError", url)


def test_a_server_that_fails_is_one_line(served: RangeServer) -> None:
    served.fault = lambda _: Fault("status", 400)
    url = served.url("one.safetensors")
    error = answer("inspect", url, status=2)
    assert (error["error"], error["path"]) == ("RemoteError", url)
    assert "400" in error["message"]
    assert error["message"].startswith(f"{url}: ")
    assert error["message"].count(url) == 1


def test_a_server_without_ranges_is_not_to_be_asked_again(served: RangeServer) -> None:
    served.fault = lambda _: Fault("whole")
    message = answer("inspect", served.url("one.safetensors"), status=2)["message"]
    assert "download the file" in message
    assert "Try again" not in message


def test_only_what_may_be_a_folder_of_a_web_server_is_said_to_end_with_a_slash(
    served: RangeServer, hub: HubServer
) -> None:
    hint = "ends with a slash"
    assert hint in answer("inspect", served.url("model"), status=2)["message"]
    for location in (served.url("none.safetensors"), "hf://org/name/none.safetensors"):
        options = options_of(hub.options) if location.startswith("hf") else []
        message = answer("inspect", location, *options, status=2)["message"]
        assert message.endswith("Check the URL")


def test_a_repository_without_its_scheme_is_told_apart_from_a_path() -> None:
    message = answer("inspect", "org/name", status=2)["message"]
    assert message.endswith("Check the path; a repository of the Hugging Face Hub is hf://org/name")


def test_what_gives_access_is_never_shown(tmp_path: Path, served: RangeServer) -> None:
    secret = "?X-Amz-Signature=s3cr3t"
    good = served.url("one.safetensors", user="me:s3cr3t@") + secret
    bad = served.url("none.safetensors", user="me:s3cr3t@") + secret
    for url in [good, bad]:
        for i, call in enumerate([["inspect"], ["split"], ["merge"]]):
            for options in [[], ["--json"]]:
                target = [] if call == ["inspect"] else [tmp_path / f"out{i}{len(options)}"]
                done = run(*call, url, *target, *options)
                assert done.returncode == (0 if url == good else 2)
                assert "s3cr3t" not in done.stdout + done.stderr


@pytest.mark.parametrize("name", ["model/", f"model/{INDEX}", "one.safetensors"])
def test_merge_of_a_url_is_the_same_file_as_that_of_the_folder(
    tmp_path: Path, served: RangeServer, name: str
) -> None:
    target = tmp_path / "merged"
    done = run("merge", served.url(name), target)
    assert (done.returncode, done.stderr) == (0, "")
    assert target.read_bytes() == MERGED


def test_split_of_a_url_reads_each_byte_once(tmp_path: Path, served: RangeServer) -> None:
    done = run(
        "split", served.url("one.safetensors"), tmp_path / "out", "--max-shard-size", "300kB"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert served.sent < len(MERGED) + 65_536 + 1000  # the header is read with what follows it
    run("merge", tmp_path / "out", tmp_path / "merged")
    assert (tmp_path / "merged").read_bytes() == MERGED


def test_merge_of_a_repository(tmp_path: Path, hub: HubServer) -> None:
    done = run("merge", "hf://org/name", tmp_path / "merged", *options_of(hub.options))
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "merged").read_bytes() == MERGED


def test_a_file_that_breaks_off_leaves_nothing(tmp_path: Path, served: RangeServer) -> None:
    headers_read = 3

    def fault(_: object) -> Fault | None:
        return Fault("status", 400) if len(served.requests) > headers_read else None

    served.fault = fault
    for command in ["split", "merge"]:
        served.reset()
        target = tmp_path / "target"
        done = run(command, served.url("model/"), target)
        assert (done.returncode, done.stdout) == (2, "")
        assert len(served.requests) > headers_read
        assert not target.exists()
        assert list(tmp_path.iterdir()) == [served.folder]


@pytest.mark.parametrize("command", ["merge", "split"])
def test_a_server_that_does_not_answer_does_not_keep_a_command_from_being_stopped(
    tmp_path: Path, served: RangeServer, command: str
) -> None:
    silent = threading.Event()

    def fault(_: Request) -> Fault | None:
        if len(served.requests) == 1:  # the header
            return None
        silent.set()
        return Fault("silence")

    served.fault = fault
    call = [COMMAND, command, served.url("one.safetensors"), str(tmp_path / "out")]
    with subprocess.Popen(
        call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert silent.wait(60)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)  # less than all tries take
    assert (process.returncode, output) == (130, "")
    assert errors == "safetensors-core: interrupted\n"
    assert list(tmp_path.iterdir()) == [served.folder]


def test_a_url_that_cannot_be_written_is_refused(served: RangeServer) -> None:
    one = served.folder / "one.safetensors"
    for command, place in [
        ("merge", "new.safetensors"),
        ("merge", "one.safetensors"),
        ("split", "new/"),
    ]:
        done = run(command, one, served.url(place))
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"safetensors-core: {served.url(place)} cannot be written")
        assert done.stderr.count("\n") == 1


def test_a_bucket_takes_and_gives_checkpoints(
    tmp_path: Path, served: RangeServer, bucket: list[str]
) -> None:
    one = served.folder / "one.safetensors"
    size = ["--max-shard-size", "400kB"]
    document = answer("split", one, "s3://bucket/model", *size, *bucket)
    assert document["files"] == [f"s3://bucket/model/{name}" for name in SHARDS]
    assert document["index"] == f"s3://bucket/model/{INDEX}"
    inspected = answer("inspect", "s3://bucket/model", *bucket)
    assert list(inspected["files"]) == SHARDS
    answer("merge", "s3://bucket/model", "s3://bucket/merged.safetensors", *bucket)
    answer("merge", "s3://bucket/merged.safetensors", tmp_path / "merged", *bucket)
    assert (tmp_path / "merged").read_bytes() == MERGED


def test_what_a_bucket_holds_already_is_left_unless_it_may_be_replaced(
    served: RangeServer, bucket: list[str]
) -> None:
    one, model = served.folder / "one.safetensors", served.folder / "model"
    calls: list[list[str | Path]] = [
        ["merge", model, "s3://bucket/m/one.safetensors"],
        ["split", one, "s3://bucket/m"],
    ]
    answer(*calls[0], *bucket)
    for call in calls:
        error = answer(*call, *bucket, status=2)
        assert (error["error"], error["path"]) == ("FileExistsError", call[2])
        answer(*call, "--overwrite", *bucket)


def test_a_bucket_is_not_written_to_where_it_is_read(
    served: RangeServer, bucket: list[str]
) -> None:
    size = ["--max-shard-size", "400kB"]
    answer("split", served.folder / "one.safetensors", "s3://bucket/m", *size, *bucket)
    for call in [
        ["split", "s3://bucket/m", "s3://bucket/m/"],
        ["split", f"s3://bucket/m/{SHARDS[0]}", "s3://bucket/m"],
        ["merge", "s3://bucket/m", f"s3://bucket/m/{SHARDS[0]}"],
        ["merge", f"s3://bucket/m/{INDEX}", f"s3://bucket/m/{INDEX}"],
    ]:
        error = answer(*call, "--overwrite", *bucket, status=2)
        assert error["error"] == "InvalidInputError"
        assert "is read from there, and is left as it is" in error["message"]


def test_the_url_of_a_local_file_is_that_file(tmp_path: Path, served: RangeServer) -> None:
    model = served.folder / "model"
    before = {path: path.read_bytes() for path in model.iterdir()}
    calls: list[list[str | Path]] = [
        ["merge", model, f"file://{model / SHARDS[1]}"],
        ["merge", f"file://{model}", model / SHARDS[1]],
        ["split", model, f"file://{model}"],
        ["split", f"file://{model}", model],
    ]
    for call in calls:
        done = run(*call, "--overwrite")
        assert done.returncode == 2
        assert "is read from there, and is left as it is" in done.stderr
        assert {path: path.read_bytes() for path in model.iterdir()} == before
    assert run("merge", f"file://{model}", f"file://{tmp_path / 'merged'}").returncode == 0
    assert (tmp_path / "merged").read_bytes() == MERGED
