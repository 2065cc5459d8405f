"""What the page about metadata tells other languages: two requests, and a schema of the header."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.tests.raw import counting, file_bytes
from safetensors_core import Dtype, Reason, parse_header
from safetensors_core.testing.malformed import MALFORMED, Malformed
from tests.remote.published import SINGLE, write_single
from tests.remote.servers import Fault, RangeServer

DOCS = Path(__file__).resolve().parents[2] / "docs" / "user"
PAGE = (DOCS / "metadata.md").read_text("utf-8")
SCHEMA = json.loads((DOCS / "header.schema.json").read_text("utf-8"))
TENSORS = {f"{dtype.value} é": counting(dtype, 3, 8) for dtype in Dtype} | {
    "scalar": counting(Dtype.I64),
    "empty": counting(Dtype.F16, 0, 7),
}
FILE = file_bytes(TENSORS, {"format": "pt", "note": "für alle"})
HEADER = json.loads(FILE[8 : 8 + int.from_bytes(FILE[:8], "little")])


def block(language: str, part: str) -> str:
    """The block of a language on the page that holds some text."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    [found] = [text for text in blocks if part in text]
    return str(found)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RangeServer]:
    (tmp_path / "model.safetensors").write_bytes(FILE)
    with RangeServer(tmp_path) as server:
        yield server


def command(language: str, url: str) -> list[str]:
    """A program that prints the header of a file, made from the page."""
    if language == "python":
        program = block("python", "def read_header")
        return [sys.executable, "-c", f"{program}\nprint(json.dumps(read_header({url!r})))"]
    if language == "js":
        printed = f"readHeader({url!r}).then((header) => console.log(JSON.stringify(header)))"
        return ["node", "-e", f"{block('js', 'readHeader')}\n{printed}"]
    return ["sh", "-c", f"url={url}\n{block('sh', 'curl')}"]


NODE = pytest.param(
    "js", marks=pytest.mark.skipif(not shutil.which("node"), reason="Node.js is not installed")
)
CURL = pytest.param(
    "sh",
    marks=pytest.mark.skipif(
        not shutil.which("curl") or sys.byteorder != "little",
        reason="it needs curl on a little-endian machine",
    ),
)


@pytest.mark.parametrize("language", ["python", NODE, CURL])
def test_a_recipe_reads_a_header_with_two_requests(server: RangeServer, language: str) -> None:
    program = command(language, server.url("model.safetensors"))
    done = subprocess.run(program, capture_output=True, encoding="utf-8", check=True)
    assert json.loads(done.stdout) == HEADER
    assert [request.status for request in server.requests] == [206, 206]
    assert server.sent == 8 + int.from_bytes(FILE[:8], "little")


@pytest.mark.parametrize("language", ["python", NODE])
def test_a_recipe_refuses_what_a_server_sends_that_ignores_ranges(
    server: RangeServer, language: str
) -> None:
    server.fault = lambda _: Fault("whole")
    program = command(language, server.url("model.safetensors"))
    done = subprocess.run(program, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode
    assert "the server does not serve ranges" in done.stderr


@pytest.mark.parametrize("language", ["python", NODE])
def test_a_recipe_does_not_ask_for_a_header_that_is_too_long(
    server: RangeServer, language: str
) -> None:
    (server.folder / "model.safetensors").write_bytes(b"<html><p>" * 100)
    program = command(language, server.url("model.safetensors"))
    done = subprocess.run(program, capture_output=True, encoding="utf-8", check=False)
    assert "this is no safetensors file" in done.stderr
    assert len(server.requests) == 1


@pytest.fixture(scope="module")
def validator() -> Any:
    jsonschema = pytest.importorskip("jsonschema", reason="this environment has no jsonschema")
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    return jsonschema.Draft202012Validator(SCHEMA)


def test_the_schema_knows_every_dtype_in_the_order_of_the_format() -> None:
    assert SCHEMA["$defs"]["tensor"]["properties"]["dtype"]["enum"] == [d.value for d in Dtype]


def test_the_schema_accepts_headers_of_all_dtypes(validator: Any) -> None:
    assert list(validator.iter_errors(HEADER)) == []


@pytest.mark.parametrize("name", SINGLE)
def test_the_schema_accepts_published_headers(validator: Any, name: str, tmp_path: Path) -> None:
    write_single(tmp_path / name, SINGLE[name][0])
    with (tmp_path / name / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    assert list(validator.iter_errors(header)) == []


@pytest.mark.parametrize(
    "text",
    [
        b"{}",
        b'{"__metadata__":null}',
        b'{"__metadata__":{}}',
        b'{"":{"dtype":"U8","shape":[0],"data_offsets":[0,0],"unknown":{}}}',
        b'{"w":{"dtype":"U8","shape":[0,18446744073709551615],"data_offsets":[0,0]}}',
    ],
)
def test_the_schema_accepts_what_is_unusual_and_valid(validator: Any, text: bytes) -> None:
    parse_header(len(text).to_bytes(8, "little") + text)
    assert validator.is_valid(json.loads(text))


# Faults of single entries. In JSON Schema, 1.0 and 1e0 are integers, and -0 is 0.
FIELD_FAULTS = {
    Reason.NOT_AN_OBJECT,
    Reason.INVALID_METADATA,
    Reason.INVALID_ENTRY,
    Reason.MISSING_FIELD,
    Reason.UNKNOWN_DTYPE,
    Reason.INVALID_SHAPE,
    Reason.INVALID_OFFSETS,
}
SPELLING = re.compile(rb"[\[,](-0|\d+\.0|\d+e0)[\],]")


def document(case: Malformed) -> Any:
    """What a parser of JSON makes of a header; None where it makes nothing of it."""
    try:
        return json.loads(case.header)
    except ValueError:
        return None


REFUSABLE = [
    case
    for case in MALFORMED
    if case.reason in FIELD_FAULTS
    and case.header[:1] in {b"{", b"["}  # the schema does not see what stands in front
    and document(case) is not None
    and not SPELLING.search(case.header)
]


@pytest.mark.parametrize("case", REFUSABLE, ids=lambda case: case.name)
def test_the_schema_refuses_faults_of_entries(validator: Any, case: Malformed) -> None:
    assert not validator.is_valid(document(case))


def test_the_page_names_the_reasons_that_the_schema_leaves_to_a_reader(validator: Any) -> None:
    section = PAGE.split("## A schema of the header")[1]
    left = {
        str(case.reason)
        for case in MALFORMED
        if (found := document(case)) is not None and validator.is_valid(found)
    }
    named = set(re.findall(r"`([a-z-]+)`", section))
    assert named == left
