"""What is timed of other libraries, which keep tensors in other formats or read the same files.

Each call is written as the documentation of its library writes it.
"""

from __future__ import annotations

import atexit
import io
import shutil
import tempfile
from collections.abc import Callable
from importlib import import_module
from typing import Any, cast

import numpy as np

from benchmarks import values
from benchmarks.devices import arrived
from benchmarks.setting import Call, Setting, call


@call("torch.load(path, mmap=True, weights_only=True)")
def torch_load_mapped(setting: Setting) -> Callable[[], Any]:
    """Map what `torch.save` wrote."""
    import torch

    return lambda: torch.load(setting.path, mmap=True, weights_only=True)


@call("torch.load(path, weights_only=True)")
def torch_load_owned(setting: Setting) -> Callable[[], Any]:
    """Read what `torch.save` wrote into memory that the tensors own."""
    import torch

    return lambda: torch.load(setting.path, weights_only=True)


@call("torch.load(path, map_location=device, mmap=True, weights_only=True)")
def torch_load_to_device(setting: Setting) -> Callable[[], Any]:
    """Copy what `torch.save` wrote from a map to a device."""
    import torch

    def load() -> Any:
        return torch.load(setting.path, map_location=setting.device, mmap=True, weights_only=True)

    return arrived(load, setting.device)


@call("torch.save(tensors, path)", values.of_pt)
def torch_save(setting: Setting) -> Callable[[], Any]:
    """Save with `torch.save`, which does not wait for the disk."""
    import torch

    tensors = setting.tensors()
    return lambda: torch.save(tensors, setting.target)


@call("torch.save(tensors, io.BytesIO())", values.of_pt)
def torch_save_bytes(setting: Setting) -> Callable[[], Any]:
    """Save to bytes with `torch.save`."""
    import torch

    tensors = setting.tensors()

    def save() -> bytes:
        file = io.BytesIO()
        torch.save(tensors, file)
        return file.getvalue()

    return save


@call("numpy.load(path), every array of it")
def npz_load(setting: Setting) -> Callable[[], Any]:
    """Read what `numpy.savez` wrote; arrays are read when they are asked for."""

    def load() -> dict[str, Any]:
        with np.load(setting.path) as arrays:
            return dict(arrays)

    return load


@call("numpy.savez(path, **arrays)", values.of_npz)
def npz_save(setting: Setting) -> Callable[[], Any]:
    """Save with `numpy.savez`, which does not wait for the disk."""
    arrays = cast("Any", setting.tensors())
    return lambda: np.savez(setting.target, **arrays)


@call("numpy.savez(io.BytesIO(), **arrays)", values.of_npz)
def npz_save_bytes(setting: Setting) -> Callable[[], Any]:
    """Save to bytes with `numpy.savez`."""
    arrays = cast("Any", setting.tensors())

    def save() -> bytes:
        file = io.BytesIO()
        np.savez(file, **arrays)
        return file.getvalue()

    return save


@call("SafeTensorsFileLoader(None, device): copy_files_to_device(), then get_tensor() of each")
def fastsafetensors_load(setting: Setting) -> Callable[[], Any]:
    """Load with fastsafetensors, which reads by way of GPUDirect Storage where there is such."""
    fastsafetensors = import_module("fastsafetensors")

    def load() -> dict[str, Any]:
        loader = fastsafetensors.SafeTensorsFileLoader(
            None, setting.device, nogds=setting.device == "cpu"
        )
        try:
            loader.add_filenames({0: [setting.path]})
            files = loader.copy_files_to_device()
            try:
                return {name: files.get_tensor(name) for name in loader.get_keys()}
            finally:
                files.close()  # the tensors keep their memory
        finally:
            loader.close()

    return arrived(load, setting.device)


@call('safe_open(path, "pt", device).tensors()')
def instanttensor_load(setting: Setting) -> Callable[[], Any]:
    """Load with instanttensor, to CUDA devices only; the tensors own their memory."""
    instanttensor = import_module("instanttensor")

    def load() -> dict[str, Any]:
        with instanttensor.safe_open(setting.path, framework="pt", device=setting.device) as file:
            return dict(file.tensors())

    return arrived(load, setting.device)


@call("read_flashpack_file(path, device), then iterate_from_flash_tensor()")
def flashpack_load(setting: Setting) -> Callable[[], Any]:
    """Load with flashpack, which has a format of its own."""
    reading = import_module("flashpack.deserialization")

    def load() -> dict[str, Any]:
        storage, metadata = reading.read_flashpack_file(setting.path, setting.device)
        return dict(reading.iterate_from_flash_tensor(storage, metadata))

    return arrived(load, setting.device)


@call("SafetensorsStreamer(): stream_file(path, device=device), then get_tensors()")
def runai_load(setting: Setting) -> Callable[[], Any]:
    """Load with the Run:ai Model Streamer; the tensors own their memory."""
    runai = import_module("runai_model_streamer")

    def load() -> dict[str, Any]:
        with runai.SafetensorsStreamer() as streamer:
            streamer.stream_file(setting.path, device=setting.device)
            return dict(streamer.get_tensors())

    return arrived(load, setting.device)


def read_metadata(latency: float) -> Call:
    """Read the headers of a repository of the Hub.

    Args:
        latency: Seconds from each request to its answer.

    Returns:
        The side of a case.
    """

    @call('huggingface_hub.get_safetensors_metadata("bigscience/bloom")')
    def read_headers(_setting: Setting) -> Callable[[], Any]:
        from huggingface_hub import HfApi, constants
        from huggingface_hub.utils import disable_progress_bars

        from benchmarks.hub import start_hub

        disable_progress_bars()
        client = HfApi(endpoint=start_hub(latency), token=False)
        # It keeps the index, so from the second call on only asks whether that is still the same.
        constants.HF_HUB_CACHE = tempfile.mkdtemp()
        atexit.register(shutil.rmtree, constants.HF_HUB_CACHE, ignore_errors=True)
        client.get_safetensors_metadata("bigscience/bloom")
        return lambda: client.get_safetensors_metadata("bigscience/bloom")

    return read_headers
