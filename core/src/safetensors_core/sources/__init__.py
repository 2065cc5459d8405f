"""Where bytes come from: mapped files, positional reads, memory.

| class | bytes | memory of the tensors |
|---|---|---|
| `MappedSource` | a file in the address space | borrowed from the map: private, writable, lazy |
| `FileSource` | a file read at positions | owned by the caller |
| `MemorySource` | an object in memory | borrowed where it is writable, owned otherwise |
"""

from safetensors_core.sources.allocation import allocate
from safetensors_core.sources.base import ByteSource, Segment
from safetensors_core.sources.file import FileSource
from safetensors_core.sources.mapped import MappedSource
from safetensors_core.sources.memory import MemorySource

__all__ = ["ByteSource", "FileSource", "MappedSource", "MemorySource", "Segment", "allocate"]
