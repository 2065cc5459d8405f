"""What `convert` says and leaves behind when it fails or is stopped."""

from __future__ import annotations

import json
import os
import pickle
import resource
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from core.tests.command_line import COMMAND, run
from core.tests.raw import RawTensor, counting
from core.tests.toy_checkpoints import loaded, write_toy
from core.tests.toy_plugin import PICKLED, install_toy
from safetensors_core import Dtype

TENSORS = {name: counting(Dtype.F32, 3) for name in "abcd"}
FOUR_FILES = ["m.toy", "out", "--shard-size", "12"]
STAGING = ".model.safetensors.converting"
KEPT = "Finished files are kept: the same command goes on from there"


@pytest.fixture(autouse=True)
def _toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_toy(tmp_path / "site", monkeypatch)


@pytest.fixture
def source(home: Path) -> Path:
    return write_toy(home / "m.toy", TENSORS)


def stopped(
    number: int, tensor: str, *arguments: str, **options: Any
) -> subprocess.CompletedProcess[str]:
    """The command, ended by a signal while it reads a tensor."""
    environment = {**os.environ, "TOY_SIGNAL": str(int(number)), "TOY_TENSOR": tensor}
    return run("convert", *arguments, env=environment, **options)


def check_that_it_goes_on(home: Path) -> None:
    """The same command writes what is missing, and only that."""
    done = run("convert", *FOUR_FILES, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    *files, _ = map(json.loads, done.stdout.splitlines())
    assert [file["resumed"] for file in files] == [True, True, False, False]
    assert loaded(home / "out") == TENSORS
    assert not (home / "out" / STAGING).exists()


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
@pytest.mark.usefixtures("source")
def test_a_conversion_that_is_stopped_says_that_it_can_go_on(
    home: Path, number: int, status: int
) -> None:
    done = stopped(number, "c", *FOUR_FILES)
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr == f"safetensors-core: interrupted. {KEPT}\n"
    assert os.listdir(home / "out") == [STAGING]
    check_that_it_goes_on(home)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.usefixtures("source")
def test_programs_are_told_of_an_interruption_after_the_files(number: int) -> None:
    done = stopped(number, "c", *FOUR_FILES, "--json")
    assert done.stderr == ""
    first, second, error = map(json.loads, done.stdout.splitlines())
    assert (first["event"], second["event"]) == ("file", "file")
    assert error == {
        "error": "Interrupted",
        "message": f"interrupted. {KEPT}",
        "path": "m.toy",
        "reason": None,
    }


@pytest.mark.usefixtures("source")
def test_a_conversion_that_is_killed_goes_on(home: Path) -> None:
    done = stopped(signal.SIGKILL, "c", *FOUR_FILES, "--json")
    assert done.returncode == -signal.SIGKILL
    # What is finished was told at once, for there was no later.
    assert [json.loads(line)["event"] for line in done.stdout.splitlines()] == ["file", "file"]
    assert os.listdir(home / "out") == [STAGING]
    check_that_it_goes_on(home)


@pytest.mark.usefixtures("source")
def test_people_are_told_how_many_files_were_finished_before(home: Path) -> None:
    stopped(signal.SIGKILL, "c", *FOUR_FILES)
    text = run("convert", *FOUR_FILES).stdout
    assert text.startswith("out: 4 files (2 finished before), 4 tensors, 48 bytes in ")
    assert loaded(home / "out") == TENSORS


@pytest.mark.usefixtures("source")
def test_nothing_is_left_of_a_conversion_that_is_stopped_early(home: Path) -> None:
    for number, status in [(signal.SIGINT, 130), (signal.SIGTERM, 143)]:
        done = stopped(number, "a", *FOUR_FILES)
        assert (done.returncode, done.stderr) == (status, "safetensors-core: interrupted\n")
        assert os.listdir(home) == ["m.toy"]


def test_a_disk_that_takes_no_more_keeps_what_is_finished(home: Path) -> None:
    sizes = {"a": 40_000, "b": 90_000}
    tensors = {name: RawTensor(Dtype.U8, (n,), bytes(n)) for name, n in sizes.items()}
    write_toy(home / "m.toy", tensors)

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    arguments = ["convert", "m.toy", "out", "--shard-size", "100kB"]
    done = run(*arguments, preexec_fn=limited)
    assert (done.returncode, done.stdout) == (2, "")
    assert "File too large" in done.stderr
    assert done.stderr.endswith(f". {KEPT}\n")
    assert done.stderr.count("\n") == 1
    assert run(*arguments).stdout.startswith("out: 2 files (1 finished before), ")


@pytest.mark.usefixtures("source")
def test_nobody_who_reads_the_lines_is_no_error_and_keeps_what_is_finished(home: Path) -> None:
    with subprocess.Popen(
        [COMMAND, "convert", *FOUR_FILES, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141
    assert os.listdir(home / "out") == [STAGING]


# What cannot be converted.


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch harm",)


def test_a_checkpoint_that_would_run_code_is_one_line_and_leaves_nothing(home: Path) -> None:
    (home / "evil.toy").write_bytes(PICKLED + pickle.dumps({"w": Harmful()}))
    name = f"{os.system.__module__}.system"
    message = (
        f"evil.toy: its pickle asks for {name!r}, which weights do not need; nothing of it was "
        "run. Get the weights in another format, or from a source you trust"
    )
    for more in ([], ["--dry-run"], ["--overwrite"]):
        done = run("convert", "evil.toy", "out", *more)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"safetensors-core: {message}\n"
    done = run("convert", "evil.toy", "--json")
    assert (done.returncode, done.stderr) == (2, "")
    assert json.loads(done.stdout) == {
        "error": "UnsafeCheckpointError",
        "message": message,
        "path": "evil.toy",
        "reason": None,
    }
    assert os.listdir(home) == ["evil.toy"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.toy"], "none.toy: No such file or directory. Check the path"),
        (["damaged.toy"], "damaged.toy: damaged: "),
        (["other.bin"], "other.bin: this is no checkpoint that an installed plugin reads (found: "),
        (["m.toy", "out", "--shard-size", "many"], "'many'"),
        (["m.toy", "out", "--dtype", "int8"], "expected a floating-point dtype"),
        (
            ["m.toy", "out", "--dtype", "bf16"],
            "has no exact equivalent in toy. Try another --dtype",
        ),
        (["m.toy", "out", "--rename", "no sign"], "expected REGEX=REPLACEMENT, got 'no sign'"),
        (["m.toy", "out", "--rename", "(=x"], "'(' cannot be replaced by 'x'"),
        (["m.toy", "out", "--rename", ".*=x"], "4 tensors would be called "),
        (["m.toy", "out", "--keep", "x*"], "no tensor is called like 'x*'"),
        (["m.toy", "out", "--to", "flax"], "does not say which layout it has; say so, with "),
        (["m.toy", "out", "--from", "torch"], "say how to do what --to asks for"),
        (["m.toy", "out", "--layout-rules", "r.json"], "say how to do what --to asks for"),
        (["m.toy", "out", "--from", "x", "--to", "flax"], "'x'"),
        (["m.toy", "out", "--from", "torch", "--to", "x"], "'x'"),
        (
            ["m.toy", "out", "--from", "torch", "--to", "flax", "--layout-rules", "none.json"],
            "none.json: No such file or directory",
        ),
        (["m.toy", "s3://bucket/out"], "s3://bucket/out: conversions write local files"),
        (["https://me:secret@example.org/m.bin"], "https://example.org/m.bin: only local files"),
        ([], "Missing argument 'SOURCE'. Try: safetensors-core convert --help"),
    ],
)
@pytest.mark.usefixtures("source")
def test_what_cannot_be_done_is_one_line_and_changes_nothing(
    home: Path, arguments: list[str], message: str
) -> None:
    (home / "damaged.toy").write_text("{")
    (home / "other.bin").write_bytes(b"\x00" * 100)
    before = sorted(os.listdir(home))
    done = run("convert", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert "secret" not in done.stderr
    assert done.stderr.count("\n") == 1
    document = json.loads(run("convert", *arguments, "--json").stdout)
    assert document.keys() == {"error", "message", "path", "reason"}
    assert sorted(os.listdir(home)) == before


def test_the_path_of_a_source_that_cannot_be_read_is_inert(home: Path) -> None:
    name = "evil\x1b[31m\n.toy"
    (home / name).write_text("{")
    done = run("convert", name)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("safetensors-core: evil\\x1b[31m\\n.toy: damaged: ")
    assert done.stderr.strip("\n").isprintable()
