"""What pickles of foreign checkpoints may not do."""

from __future__ import annotations

import collections
import copyreg
import gc
import io
import os
import pickle
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from safetensors_core import ConversionError, UnsafeCheckpointError
from safetensors_core.convert import Function, Opaque, StandIn, load_pickle, make_dict

SYSTEM = f"{os.system.__module__}.system"
PROTOCOLS = pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))


def load(data: bytes, **allowed: Any) -> Any:
    """With what is allowed by its name in the module `m`."""
    names = {f"m.{name}": value for name, value in allowed.items()}
    return load_pickle(io.BytesIO(data), "m.bin", names)


class Malicious:
    """Would run a command where it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


@PROTOCOLS
def test_a_malicious_pickle_is_refused_by_name_and_not_run(tmp_path: Path, protocol: int) -> None:
    trace = tmp_path / "trace"
    data = pickle.dumps({"w": Malicious(f"touch {trace}")}, protocol)
    with pytest.raises(UnsafeCheckpointError) as caught:
        load(data)
    assert str(caught.value) == (
        f"m.bin: its pickle asks for '{SYSTEM}', which weights do not need; nothing of it was run"
    )
    assert not trace.exists()


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\x80\x02(S'true'\nios\nsystem\n.", "os.system"),
        (b"\x80\x02c__builtin__\ngetattr\n.", "builtins.getattr"),
        (b"\x80\x04c__builtin__\ngetattr\n.", "__builtin__.getattr"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "os.system"),
        (b"\x80\x04\x8c\x01m\x8c\x05f.run\x93.", "m.f.run"),
    ],
)
def test_a_global_is_refused_by_name_whatever_asks_for_it(data: bytes, name: str) -> None:
    with pytest.raises(UnsafeCheckpointError, match=f"asks for '{name}',"):
        load(data, f=Function(list))


def test_a_name_without_end_is_shown_in_part() -> None:
    with pytest.raises(UnsafeCheckpointError) as caught:
        load(b"cos\n" + b"x" * 10**6 + b"\n.")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("code", [b"\x82\x4d", b"\x83\x4d\x00", b"\x84\x4d\x00\x00\x00"])
def test_a_registered_extension_is_refused_and_not_looked_up(code: bytes) -> None:
    copyreg.add_extension("os", "system", 77)
    try:
        with pytest.raises(UnsafeCheckpointError, match="asks for 'extension 77'"):
            load(code + b"(S'true'\ntR.")
    finally:
        copyreg.remove_extension("os", "system", 77)


@pytest.mark.parametrize("data", [b"Pabc\n.", b"\x80\x02K\x01Q."])
def test_a_persistent_object_is_refused(data: bytes) -> None:
    with pytest.raises(ConversionError, match="its pickle is damaged: it "):
        load(data)


def test_a_persistent_object_is_what_the_caller_makes_of_it() -> None:
    file = io.BytesIO(b"\x80\x02]X\x01\x00\x00\x00aQa.")
    assert load_pickle(file, "m.bin", persistent=str.upper) == ["A"]


def test_what_is_allowed_takes_the_place_of_what_is_asked_for() -> None:
    data = io.BytesIO(pickle.dumps(Malicious("ls")))
    assert load_pickle(data, "m.bin", {SYSTEM: Function(str.upper)}) == "LS"


@PROTOCOLS
def test_dicts_of_other_classes_are_dicts(protocol: int) -> None:
    allowed = {f"collections.{kind}": Function(make_dict) for kind in ("OrderedDict", "Counter")}
    for value in (collections.OrderedDict(a=1, b=2), collections.Counter(a=1, b=2)):
        file = io.BytesIO(pickle.dumps(value, protocol))
        found = load_pickle(file, "m.bin", allowed)
        assert type(found) is dict
        assert found == {"a": 1, "b": 2}


@pytest.mark.parametrize("items", [[1], [["a"]], [["a", 1, 2]], ["ab"], [[[], 1]]])
def test_a_dict_of_what_are_no_pairs_is_refused(items: list[Any]) -> None:
    data = pickle.dumps((items,), 2)[:-1]
    with pytest.raises(ConversionError, match="its pickle is damaged: a dict "):
        load(b"\x80\x02cm\nf\n" + data[2:] + b"R.", f=Function(make_dict))


class Dated(StandIn):
    year = 0

    def set_state(self, state: Any) -> None:
        (self.year,) = state


def test_only_stand_ins_take_a_state() -> None:
    assert load(b"cm\nf\n)R(K\x07tb.", f=Function(Dated)).year == 7
    assert load(b"cm\nf\n)\x81(K\x07tb.", f=Function(Dated)).year == 7
    assert load(b"}(K\x07tb.") == {}
    with pytest.raises(ConversionError, match="its pickle is damaged: not enough values"):
        load(b"cm\nf\n)R(tb.", f=Function(Dated))
    for value, data in [(Function(Dated), b"cm\nf\n}b."), (None, b"]}b."), (7, b"cm\nf\n}b.")]:
        with pytest.raises(ConversionError, match="it sets attributes of what has none"):
            load(data, f=value)


def test_what_is_no_function_is_not_called() -> None:
    for value in (len, Opaque("len"), "len"):
        with pytest.raises(ConversionError, match="it calls what is no function"):
            load(b"cm\nf\n(]tR.", f=value)


@PROTOCOLS
def test_what_needs_no_global_is_read_in_each_protocol(protocol: int) -> None:
    shared = ["ü", 2**70, -1.5, True, None]
    value = {"a": shared, "b": (shared, {1: "x" * 300}), "c": [{}, (), "\n"], ("d", 2): 2.0}
    file = io.BytesIO(b"before" + pickle.dumps(value, protocol) + b"behind")
    file.seek(6)
    found = load_pickle(file, "m.bin")
    assert found == value
    assert found["a"] is found["b"][0]
    assert file.read() == b"behind"


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_bytes_are_read_as_they_are(protocol: int) -> None:
    value = [b"", b"abc", bytes(range(256)) * 1000]
    assert load(pickle.dumps(value, protocol)) == value


def test_a_set_holds_no_weights() -> None:
    assert load(pickle.dumps([{1}, frozenset("a")], 4)) == [Opaque("set"), Opaque("frozenset")]


def test_texts_of_python_2_are_read_as_utf_8() -> None:
    assert load(b"U\x03w\xc3\xa9.") == "wé"
    with pytest.raises(ConversionError, match="its pickle is damaged: 'utf-8' codec"):
        load(b"U\x02w\xe9.")


def test_every_pickle_that_is_cut_short_is_refused() -> None:
    for protocol in (0, 2, 4):
        whole = pickle.dumps({"w": [1, 2.5, "text", None, (True,)]}, protocol)
        for length in range(len(whole)):
            with pytest.raises(ConversionError):
                load(whole[:length])


CLAIMS = [
    b"\x80\x04Nr\xff\xff\xff\x7f0.",  # kept in place 2**31 - 1: a table of 32 GiB
    b"\x80\x02r\xff\xff\xff\xff.",
    b"\x80\x04\x8e" + b"\xff" * 7 + b"\x0f.",  # 2**60 bytes
    b"\x80\x04\x95" + b"\xff" * 7 + b"\x0fN.",
    b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7f.",
    b"\x80\x05\x96" + b"\xff" * 7 + b"\x0f.",
    b"\x80\x04B\xff\xff\xff\xff.",
    b"\x80\x02X\xff\xff\xff\xffabc.",
    b"\x80\x02T\xff\xff\xff\x7f.",
    b"\x80\x02\x8b\xff\xff\xff\x7f.",
    b"\x80\x04p\xe4\n.",
]


@pytest.mark.parametrize("data", CLAIMS)
def test_a_pickle_that_claims_more_than_it_has_is_refused_before_memory_is_taken(
    tmp_path: Path, data: bytes
) -> None:
    path = tmp_path / "m.bin"
    path.write_bytes(data)
    gc.collect()
    tracemalloc.start()
    try:
        with path.open("rb") as file, pytest.raises(ConversionError, match="its pickle"):
            load_pickle(file, str(path))
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_a_value_may_be_kept_in_any_place() -> None:
    tracemalloc.start()
    try:
        assert load(b"\x80\x04]r\xff\xff\xff\x7f0j\xff\xff\xff\x7f.") == []
        assert load(b"\x80\x04]p4294967296\n0g4294967296\n.") == []
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        (b"", "ends too early"),
        (b"\x80\x02}", "ends too early"),
        (b"\x80\x02.", "pop from empty list"),
        (b"\x80\x02]]a", "ends too early"),
        (b"\x80\x02\xff.", "unknown"),
        (b"\x80\x02h\x07.", "it takes value 7, which it did not keep"),
        (b"\x80\x02]h\x00e.", "it takes value 0"),
        (b"\x80\x02N\x86.", "it takes more values than it made"),
        (b"\x80\x02e.", "pop from empty list"),
        (b"\x80\x02NNa.", "it appends to what is no list"),
        (b"\x80\x02NNNs.", "it sets items of what is no dict"),
        (b"\x80\x02}(Nu.", "zip"),
        (b"\x80\x02}}Ns.", "a dict has a key (dict)"),
        (
            b"\x80\x02}" + pickle.dumps(tuple("w" * 20), 2)[2:-1] + b"Ns.",
            "a dict has a key (tuple)",
        ),
        (b"\x80\x02)R.", "it takes more values"),
        (b"\x80\x02N)R.", "it calls what is no function"),
        (b"\x80\x04NN\x93.", "a global is named by what is no text"),
        (b"\x80\x04N)}\x92.", "it does what checkpoints do not"),
        (b"\x80\x05\x97.", "it does what checkpoints do not"),
        (b"\x80\x02\x8b\xff\xff\x00\x00" + b"\x7f" * 65535 + b".", "a number of 524,279 bits"),
        (b"\x80\x02I" + b"9" * 10000 + b"\n.", ""),
    ],
)
def test_a_damaged_pickle_is_refused_in_a_line(data: bytes, detail: str) -> None:
    with pytest.raises(ConversionError) as caught:
        load(data)
    text = str(caught.value)
    assert text.startswith("m.bin: its pickle is damaged: ")
    assert detail in text
    assert "\n" not in text
    assert len(text) < 300


def test_a_key_of_tuples_in_tuples_is_not_hashed() -> None:
    # Python's own unpickler ends the process here.
    with pytest.raises(ConversionError, match=r"a dict has a key \(tuple\)"):
        load(b"\x80\x04})" + b"\x85" * 10**6 + b"Ns.")
    pairs = b"]])" + b"\x85" * 10**6 + b"aNaa"
    with pytest.raises(ConversionError, match=r"a dict has a key \(tuple\)"):
        load(b"\x80\x04cm\nf\n" + pairs + b"\x85R.", f=Function(make_dict))


def test_keys_that_all_have_the_same_hash_are_refused() -> None:
    assert load(pickle.dumps({2**59: 1, "w": 2})) == {2**59: 1, "w": 2}
    with pytest.raises(ConversionError, match=r"a dict has a key \(int\)"):
        load(pickle.dumps({(2**61 - 1) * number: None for number in range(1, 1000)}))


def test_lists_are_nested_as_deep_as_the_file_has_them() -> None:
    found, depth = load(b"\x80\x02" + b"]" * 10**5 + b"a" * (10**5 - 1) + b"."), 1
    while found:
        (found,) = found
        depth += 1
    assert depth == 10**5


def test_a_function_is_not_given_the_same_values_without_measure() -> None:
    text = b"X\x10\x27\x00\x00" + b"x" * 10_000 + b"q\x000"
    calls = b"(" + b"ch\x00\x85R".replace(b"c", b"cm\nf\n") * 100 + b"l."
    with pytest.raises(ConversionError, match="it passes the same values again and again"):
        load(b"\x80\x02" + text + calls, f=Function(str.encode))
    once = b"cm\nf\nh\x00\x85R."
    assert load(b"\x80\x02" + text + once, f=Function(str.encode)) == b"x" * 10_000


def test_a_pickle_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("safetensors_core.convert.pickles._MOST_STEPS", 1000)
    assert load(b"]" * 999 + b".") == []
    with pytest.raises(ConversionError, match="it takes more than 1,000 steps"):
        load(b"]" * 1000 + b".")


def test_a_pickle_may_be_limited_to_a_part_of_the_file() -> None:
    data = pickle.dumps(["x" * 100], 2)
    for limit in (len(data), len(data) + 1):
        file = io.BytesIO(data + b"behind")
        assert load_pickle(file, "m.bin", limit=limit) == ["x" * 100]
        assert file.read() == b"behind"
    for limit in range(len(data)):
        with pytest.raises(ConversionError, match=f"it claims to be longer than {limit} bytes"):
            load_pickle(io.BytesIO(data + b"behind"), "m.bin", limit=limit)
    with pytest.raises(ConversionError, match="its pickle is damaged: no newline"):
        load_pickle(io.BytesIO(b"I" + b"9" * 100 + b"\n."), "m.bin", limit=50)
