"""Between the host and accelerators: copies that run while files are read or written.

`upload` loads: threads read the file into pinned memory, and each piece is copied to the device as
soon as it is read. `download` saves: the next tensors are copied to the host while the caller
writes these. A plugin implements `Accelerator` for its framework.

| module | what lives there |
|---|---|
| `accelerator` | what a framework tells about one of its devices |
| `ring` | pinned memory that the process allocates once and uses again and again |
| `plan` | few blocks of device memory, and the copies that fill them |
| `uploading` | reading and copying at the same time |
| `downloading` | copying and writing at the same time |
| `host` | the host in the place of a device, for examples and tests |
"""

from safetensors_core.transfer.accelerator import Accelerator, Pinned, Ticket
from safetensors_core.transfer.downloading import download
from safetensors_core.transfer.ring import release_pinned_memory
from safetensors_core.transfer.uploading import Uploaded, upload

__all__ = [
    "Accelerator",
    "Pinned",
    "Ticket",
    "Uploaded",
    "download",
    "release_pinned_memory",
    "upload",
]
