"""What the command line shows on a terminal."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import pty
import re
import struct
import subprocess
import sysconfig
import termios
from collections.abc import Iterable
from pathlib import Path

import pytest

from safetensors_core import Dtype, TensorInfo
from safetensors_core.header import encode_header

COMMAND = str(Path(sysconfig.get_path("scripts")) / "safetensors-core")
STYLES = re.compile(r"\x1b\[[\d;]*m")
HOSTILE = ["red\x1b[31m", "red\x9b31m", "evil\u202egnp", "two\nlines", "[bold]x[/bold]", ":smile:"]
INERT = ["red\\x1b[31m", "red\\x9b31m", "evil\\u202egnp", "two\\nlines", *HOSTILE[4:]]

has_rich = pytest.mark.skipif(
    importlib.util.find_spec("rich") is None, reason="only rich draws tables"
)


def write_file(path: Path, names: Iterable[str]) -> Path:
    infos = {name: TensorInfo(Dtype.U8, (2,), (2 * i, 2 * i + 2)) for i, name in enumerate(names)}
    path.write_bytes(encode_header(infos, None) + bytes(2 * len(infos)))
    return path


def on_terminal(*arguments: str | Path, **variables: str) -> str:
    """What a terminal gets from a command that succeeds."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))  # lines, columns
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", **variables}
    with subprocess.Popen(
        [COMMAND, *map(str, arguments)], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    ) as process:
        os.close(theirs)
        received = b""
        while True:
            try:
                chunk = os.read(ours, 65536)
            except OSError:  # how Linux says that nobody has the other end open any more
                break
            if not chunk:
                break
            received += chunk
    os.close(ours)
    assert process.returncode == 0
    return received.decode().replace("\r\n", "\n")


@has_rich
def test_a_terminal_gets_a_table(tmp_path: Path) -> None:
    text = STYLES.sub("", on_terminal("inspect", write_file(tmp_path / "a", ["wte", "wpe"])))
    assert re.search(r"│ wte +│ U8 +│ \[2\] +│ +2 │", text)


@has_rich
def test_a_terminal_that_cannot_draw_lines_gets_a_table_too(tmp_path: Path) -> None:
    path = write_file(tmp_path / "a", ["名前"])
    text = STYLES.sub("", on_terminal("inspect", path, PYTHONIOENCODING="ascii"))
    assert re.search(r"\| \\u540d\\u524d *\| U8", text)


@has_rich
def test_a_long_name_is_folded_and_not_cut(tmp_path: Path) -> None:
    path = write_file(tmp_path / "a", ["layer." * 50])
    text = STYLES.sub("", on_terminal("inspect", path, COLUMNS="60"))
    cells = re.findall(r"^│ ([\w.]+) *│", text, re.MULTILINE)
    assert "layer." * 50 in "".join(cells)


def test_a_terminal_gets_plain_lines_for_more_rows_than_it_shows_at_once(tmp_path: Path) -> None:
    text = on_terminal("inspect", write_file(tmp_path / "a", map(str, range(301))))
    assert "\n300   U8     [2]        2\n" in text


def test_hostile_names_are_inert_on_a_terminal(tmp_path: Path) -> None:
    text = STYLES.sub("", on_terminal("inspect", write_file(tmp_path / "a", HOSTILE)))
    assert all(line.isprintable() for line in text.split("\n"))
    for name in INERT:
        assert re.search(rf"^\W*{re.escape(name)} ", text, re.MULTILINE)


def test_the_styles_of_a_terminal_are_never_from_the_file(tmp_path: Path) -> None:
    text = on_terminal("inspect", write_file(tmp_path / "a", HOSTILE), NO_COLOR="1")
    assert "\x1b[31m" not in text
    assert "\x9b" not in text


def test_plugins_are_listed_on_a_terminal() -> None:
    text = on_terminal("plugins")
    assert "distribution" in text or "no plugin is installed" in text
