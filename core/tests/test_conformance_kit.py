"""The command of the conformance kit: what it takes, what it prints, how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from safetensors_core import Dtype
from safetensors_core.testing import golden_file, golden_hash, main, runner
from safetensors_core.testing.golden import sha256
from safetensors_core.testing.values import bit_patterns, numbers, same

ROOT = Path(__file__).resolve().parents[2]
ONE_KEY = "check_sharing.py::test_tensors_of_their_own_have_keys_of_their_own"


def kit(*arguments: str | Path, framework: str = "Conforming") -> tuple[int, str]:
    """Run the kit on a framework that a module registers: its status, and all that it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "safetensors_core.testing", *map(str, arguments)],
        cwd=ROOT,
        env=dict(os.environ, FRAMEWORK=framework),
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def raw(*arguments: str | Path, framework: str = "Conforming") -> tuple[int, str]:
    return kit("raw", "-p", "core.tests.conforming", *arguments, framework=framework)


def test_a_framework_without_numpy_conforms() -> None:
    status, output = raw()
    assert status == 0, output
    card = output[output.index("report card: raw, registered in this process") :]
    assert "No check failed." in card
    assert "FAILED" not in card
    for reason in (
        "discovery: raw was registered in this process, not installed",
        "numbers of F32: tensors show them neither by tolist() nor by numpy()",
        "views, transposed: the framework does not make them",
        "refusing dtypes: every one of the format is declared",
    ):
        assert reason in card


def test_a_failure_is_on_the_card_with_its_cause_and_the_page_to_read() -> None:
    status, output = raw("check_sharing.py", framework="OneKey")
    assert status == 1
    card = output[output.index("report card") :]
    assert "shared memory: 1 FAILED, 1 passed, 1 not claimed\n" in card
    assert f"  {ONE_KEY}\n    two tensors that share no memory have one storage_key" in card
    assert "About shared memory, read: The plugin contract, Methods with defaults" in card


def test_arguments_reach_pytest() -> None:
    status, output = raw("-k", "scalar_can_be_indexed and U8", "--collect-only")
    assert status == 0
    assert output.count("<Function test_a_scalar_can_be_indexed") == 2  # backends
    assert raw("--no-such-option")[0] == 4
    assert raw(ONE_KEY)[0] == 0
    assert raw("-k", "check_sharing")[0] == 0
    assert raw("-k", "no_such_check")[0] == 5


def test_an_interrupt_ends_with_the_report_of_what_was_done() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "safetensors_core.testing", "raw", "-p", "core.tests.conforming"],
        cwd=ROOT,
        env=dict(os.environ, FRAMEWORK="Conforming"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout
        line = process.stdout.readline()  # of dots, so checks are running
        os.killpg(process.pid, signal.SIGINT)
        output = line + process.stdout.read()
    assert process.returncode == 2
    assert "report card: raw" in output
    assert "Traceback" not in output


def test_a_known_failure_is_no_failure(tmp_path: Path) -> None:
    known = tmp_path / "xfails.txt"
    known.write_text(f"# all of them\n\n{ONE_KEY}  # it has one key for all\n")
    status, output = raw("check_sharing.py", "--xfails", known, framework="OneKey")
    assert status == 0, output
    assert "1 known to fail" in output


def test_a_known_failure_that_passes_is_a_failure(tmp_path: Path) -> None:
    known = tmp_path / "xfails.txt"
    known.write_text(ONE_KEY)
    status, output = raw("check_sharing.py", "--xfails", known)
    assert status == 1
    assert f"  {ONE_KEY}\n    [XPASS(strict)]" in output


@pytest.mark.parametrize("line", ["check_sharing.py::test_nothing", "check_nothing.py"])
def test_a_known_failure_that_there_is_not_is_an_error(line: str, tmp_path: Path) -> None:
    known = tmp_path / "xfails.txt"
    known.write_text(f"{ONE_KEY}\n{line}\n")
    status, output = raw("--xfails", known, framework="OneKey")
    assert status == 4
    assert f"there are no such checks:\n  {line}" in output
    assert ONE_KEY not in output


def test_a_file_of_known_failures_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    status, output = raw("--xfails", tmp_path / "none.txt")
    assert status == 4
    assert "none.txt" in output


def test_a_process_that_dies_is_reported_and_where() -> None:
    status, output = raw("check_sharing.py", framework="Deadly")
    assert status == 3
    assert "died of SIGSEGV" in output
    assert "check_sharing.py" in output
    assert "read: The plugin contract, Memory" in output.replace("Read", "read")


def test_a_plugin_that_is_not_installed_says_what_to_do() -> None:
    status, output = kit("no-such-framework")
    assert status == 4
    assert "framework 'no-such-framework' is not installed (found:" in output
    status, output = kit("TORCH")
    assert status == 4


@pytest.mark.parametrize("arguments", [[], ["-x"], ["--xfails", "file"]])
def test_no_name_is_an_error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: which plugin? Give its name first.\nusage: python -m ")


def test_help_says_what_can_be_given(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "--xfails FILE" in capsys.readouterr().out


def test_without_pytest_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner, "find_spec", lambda name: None if name == "pytest" else name)
    assert main(["numpy"]) == 2
    assert capsys.readouterr().err == (
        'error: pytest cannot be imported.\nTry: pip install "safetensors-core[testing]"\n'
    )


def test_importing_the_kit_imports_neither_pytest_nor_hypothesis() -> None:
    program = (
        "import sys, safetensors_core.testing; print({'pytest', 'hypothesis'} & {*sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("dtype", Dtype)
def test_the_golden_files_are_those_that_were_released(dtype: Dtype) -> None:
    assert sha256(golden_file(dtype)) == golden_hash(dtype)


# Bits and numbers from the tables of the formats' specifications.
KNOWN: list[tuple[Dtype, str, list[Any]]] = [
    (Dtype.BOOL, "0001", [False, True]),
    (Dtype.I8, "7f80ff", [127, -128, -1]),
    (Dtype.U16, "0001ffff", [256, 65535]),
    (Dtype.F8_E4M3, "7e08 01 ff", [448.0, 2.0**-6, 2.0**-9, float("nan")]),
    (Dtype.F8_E5M2, "7b7c01fc", [57344.0, float("inf"), 2.0**-16, -float("inf")]),
    (Dtype.F8_E4M3FNUZ, "7f80", [240.0, float("nan")]),
    (Dtype.F8_E5M2FNUZ, "7f80", [57344.0, float("nan")]),
    (Dtype.F8_E8M0, "007ffeff", [2.0**-127, 1.0, 2.0**127, float("nan")]),
    (Dtype.F4, "10 32 76 f8", [0.0, 0.5, 1.0, 1.5, 4.0, 6.0, -0.0, -6.0]),
    (Dtype.F6_E2M3, "1f0800", [7.5, -0.0, 0.0, 0.0]),
    (Dtype.F16, "ff7b 0100", [65504.0, 2.0**-24]),
    (Dtype.BF16, "803f 7f7f", [1.0, 3.3895313892515355e38]),
    (Dtype.C64, "0000803f 000000c0", [1 - 2j]),
]


@pytest.mark.parametrize(("dtype", "bits", "expected"), KNOWN, ids=lambda value: str(value)[:12])
def test_bits_mean_what_the_specifications_say(
    dtype: Dtype, bits: str, expected: list[Any]
) -> None:
    assert same(numbers(dtype, bytes.fromhex(bits)), expected)


@pytest.mark.parametrize("dtype", Dtype)
def test_patterns_tell_a_dtype_from_all_others(dtype: Dtype) -> None:
    data = bit_patterns(dtype)
    others = [other for other in Dtype if other.bits == dtype.bits and other is not dtype]
    assert not any(same(numbers(other, data), numbers(dtype, data)) for other in others)
