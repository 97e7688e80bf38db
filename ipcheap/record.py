"""Records: what a user allocates, fills, sends, receives and frees."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Protocol, Self

from . import _arguments, _native
from ._core import lib
from .errors import RecordError

if TYPE_CHECKING:
    import numpy
    import numpy.typing

    from ._arguments import ChannelId
    from ._core import CData
    from ._native import Handle

_allocate = lib.py_allocate
_free = lib.py_free
DEBUG = os.environ.get("IPCHEAP_DEBUG", "") not in ("", "0")


class Source(Protocol):
    """Where a record comes from, and what must outlive it: a heap, or what is of a consumer."""

    @property
    def handle(self) -> Handle:
        """The heap."""

    @property
    def channel(self) -> ChannelId | None:
        """The channel, if it was received."""


class Record:
    """A stretch of shared memory that travels by offset.

    A record is writable until it is sent and belongs to whoever received it until it is
    freed. `view` and `array()` alias the shared bytes; the block returns to the heap when
    the record is freed *and* the last of them is gone. One left to the garbage collector is
    freed. After `free()` or a send every further use raises `RecordError`.

    Records come from `allocate_record()` and `recv_record()`; `len(record)` and
    `record.nbytes` are its size in bytes, `bytes(record)` copies it.
    """

    __slots__ = ("__weakref__", "_block", "_core", "_fate", "_source")

    def __init__(self, source: Source, core: CData) -> None:
        self._source = source
        self._core: CData | None = core  # a py_record; None once it is not ours any more
        self._fate = ""  # kept, freed or sent
        self._block: Any = None  # what views are made of, once there are any

    @property
    def nbytes(self) -> int:
        """Its size in bytes, as asked for."""
        return int(self._usable().nbytes)

    def __len__(self) -> int:
        return self.nbytes

    @property
    def view(self) -> memoryview:
        """A writable memoryview of its bytes; uninitialised after allocation."""
        return memoryview(self._block or self._export())

    def array(
        self, dtype: numpy.typing.DTypeLike = "u1", shape: int | tuple[int, ...] | None = None
    ) -> numpy.typing.NDArray[Any]:
        """Return a NumPy array that aliases it.

        `shape` None makes it one-dimensional; -1 in it is worked out. Raises ValueError for
        a dtype that does not divide the record or a shape that is not of its size, TypeError
        for a dtype that holds Python objects.
        """
        array = make_array(self._block or self._export(), dtype)
        return array if shape is None else array.reshape(shape)

    def free(self) -> None:
        """Give it back; of a received one this acknowledges it."""
        core = self._core
        if core is None:
            raise self._gone("freed")
        code = _free(core)
        if code and code != lib.IPCHEAP_HEAP_BUSY:
            raise self._error(code)
        self._end("freed", core)

    def keep(self) -> None:
        """Take it out of the channel it came from, whose slot is then free again.

        It stays the caller's beyond the consumer's end, and beyond a `with` around it.
        """
        code = lib.py_keep(self._usable())
        if code:
            raise self._error(code)
        self._fate = "kept"

    def __enter__(self) -> Self:
        self._usable()
        return self

    def __exit__(self, *_: object) -> None:
        self._done_with()

    def _done_with(self) -> None:
        """Free it, unless it has been freed, sent or kept."""
        if not self._fate:
            self.free()

    def __del__(self) -> None:
        core = getattr(self, "_core", None)
        if core is not None:
            if self._block is None:  # else that frees it, and acknowledges it only then
                _free(core)
            self._source.handle.spare.append(core)

    def __bytes__(self) -> bytes:
        return bytes(self._block or self._export())

    def __buffer__(self, flags: int, /) -> memoryview:
        return self.view

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return dict(self.array().__array_interface__)

    def __repr__(self) -> str:
        of = self._where()
        if self._core is None:
            return f"<{type(self).__name__} of {of}, {self._fate}>"
        return f"<{type(self).__name__} of {of}, {self._core.nbytes} bytes>"

    # For producers ------------------------------------------------------------------------

    def _outgoing(self) -> CData:
        """Return the core's record, to be sent."""
        core = self._core
        if core is None:
            raise self._gone("sent")
        if DEBUG and lib.py_viewed(core):
            raise BufferError(f"{self!r} has live views: they would change what has been sent")
        return core

    # Inside -------------------------------------------------------------------------------

    def _usable(self) -> CData:
        if self._core is None:
            raise self._gone("used")
        return self._core

    def _export(self) -> Any:
        """Make what all views and arrays are made of, and keep alive."""
        if self._block is None:
            box: list[Any] = [self._source]
            code = lib.py_export(self._usable(), id(box))
            if code:
                raise self._error(code)
            self._block = box[0]
        return self._block

    def _end(self, fate: str, core: CData) -> None:
        """Note that it is not ours any more; its block goes with the last of its views."""
        self._core = self._block = None
        self._fate = fate
        self._source.handle.spare.append(core)

    def _where(self) -> str:
        handle, channel = self._source.handle, self._source.channel
        return str(handle) if channel is None else f"channel {channel!r} of {handle}"

    def _error(self, code: int) -> Exception:
        return _native.error(code, self._source.handle, self._source.channel)

    def _gone(self, asked: str) -> RecordError:
        where = self._where()
        if asked == self._fate:
            return RecordError(f"the record of {where} has been {asked} already: {asked} twice")
        return RecordError(f"the record of {where} has been {self._fate}, it cannot be {asked}")


def allocate(handle: Handle, nbytes: int) -> Record:
    """Return a new record."""
    try:
        core = handle.spare.pop()
    except IndexError:
        core = handle.new_record()
    try:
        code = _allocate(core, nbytes)
    except OverflowError:
        code = lib.IPCHEAP_BAD_VALUE
    if code:
        handle.spare.append(core)
        raise _allocation_error(code, handle, nbytes)
    return Record(handle, core)


def allocate_many(handle: Handle, nbytes: int, count: int) -> list[Record]:
    """Return so many new records, or raise and leave none."""
    count = _arguments.count(count, "count")
    cores = [handle.new_record() for _ in range(count)]
    try:
        code = lib.py_allocate_many(cores, count, nbytes)
    except OverflowError:
        code = lib.IPCHEAP_BAD_VALUE
    if code:
        handle.spare.extend(cores)
        raise _allocation_error(code, handle, nbytes * count)
    return [Record(handle, core) for core in cores]


def _allocation_error(code: int, handle: Handle, nbytes: int) -> Exception:
    if code == lib.IPCHEAP_BAD_VALUE:
        return ValueError(f"nbytes must be from 0 to what a heap can hold, not {nbytes}")
    return _native.error(code, handle, asked=nbytes)


_numpy: Any = None  # imported on first use


def make_array(buffer: Any, dtype: numpy.typing.DTypeLike) -> numpy.typing.NDArray[Any]:
    """Return a one-dimensional array over a buffer, which it keeps alive."""
    global _numpy  # noqa: PLW0603
    if _numpy is None:
        try:
            import numpy as _numpy
        except ImportError:
            raise ImportError("array() needs NumPy: pip install 'ipcheap[numpy]'") from None
    try:
        return _numpy.frombuffer(buffer, dtype)  # type: ignore[no-any-return]
    except ValueError:
        kind = _numpy.dtype(dtype)
        if kind.hasobject:
            raise TypeError(f"{kind!r} holds Python objects, which shared memory cannot") from None
        raise ValueError(f"{kind!r} does not divide {len(buffer)} bytes") from None
