"""Work on whole checkpoints: a file, or several files with an index, wherever they are.

| module | what lives there |
|---|---|
| `metadata` | `read_metadata`: names, dtypes and shapes without the data |
| `splitting` | `split_checkpoint`, `merge_checkpoint`: the same tensors in other files |
| `copying` | the tensors of open files as a stream of bytes |
| `verification`, `summing`, `folder` | `verify_checkpoint`: all that is wrong |
| `findings` | what a verification finds |
| `checksums`, `sealing` | SHA-256 sums: their forms, and `write_checksums` |
| `comparison`, `numbers` | `compare_checkpoints`: how two differ, and by how much with NumPy |
"""

__all__: list[str] = []
