"""What the command line promises where plugins are involved, also plugins that misbehave."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sysconfig
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from safetensors_core import API_VERSION, Dtype, TensorInfo
from safetensors_core.cli import main
from safetensors_core.header import encode_header

COMMAND = str(Path(sysconfig.get_path("scripts")) / "safetensors-core")

# A framework whose tensors are pairs of a description and bytes; FAULT goes into the class.
FRAMEWORK = """
    import os, signal
    from safetensors_core import Dtype, Framework, TensorSpec, hookimpl

    class Pairs(Framework):
        name = "{name}"
        native_package = "builtins"
        dtypes = {{Dtype.F32: "f32", Dtype.U8: "u8"}}

        def is_tensor(self, obj):
            return isinstance(obj, tuple)

        def describe(self, tensor):
            return tensor[0]

        def to_buffer(self, tensor):
            return tensor[1]

        def from_buffers(self, buffer, infos, device):
            self.touch()
            return {{
                name: (TensorSpec(i.dtype, i.shape), buffer[slice(*i.data_offsets)])
                for name, i in infos.items()
            }}

        def index(self, buffer, info, index, device):
            begin, end = info.data_offsets
            row = (end - begin) // info.shape[0]
            first, last, _ = index[0].indices(info.shape[0])
            shape = (last - first, *info.shape[1:])
            data = buffer[begin + first * row : begin + last * row]
            return TensorSpec(info.dtype, shape), data

        def touch(self):
            pass

        {fault}

    @hookimpl
    def safetensors_framework():
        return Pairs()
"""

REMEDY = "Check the disk and the memory, and report it if they are well"

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs plugins for the commands that a test runs."""
    site = tmp_path / "site"
    site.mkdir()
    paths = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))

    def install_plugin(name: str, source: str, *, target: str | None = None) -> None:
        (site / f"{name}_plugin.py").write_text(textwrap.dedent(source), encoding="utf-8")
        info = site / f"st_{name}-1.5.dist-info"
        info.mkdir()
        metadata = f"Metadata-Version: 2.1\nName: st-{name}\nVersion: 1.5\n"
        (info / "METADATA").write_text(metadata, encoding="utf-8")
        entry = f"[safetensors_core]\n{name} = {target or f'{name}_plugin'}\n"
        (info / "entry_points.txt").write_text(entry, encoding="utf-8")

    return install_plugin


def install_pairs(install: Install, name: str, fault: str = "") -> None:
    install(name, FRAMEWORK.format(name=name, fault=fault.replace("\n", "\n        ")))


def run(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, *map(str, arguments)], check=False, capture_output=True, text=True, **options
    )


def listed() -> dict[str, dict[str, Any]]:
    done = run("plugins", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["api_version"] == API_VERSION
    return {plugin["name"]: plugin for plugin in document["plugins"]}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    infos = {
        "weight": TensorInfo(Dtype.F32, (30, 2), (0, 240)),
        "bias": TensorInfo(Dtype.U8, (7,), (240, 247)),
        "none": TensorInfo(Dtype.U8, (0,), (247, 247)),
    }
    path = tmp_path / "model.safetensors"
    path.write_bytes(encode_header(infos, {"format": "x"}) + bytes(range(247)))
    return path


def test_plugins_says_where_each_one_is_from_and_that_it_works(install: Install) -> None:
    install("good", "api_version = 1")
    assert listed()["good"] == {
        "name": "good",
        "aliases": [],
        "distribution": "st-good",
        "version": "1.5",
        "api_version": 1,
        "status": "ok",
    }
    lines = run("plugins").stdout.splitlines()
    assert lines[0].split() == [
        "name",
        "aliases",
        "distribution",
        "version",
        "contract",
        "status",
    ]
    assert any(line.split() == ["good", "st-good", "1.5", "1", "ok"] for line in lines)


@pytest.mark.parametrize(
    ("source", "status"),
    [
        ("import no_such_module_at_all", "no_such_module_at_all"),
        ("def (", "SyntaxError"),
        ("raise RuntimeError('two\\nlines \\x1b[31m')", "RuntimeError"),
        ("import sys; sys.exit(3)", "SystemExit"),
        ("api_version = 99", "pip install --upgrade safetensors-core"),
        ("api_version = '1'", "must be an integer"),
        ("api_version = 0", "pip install --upgrade st-broken"),
        (
            "from safetensors_core import hookimpl\n@hookimpl\ndef safetensors_open_sorce(): pass",
            "Did you mean 'safetensors_open_source'?",
        ),
    ],
)
def test_a_broken_plugin_says_why_and_hides_no_other(
    install: Install, source: str, status: str
) -> None:
    install("broken", source)
    install("good", "api_version = 1")
    plugins = listed()
    assert plugins["good"]["status"] == "ok"
    assert status in plugins["broken"]["status"]
    done = run("plugins")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.replace("\n", "").isprintable()
    assert any(line.startswith("broken ") for line in done.stdout.splitlines())


def test_a_plugin_whose_module_is_missing_is_listed(install: Install) -> None:
    install("lost", "", target="module_that_is_not_there")
    assert "module_that_is_not_there" in listed()["lost"]["status"]


def test_a_plugin_that_lacks_what_it_requires_is_listed_with_the_remedy(
    install: Install, tmp_path: Path
) -> None:
    install("lacking", "import st_nowhere")
    with (tmp_path / "site" / "st_lacking-1.5.dist-info" / "METADATA").open("a") as metadata:
        metadata.write("Requires-Dist: st-nowhere>=2\n")
    assert listed()["lacking"]["status"] == (
        "plugin 'lacking' of st-lacking 1.5 needs st-nowhere>=2 (not installed). "
        'Try: pip install "st-nowhere>=2"'
    )


def test_a_disabled_plugin_is_listed_as_disabled(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("unwanted", "raise RuntimeError('imported')")
    monkeypatch.setenv("SAFETENSORS_DISABLED_PLUGINS", "unwanted")
    assert "disabled" in listed()["unwanted"]["status"]


def test_what_a_plugin_prints_is_no_part_of_the_answer(install: Install) -> None:
    install("talkative", "print('hello')")
    done = run("plugins", "--json")
    assert json.loads(done.stdout)
    assert done.stderr == "hello\n"


def test_without_plugins_the_remedy_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("safetensors_core.list_plugins", list)
    assert main(["plugins"]) == 0
    assert 'pip install "safetensors-core[numpy]"' in capsys.readouterr().out
    assert main(["plugins", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"api_version": API_VERSION, "plugins": []}


def test_demo_with_a_framework_that_is_missing_names_it_and_not_the_file(file: Path) -> None:
    done = run("demo", file, "--framework", "nonesuch")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("safetensors-core: framework 'nonesuch' is not installed")
    error = json.loads(run("demo", file, "--framework", "nonesuch", "--json").stdout)
    assert (error["error"], error["path"]) == ("FrameworkNotFoundError", None)


def test_demo_without_the_numpy_plugin_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SAFETENSORS_DISABLED_PLUGINS", "numpy")
    done = run("demo")
    assert (done.returncode, done.stdout) == (2, "")
    assert "numpy" in done.stderr
    assert "disabled" in done.stderr or 'pip install "safetensors-core[numpy]"' in done.stderr


def test_demo_reads_and_copies_a_file_with_any_framework(install: Install, file: Path) -> None:
    install_pairs(install, "pairs")
    done = run("demo", file, "--framework", "pairs")
    assert (done.returncode, done.stderr) == (0, "")
    steps = [line.split()[0] for line in done.stdout.splitlines()[1:-1]]
    assert steps == ["open", "tensor", "slice", "load", "compare", "save", "copy"]
    assert "weight[10:20]: F32 [10, 2]" in done.stdout
    assert "byte for byte the same file" in done.stdout


def test_demo_tells_a_header_that_is_written_differently_from_other_tensors(
    install: Install, file: Path
) -> None:
    install_pairs(install, "pairs")
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header, rest = data[8 : 8 + length], data[8 + length :]
    file.write_bytes((length + 8).to_bytes(8, "little") + header + b" " * 8 + rest)
    document = json.loads(run("demo", file, "--framework", "pairs", "--json").stdout)
    assert (document["equal"], document["identical"]) == (True, False)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            (
                "def load(self, source, infos, device):\n"
                "    return {n: (t[0], bytes(len(t[1]))) for n, t in"
                " super().load(source, infos, device).items()}"
            ),
            "tensor 'weight' as it was loaded differs from the original",
        ),
        (
            (
                "def index(self, buffer, info, index, device):\n"
                "    return TensorSpec(info.dtype, (10, 2)), bytes(80)"
            ),
            "tensor 'weight[10:20]' as it was sliced differs from the original",
        ),
        (
            "def describe(self, tensor):\n    return TensorSpec(Dtype.F32, (60,))",
            "tensor 'weight' as it was loaded is F32 [60] instead of F32 [30, 2]",
        ),
        (
            (
                "def to_buffer(self, tensor):\n"
                "    self.calls = getattr(self, 'calls', 0) + 1\n"
                "    return bytes(len(tensor[1])) if self.calls > 4 else tensor[1]"
            ),
            "tensor 'weight' in the copy differs from the original",
        ),
    ],
)
def test_demo_fails_where_a_bit_differs(
    install: Install, file: Path, fault: str, message: str
) -> None:
    install_pairs(install, "faulty", fault)
    done = run("demo", file, "--framework", "faulty")
    assert done.returncode == 2
    assert done.stderr == f"safetensors-core: {file}: {message}. {REMEDY}\n"
    assert "all equal" not in done.stdout


def test_demo_names_a_dtype_that_the_framework_lacks(install: Install, tmp_path: Path) -> None:
    install_pairs(install, "pairs")
    path = tmp_path / "half.safetensors"
    infos = {"w": TensorInfo(Dtype.F16, (1,), (0, 2))}
    path.write_bytes(encode_header(infos, None) + bytes(2))
    done = run("demo", path, "--framework", "pairs")
    assert done.returncode == 2
    assert "half.safetensors: tensor 'w': dtype F16" in done.stderr
    assert "Try another --framework" in done.stderr


@pytest.mark.parametrize(
    ("number", "status", "message"),
    [
        (signal.SIGINT, 130, "safetensors-core: interrupted\n"),
        (signal.SIGTERM, 143, ""),
        (signal.SIGHUP, 129, ""),
    ],
)
def test_demo_that_is_stopped_leaves_nothing_behind(
    install: Install, tmp_path: Path, number: signal.Signals, status: int, message: str
) -> None:
    fault = f"def touch(self):\n    os.kill(os.getpid(), {int(number)})\n    signal.pause()"
    install_pairs(install, "stopped", fault)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    # A program that is started where a signal is ignored, as by nohup, would ignore it as well.
    previous = signal.signal(number, signal.default_int_handler)
    try:
        done = run("demo", "--framework", "stopped", env={**os.environ, "TMPDIR": str(scratch)})
    finally:
        signal.signal(number, previous)
    assert (done.returncode, done.stderr) == (status, message)
    assert os.listdir(scratch) == []


def test_demo_that_is_interrupted_says_so_in_json(install: Install, file: Path) -> None:
    install_pairs(install, "stopped", "def touch(self):\n    raise KeyboardInterrupt")
    done = run("demo", file, "--framework", "stopped", "--json")
    assert (done.returncode, done.stderr) == (130, "")
    assert json.loads(done.stdout)["error"] == "Interrupted"


def test_demo_says_before_it_begins_that_the_disk_is_too_full(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    install: Install,
    tmp_path: Path,
) -> None:
    install_pairs(install, "roomy")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    usage = type("usage", (), {"free": 12_000_000})
    monkeypatch.setattr("shutil.disk_usage", lambda _path: usage)
    assert main(["demo", "--framework", "roomy"]) == 2
    captured = capsys.readouterr()
    assert "make" not in captured.out
    assert f"{scratch}: 499 MB are needed here" in captured.err
    assert "12.0 MB are free" in captured.err
    assert os.listdir(scratch) == []
