"""Records: what a user allocates, fills, sends, receives and frees."""

from __future__ import annotations

import os
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, Self

from . import _arguments, _native
from ._core import ffi, lib
from .errors import RecordError

if TYPE_CHECKING:
    import numpy
    import numpy.typing

    from ._arguments import ChannelId
    from ._core import CData
    from ._native import Handle

_allocate = lib.py_allocate
_free = lib.py_free
_give_back = lib.py_give_back
_usable = lib.py_usable
DEBUG = os.environ.get("IPCHEAP_DEBUG", "") not in ("", "0")


class Source(Protocol):
    """Where a record comes from, and what it keeps alive: a heap, or a consumer's part of it."""

    @property
    def handle(self) -> Handle:
        """The heap."""

    @property
    def channel(self) -> ChannelId | None:
        """The channel, if it was received."""

    @property
    def pointer(self) -> CData:
        """What of the core must outlive the record: the heap, or the consumer."""


class Record:
    """A stretch of shared memory that travels by offset.

    A record is writable until it is sent and belongs to whoever received it until it is
    freed. `view` and `array()` alias the shared bytes; the block returns to the heap when
    the record is freed *and* the last of them is gone. One left to the garbage collector is
    freed. After `free()` or a send every further use raises `RecordError`.

    Records come from `allocate_record()` and `recv_record()`; `len(record)` and
    `record.nbytes` are its size in bytes, `bytes(record)` copies it.
    """

    __slots__ = ("__weakref__", "_buffer", "_core", "_fate", "_guard", "_source")

    def __init__(self, source: Source, core: CData) -> None:
        self._source = source
        self._core: CData | None = core  # a py_record; None once it is not ours any more
        self._fate = ""  # kept, freed or sent
        # An ffi.buffer that all views and arrays keep alive, and which keeps the _guard
        # alive, whose finaliser frees the block at last.
        self._buffer: Any = None

    @property
    def nbytes(self) -> int:
        """Its size in bytes, as asked for."""
        return int(self._usable().nbytes)

    def __len__(self) -> int:
        return self.nbytes

    @property
    def view(self) -> memoryview:
        """A writable memoryview of its bytes; uninitialised after allocation."""
        return memoryview(self._exported())

    def array(
        self, dtype: numpy.typing.DTypeLike = "u1", shape: int | tuple[int, ...] | None = None
    ) -> numpy.typing.NDArray[Any]:
        """Return a NumPy array that aliases it.

        `shape` None makes it one-dimensional; -1 in it is worked out. Raises ValueError for
        a dtype that does not divide the record or a shape that is not of its size, TypeError
        for a dtype that holds Python objects.
        """
        return make_array(self._exported(), dtype).reshape(-1 if shape is None else shape)

    def free(self) -> None:
        """Give it back; of a received one this acknowledges it."""
        core = self._core
        if core is None:
            raise self._gone("freed")
        if self._buffer is None:
            code = _free(core)
            if code and code != lib.IPCHEAP_HEAP_BUSY:
                raise self._error(code)
            self._source.handle.spare.append(core)
        else:
            if code := _usable(core):
                raise self._error(code)
            self._buffer = self._guard = None
        self._core = None
        self._fate = "freed"

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
        if not self._fate:
            self.free()

    def __del__(self) -> None:
        core = getattr(self, "_core", None)
        if core is not None and self._buffer is None:
            _free(core)
            self._source.handle.spare.append(core)

    def __bytes__(self) -> bytes:
        return bytes(self._exported())

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
        if DEBUG and self._buffer is not None:
            self._refuse_views()
        return core

    def _was_sent(self) -> None:
        """Note that it has been sent: views that there may be no longer keep the block."""
        core, self._core = self._core, None
        self._fate = "sent"
        if self._buffer is not None:
            ffi.gc(self._guard, None)
            self._buffer = self._guard = None
        if core is not None:
            self._source.handle.spare.append(core)

    def _refuse_views(self) -> None:
        left = weakref.ref(self._buffer)
        self._buffer = None
        self._buffer = left()
        if self._buffer is not None:
            raise BufferError(f"{self!r} has live views: they would change what has been sent")
        ffi.gc(self._guard, None)
        self._guard = None

    # Inside -------------------------------------------------------------------------------

    def _usable(self) -> CData:
        if self._core is None:
            raise self._gone("used")
        return self._core

    def _exported(self) -> Any:
        """Return what all views and arrays are made of, and kept alive by."""
        if self._buffer is None:
            core = self._usable()
            if code := _usable(core):
                raise self._error(code)
            self._guard = ffi.gc(core.data, partial(_give_back, core, self._source.pointer))
            self._buffer = ffi.buffer(self._guard, core.nbytes)
        return self._buffer

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


def make_array(buffer: Any, dtype: numpy.typing.DTypeLike) -> numpy.typing.NDArray[Any]:
    """Return a one-dimensional array over a buffer, which it keeps alive."""
    try:
        import numpy
    except ImportError:
        raise ImportError("array() needs NumPy: pip install 'ipcheap[numpy]'") from None
    kind = numpy.dtype(dtype)
    if kind.hasobject:
        raise TypeError(f"{kind!r} holds Python objects, which shared memory cannot")
    nbytes = len(buffer)
    if kind.itemsize == 0 or nbytes % kind.itemsize:
        raise ValueError(f"{kind!r} of {kind.itemsize} bytes does not divide {nbytes} bytes")
    return numpy.ndarray(nbytes // kind.itemsize, kind, buffer)
