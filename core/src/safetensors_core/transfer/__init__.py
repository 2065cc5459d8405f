"""Between the host and accelerators: copies that run while files are read or written.

`upload` loads: threads read the file into pinned memory, and each piece is copied to the device as
soon as it is read. `download` saves: the next tensors are copied to the host while the caller
writes these. A plugin implements `Accelerator` for its framework; for one that gives no access to
its copies, `read_windows` reads the next tensors while it copies these.

| module | what lives there |
|---|---|
| `accelerator` | what a framework tells about one of its devices |
| `ring` | pinned memory that the process allocates once and uses again and again |
| `plan` | few blocks of device memory, and the copies that fill them |
| `positional` | mapped files as files that are read |
| `direct` | large files read past the page cache |
| `uploading` | reading and copying at the same time |
| `windowed` | reading while a framework copies by itself |
| `downloading` | copying and writing at the same time |
| `slices` | where slices are applied |
| `host` | the host in the place of a device, for examples and tests |
"""

from safetensors_core.transfer.accelerator import Accelerator, Pinned, Ticket
from safetensors_core.transfer.downloading import download, neighbours
from safetensors_core.transfer.plan import Place
from safetensors_core.transfer.ring import release_pinned_memory
from safetensors_core.transfer.slices import indexes_there
from safetensors_core.transfer.uploading import pays_off, upload
from safetensors_core.transfer.windowed import read_windows

__all__ = [
    "Accelerator",
    "Pinned",
    "Place",
    "Ticket",
    "download",
    "indexes_there",
    "neighbours",
    "pays_off",
    "read_windows",
    "release_pinned_memory",
    "upload",
]
