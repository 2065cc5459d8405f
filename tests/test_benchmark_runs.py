"""Peers that are missing or fail, targets, and what is made of the documents of runs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as program
from benchmarks import sides
from benchmarks.__main__ import main
from benchmarks.cases import CASES, Case, Target
from benchmarks.report import describe_sides
from benchmarks.runner import BenchmarkError, Outcome, Series, run_case
from benchmarks.sides import find, side_called

SCALE = 0.002
PEER, OTHER = "safetensors 0.8.0", "safetensors 0.9.0rc1"
HEADER = next(case for case in CASES if case.name == "header-small")


@pytest.fixture
def peers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder of peers."""
    monkeypatch.setattr(sides, "PEERS", tmp_path / "peers")
    find.cache_clear()
    yield tmp_path / "peers"
    find.cache_clear()


def install(peers: Path, code: str, version: str = "0.9.0rc1") -> None:
    """Put a package called as the reference where the side `OTHER` is looked for."""
    folder = peers / "safetensors-0.9.0rc1"
    metadata = folder / f"safetensors-{version}.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: safetensors\nVersion: {version}\n"
    )
    (folder / "safetensors.py").write_text(code)


def outcome(case: Case, **medians: float) -> Outcome:
    """What a case has shown, with one sample for each side."""
    roles = {"ours": "ours", "write": "limit"}
    return Outcome(
        case,
        {name: Series("", [median]) for name, median in medians.items()},
        {name: roles.get(name, "peer") for name in medians},
    )


def run(**ours: list[float]) -> dict[str, Any]:
    """The document of a run, with samples of ours and of a peer for each case."""
    cases = []
    for name, samples in ours.items():
        found = outcome(HEADER, ours=1, write=1)
        found.series = {"ours": Series("", samples), PEER: Series("", [0.002, 0.002])}
        found.roles = {"ours": "ours", PEER: "peer"}
        cases.append(found.as_json() | {"name": name})
    machine = dict.fromkeys(["cpu", "cores", "huge_pages", "system", "python", "file_system"], "x")
    return {
        "kind": "run",
        "date": "2026-01-01",
        "machine": machine
        | {"load_average": 0, "memory_bytes": 1, "gpus": [], "packages": {"one": "1.0"}},
        "settings": {"repeat": 2, "scale": 1.0},
        "sides": describe_sides(),
        "cases": cases,
        "skipped": {"load-huge-cuda": "skipped: PyTorch finds no CUDA device"},
    }


def written(path: Path, document: dict[str, Any]) -> str:
    path.write_text(json.dumps(document), "utf-8")
    return str(path)


def test_a_peer_that_is_not_installed_is_told_with_what_installs_it(peers: Path) -> None:
    found = find(side_called(OTHER))
    assert not peers.exists()
    assert found.missing == "not installed; see: python -m benchmarks peers"


def test_a_peer_is_found_in_a_folder_of_its_own(peers: Path) -> None:
    install(peers, "")
    assert find(side_called(OTHER)).folder == str(peers / "safetensors-0.9.0rc1")
    assert find(side_called(PEER)).folder is None


def test_another_version_than_the_one_asked_for_is_not_taken(peers: Path) -> None:
    install(peers, "", version="0.9.0")
    assert find(side_called(OTHER)).missing


def test_a_peer_that_cannot_be_installed_is_told_and_leaves_nothing(
    peers: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    assert main(["peers"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"{PEER}: 0.8.0 in the environment" in lines
    assert f"{OTHER}: not installed: ERROR: No matching distribution found for" in "\n".join(lines)
    assert not list(peers.glob("*"))


def test_a_peer_that_fails_is_left_out_and_told(peers: Path, tmp_path: Path) -> None:
    install(peers, "raise OSError('this one fails')")
    outcome = run_case(HEADER, str(tmp_path), scale=SCALE, repeat=2)
    assert outcome.failed == {OTHER: "OSError: this one fails"}
    assert outcome.series.keys() == {"ours", PEER}
    assert len(outcome.series[PEER].samples) == 2
    assert outcome.best_peer == PEER


def test_a_peer_that_computes_something_else_is_left_out_and_told(
    peers: Path, tmp_path: Path
) -> None:
    install(peers, "def safe_open(path, framework):\n    return {'other': 0}\n")
    outcome = run_case(HEADER, str(tmp_path), scale=SCALE, repeat=1)
    assert outcome.failed[OTHER].startswith("computed ")
    assert OTHER not in outcome.series


def test_the_best_peer_counts_and_a_limit_is_none() -> None:
    found = outcome(HEADER, ours=2, slow=9, fast=6, write=1)
    assert found.best_peer == "fast"
    assert found.ratio == 3


def test_memory_too_little_to_be_counted_has_no_ratio() -> None:
    case = next(case for case in CASES if case.name == "memory-save-numpy")
    assert outcome(case, ours=4096, peer=2**30).ratio is None
    assert outcome(case, ours=2**29, peer=2**30).ratio == 2


@pytest.mark.parametrize(
    ("target", "ours", "met"),
    [
        (Target("peer", 3), 2, True),
        (Target("peer", 3), 2.1, False),
        (Target("limit", 2, "write"), 2, True),
        (Target("limit", 2, "write"), 2.1, False),
        (Target("limit", 2, "memcpy"), 1, None),
        (Target("extra", 1, "write"), 2, True),
        (Target("extra", 1, "write"), 2.1, False),
        (Target("ours", 2), 1.9, True),
        (Target("ours", 2), 2, False),
    ],
)
def test_a_target_is_met_missed_or_not_measured(
    target: Target, ours: float, met: bool | None
) -> None:
    assert outcome(HEADER, ours=ours, peer=6, write=1).met(target) is met


def test_a_part_of_a_checkpoint_says_nothing_about_a_target() -> None:
    found = outcome(HEADER, ours=1, peer=6)
    assert found.met(Target("peer", 3)) is True
    found.scale = 0.01
    assert found.met(Target("peer", 3)) is None


def test_a_comparison_marks_what_lies_beyond_the_spread(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = written(tmp_path / "a", run(slower=[1, 2], faster=[4, 5], same=[1, 3], gone=[1]))
    after = written(tmp_path / "b", run(slower=[3, 4], faster=[1, 2], same=[2, 4], new=[1]))
    assert main(["compare", before, after]) == 0
    lines = capsys.readouterr().out.splitlines()
    ours = {line.split("`")[1]: line for line in lines if "| ours |" in line}
    assert ours["slower"].endswith("| 1500 ms | 3500 ms | 2.33x | SLOWER |")
    assert ours["faster"].endswith("| 0.33x | faster |")
    assert ours["same"].endswith("| 1.50x | |")
    assert lines[-2:] == ["- only before: `gone`", "- only after: `new`"]


def test_a_comparison_fails_only_above_what_was_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = written(tmp_path / "a", run(slower=[1, 2], same=[1, 3]))
    after = written(tmp_path / "b", run(slower=[3, 4], same=[2, 4]))
    assert main(["compare", before, after, "--fail-above", "2.4"]) == 0
    assert main(["compare", before, after, "--fail-above", "1.1"]) == 1
    assert capsys.readouterr().err == "above 1.1x: slower\n"


def test_memory_is_compared_only_as_far_as_it_can_be_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mib = 2.0**20
    documents = [
        run(more=[4 * mib], less=[9 * mib], as_much=[4 * mib], none=[0.0]),
        run(more=[8 * mib], less=[3 * mib], as_much=[4.9 * mib], none=[0.5 * mib]),
    ]
    for document in documents:
        for case in document["cases"]:
            case["metric"] = "anon"
    paths = [written(tmp_path / name, d) for name, d in zip("ab", documents, strict=True)]
    assert main(["compare", *paths, "--fail-above", "1.1"]) == 1
    output = capsys.readouterr()
    assert output.err == "above 1.1x: more\n"
    ours = {line.split("`")[1]: line for line in output.out.splitlines() if "| ours |" in line}
    assert ours["more"].endswith("| 2.00x | MORE |")
    assert ours["less"].endswith("| 0.33x | less |")
    assert ours["as_much"].endswith("| 1.23x | |")
    assert ours["none"].endswith("| 0.0 MiB | 0.5 MiB | - | |")


def test_a_case_that_fails_is_told_in_the_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: Any, **_options: Any) -> Outcome:
        raise BenchmarkError("ours failed:\n  a traceback\nOSError: no space\n")

    monkeypatch.setattr(program, "run_case", fail)
    path = tmp_path / "run.json"
    options = ["--case", "header-small", "--json", str(path), "--folder", str(tmp_path)]
    assert main(options) == 1
    document = json.loads(path.read_text("utf-8"))
    assert document["cases"] == []
    assert document["skipped"] == {"header-small": "failed: OSError: no space"}


def test_runs_on_other_machines_or_with_other_versions_are_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = run(case=[1, 2])
    other["machine"]["packages"] = {"one": "2.0"}
    documents = [written(tmp_path / "a", run(case=[1, 2])), written(tmp_path / "b", other)]
    assert main(["compare", *documents]) == 0
    assert "- packages differs: {'one': '1.0'}, then {'one': '2.0'}" in capsys.readouterr().out


def test_runs_of_different_scales_are_not_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = run(case=[1, 2])
    small["settings"]["scale"] = 0.5
    documents = [written(tmp_path / "a", run(case=[1, 2])), written(tmp_path / "b", small)]
    with pytest.raises(SystemExit) as error:
        main(["compare", *documents])
    assert error.value.code == 2
    assert "different scales, 1 and 0.5" in capsys.readouterr().err


def test_runs_without_a_common_case_are_not_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    documents = [written(tmp_path / "a", run(one=[1, 2])), written(tmp_path / "b", run(two=[1, 2]))]
    with pytest.raises(SystemExit) as error:
        main(["compare", *documents, "--fail-above", "1.2"])
    assert error.value.code == 2
    assert "no case in common" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--json", "nowhere/run.json"],
        ["run", "--folder", "nowhere"],
        ["plot", "run.json", "nowhere/run.svg"],
        ["scale", "--json", "nowhere/scale.json"],
        ["scale", "--plot", "nowhere/scale.svg"],
        ["scale", "--folder", "nowhere"],
    ],
)
def test_a_folder_that_is_not_there_is_told_before_anything_is_measured(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "run.json", run(case=[1, 2]))
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2
    assert "there is no folder nowhere" in capsys.readouterr().err


def test_a_table_shows_every_side_and_what_did_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["table", written(tmp_path / "a", run(case=[0.001, 0.003]))]) == 0
    text = capsys.readouterr().out
    assert "| `case` | ours | 2.00 ms | 1.00 - 3.00 | | |" in text
    assert f"| | {PEER} | 2.00 ms | 2.00 - 2.00 | 1.00x | >= 1.5x: MISSED |" in text
    assert "- load-huge-cuda: skipped: PyTorch finds no CUDA device" in text
    assert max(map(len, text.splitlines())) <= 120


def test_what_is_no_document_of_a_run_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for text in ("nonsense", '{"kind": "scale"}'):
        (tmp_path / "a").write_text(text)
        with pytest.raises(SystemExit) as error:
            main(["table", str(tmp_path / "a")])
        assert error.value.code == 2
        assert "a is not what" in capsys.readouterr().err
