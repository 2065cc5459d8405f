"""What a checkpoint claims about its tensors is checked against the file."""

from __future__ import annotations

import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from plugins.torch.tests.forged import Call, Stored, forge, pickled, read, refusal, tensor
from safetensors_core import ConversionError, SafetensorError, UnsafeCheckpointError
from safetensors_torch.framework import TorchFramework

FORMATS = pytest.mark.parametrize("legacy", [False, True], ids=["archive", "legacy"])


@pytest.mark.parametrize(
    "record",
    [
        {"offset": 1},
        {"shape": (5,)},
        {"strides": (2,)},
        {"shape": (2, 2), "strides": (3, 1)},
        {"offset": 2**62},
        {"shape": (2**62,), "strides": (2**62,)},
    ],
)
def test_a_tensor_that_reaches_outside_of_its_storage_is_refused(
    tmp_path: Path, record: dict[str, Any]
) -> None:
    path = forge(tmp_path / "a.pt", pickled({"w": tensor(**record)}), {"0": bytes(16)})
    assert "tensor 'w' of shape" in refusal(path, UnsafeCheckpointError)


@pytest.mark.parametrize(
    "record",
    [
        {"offset": -1},
        {"shape": (-4,)},
        {"strides": (-1,)},
        {"shape": (4.0,)},
        {"shape": "four"},
        {"shape": (2, 2)},
        {"shape": (1,) * 100, "strides": (1,) * 100},
        {"shape": (2**63,), "strides": (0,)},
        {"length": -4},
        {"length": "4"},
        {"name": 0},
        {"offset": None},
    ],
)
def test_a_tensor_that_no_torch_has_is_refused(tmp_path: Path, record: dict[str, Any]) -> None:
    path = forge(tmp_path / "a.pt", pickled({"w": tensor(**record)}), {"0": bytes(16)})
    assert "its pickle is damaged" in refusal(path)


@pytest.mark.parametrize("content", [b"", bytes(12), bytes(20)])
def test_a_storage_of_another_size_is_refused(tmp_path: Path, content: bytes) -> None:
    path = forge(tmp_path / "a.pt", pickled({"w": tensor()}), {"0": content})
    assert "the storage of tensor 'w'" in refusal(path)


def test_a_storage_that_is_missing_is_refused(tmp_path: Path) -> None:
    path = forge(tmp_path / "a.pt", pickled({"w": tensor()}), {"1": bytes(16)})
    assert "there is no storage '0'" in refusal(path)


def test_tensors_that_claim_to_be_much_larger_than_the_file_are_refused(tmp_path: Path) -> None:
    huge = pickled({"w": tensor(shape=(2**40,), strides=(0,))})
    text = refusal(forge(tmp_path / "a.pt", huge, {"0": bytes(16)}), UnsafeCheckpointError)
    assert "claim to be 4,398,046,511,104 bytes" in text


def test_compressed_entries_are_refused(tmp_path: Path) -> None:
    data = pickled({"w": tensor()})
    path = forge(tmp_path / "a.pt", data, {"0": bytes(16)}, zipfile.ZIP_DEFLATED)
    assert "compressed" in refusal(path, UnsafeCheckpointError)


def test_an_archive_that_leaves_its_folder_is_refused(tmp_path: Path) -> None:
    path = forge(tmp_path / "a.pt", pickled({"w": tensor()}), {"../../../0": bytes(16)})
    assert "leaves its folder" in refusal(path, UnsafeCheckpointError)


def test_an_archive_of_two_pickles_is_refused(tmp_path: Path) -> None:
    path = forge(tmp_path / "a.pt", pickled({"w": tensor()}), {"0": bytes(16)})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("b/data.pkl", pickled({}))
    assert "2 pickles" in refusal(path)


def test_numbers_that_do_not_fit_their_checksum_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"w": torch.full((4,), 0.5)}, path)
    numbers = struct.pack("<4f", 0.5, 0.5, 0.5, 0.5)
    assert path.read_bytes().count(numbers) == 1
    path.write_bytes(path.read_bytes().replace(numbers, bytes(16)))
    stored = read(path).tensors["w"]
    for reading in (stored.read, lambda: list(stored.chunks())):
        with pytest.raises(ConversionError, match="tensor 'w' are damaged"):
            reading()


@pytest.mark.parametrize(
    "value",
    [
        {"a.b": 1, "a": {"b": 1}},
        {"a": {1: 1, "1": 1}},
        {1: 1, "1": 1},
    ],
)
def test_two_tensors_of_one_name_are_refused(tmp_path: Path, value: dict[Any, Any]) -> None:
    def filled(part: Any) -> Any:
        return {k: filled(v) for k, v in part.items()} if isinstance(part, dict) else tensor()

    path = forge(tmp_path / "a.pt", pickled(filled(value)), {"0": bytes(16)})
    assert "two " in refusal(path)


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = forge(tmp_path / "a.pt", pickled({"\ud800": tensor()}), {"0": bytes(16)})
    assert "cannot be written as UTF-8" in refusal(path)


def nested_lists(depth: int) -> bytes:
    return b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b"."


def repeated(times: int) -> bytes:
    """A dict of tensors in a list twice, which is in a list twice, and so on."""
    inner = pickled({"w": tensor()})[:-1]
    return inner + b"".join(b"q%c0](h%ch%ce" % (n, n, n) for n in range(100, 100 + times)) + b"."


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x02}",
        b"\x80\x02X\xff\xff\xff\xffabc.",
        b"\x80\x02})" + b"\x85" * 10**6 + b"Ns.",
        b"\x80\x02Pabc\n.",
        b"\x80\x02K\x01Q.",
        nested_lists(10**6),
        b"\x80\x02]q\x00h\x00a.",
    ],
)
def test_a_damaged_or_hostile_pickle_is_refused(tmp_path: Path, data: bytes) -> None:
    refusal(forge(tmp_path / "a.pt", data))


def test_a_dict_that_a_pickle_repeats_without_measure_is_refused(tmp_path: Path) -> None:
    path = forge(tmp_path / "a.pt", repeated(3), {"0": bytes(16)})
    assert len(read(path).tensors) == 8
    path = forge(tmp_path / "a.pt", repeated(40), {"0": bytes(16)})
    assert "again and again" in refusal(path)


def test_a_list_of_tensors_inside_of_itself_is_refused(tmp_path: Path) -> None:
    data = b"\x80\x02]q\xc8" + pickled(tensor())[2:-1] + b"ah\xc8h\xc8a."
    path = forge(tmp_path / "a.pt", data, {"0": bytes(16)})
    assert "inside of itself" in refusal(path)


def forge_legacy(path: Path, view: tuple[str, int, int] | None) -> Path:
    """A file as torch wrote them before 1.6, of a view of the storage with the numbers 0 to 5."""
    storage = Stored(torch.FloatStorage, "7", "cpu", 6, view)
    hooks: OrderedDict[str, object] = OrderedDict()
    weight = Call(torch._utils._rebuild_tensor_v2, storage, 1, (2,), (1,), False, hooks)
    parts = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, {"w": weight}, ["7"]]
    numbers = struct.pack("<q6f", 6, 0, 1, 2, 3, 4, 5)
    path.write_bytes(b"".join(map(pickled, parts)) + numbers)
    return path


def test_views_of_storages_in_the_oldest_files_begin_where_they_say(tmp_path: Path) -> None:
    for view, numbers in [(None, [1.0, 2.0]), (("8", 2, 3), [3.0, 4.0])]:
        stored = read(forge_legacy(tmp_path / "a.pt", view)).tensors["w"]
        assert stored.read().tolist() == numbers
        assert b"".join(map(bytes, stored.chunks())) == struct.pack("<2f", *numbers)


@pytest.mark.parametrize("view", [("8", 4, 3), ("8", -1, 3), ("8", 0), "8"])
def test_a_view_that_is_none_of_its_storage_is_refused(tmp_path: Path, view: Any) -> None:
    assert "its pickle is damaged" in refusal(forge_legacy(tmp_path / "a.pt", view))


@pytest.mark.parametrize("names", [nested_lists(10**5), pickled(["7", "7"]), pickled([7])])
def test_a_list_of_storages_that_is_none_is_refused(tmp_path: Path, names: bytes) -> None:
    path = forge_legacy(tmp_path / "a.pt", None)
    data = path.read_bytes()
    assert data.count(pickled(["7"])) == 1
    path.write_bytes(data.replace(pickled(["7"]), names))
    assert "list" in refusal(path)


def test_only_functions_of_tensors_make_tensors_of_subclasses(tmp_path: Path) -> None:
    rebuild = torch._tensor._rebuild_from_type_v2
    made = Call(rebuild, OrderedDict, torch.Tensor, ([("a", 1)],), {})
    path = forge(tmp_path / "a.pt", pickled({"w": made}))
    assert "what is no function of tensors" in refusal(path)


def test_names_of_python_2_are_read_as_texts(tmp_path: Path) -> None:
    data = b"\x80\x02}U\x03w\xc3\xa9" + pickled(tensor())[2:-1] + b"s."
    assert list(read(forge(tmp_path / "a.pt", data, {"0": bytes(16)})).tensors) == ["w\xe9"]


@FORMATS
@pytest.mark.parametrize("keep", [0.05, 0.3, 0.6, 0.9, 0.999])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, keep: float, legacy: bool) -> None:
    path = tmp_path / "a.pt"
    tensors = {f"layer{n}": torch.ones(50) for n in range(20)}
    torch.save(tensors, path, _use_new_zipfile_serialization=not legacy)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    refusal(path)


@FORMATS
def test_a_damaged_byte_is_refused_or_does_no_harm(tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / "a.pt"
    torch.save({"w": torch.ones(2), "n": 3}, path, _use_new_zipfile_serialization=not legacy)
    data = path.read_bytes()
    outcomes = set()
    for position in range(len(data)):
        if data[position]:  # what torch leaves empty to align things, it leaves empty in kilobytes
            for flipped in (data[position] ^ 1, data[position] ^ 0x80, 0):
                path.write_bytes(data[:position] + bytes([flipped]) + data[position + 1 :])
                outcomes.add(outcome(path))
    assert outcomes == {"read", "ConversionError", "UnsafeCheckpointError"}


def outcome(path: Path) -> str:
    try:
        found = read(path)
        if found is not None:
            for stored in found.tensors.values():
                assert len(bytes(TorchFramework().to_buffer(stored.read()))) == stored.spec.nbytes
            found.close()
        return "read"
    except SafetensorError as error:
        return type(error).__name__ if "\n" not in str(error) else str(error)


def test_names_cannot_grow_without_measure(tmp_path: Path) -> None:
    held = {"n" * 2**20: [*[None] * 500, tensor()]}
    path = forge(tmp_path / "a.pt", pickled(held), {"0": bytes(16)})
    assert "its names have more than 100,000,000 characters" in refusal(path)
