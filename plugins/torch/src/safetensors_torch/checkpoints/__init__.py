"""Checkpoints that `torch.save` wrote, read without `torch.load` and without running anything.

The pickle inside names functions, in the place of which are others (`rebuilding`); what it says
about tensors is checked against the file (`archive`, `legacy`, `stored`); names are made of it
(`names`). Importing this package does not import PyTorch.
"""

from __future__ import annotations

from safetensors_torch.checkpoints.recognition import Kind, recognise

__all__ = ["Kind", "recognise"]
