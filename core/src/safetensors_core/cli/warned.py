"""Warnings of the library, for people on standard error and for programs in the JSON."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator

from safetensors_core.cli.text import inert, without_surrogates

__all__ = ["collected_warnings"]


@contextlib.contextmanager
def collected_warnings(*, as_json: bool) -> Iterator[list[str]]:
    """Collect what the library warns of in a block, and tell people at its end.

    Args:
        as_json: Whether the output is JSON: then nothing is told here.

    Yields:
        A list that holds the texts once the block has ended.

    Example:
        >>> from safetensors_core import CheckpointWarning
        >>> with collected_warnings(as_json=True) as texts:
        ...     warnings.warn("total_size is 7", CheckpointWarning)
        >>> texts
        ['total_size is 7']
    """
    from safetensors_core.errors import CheckpointWarning

    texts: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield texts
        finally:
            # What libraries say of their own use is not for those who run a command. Plugins that
            # fail and numbers that overflow are RuntimeWarnings.
            told = (CheckpointWarning, RuntimeWarning, UserWarning)
            ours = [one for one in caught if one.category in told]
            texts += dict.fromkeys(without_surrogates(str(one.message)) for one in ours)
            if not as_json and sys.stderr is not None:
                with contextlib.suppress(OSError):
                    for text in texts:
                        sys.stderr.write(f"safetensors-core: warning: {inert(text)}\n")
                    sys.stderr.flush()
