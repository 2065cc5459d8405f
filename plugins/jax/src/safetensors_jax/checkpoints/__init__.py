"""Checkpoints of Flax and Orbax, read for conversion without running anything of them.

The modules are imported one by one: whose file it is, is told without NumPy.
"""

from __future__ import annotations

__all__: list[str] = []
