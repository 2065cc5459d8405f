"""Checkpoints of Flax and Orbax, read for conversion without running anything of them."""
