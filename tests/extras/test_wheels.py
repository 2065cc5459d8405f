"""What users install: the built wheels, one extra at a time, each in an environment of its own."""

from __future__ import annotations

import json
import re
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.wheels import ROOT, install, make_environment, run

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PACKAGES = [ROOT / "core", *sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))]

# One program for each extra; it runs outside the checkout with nothing else installed.
READ_A_HEADER = r"""
from safetensors_core import parse_header
text = b'{"w":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}'
header = parse_header(len(text).to_bytes(8, "little") + text + b"ab")
assert list(header.tensors) == ["w"], header
"""
PROGRAMS = {
    "cli": READ_A_HEADER
    + """
import pathlib, subprocess, sys
import rich, tqdm
command = pathlib.Path(sys.executable).with_name("safetensors-core")
subprocess.run([command, "plugins"], check=True)
""",
    "jax": """
import jax, safetensors_core, safetensors_jax
tensors = {"w": jax.numpy.arange(6, dtype="bfloat16").reshape(2, 3)}
safetensors_core.save_file(tensors, "model.safetensors")
loaded = safetensors_core.load_file("model.safetensors", framework="flax")
assert (loaded["w"] == tensors["w"]).all(), loaded
assert (safetensors_jax.load_file("model.safetensors")["w"] == tensors["w"]).all()
""",
    "mlx": """
import mlx.core as mx, safetensors_core, safetensors_mlx
tensors = {"w": mx.arange(6).reshape(2, 3).astype(mx.bfloat16)}
safetensors_core.save_file(tensors, "model.safetensors")
loaded = safetensors_core.load_file("model.safetensors", framework="mlx")
assert mx.array_equal(loaded["w"], tensors["w"]), loaded
assert mx.array_equal(safetensors_mlx.load_file("model.safetensors")["w"], tensors["w"])
""",
    "numpy": """
import numpy, safetensors_core, safetensors_numpy
arrays = {"w": numpy.arange(6, dtype=numpy.float32).reshape(2, 3)}
safetensors_core.save_file(arrays, "model.safetensors")
loaded = safetensors_core.load_file("model.safetensors", framework="numpy")
assert numpy.array_equal(loaded["w"], arrays["w"]), loaded
assert numpy.array_equal(safetensors_numpy.load_file("model.safetensors")["w"], arrays["w"])
""",
    "paddle": """
import paddle, safetensors_core, safetensors_paddle
tensors = {"w": paddle.arange(6, dtype="float32").reshape([2, 3]).astype("bfloat16")}
safetensors_core.save_file(tensors, "model.safetensors")
loaded = safetensors_core.load_file("model.safetensors", framework="paddle")
assert loaded["w"].dtype == paddle.bfloat16
assert loaded["w"].astype("float32").tolist() == [[0, 1, 2], [3, 4, 5]], loaded
assert safetensors_paddle.load_file("model.safetensors")["w"].dtype == paddle.bfloat16
""",
    "remote": READ_A_HEADER + "\nimport fsspec\n",
    "tensorflow": """
import tensorflow, safetensors_core, safetensors_tensorflow
tensors = {"w": tensorflow.constant([[1, 2, 3], [4, 5, 6]], "bfloat16")}
safetensors_core.save_file(tensors, "model.safetensors")
loaded = safetensors_core.load_file("model.safetensors", framework="tf")
assert (loaded["w"].numpy() == tensors["w"].numpy()).all(), loaded
assert (safetensors_tensorflow.load_file("model.safetensors")["w"] == loaded["w"]).numpy().all()
""",
    "testing": READ_A_HEADER + "\nimport hypothesis, pytest\n",
    "torch": """
import torch, safetensors_core, safetensors_torch
tensors = {"w": torch.arange(6, dtype=torch.bfloat16).reshape(2, 3)}
safetensors_core.save_file(tensors, "model.safetensors")
loaded = safetensors_core.load_file("model.safetensors", framework="torch")
assert torch.equal(loaded["w"], tensors["w"]), loaded
assert torch.equal(safetensors_torch.load_file("model.safetensors")["w"], tensors["w"])
""",
}
# Where the package was imported from, said by the environment itself.
LOCATION = "\nimport safetensors_core\nprint(safetensors_core.__file__)\n"


def project(folder: Path) -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]
    return table


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source archive of every package and the wheel built from that archive."""
    folder = tmp_path_factory.mktemp("wheels")
    for package in PACKAGES:
        run(sys.executable, "-m", "build", "--outdir", folder, package)
    return folder


def test_every_extra_of_a_plugin_in_this_repository_is_installed_here() -> None:
    names = {project(folder)["name"] for folder in PACKAGES if folder.name != "core"}
    extras = project(ROOT / "core")["optional-dependencies"]
    plugins = {
        extra for extra, [first, *_] in extras.items() if re.split(r"[\[>]", first)[0] in names
    }
    assert plugins <= PROGRAMS.keys()


@pytest.mark.parametrize("package", PACKAGES, ids=lambda folder: folder.name)
def test_a_wheel_and_its_source_archive_are_complete(package: Path, wheels: Path) -> None:
    distribution = project(package)["name"].replace("-", "_")
    [wheel] = wheels.glob(f"{distribution}-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        members = archive.namelist()
    assert f"{distribution}/py.typed" in members
    assert any(member.endswith("licenses/LICENSE") for member in members)
    assert {member.split("/")[0].split("-")[0] for member in members} == {distribution}

    [source] = wheels.glob(f"{distribution}-*.tar.gz")
    with tarfile.open(source) as tar:
        paths = {name.partition("/")[2] for name in tar.getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml", f"src/{distribution}/__init__.py"} <= paths


@pytest.mark.parametrize("extra", sorted(PROGRAMS))
def test_an_extra_works_alone(extra: str, wheels: Path, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    python = make_environment(environment)
    version = project(ROOT / "core")["version"]
    report = tmp_path / "report.json"
    requirement = f"safetensors-core[{extra}]=={version}"
    install(python, "--find-links", wheels, "--report", report, requirement)

    # An index may know the same names: ours must come from the wheels built above.
    ours = [
        entry["download_info"]["url"]
        for entry in json.loads(report.read_text("utf-8"))["install"]
        if entry["metadata"]["name"].startswith("safetensors-")  # Paddle needs the reference
    ]
    assert ours
    assert all(url.startswith(wheels.as_uri()) for url in ours), ours

    printed = run(python, "-I", "-c", PROGRAMS[extra] + LOCATION, cwd=tmp_path)
    location = Path(printed.splitlines()[-1])
    assert location.is_relative_to(environment)
    assert "site-packages" in location.parts
