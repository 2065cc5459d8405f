"""Checkpoints of many files, as a reader sees them.

| module | what lives there |
|---|---|
| `index` | `ShardIndex`: which file holds which tensor, and what an index must not say |
| `location` | what a file, an index, a folder or a URL stands for |
| `checks` | what must hold between an index and its files |
| `shard_set` | the files of one checkpoint, opened when they are needed |
"""

__all__: list[str] = []
