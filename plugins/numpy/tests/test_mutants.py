"""The conformance kit notices whatever is broken in the plugin, and says where to look."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

# What is broken: the checks that must fail, and what one of them must say.
MUTANTS = {
    "ForeignByteOrderOnLoad": ("values", "the order of bytes"),
    "ForeignByteOrderBothWays": ("values", "the order of bytes"),
    "CopyOnLoad": ("memory", "aliases_on_load is declared, but from_buffers copies"),
    "CopyOnSave": ("memory", "aliases_on_save is declared, but to_buffer copies"),
    "StridesLost": ("layouts", "strides or offset lost"),
    "OrderOfMemory": ("layouts", "strides or offset lost"),
    "OrderOfFortran": ("round_trips", "the bytes that to_buffer gives are not those"),
    "DtypesSwappedBothWays": ("values", "the format means"),
    "BooleansAsBytes": ("declarations", "from_buffers makes uint8 of BOOL, dtypes says bool"),
    "Narrowed": ("round_trips", "DID NOT RAISE UnsupportedDtypeError"),
    "MemoryNotKept": ("memory", "memory that it does not keep"),
    "MemoryNeverReleased": ("memory", "memory leaks"),
    "ReadOnlyMemoryWrittenTo": ("memory", "read-only buffer can be written to"),
    "SwappedInPlace": ("memory", "load wrote to the bytes that it was given"),
    "OffsetsIgnored": ("memory", "data_offsets count from the buffer's first byte"),
    "AddressesRounded": ("memory", "test_a_tensor_at_any_address_is_loaded_right"),
    "NamesSorted": ("round_trips", "changed the order of the names"),
    "NamesSortedUpwards": ("models", "changed the order of the names"),
    "OffsetsAddedUp": ("models", "holds the data of another tensor"),
    "OneDtypeForAll": ("models", "has the dtype or shape of another"),
    "FailsWithoutTensors": ("models", "test_a_file_without_tensors_is_loaded"),
    "EqualTensorsShared": ("saving", "equal tensors of a file share memory"),
    "LargeTensorsCut": ("models", "does not come back bit for bit"),
    "BytesRemembered": ("saving", "what the tensor held before it was written to"),
    "SlicesOnTheHost": ("devices", "index leaves its result on another device"),
    "NoDevices": ("devices", "list at least the host"),
    "ScalarsAsVectors": ("round_trips", "describe: another dtype or shape"),
    "EmptyShapesLost": ("round_trips", "describe: another dtype or shape"),
    "ShapeReversed": ("declarations", "describe does not say what from_buffers was given"),
    "ShapeAsList": ("declarations", "describe"),
    "SignednessLost": ("declarations", "describe does not say what from_buffers was given"),
    "EverythingIsATensor": ("declarations", "is_tensor takes"),
    "NothingIsATensor": ("declarations", "is_tensor refuses what was loaded"),
    "AttributesAsked": ("declarations", "asked of an object that is no tensor"),
    "BareScalars": ("slices", "index gave int instead of a tensor"),
    "StepsIgnored": ("slices", "index"),
    "NewAxesIgnored": ("slices", "has another shape"),
    "KeyOfTheTensor": ("sharing", "a view has another storage_key"),
    "OneKeyForAll": ("sharing", "two tensors that share no memory have one storage_key"),
    "OneStagingBuffer": ("saving", "do not reuse one staging buffer"),
    "BufferFilledAnew": ("saving", "changes a buffer that is still held"),
    "LastByteLost": ("saving", "to_buffer gives"),
    "NanPayloadsLost": ("round_trips", "the bytes that to_buffer gives are not those"),
    "MinusZeroLost": ("round_trips", "the bytes that to_buffer gives are not those"),
    "SubnormalsLost": ("round_trips", "the bytes that to_buffer gives are not those"),
    "AnyDevice": ("devices", "DID NOT RAISE InvalidInputError"),
    "SlicesOnAnyDevice": ("devices", "DID NOT RAISE InvalidInputError"),
    "StateOfACall": ("threads", "test_threads_share_an_open_file"),
    "WrongName": ("declarations", "native_package is 'nunpy'"),
    "WrongVersion": ("declarations", "api_version must be an integer"),
    "OddAlignment": ("declarations", "test_alignment_is_a_power_of_two_up_to_a_page"),
    "AliasingNotDeclared": ("memory", "declare aliases_on_load"),
}


def kit(mutant: str, subject: str) -> tuple[int, str]:
    """Run the checks of a subject on a broken plugin: the exit status, and all that is printed."""
    command = [sys.executable, "-m", "safetensors_core.testing", "numpy", "-p", "mutants"]
    done = subprocess.run(
        [*command, f"check_{subject}.py"],
        env=dict(os.environ, PYTHONPATH=str(Path(__file__).parent), MUTANT=mutant),
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("mutant", MUTANTS)
def test_what_is_broken_is_noticed(mutant: str) -> None:
    subject, message = MUTANTS[mutant]
    status, output = kit(mutant, subject)
    # Memory that nobody keeps may end the interpreter; then the kit runs up to the first failure.
    assert status == 1 or (status, mutant) == (3, "MemoryNotKept"), output[-3000:]
    card = output[output.index("report card") :]
    assert message in card, card
    assert "read: The plugin contract" in card


def test_every_mutant_is_tried() -> None:
    text = Path(__file__).with_name("mutants.py").read_text("utf-8")
    assert set(re.findall(r"^class (\w+)", text, re.MULTILINE)) == set(MUTANTS)
