"""Files on a server that others wrote: aiohttp's, which answers ranges from files on disk."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from aiohttp import web

from safetensors_core import (
    HeaderError,
    load_file,
    read_header,
    safe_open,
    save_checkpoint,
    save_file,
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, list[str | None]]]:
    """The URL of a server of a folder `files`, and the ranges that it has been asked for."""
    (tmp_path / "files").mkdir()
    ranges: list[str | None] = []

    @web.middleware
    async def note(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        ranges.append(request.headers.get("Range"))
        return await handler(request)

    async def start() -> tuple[web.AppRunner, int]:
        application = web.Application(middlewares=[note])
        application.router.add_static("/", tmp_path / "files")
        runner = web.AppRunner(application)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner, runner.addresses[0][1]

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        runner, port = asyncio.run_coroutine_threadsafe(start(), loop).result(30)
        yield f"http://127.0.0.1:{port}", ranges
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(30)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()


def test_a_file_is_read_in_ranges(tmp_path: Path, server: tuple[str, list[str | None]]) -> None:
    url, ranges = server
    numbers = np.arange(100_000, dtype=np.float32).reshape(1000, 100)
    save_file({"w": numbers, "b": np.zeros(3)}, tmp_path / "files" / "model.safetensors")
    assert read_header(f"{url}/model.safetensors").tensors["w"].shape == (1000, 100)
    assert ranges == ["bytes=0-65535"]
    with safe_open(f"{url}/model.safetensors") as file:
        assert np.array_equal(file.get_slice("w")[500:502], numbers[500:502])
    assert len(ranges) == 3
    assert np.array_equal(load_file(f"{url}/model.safetensors")["w"], numbers)


def test_a_checkpoint_is_read_by_its_index(
    tmp_path: Path, server: tuple[str, list[str | None]]
) -> None:
    url, ranges = server
    tensors = {f"layer.{number}": np.full(1000, number, np.float32) for number in range(4)}
    save_checkpoint(tensors, tmp_path / "files" / "model", max_shard_size="4kB")
    loaded = load_file(f"{url}/model/")
    assert loaded.keys() == tensors.keys()
    assert all(np.array_equal(loaded[name], tensors[name]) for name in tensors)
    assert len(ranges) == 1 + 2 * len(tensors)  # the index, and of each file header and data


def test_an_empty_file_and_a_missing_one_are_named(
    tmp_path: Path, server: tuple[str, list[str | None]]
) -> None:
    url, _ = server
    (tmp_path / "files" / "empty.safetensors").touch()
    with pytest.raises(HeaderError, match="the file is empty"):
        read_header(f"{url}/empty.safetensors")
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_header(f"{url}/missing.safetensors")
