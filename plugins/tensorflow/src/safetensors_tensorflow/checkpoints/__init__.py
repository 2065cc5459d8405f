"""Checkpoints of Keras and TensorFlow, read without either of them.

Nothing here imports TensorFlow or Keras: a configuration is never turned into a model, and no file
reaches code of theirs that was not written for files of strangers.
"""

from __future__ import annotations

__all__: list[str] = []
