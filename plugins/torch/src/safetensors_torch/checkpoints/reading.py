"""A checkpoint of PyTorch as a `ForeignCheckpoint`."""

from __future__ import annotations

from safetensors_core import ConversionError
from safetensors_core.convert import ForeignCheckpoint
from safetensors_core.sources import FileSource
from safetensors_torch.checkpoints.archive import read_archive
from safetensors_torch.checkpoints.legacy import check_plain_pickle, read_legacy
from safetensors_torch.checkpoints.names import name_tensors
from safetensors_torch.checkpoints.recognition import Kind
from safetensors_torch.checkpoints.stored import stored_tensors

__all__ = ["read_checkpoint"]


def read_checkpoint(path: str, kind: Kind, *, optimizer: bool) -> ForeignCheckpoint:
    """Read what a checkpoint says about its tensors; their numbers stay in the file.

    Peak memory is some MiB for a tensor in C order, and the tensor itself for others.

    Args:
        path: The file.
        kind: Its format.
        optimizer: Whether the state of an optimizer is wanted, too.

    Raises:
        UnsafeCheckpointError: Reading it would do harm.
        ConversionError: It is damaged, or holds no tensors.
        OSError: It cannot be read.

    Example:
        >>> path = str(tmp_path / "a.pt")
        >>> torch.save({"epoch": 3, "model": {"w": torch.ones(2)}}, path)
        >>> found = read_checkpoint(path, Kind.ARCHIVE, optimizer=False)
        >>> found.tensors["w"].read()
        tensor([1., 1.])
        >>> found.close()
    """
    if kind is Kind.TAR:
        raise ConversionError(
            "this is a file of PyTorch 0.1; load it with a PyTorch before 2.6 where you trust it, "
            "and save its state dict again",
            path,
        )
    source = FileSource(path)
    try:
        if kind is Kind.PICKLE:
            check_plain_pickle(source)
        contents = read_archive(source) if kind is Kind.ARCHIVE else read_legacy(source)
        named = name_tensors(contents.root, path, optimizer=optimizer, most=contents.pickle_size)
        tensors, refused = stored_tensors(named.tensors, contents, source)
    except BaseException:
        source.close()
        raise
    return ForeignCheckpoint(
        tensors,
        framework="torch",
        format="pt",
        metadata=named.metadata,
        left_out=named.left_out,
        refused=named.refused | refused,
        close=source.close,
    )
