"""The costs at scale are those of the same work on both sides, and are judged by how they grow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from benchmarks import plot, scale
from benchmarks.growth import LINEAR, steepest
from benchmarks.scale_works import WORKS, Work, path_of, take_sample, write_file

SIZES = {"tensors": (10, 300), "GB": (1, 64)}
MACHINE = {
    "cpu": "a processor",
    "cores": 2,
    "memory_bytes": 8 * 1024**3,
    "system": "Linux 5.15.1670 x86_64",
    "file_system": "ext4",
    "python": "CPython 3.11",
    "packages": {"safetensors": "0.8.0", "numpy": "2.4.6"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("scale"))
    for work in WORKS:
        for size in SIZES[work.axis]:
            write_file(folder, work.axis, size)
    return folder


@pytest.mark.parametrize("work", WORKS, ids=lambda work: f"{work.axis}: {work.name}")
def test_both_sides_compute_the_same_at_every_size(work: Work, folder: str) -> None:
    before = sorted(Path(folder).iterdir())
    for size in SIZES[work.axis]:
        ours = take_sample(work, "ours", size, folder)
        assert ours["seconds"] > 0
        if isinstance(work.reference, str) or size == 64:  # which it cannot map everywhere
            continue
        assert take_sample(work, "reference", size, folder)["value"] == ours["value"]
    assert sorted(Path(folder).iterdir()) == before


def test_a_command_that_fails_is_no_sample(tmp_path: Path) -> None:
    work = next(work for work in WORKS if work.name == "verify")
    write_file(str(tmp_path), "tensors", 10)
    (tmp_path / "300-tensors.safetensors").write_bytes(b"not what it should be")
    with pytest.raises(RuntimeError, match="verify ended with exit status"):
        take_sample(work, "ours", 300, str(tmp_path))


def test_a_file_of_a_size_is_sparse(folder: str) -> None:
    status = Path(path_of(folder, "GB", 64)).stat()
    assert 64e9 * 0.999 < status.st_size <= 64e9 + 4096
    assert status.st_blocks * 512 < 1e6


def test_the_slope_is_the_power_of_the_size() -> None:
    sizes = [10, 1000, 100_000]
    for power in (0, 1, 2):
        costs = {size: 3.0 * size**power for size in sizes}
        assert steepest(costs, floor=1e-9) == pytest.approx(power)
    # A step that only the last size takes is seen, too.
    assert steepest({10: 1.0, 100: 10.0, 1000: 1000.0}, floor=1e-9) == pytest.approx(2)


def test_what_is_too_little_to_be_told_has_no_slope() -> None:
    assert steepest({10: 0.5, 100: 0.9}, floor=1.0) is None
    assert steepest({10: 5.0}, floor=1.0) is None
    # From below the floor on, growth counts from the floor.
    assert steepest({10: 0.001, 100: 10.0}, floor=1.0) == pytest.approx(1)


def test_a_run_says_how_costs_grow_and_who_cannot_do_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {("tensors", "header"), ("tensors", "diff")}
    works = [work for work in WORKS if (work.axis, work.name) in names]
    monkeypatch.setattr(scale, "WORKS", works)
    path = tmp_path / "scale.json"
    options = ["--repeat", "1", "--largest", "1000", "--json", str(path)]
    assert scale.main([*options, "--folder", str(tmp_path)]) == 0
    table = capsys.readouterr().out
    assert "| header | ours |" in table
    assert "| header | reference |" in table
    assert "it has no such command" in table
    document = json.loads(path.read_text("utf-8"))
    assert document["kind"] == "scale"
    ours, reference, *_ = document["series"]
    assert [point["size"] for point in ours["points"]] == [10, 1000]
    assert set(ours["slopes"]) == set(reference["slopes"]) == {"seconds", "bytes"}
    assert [found.name for found in tmp_path.iterdir()] == ["scale.json"]


def test_large_files_are_measured_however_few_tensors_are_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scale, "WORKS", [work for work in WORKS if work.name == "open"])
    [ours, _reference] = scale.measure(str(tmp_path), repeat=1, largest=10)
    assert [point["size"] for point in ours["points"]] == scale.SIZES["GB"]


@pytest.mark.parametrize("option", ["--repeat=0", "--largest=5"])
def test_what_would_measure_nothing_is_refused(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        scale.main([option])
    assert error.value.code == 2
    assert option.partition("=")[0] in capsys.readouterr().err


def test_growth_beyond_proportion_is_marked() -> None:
    text = scale.table(scale_document(exponent=1.0))
    assert "WORSE" not in text
    text = scale.table(scale_document(exponent=LINEAR + 0.1))
    assert "seconds and bytes WORSE THAN LINEAR" in text


def scale_document(exponent: float = 1.0) -> dict[str, Any]:
    """What a run would have written in which all costs grow with this power of the size."""
    series = []
    for work in WORKS:
        points: list[dict[str, Any]] = [
            {
                "size": size,
                "seconds": {"median": 1e-3 * size**exponent},
                "bytes": {"median": 1e7 * size**exponent},
            }
            for size in scale.SIZES[work.axis]
        ]
        for side in ("ours", "reference"):
            one: dict[str, Any] = {"work": work.name, "axis": work.axis, "side": side}
            if side == "reference" and isinstance(work.reference, str):
                one |= {"missing": work.reference, "points": [], "slopes": {}}
            else:
                slopes = {
                    metric: steepest({p["size"]: p[metric]["median"] for p in points}, 0.0)
                    for metric in ("seconds", "bytes")
                }
                one |= {"points": points, "slopes": slopes}
            series.append(one)
    return {
        "kind": "scale",
        "date": "2026-01-02",
        "machine": MACHINE,
        "settings": {"repeat": 3},
        "series": series,
    }


def run_document() -> dict[str, Any]:
    """What a run of cases would have written."""
    sides: dict[str, Any] = {
        "ours": {"role": "ours"},
        "safetensors": {"role": "peer"},
        "memcpy": {"role": "limit"},
    }
    cases = [
        {
            "name": f"load-{number}",
            "metric": metric,
            "sides": {
                "ours": {"median": unit},
                "safetensors": {"median": unit * (number + 0.5)},
                "memcpy": {"median": unit * 0.8},
            },
            "targets": [{"kind": "peer", "bound": 2, "side": None, "met": number > 1}],
        }
        for number in range(60)
        for metric, unit in [("rss", 2.0**24) if number % 2 else ("seconds", 0.01)]
    ]
    return scale_document() | {"kind": "run", "sides": sides, "cases": cases}


@pytest.fixture
def drawn(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    pytest.importorskip("matplotlib", reason="this environment draws nothing")
    path = tmp_path / "plot.svg"
    plot.draw(request.param(), path)
    return path.read_text("utf-8")


@pytest.mark.parametrize("drawn", [scale_document, run_document], indirect=True)
def test_a_plot_says_when_and_where_and_stays_small(drawn: str) -> None:
    root = ET.fromstring(drawn)
    texts = " ".join(element.text or "" for element in root.iter() if element.tag.endswith("text"))
    for text in (
        "2026-01-02",
        "a processor",
        "Linux 5.15.1670 x86_64",
        "CPython 3.11",
        "safetensors 0.8.0",
        "ours",
    ):
        assert text in texts
    assert len(drawn) < 150_000


@pytest.mark.parametrize("drawn", [scale_document], indirect=True)
def test_a_plot_of_costs_names_every_work(drawn: str) -> None:
    for work in WORKS:
        assert f">{work.name}: time<" in drawn


@pytest.mark.parametrize("drawn", [run_document], indirect=True)
def test_a_plot_of_a_run_names_every_case_and_limit(drawn: str) -> None:
    for number in range(60):
        assert f">load-{number}<" in drawn
    assert "limit: memcpy" in drawn


def test_a_target_beyond_all_bars_is_in_the_plot() -> None:
    pytest.importorskip("matplotlib", reason="this environment draws nothing")
    document = run_document()
    document["cases"][0]["targets"][0]["bound"] = 10_000
    [panel] = plot._bars(document).axes
    assert panel.get_xlim()[1] > 10_000


def test_the_same_run_gives_the_same_file(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="this environment draws nothing")
    paths = [tmp_path / name for name in ("a.svg", "b.svg")]
    for path in paths:
        plot.draw(run_document(), path)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_plot_without_matplotlib_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plot, "find_spec", lambda _name: None)
    with pytest.raises(plot.PlotError, match="pip install matplotlib"):
        plot.draw(run_document(), tmp_path / "plot.svg")
    with pytest.raises(plot.PlotError, match="pip install matplotlib"):
        scale.main(["--plot", str(tmp_path / "plot.svg")])
    assert not list(tmp_path.iterdir())


def test_a_run_that_has_measured_nothing_is_not_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="this environment draws nothing")
    for empty in (scale_document() | {"series": []}, run_document() | {"cases": []}):
        with pytest.raises(plot.PlotError):
            plot.draw(empty, tmp_path / "plot.svg")
