"""Work on whole checkpoints: a file, or several files with an index, wherever they are.

| module | what lives there |
|---|---|
| `metadata` | `read_metadata`: names, dtypes and shapes without the data |
"""
