"""`Framework`: what a plugin implements."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from safetensors_core import collector
from safetensors_core.dtypes import Dtype
from safetensors_core.errors import InvalidInputError, UnsupportedDtypeError
from safetensors_core.header import TensorInfo
from safetensors_core.selection import select
from safetensors_core.tensor_spec import PreparedTensors, TensorSpec

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from safetensors_core.sources import ByteSource

__all__ = ["API_VERSION", "OLDEST_API_VERSION", "Framework", "TensorSpec"]

#: Version of the plugin contract that this core implements.
API_VERSION = 1

#: Oldest version of the plugin contract that this core still understands.
OLDEST_API_VERSION = 1


class Framework(ABC):
    """One tensor framework, as the rest of the package sees it.

    A plugin subclasses it and returns an instance from its `safetensors_framework` hook. Four
    methods are abstract; the others have defaults that are correct and can be made faster.
    An instance holds no state of its own: it is shared between threads.

    Attributes:
        name: Name under which the framework is asked for.
        api_version: Version of the plugin contract that the class was written for.
        native_package: Import name of the framework (``"torch"``).
        dtypes: Every element type that the framework represents exactly, with its own name
            for it. What is not in here is refused, on load and on save.
        alignment: Bytes at which a buffer must begin so that a tensor can alias it.
        aliases_on_load: Whether `from_buffers` gives tensors that lie in the buffer, where they
            are of whole bytes per element and begin at a multiple of `alignment` and of their
            item size.
        aliases_on_save: Whether `to_buffer` gives the memory of a tensor that lies on the host,
            in C order, with whole bytes per element.

    Example:
        >>> class Raw(Framework):
        ...     '''A framework whose tensors are flat byte strings.'''
        ...
        ...     name = "raw"
        ...     native_package = "builtins"
        ...     dtypes = {Dtype.U8: "uint8"}
        ...
        ...     def is_tensor(self, obj):
        ...         return isinstance(obj, bytes)
        ...
        ...     def describe(self, tensor):
        ...         return TensorSpec(Dtype.U8, (len(tensor),))
        ...
        ...     def to_buffer(self, tensor):
        ...         return tensor
        ...
        ...     def from_buffers(self, buffer, infos, device):
        ...         return {n: bytes(buffer[slice(*i.data_offsets)]) for n, i in infos.items()}
        >>> Raw().describe(b"abc")
        TensorSpec(dtype=<Dtype.U8: 'U8'>, shape=(3,))
    """

    name: ClassVar[str]
    api_version: ClassVar[int] = API_VERSION
    native_package: ClassVar[str]
    dtypes: Mapping[Dtype, Any]
    alignment: ClassVar[int] = 1
    aliases_on_load: ClassVar[bool] = False
    aliases_on_save: ClassVar[bool] = False

    @abstractmethod
    def is_tensor(self, obj: object) -> bool:
        """Whether an object is a tensor of this framework.

        Args:
            obj: Any object.

        Returns:
            True if the other methods accept it.
        """

    @abstractmethod
    def describe(self, tensor: Any) -> TensorSpec:
        """Dtype and shape under which a tensor is saved. Moves no data.

        Args:
            tensor: A tensor of this framework, on any device.

        Returns:
            What its entry in the header will say.

        Raises:
            UnsupportedDtypeError: The format has no exact equivalent of its dtype.
            InvalidInputError: It cannot be saved for another reason: sparse, say.
        """

    @abstractmethod
    def to_buffer(self, tensor: Any) -> Buffer:
        """The tensor's bytes on the host: C order, little-endian, `describe(tensor).nbytes` long.

        Args:
            tensor: A tensor of this framework, on any device.

        Returns:
            A contiguous buffer. It aliases the tensor where it can and keeps it alive. The
            caller only reads it, and may ask for other tensors before it is done with it.
        """

    @abstractmethod
    def from_buffers(
        self, buffer: memoryview, infos: Mapping[str, TensorInfo], device: Any
    ) -> dict[str, Any]:
        """Tensors from one host buffer.

        Args:
            buffer: Bytes that hold the tensors: C order, little-endian.
            infos: Dtype, shape and offsets into `buffer` by name.
            device: Where the tensors shall live, as the framework spells it.

        Returns:
            Tensors by name, in the order of `infos`. They alias `buffer` where they can, and
            then keep it alive; a tensor at an offset that does not suit is copied.

        Raises:
            UnsupportedDtypeError: The framework cannot represent a dtype exactly.
        """

    def load(
        self, source: ByteSource, infos: Mapping[str, TensorInfo], device: Any
    ) -> dict[str, Any]:
        """Tensors from a source. Override it for an I/O pipeline of the framework's own.

        Args:
            source: Where the bytes are.
            infos: The tensors to load, with the offsets of the file's header.
            device: Where the tensors shall live.

        Returns:
            Tensors by name, in the order of `infos`.
        """
        self.check_dtypes(infos)
        buffer, placed = source.fetch(infos, self.alignment)
        if len(infos) == 1:  # no garbage is worth the pause; programs load thousands one by one
            return self.from_buffers(buffer, placed, device)
        with collector.paused():
            return self.from_buffers(buffer, placed, device)

    def index(self, buffer: memoryview, info: TensorInfo, index: Any, device: Any) -> Any:
        """One tensor from a buffer, with an index applied to it.

        The default copies the bytes that the index selects. A framework that indexes like NumPy
        can do it faster.

        Args:
            buffer: Bytes that hold the tensor.
            info: Its dtype, shape and offsets into `buffer`.
            index: What would stand in brackets, with NumPy's meaning.
            device: Where the result shall live.

        Returns:
            A tensor; never a bare scalar.
        """
        data, selected = select(buffer, info, index)
        return self.from_buffers(data, {"": selected}, device)[""]

    def storage_key(self, tensor: Any) -> Hashable | None:
        """Identity of the memory behind a tensor.

        Args:
            tensor: A tensor of this framework.

        Returns:
            Equal keys for tensors that are views of the same memory; None where the framework
            has no views or cannot tell.
        """
        return None

    def cast(self, tensor: Any, dtype: Dtype) -> Any:
        """A tensor with its elements converted to another dtype, by the framework's own kernels.

        Asked for floating-point tensors: on the host where files are converted, on any device
        where tensors are loaded. The default refuses.

        Args:
            tensor: A tensor of this framework.
            dtype: One of `dtypes`.

        Returns:
            A tensor of the same shape on the same device, rounded as the framework rounds.

        Raises:
            InvalidInputError: The framework cannot.
        """
        raise InvalidInputError(f"the plugin of {self.name} does not convert dtypes")

    def permute(self, tensor: Any, axes: tuple[int, ...]) -> Any:
        """A tensor with its dimensions in another order, as `numpy.transpose` has it.

        Asked for by conversions between layouts only, for tensors on the host. The default
        refuses.

        Args:
            tensor: A tensor of this framework.
            axes: For each dimension of the result, the one of the tensor that it is.

        Returns:
            A tensor that holds the same elements; a view where the framework has views.

        Raises:
            InvalidInputError: The framework cannot.
        """
        raise InvalidInputError(f"the plugin of {self.name} does not permute dimensions")

    def devices(self) -> tuple[Any, ...]:
        """Devices that can be used here and now, the host first.

        Returns:
            What `load_file` and the other functions take as `device`. The first is what ``"cpu"``
            means. The default is ``"cpu"`` alone.
        """
        return ("cpu",)

    def check_saveable(self, tensors: Mapping[str, Any]) -> None:
        """Refuse tensors that cannot be saved together. The default accepts all.

        Args:
            tensors: All tensors of this framework in one save, by name.

        Raises:
            SharedMemoryError: Some overlap in memory, and users expect them to stay tied.
        """

    def describe_all(self, tensors: Iterable[Any]) -> list[TensorSpec]:
        """What `describe` says of each of many tensors. The default asks it.

        Args:
            tensors: Tensors of this framework.

        Returns:
            Their dtypes and shapes, in the same order.

        Raises:
            UnsupportedDtypeError: As `describe`. Which tensor it was need not be said: core asks
                `describe` again, one by one.
            InvalidInputError: Likewise.
        """
        return list(map(self.describe, tensors))

    def to_buffers(self, tensors: Iterable[Any]) -> Iterator[Buffer]:
        """The bytes of many tensors, one after the other. The default asks `to_buffer`.

        A framework with devices can copy the next tensors while the caller writes these; it
        stages a few at a time, never all.

        Args:
            tensors: Tensors of this framework that are not empty. Taken as they are needed.

        Yields:
            What `to_buffer` gives, in the same order. It stays valid as long as somebody
            refers to it.
        """
        return map(self.to_buffer, tensors)

    def prepare(self, tensors: Mapping[str, Any]) -> PreparedTensors:
        """All that a save asks before it writes: `describe_all` and `check_saveable`, by default.

        Override it where `to_buffers` would ask tensors the same again, and refuse then what
        these two refuse.

        Args:
            tensors: All tensors of this framework in one save, by name. They stay as they are
                until the save has ended.

        Returns:
            Dtypes and shapes, and a function that gives the bytes.

        Raises:
            UnsupportedDtypeError: As `describe_all`.
            InvalidInputError: As `describe_all` and `check_saveable`.
        """
        specs = self.describe_all(tensors.values())
        self.check_saveable(tensors)
        return PreparedTensors(
            specs, lambda names: self.to_buffers(map(tensors.__getitem__, names))
        )

    def check_fillable(self, tensors: Mapping[str, Any]) -> None:
        """Refuse tensors whose content cannot be replaced, before anything is read for them.

        The default refuses all, unless `assign` is overridden.

        Args:
            tensors: All tensors of this framework that are to be filled, by name.

        Raises:
            InvalidInputError: The content of one cannot change.
        """
        if type(self).assign is Framework.assign:
            raise InvalidInputError(
                f"the tensors of {self.name} cannot be filled, only made anew: use load_file()"
            )

    def memory(self, tensor: Any) -> memoryview | None:
        """The memory of a tensor, for somebody who is about to overwrite all of it.

        Args:
            tensor: A tensor of this framework that `check_fillable` accepts.

        Returns:
            Its `describe(tensor).nbytes` bytes on the host, writable and laid out as the file
            has them; they keep it alive. None where it has no such memory of its own, as by
            default: `assign` is used then.
        """
        return None

    def memories(self, tensors: Sequence[Any]) -> list[memoryview | None]:
        """What `memory` gives for each of many tensors, in the same order. The default asks it.

        Args:
            tensors: Tensors of this framework that `check_fillable` accepts.
        """
        return list(map(self.memory, tensors))

    def assign(self, tensor: Any, value: Any) -> None:
        """Replace the content of a tensor. The default refuses.

        Args:
            tensor: A tensor of this framework, on any device.
            value: Another one, of the same dtype and shape and on the same device or the host.

        Raises:
            InvalidInputError: The framework cannot.
        """
        raise InvalidInputError(f"the plugin of {self.name} does not fill tensors")

    def device_of(self, tensor: Any) -> Any:
        """Where to load what is assigned to a tensor.

        Args:
            tensor: A tensor of this framework.

        Returns:
            A device as `load` takes it; equal ones can be hashed. The default is the host, from
            where `assign` brings it to wherever the tensor is.
        """
        return "cpu"

    def prefers_map(self, device: Any) -> bool:
        """Whether ``backend="auto"`` shall map local files for tensors on a device.

        On the host, a map costs nothing until a tensor is used. For a device with memory of its
        own all bytes must be read at once, which a map does page by page, and other backends with
        several threads. The default is True.

        Args:
            device: As a user gave it, known or not.
        """
        return True

    def check_dtypes(self, infos: Mapping[str, TensorInfo]) -> None:
        """Refuse what the framework cannot represent, before any data is read.

        Args:
            infos: The tensors to load.

        Raises:
            UnsupportedDtypeError: A dtype is missing in `dtypes`; names the tensor.
        """
        lacking = {info.dtype for info in infos.values()}.difference(self.dtypes)
        for name, info in infos.items() if lacking else ():
            if info.dtype in lacking:
                raise UnsupportedDtypeError(info.dtype, self.name, tensor=name)

    def remark(self, tensors: Iterable[tuple[str, Dtype]]) -> None:
        """Warn of what is not obvious about tensors that a user gets. The default is silent.

        Asked once for each call of a user, in however many parts the tensors are loaded.

        Args:
            tensors: Names and dtypes as the user gets them, converted ones among them.
        """
