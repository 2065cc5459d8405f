"""What a file holds once dropped names are given back and wrappers are rebuilt."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch

from safetensors_core import (
    Header,
    HeaderError,
    InvalidInputError,
    Reason,
    TensorNotFoundError,
    load,
    safe_open,
)
from safetensors_core.sources import MemorySource
from safetensors_torch.framework import torch_shape
from safetensors_torch.subclasses import Wrapper, allowed_classes, read_wrappers
from safetensors_torch.tied import read_dropped
from safetensors_torch.views import View

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from safetensors_core.progress import Progress
    from safetensors_core.reader import Backend

__all__ = ["Contents", "Keys", "load_contents", "load_file_contents"]

_DEEPEST = 64  # wrappers inside of each other

Keys: TypeAlias = str | Iterable[str] | Callable[[str], bool]


class Contents:
    """What a file holds, by the names that its tensors had before they were saved.

    Args:
        header: The file's header.
        location: The file, as errors show it.
        tied: ``"expand"`` for the names that were dropped, too.
        rebuild: Classes that may be rebuilt.

    Attributes:
        names: All names, in the order of the file; those that were dropped, and those of
            wrappers that are rebuilt, come last.

    Raises:
        InvalidInputError: An option is not valid.
        HeaderError: What the metadata says of dropped names or of wrappers is not valid.

    Example:
        >>> from safetensors_core import parse_header
        >>> from safetensors_torch import save
        >>> header = parse_header(save({"a": torch.ones(2)}, {"b": "a"}))
        >>> Contents(header, "model.safetensors", tied="expand").names
        ['a', 'b']
    """

    def __init__(
        self,
        header: Header,
        location: str,
        *,
        tied: Literal["expand"] | None = None,
        rebuild: Iterable[type] = (),
    ) -> None:
        if tied not in (None, "expand"):
            raise InvalidInputError(f"tied must be None or 'expand', got {tied!r}")
        self._classes = allowed_classes(rebuild)
        self._location = location
        self._infos = header.tensors
        self._dropped: dict[str, tuple[str, View | None]] = {}
        self._wrappers: dict[str, Wrapper] = {}
        names = dict.fromkeys(self._infos)
        if tied or self._classes:
            self._dropped = read_dropped(self._infos, header.metadata, location)
        if self._classes:
            wrappers = read_wrappers(header.metadata, location)
            kinds = {wrapper.kind for wrapper in wrappers.values()}
            if kinds and not kinds & self._classes.keys():
                raise InvalidInputError(
                    f"{location} holds tensors of {', '.join(sorted(kinds))}, which no class in "
                    f"rebuild is called: {', '.join(self._classes)}"
                )
            self._wrappers = self._rebuildable(wrappers)
        # A wrapper is among the dropped names if all that is inside of it is.
        stored = self._stored_names()
        if tied:
            names.update(dict.fromkeys(self._dropped))
        for name, wrapper in self._wrappers.items():
            for inner in wrapper.inner.values():
                names.pop(inner, None)
            if tied or stored[name]:
                names[name] = None
        self.names = list(names)

    def not_rebuilt(self, metadata: Mapping[str, str] | None) -> list[str]:
        """Classes of tensors that were taken apart and are not put together again.

        Args:
            metadata: The file's metadata.

        Raises:
            HeaderError: What it says of wrappers is not valid.

        Example:
            >>> from safetensors_core import parse_header
            >>> from safetensors_torch import save
            >>> Contents(parse_header(save({"a": torch.ones(2)})), "a.st").not_rebuilt(None)
            []
        """
        wrappers = read_wrappers(metadata, self._location)
        return sorted({wrapper.kind for wrapper in wrappers.values()} - self._classes.keys())

    def _rebuildable(self, wrappers: Mapping[str, Wrapper]) -> dict[str, Wrapper]:
        """The wrappers of allowed classes, all of whose inner tensors are there."""
        found: dict[str, Wrapper] = {}
        depths: dict[str, int] = {}
        for name, wrapper in wrappers.items():
            depths[name] = 1 + max(depths.get(inner, 0) for inner in wrapper.inner.values())
            if depths[name] > _DEEPEST:
                raise self._invalid(name, "it wraps too many others, one inside the other")
            if wrapper.kind not in self._classes:
                continue
            for inner in wrapper.inner.values():
                if inner in self._infos or inner in self._dropped or inner in found:
                    continue
                if inner in wrappers:
                    raise InvalidInputError(
                        f"{self._location}: tensor {name!r} wraps {inner!r} of class "
                        f"{wrappers[inner].kind}: add that class to rebuild"
                    )
                raise self._invalid(name, f"its inner tensor {inner!r} is not in the file")
            if name in self._infos or name in self._dropped:
                raise self._invalid(name, "a tensor of its name is in the file")
            found[name] = wrapper
        return found

    def _stored_names(self) -> dict[str, bool]:
        """Whether something inside of a wrapper is stored under its own name."""
        stored: dict[str, bool] = {}
        for name, wrapper in self._wrappers.items():
            stored[name] = any(
                inner in self._infos or stored.get(inner, False) for inner in wrapper.inner.values()
            )
        return stored

    def _invalid(self, name: str, detail: str) -> HeaderError:
        return HeaderError(
            Reason.INVALID_METADATA,
            f"tensor {name!r} cannot be rebuilt: {detail}",
            tensor=name,
            location=self._location,
        )

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor as torch has it.

        Example:
            >>> from safetensors_core import parse_header
            >>> from safetensors_torch import save
            >>> Contents(parse_header(save({"a": torch.ones(2)})), "a.safetensors").shape("a")
            (2,)
        """
        if name in self._wrappers:
            return self._wrappers[name].shape
        if name in self._infos:
            return torch_shape(name, self._infos[name])
        kept, view = self._dropped[name]
        return torch_shape(kept, self._infos[kept]) if view is None else view.shape

    def select(self, keys: Keys) -> list[str]:
        """The names that a selection stands for, in the order of `names`.

        Args:
            keys: A name, a prefix that ends in ``*``, several of either, or a function.

        Raises:
            TensorNotFoundError: A name or prefix matches nothing.
            InvalidInputError: It is none of these.

        Example:
            >>> from safetensors_core import parse_header
            >>> from safetensors_torch import save
            >>> header = parse_header(save({"a": torch.ones(2), "b": torch.ones(2)}))
            >>> Contents(header, "model.safetensors").select("b*")
            ['b']
        """
        if callable(keys):
            return [name for name in self.names if keys(name)]
        try:
            wanted = [keys] if isinstance(keys, str) else list(keys)
        except TypeError:
            wanted = [None]  # type: ignore[list-item]
        if not all(isinstance(key, str) for key in wanted):
            raise InvalidInputError(
                "keys must be names, prefixes that end in '*', or a function of the name: "
                f"got {keys!r}"
            )
        known = set(self.names)
        chosen: set[str] = set()
        for key in wanted:
            found = {key} & known
            if key.endswith("*") and not found:
                found = {name for name in self.names if name.startswith(key[:-1])}
            if not found:
                raise TensorNotFoundError(key, self._location, self.names)
            chosen |= found
        return [name for name in self.names if name in chosen]

    def stored(self, names: Iterable[str]) -> list[str]:
        """The tensors of the file that some names are made of, in the order of the file.

        Example:
            >>> from safetensors_core import parse_header
            >>> from safetensors_torch import save
            >>> header = parse_header(save({"a": torch.ones(2)}, {"b": "a"}))
            >>> Contents(header, "model.safetensors", tied="expand").stored(["b"])
            ['a']
        """
        needed: set[str] = set()
        work = list(names)
        while work:
            name = work.pop()
            if name in self._wrappers:
                work.extend(self._wrappers[name].inner.values())
            else:
                needed.add(name if name in self._infos else self._dropped[name][0])
        return [name for name in self._infos if name in needed]

    def check_conversion(self, names: Iterable[str]) -> None:
        """Refuse to convert what depends on the dtypes that were saved.

        Args:
            names: Names to give back.

        Raises:
            InvalidInputError: A wrapper is to be rebuilt, or a tensor is the bytes of another.

        Example:
            >>> from safetensors_core import parse_header
            >>> from safetensors_torch import save
            >>> contents = Contents(parse_header(save({"a": torch.ones(2)})), "a.safetensors")
            >>> contents.check_conversion(["a"])
        """
        for name in names:
            _, view = self._dropped.get(name, (name, None))
            if name in self._wrappers:
                cause = "it is rebuilt of tensors whose dtypes its class has chosen"
            elif view is not None and view.dtype is not None:
                cause = "it is stored as the bytes of a tensor of another dtype"
            else:
                continue
            raise InvalidInputError(
                f"{self._location}: tensor {name!r} cannot be converted while it is loaded, "
                f"because {cause}: load without dtype and convert the result"
            )

    def restore(
        self, names: Iterable[str], tensors: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """Tensors under the names that they had before they were saved.

        Args:
            names: Names to give back.
            tensors: What `stored` says of them, loaded.

        Returns:
            Tensors by name. Those of dropped names share memory with those that were kept.

        Raises:
            HeaderError: What the metadata says of a tensor is not valid.
            InvalidInputError: A class does not rebuild what the file holds.

        Example:
            >>> from safetensors_core import parse_header
            >>> from safetensors_torch import save
            >>> header = parse_header(save({"a": torch.ones(2)}, {"b": "a"}))
            >>> contents = Contents(header, "model.safetensors", tied="expand")
            >>> contents.restore(["b"], {"a": torch.ones(2)})
            {'b': tensor([1., 1.])}
        """
        return {name: self._made(name, tensors) for name in names}

    def _made(self, name: str, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        wrapper = self._wrappers.get(name)
        if wrapper is not None:
            inner = {key: self._made(part, tensors) for key, part in wrapper.inner.items()}
            try:
                return wrapper.rebuild(self._classes[wrapper.kind], inner)
            except InvalidInputError as error:
                raise InvalidInputError(f"{self._location}: tensor {name!r}: {error}") from error
        if name in tensors:
            return tensors[name]
        kept, view = self._dropped[name]
        if view is None:
            return tensors[kept]
        try:
            return view.of(tensors[kept])
        except RuntimeError as error:  # a dtype of which torch has no views
            raise self._invalid(name, str(error)) from error


def load_file_contents(
    filename: str | os.PathLike[str],
    device: Any,
    *,
    backend: Backend,
    keys: Keys | None,
    dtype: str | None,
    max_header: int,
    storage_options: Mapping[str, Any] | None,
    progress: Progress | None,
    tied: Literal["expand"] | None,
    rebuild: Iterable[type],
) -> dict[str, torch.Tensor]:
    """Load a file, with dropped names and wrappers as they were. See `safetensors_torch.load_file`.

    Example:
        >>> from safetensors_torch import load_file, save_file
        >>> save_file({"a": torch.ones(2)}, tmp_path / "a.safetensors", {"b": "a"})
        >>> list(load_file(tmp_path / "a.safetensors", tied="expand"))
        ['a', 'b']
    """
    with safe_open(
        filename,
        "torch",
        device,
        backend=backend,
        max_header=max_header,
        storage_options=storage_options,
    ) as file:
        contents = Contents(file.header, os.fspath(filename), tied=tied, rebuild=rebuild)
        names = contents.names if keys is None else contents.select(keys)
        if dtype is not None:
            contents.check_conversion(names)
        stored = file.get_tensors(contents.stored(names), dtype=dtype, progress=progress)
        return contents.restore(names, stored)


def load_contents(
    data: Buffer,
    device: Any,
    *,
    dtype: str | None,
    max_header: int,
    tied: Literal["expand"] | None,
    rebuild: Iterable[type],
) -> dict[str, torch.Tensor]:
    """Load bytes, with dropped names and wrappers as they were. See `safetensors_torch.load`.

    Example:
        >>> from safetensors_torch import load, save
        >>> load(save({"a": torch.ones(2)}, {"b": "a"}), tied="expand")
        {'a': tensor([1., 1.]), 'b': tensor([1., 1.])}
    """
    source = MemorySource(data)
    header = source.read_header(max_header)
    contents = Contents(header, source.location, tied=tied, rebuild=rebuild)
    if dtype is not None:
        contents.check_conversion(contents.names)
    tensors = load(data, "torch", device, dtype=dtype, max_header=max_header)
    return contents.restore(contents.names, tensors)
