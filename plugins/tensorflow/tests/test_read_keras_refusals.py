"""Files of Keras that are damaged, or that ask for more than their own weights, are refused."""

from __future__ import annotations

import random
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np
import pytest

from safetensors_core.convert import ForeignCheckpoint
from safetensors_core.errors import (
    ConversionError,
    SafetensorError,
    UnsafeCheckpointError,
    UnsupportedDtypeError,
)
from safetensors_tensorflow import _plugin


def read(path: Path) -> ForeignCheckpoint | None:
    return _plugin.safetensors_read_checkpoint(path, False)


def weights(path: Path, change: Callable[[h5py.Group], object] = lambda _: None) -> Path:
    """A file as Keras 3 writes it, with something more."""
    with h5py.File(path, "w") as file:
        group = file.create_group("layers/dense/vars")
        group.attrs["name"] = "dense"
        group["0"] = np.arange(12, dtype=np.float32).reshape(3, 4)
        change(group)
    return path


def refused(path: Path, kind: type[SafetensorError], message: str) -> None:
    with pytest.raises(kind, match=message) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert type(caught.value) is kind


def test_a_link_to_another_file_is_refused(tmp_path: Path) -> None:
    weights(tmp_path / "other.h5")
    link = h5py.ExternalLink(str(tmp_path / "other.h5"), "/layers/dense/vars/0")
    path = weights(tmp_path / "a.h5", lambda group: group.update({"1": link}))
    refused(path, UnsafeCheckpointError, "'layers/dense/vars/1' in it is a link to another file")


def test_a_soft_link_is_refused(tmp_path: Path) -> None:
    link = h5py.SoftLink("/layers/dense/vars/0")
    path = weights(tmp_path / "a.h5", lambda group: group.update({"1": link}))
    refused(path, UnsafeCheckpointError, "'layers/dense/vars/1' in it is a link")


def test_values_in_another_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(64))
    external = [(str(tmp_path / "secret"), 0, 64)]
    path = weights(
        tmp_path / "a.h5", lambda group: group.create_dataset("1", (64,), "u1", external=external)
    )
    refused(path, UnsafeCheckpointError, "values of 'layers/dense/vars/1' are in another file")


def test_a_dataset_made_of_others_is_refused(tmp_path: Path) -> None:
    weights(tmp_path / "other.h5")
    layout = h5py.VirtualLayout((3, 4), "f4")
    layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "layers/dense/vars/0", (3, 4))
    path = weights(tmp_path / "a.h5", lambda group: group.create_virtual_dataset("1", layout))
    refused(path, UnsafeCheckpointError, "'layers/dense/vars/1' are those of other datasets")


def test_zeros_that_expand_without_measure_are_refused(tmp_path: Path) -> None:
    def add(group: h5py.Group) -> None:
        dataset = group.create_dataset("1", (2**31,), "u1", chunks=(2**24,), compression="gzip")
        packed = zlib.compress(bytes(2**24))
        for begin in range(0, 2**31, 2**24):
            dataset.id.write_direct_chunk((begin,), packed)

    refused(weights(tmp_path / "a.h5", add), UnsafeCheckpointError, "claims to hold 2,147,483,696")


def test_a_size_that_no_machine_has_is_refused(tmp_path: Path) -> None:
    path = weights(
        tmp_path / "a.h5",
        lambda group: group.create_dataset("1", (2**40, 2**20), "f4", chunks=True),
    )
    refused(path, UnsafeCheckpointError, "claims to hold 4,611,686,018,427,387,952 bytes")


def test_values_that_were_never_written_are_refused(tmp_path: Path) -> None:
    path = weights(tmp_path / "a.h5", lambda group: group.create_dataset("1", (7,), "f4"))
    refused(path, ConversionError, "values of 'layers/dense/vars/1' were never written")

    def add(group: h5py.Group) -> None:
        group.create_dataset("1", (8,), "f4", chunks=(4,))[:4] = 1

    path = weights(tmp_path / "b.h5", add)
    refused(path, ConversionError, "values of 'layers/dense/vars/1' were never written")


def test_a_group_that_holds_itself_is_refused(tmp_path: Path) -> None:
    path = weights(tmp_path / "a.h5", lambda group: group.update({"again": group.parent}))
    refused(path, UnsafeCheckpointError, "'layers/dense/vars/again' has another name, too")


def test_groups_nested_without_end_are_refused(tmp_path: Path) -> None:
    path = weights(tmp_path / "a.h5", lambda group: group.create_group("/".join("g" * 500)))
    refused(path, UnsafeCheckpointError, "nested over 100 deep")


def test_two_names_of_one_dataset_have_one_key(tmp_path: Path) -> None:
    path = weights(tmp_path / "a.h5", lambda group: group.update({"1": group["0"], "2": 1.0}))
    found = read(path)
    assert found is not None
    first, second, third = (tensor.key for _, tensor in found)
    assert first == second != third
    found.close()


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    def add(group: h5py.Group) -> None:
        group["marker"] = np.ones(2)

    path = weights(tmp_path / "a.h5", add)
    path.write_bytes(path.read_bytes().replace(b"marker", b"mar\xff\xfer"))
    refused(path, ConversionError, r"the name b'mar.*r' in it is no text")


def test_a_filter_that_hdf5_would_load_a_library_for_is_refused(tmp_path: Path) -> None:
    path = weights(
        tmp_path / "a.h5",
        lambda group: group.create_dataset("1", data=np.ones(100), compression="lzf"),
    )
    refused(path, ConversionError, r"'layers/dense/vars/1' is stored with filter 32000 \(lzf\)")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (np.zeros(3, ml_dtypes.float8_e4m3fn), "of one byte without a meaning"),
        (np.zeros(3, np.complex128), "complex128"),
        (np.zeros(3, [("a", "f4"), ("b", "i4")]), "a"),
        (np.zeros(3, "V3"), "V3"),
        (np.array([h5py.Reference()] * 2, h5py.ref_dtype), "object"),
    ],
)
def test_a_dtype_that_the_format_lacks_is_refused_by_name(
    tmp_path: Path, value: Any, shown: str
) -> None:
    path = weights(
        tmp_path / "a.h5",
        lambda group: group.create_dataset("1", data=value, dtype=value.dtype),
    )
    found = read(path)
    assert found is not None
    name = "layers/dense/vars/1"
    assert isinstance(found.refused[name], UnsupportedDtypeError)
    assert re.search(f"tensor '{name}': dtype .*{shown}", str(found.refused[name]))
    assert str(found.refused[name]).startswith(str(path))
    assert list(found.tensors) == ["layers/dense/vars/0"]
    assert found.tensors["layers/dense/vars/0"].read()[2, 3] == 11
    found.close()


def test_a_refused_tensor_is_named_by_its_layer_where_others_are_called_alike(
    tmp_path: Path,
) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs["layer_names"] = ["one", "two"]
        for layer, value in (("one", np.ones(2)), ("two", np.ones(2, np.complex128))):
            file[f"{layer}/w"] = value
            file[layer].attrs["weight_names"] = ["w"]
    found = read(tmp_path / "a.h5")
    assert found is not None
    assert list(found.tensors) == ["one/w"]
    assert "tensor 'two/w': dtype complex128" in str(found.refused["two/w"])
    found.close()


def test_texts_are_left_out(tmp_path: Path) -> None:
    path = weights(tmp_path / "a.h5", lambda group: group.update({"1": [b"a", b"b"], "2": "c"}))
    found = read(path)
    assert found is not None
    assert list(found.tensors) == ["layers/dense/vars/0"]
    assert set(found.left_out.values()) == {"text, no numbers"}
    found.close()


def test_a_weight_that_is_listed_and_missing_is_named(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs["layer_names"] = [b"dense"]
        file.create_group("dense").attrs["weight_names"] = [b"kernel:0"]
    refused(tmp_path / "a.h5", ConversionError, "its weight 'dense/kernel:0' is missing")


def test_names_that_are_no_texts_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        numbers = [np.arange(2), np.arange(3)]
        file.attrs.create("layer_names", np.array(numbers, object), dtype=h5py.vlen_dtype("i4"))
    refused(tmp_path / "a.h5", ConversionError, "'layer_names' of '' cannot be read: .*no text")


def test_a_heap_that_hdf5_never_returns_from_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"dense"]
        file.create_group("dense")
    whole = path.read_bytes()
    # Behind the header and the one text, which takes 8 bytes after a header of its own.
    free = whole.index(b"GCOL") + 16 + 16 + 8
    assert struct.unpack_from("<H6xQ", whole, free) == (0, 4096 - 16 - 24)
    path.write_bytes(whole[: free + 8] + bytes(8) + whole[free + 16 :])
    refused(path, ConversionError, "a heap of texts is damaged")


def test_a_file_that_is_cut_off_is_refused_at_every_length(tmp_path: Path) -> None:
    path = weights(tmp_path / "a.h5")
    whole = path.read_bytes()
    for length in range(8, len(whole), 61):
        path.write_bytes(whole[:length])
        with pytest.raises(ConversionError):
            read(path)


def test_damage_anywhere_gives_an_error_of_ours(tmp_path: Path) -> None:
    path = weights(tmp_path / "a.h5")
    whole = path.read_bytes()
    rng = random.Random(1)
    messages = []
    for place in range(8, len(whole), 7):
        octets = bytearray(whole)
        octets[place] ^= 1 << rng.randrange(8)
        path.write_bytes(octets)
        try:
            found = read(path)
            if found is not None:
                for _, tensor in found:
                    tensor.read()
                found.close()
        except SafetensorError as error:
            messages.append(str(error))
    assert len(messages) > 30
    assert not [message for message in messages if "\n" in message]


def archive(path: Path, entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in {"metadata.json": b"{}", "config.json": b"{}", **entries}.items():
            file.writestr(name, data)
    return path


def test_a_flipped_bit_in_an_archive_is_found(tmp_path: Path) -> None:
    data = weights(tmp_path / "a.h5").read_bytes()
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        path = archive(tmp_path / "a.keras", {"model.weights.h5": data}, compression)
        octets = bytearray(path.read_bytes())
        octets[octets.index(b"model.weights.h5") + 60] ^= 1
        path.write_bytes(octets)
        refused(path, ConversionError, "the archive is damaged")


def test_an_archive_without_hdf5_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.keras", {"model.weights.npz": b""})
    refused(path, ConversionError, r"holds no 'model\.weights\.h5'")
    path = archive(tmp_path / "b.keras", {"model.weights.h5": b"nothing of HDF5"})
    refused(path, ConversionError, "its structure cannot be read")


def test_an_archive_that_leaves_its_folder_is_refused(tmp_path: Path) -> None:
    data = weights(tmp_path / "a.h5").read_bytes()
    path = archive(tmp_path / "a.keras", {"model.weights.h5": data, "../../assets/x": b""})
    refused(path, UnsafeCheckpointError, "leaves its folder")


def test_what_keras_did_not_write_is_left_to_others(tmp_path: Path) -> None:
    (tmp_path / "empty.h5").touch()
    (tmp_path / "wrong.keras").write_bytes(b"\x80\x04 something else")
    (tmp_path / "folder.h5").mkdir()
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["measurements"] = np.ones(3)
    with zipfile.ZipFile(tmp_path / "other.keras", "w") as file:
        file.writestr("w.npy", b"")
    for path in tmp_path.iterdir():
        assert read(path) is None, path
