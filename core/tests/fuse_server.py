"""Serves one file, read-only, as a FUSE file system; `test_network_files.py` runs it by itself.

It speaks the protocol of ``/dev/fuse``, so that no library is needed. It unmounts when its input
ends, which also happens when the process that started it is killed.

    python fuse_server.py FILE MOUNT_POINT TYPE LOG
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import sys
import threading
from pathlib import Path

NAME = "model.safetensors"

LOOKUP, FORGET, GETATTR, OPEN, READ, RELEASE, FLUSH, INIT = 1, 2, 3, 14, 15, 18, 25, 26
INTERRUPT, BATCH_FORGET = 36, 42
SILENT = {FORGET, INTERRUPT, BATCH_FORGET}  # requests that have no answer

ROOT, FILE = 1, 2  # the nodes that there are
DIRECT_IO = 1  # each read of a program arrives here as it was made
READ_ONLY, DETACH = 1, 2  # flags of mount and umount2
VALID = 3600  # seconds for which the kernel may remember what it was told

libc = ctypes.CDLL(None, use_errno=True)


class Server:
    """The file system: a folder that holds one file."""

    def __init__(self, file: Path, log: Path) -> None:
        self.data = file.read_bytes()
        self.log = log.open("w", buffering=1)

    def attributes(self, node: int) -> bytes:
        size, mode, links = len(self.data), stat.S_IFREG | 0o444, 1
        if node == ROOT:
            size, mode, links = 0, stat.S_IFDIR | 0o555, 2
        return struct.pack("<6Q10I", node, size, 0, *[0] * 6, mode, links, 0, 0, 0, 4096, 0)

    def answer(self, operation: int, node: int, body: bytes) -> bytes | int:
        """What a request gets: bytes, or the number of an error."""
        result: bytes | int = errno.ENOSYS
        if operation == INIT:
            numbers = (7, 31, 1 << 17, 0, 0, 0, 4096, 1, 0, 0)
            result = struct.pack("<4I2H2I2H", *numbers).ljust(64, b"\0")
        elif operation == LOOKUP:
            result = struct.pack("<4Q2I", FILE, 0, VALID, VALID, 0, 0) + self.attributes(FILE)
            if body.rstrip(b"\0").decode() != NAME:
                result = errno.ENOENT
        elif operation == GETATTR:
            result = struct.pack("<Q2I", VALID, 0, 0) + self.attributes(node)
        elif operation == OPEN:
            result = struct.pack("<Q2I", 0, DIRECT_IO, 0)
        elif operation == READ:
            _, offset, size = struct.unpack_from("<2QI", body)
            self.log.write(f"{offset} {size}\n")
            result = self.data[offset : offset + size]
        elif operation in {FLUSH, RELEASE}:
            result = b""
        return result

    def serve(self, device: int) -> None:
        """Answer requests until there is no mount any more."""
        while True:
            try:
                request = os.read(device, 1 << 20)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return
                if error.errno in {errno.EINTR, errno.ENOENT}:  # a request was withdrawn
                    continue
                raise
            _, operation, unique, node = struct.unpack_from("<2I2Q", request)
            if operation in SILENT:
                continue
            given = self.answer(operation, node, request[40:])
            number, content = (-given, b"") if isinstance(given, int) else (0, given)
            os.write(device, struct.pack("<IiQ", 16 + len(content), number, unique) + content)


def unmount(place: Path) -> None:
    """Take a mount away, whoever still uses it."""
    libc.umount2(os.fsencode(place), DETACH)


def main() -> None:
    """Mount, say so, and serve."""
    file, place, kind, log = sys.argv[1:]
    try:
        device = os.open("/dev/fuse", os.O_RDWR)
    except OSError as error:
        print(f"/dev/fuse cannot be opened: {error.strerror}", flush=True)  # noqa: T201
        return
    options = f"fd={device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}"
    given = (b"toy", os.fsencode(place), kind.encode(), READ_ONLY, options.encode())
    if libc.mount(*given):
        reason = os.strerror(ctypes.get_errno())
        print(f"mounting is refused: {reason}", flush=True)  # noqa: T201
        return

    def end_with_input() -> None:
        sys.stdin.read()
        unmount(Path(place))

    threading.Thread(target=end_with_input, daemon=True).start()
    print("mounted", flush=True)  # noqa: T201
    try:
        Server(Path(file), Path(log)).serve(device)
    finally:
        unmount(Path(place))


if __name__ == "__main__":
    main()
