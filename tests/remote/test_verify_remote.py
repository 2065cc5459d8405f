"""Verifying and comparing what is behind URLs: the same findings as of local files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core.tests.checkpoints import INDEX
from core.tests.command_line import run
from core.tests.sharded import FILES, FIRST, SECOND, THIRD, checkpoint, one_file
from safetensors_core.checkpoint.comparison import compare_checkpoints
from safetensors_core.checkpoint.findings import Report
from safetensors_core.checkpoint.sealing import write_checksums
from safetensors_core.checkpoint.verification import verify_checkpoint
from tests.remote.hub_server import HubServer
from tests.remote.servers import Fault, RangeServer, Request


@pytest.fixture
def model(files: Path) -> Path:
    """A checkpoint of three files that is served."""
    return checkpoint(files)


def found(report: Report) -> set[tuple[str, str]]:
    """Code and name of the file of all that was found."""
    return {(finding.code, finding.file.rpartition("/")[2]) for finding in report.findings}


@pytest.mark.usefixtures("model")
def test_a_good_checkpoint_is_healthy(server: RangeServer) -> None:
    report = verify_checkpoint(server.url("model/"))
    assert report.healthy
    assert (report.files, report.tensors) == (len(FILES), 6)
    assert verify_checkpoint(server.url(f"model/{INDEX}")).healthy
    assert verify_checkpoint(server.url(f"model/{FIRST}")).healthy
    assert report.checked == []


def test_faults_are_found_and_none_hides_the_others(server: RangeServer, model: Path) -> None:
    (model / FIRST).unlink()
    (model / SECOND).write_bytes((model / SECOND).read_bytes() + b"\0")
    (model / THIRD).write_bytes((model / SECOND).read_bytes())
    report = verify_checkpoint(server.url("model/"))
    assert found(report) == {
        ("missing-shard", FIRST),
        ("trailing-data", SECOND),
        ("trailing-data", THIRD),
    }
    assert report.complete


def test_checksums_beside_the_files_are_compared(server: RangeServer, model: Path) -> None:
    write_checksums(model, "beside")
    url = server.url("model/")
    assert verify_checkpoint(url).checked == [url + name for name in (*FILES, INDEX)]
    data = (model / SECOND).read_bytes()
    (model / SECOND).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert found(verify_checkpoint(url)) == {("checksum-mismatch", SECOND)}
    server.reset()
    assert verify_checkpoint(url, checksums=False).healthy
    assert not [request for request in server.requests if "sha256sums" in request.path]


def test_checksums_in_the_metadata_are_compared(server: RangeServer, model: Path) -> None:
    path = one_file(model).rename(model / "one.safetensors")
    write_checksums(path, "metadata")
    report = verify_checkpoint(server.url("model/one.safetensors"))
    assert report.healthy
    assert report.tensors_checked == 6
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    report = verify_checkpoint(server.url("model/one.safetensors"))
    assert [(finding.code, finding.tensor) for finding in report.findings] == [
        ("checksum-mismatch", "h.2")
    ]


@pytest.mark.usefixtures("model")
def test_a_file_that_may_not_be_read_is_not_called_healthy(server: RangeServer) -> None:
    def refuse(request: Request) -> Fault | None:
        return Fault("status", 403) if request.path.endswith(SECOND) else None

    server.fault = refuse
    report = verify_checkpoint(server.url("model/"))
    assert found(report) == {("unreadable", SECOND)}
    assert not report.complete


def test_what_gives_access_is_not_shown(server: RangeServer, model: Path) -> None:
    write_checksums(model, "beside")
    (model / FIRST).write_bytes(b"")
    url = server.url(f"model/{INDEX}?token=hidden", user="me:hidden")
    for command in (["verify", url], ["verify", url, "--json"], ["diff", url, url]):
        done = run(*command)
        assert done.returncode in {1, 2}
        assert "empty" in done.stdout + done.stderr
        assert "hidden" not in done.stdout + done.stderr


def test_a_repository_of_the_hub_is_verified(tmp_path: Path) -> None:
    folder = tmp_path / "hub" / "org"
    folder.mkdir(parents=True)
    model = checkpoint(folder).rename(folder / "name")
    write_checksums(model, "beside")
    with HubServer(tmp_path / "hub") as hub:
        report = verify_checkpoint("hf://org/name", storage_options=hub.options)
        assert report.findings == []
        assert len(report.checked) == len(FILES) + 1
        (model / SECOND).unlink()
        report = verify_checkpoint("hf://org/name", storage_options=hub.options)
    assert found(report) == {("missing-shard", SECOND)}


def test_a_url_and_a_folder_are_compared(server: RangeServer, model: Path) -> None:
    assert compare_checkpoints(server.url("model/"), one_file(model)).equal
    done = run("diff", server.url("model/"), one_file(model), "--json")
    assert (done.returncode, json.loads(done.stdout)["equal"]) == (0, True)


def test_checksums_are_not_written_to_urls(server: RangeServer, model: Path) -> None:
    done = run("verify", server.url("model/"), "--write-checksums", "beside")
    assert done.returncode == 2
    assert "URL" in done.stderr
    assert sorted(path.name for path in model.iterdir()) == sorted([*FILES, INDEX])
