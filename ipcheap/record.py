"""Records: what a user allocates, fills, sends, receives and frees."""

from __future__ import annotations

import atexit
import math
import os
import sys
import warnings
import weakref
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, Self

from . import _arguments, _native
from ._core import lib
from .array import core_layout, make_array, read_layout
from .errors import CorruptHeap, RecordError
from .objects import decode, pieces_of

if TYPE_CHECKING:
    import numpy
    import numpy.typing

    from ._arguments import ChannelId
    from ._core import CData
    from ._native import Handle
    from .array import Shape
    from .objects import Codec

_allocate = lib.py_allocate
_free = lib.py_free
_describe = lib.py_describe
_export = lib.py_export
_ARRAY = lib.IPCHEAP_ARRAY

# Report what is legal and yet most often a mistake; what that costs is paid by nobody else.
DEBUG = os.environ.get("IPCHEAP_DEBUG", "") not in ("", "0")
_alive: weakref.WeakSet[Record] = weakref.WeakSet()


class Source(Protocol):
    """Where a record comes from, and what must outlive it: a heap, or what is of a consumer."""

    @property
    def handle(self) -> Handle:  # pyright: ignore[reportReturnType]
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
    `record.nbytes` are its size in bytes, `bytes(record)` copies it. One that
    `allocate_array()` made knows its shape and dtype wherever it is received.
    """

    __slots__ = ("__weakref__", "_block", "_core", "_fate", "_lent", "_made", "_source")

    def __init__(self, source: Source, core: CData) -> None:
        self._source = source
        self._core: CData | None = core  # a py_record; None once it is not ours any more
        self._fate = ""  # kept, freed or sent
        self._block: Any = None  # what views are made of, once there are any
        self._made: str
        self._lent: int  # views that a loan has given out
        if DEBUG:
            self._made = _caller()  # where in the user's program
            _alive.add(self)

    @property
    def nbytes(self) -> int:
        """Its size in bytes, as asked for."""
        return int(self._usable().nbytes)

    def __len__(self) -> int:
        return self.nbytes

    @property
    def view(self) -> memoryview:
        """A writable memoryview of its bytes; uninitialised after allocation."""
        block = self._block
        return memoryview(self._export() if block is None else block)

    def array(
        self, dtype: numpy.typing.DTypeLike | None = None, shape: Shape | None = None
    ) -> numpy.typing.NDArray[Any]:
        """Return a NumPy array that aliases it.

        Without a dtype it is the array that was allocated; of a record that was not allocated
        as one, the bytes. `shape` None makes any other dtype one-dimensional; -1 in it is
        worked out. Raises ValueError for a dtype that does not divide the record or a shape
        that is not of its size, TypeError for a dtype that holds Python objects.
        """
        block = self._block
        if block is None:
            block = self._export()
        if dtype is None and self._usable().form == _ARRAY:
            array = _described(self._source, self._usable(), block)
        else:
            array = make_array(block, "u1" if dtype is None else dtype)
        return array if shape is None else array.reshape(shape)

    def free(self) -> None:
        """Give it back; of a received one this acknowledges it. RecordError the second time."""
        core = self._core
        if core is None:
            raise self._gone("freed")
        code = _free(core)
        if code and code != lib.IPCHEAP_HEAP_BUSY:
            raise self._error(code)
        self._core = self._block = None  # as _end() does
        self._fate = "freed"
        self._source.handle.spare.append(core)

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
        try:
            core = self._core
        except AttributeError:  # it has never been one
            return
        if core is not None:
            if DEBUG:
                self._report()
            if self._block is None:  # else that frees it, and acknowledges it only then
                _free(core)
            self._source.handle.spare.append(core)

    def __bytes__(self) -> bytes:
        return bytes(self.view)

    def __buffer__(self, flags: int, /) -> memoryview:
        return self.view

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return dict(self.array().__array_interface__)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a record does not pickle: send it on a channel, or pickle its bytes")

    def __repr__(self) -> str:
        of = self._where()
        if self._core is None:
            return f"<{type(self).__name__} of {of}, {self._fate}>"
        return f"<{type(self).__name__} of {of}, {self._core.nbytes} bytes>"

    # For producers ------------------------------------------------------------------------

    def _outgoing(self) -> CData:
        """Return the core's record, to be sent; in debugging without views, but those lent."""
        core = self._core
        if core is None:
            raise self._gone("sent")
        if DEBUG and lib.py_views(core) > getattr(self, "_lent", 0):
            made = getattr(self, "_made", "elsewhere")
            raise BufferError(
                f"{self!r}, made at {made}, has live views: they would change what has been sent"
            )
        return core

    # Inside -------------------------------------------------------------------------------

    def _usable(self) -> CData:
        if self._core is None:
            raise self._gone("used")
        return self._core

    def _export(self) -> Any:
        """Make what all views and arrays are made of, and keep alive; once."""
        core = self._core
        if core is None:
            raise self._gone("used")
        box: list[Any] = [self._source]
        code = _export(core, id(box))
        if code:
            raise self._error(code)
        block = self._block = box[0]
        return block

    def _end(self, fate: str, core: CData) -> None:
        """Note that it is not ours any more; its block goes with the last of its views."""
        self._core = self._block = None
        self._fate = fate
        self._source.handle.spare.append(core)

    def _report(self) -> None:
        made = getattr(self, "_made", "elsewhere")
        text = f"{self!r}, made at {made}, was never freed"
        warnings.warn(text, ResourceWarning, stacklevel=2, source=self)

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
        raise allocation_error(code, handle, nbytes)
    return Record(handle, core)


def allocate_array(
    handle: Handle, shape: Shape, dtype: numpy.typing.DTypeLike, order: str
) -> Record:
    """Return a new record that knows its shape and dtype."""
    layout = core_layout(shape, dtype, order)
    core = handle.new_record()
    code = lib.py_allocate_array(core, layout)
    if code:
        handle.spare.append(core)
        nbytes = layout.itemsize * math.prod(layout.shape[0 : layout.dimensions])
        raise allocation_error(code, handle, nbytes)
    return Record(handle, core)


def allocate_packed(handle: Handle, pieces: list[Any]) -> Record:
    """Return a new record with copies of bytes-like objects, of the form of an object."""
    core = handle.new_record()
    code = lib.py_pack(core, id(pieces))
    if code == 0:
        return Record(handle, core)
    handle.spare.append(core)
    if code == lib.PY_NOT_BYTES:
        for piece in pieces:
            if not memoryview(piece).c_contiguous:
                raise ValueError(f"{type(piece).__name__} of bytes that do not lie in one piece")
        raise BufferError("what was to be sent changed its size meanwhile")
    raise allocation_error(code, handle, sum(memoryview(piece).nbytes for piece in pieces))


def array_of(source: Source, core: CData) -> numpy.typing.NDArray[Any]:
    """Make a received core record into its array; the last view of it frees it."""
    try:
        return _described(source, core, _block_of(source, core))
    finally:
        source.handle.spare.append(core)


def object_of(source: Source, core: CData, codec: Codec) -> Any:
    """Make a received core record into its object; it is freed when nothing aliases it."""
    try:
        block = _block_of(source, core)
    finally:
        source.handle.spare.append(core)
    try:
        pieces = pieces_of(memoryview(block))
    except ValueError as error:
        raise CorruptHeap(f"{source.handle}: a record that is no object: {error}") from None
    del block
    return decode(codec, pieces)


def _block_of(source: Source, core: CData) -> Any:
    """Return what views of a core record are made of; with the last of them it is freed."""
    box: list[Any] = [source]
    code = _export(core, id(box))
    if code:
        _free(core)
        raise _native.error(code, source.handle, source.channel)
    return box[0]


def _described(source: Source, core: CData, block: Any) -> numpy.typing.NDArray[Any]:
    """Make the array that the record says it is."""
    box: list[bytes] = []
    code = _describe(core, id(box))
    if code:
        raise _native.error(code, source.handle, source.channel)
    try:
        return read_layout(box[0]).array(block)
    except (ValueError, TypeError) as error:
        raise CorruptHeap(f"{source.handle}: a record that is no array: {error}") from None


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
        raise allocation_error(code, handle, nbytes * count)
    return [Record(handle, core) for core in cores]


def allocation_error(code: int, handle: Handle, nbytes: int) -> Exception:
    """Make the exception for an allocation of so many bytes that failed."""
    if code == lib.IPCHEAP_BAD_VALUE:
        return ValueError(f"nbytes must be from 0 to what a heap can hold, not {nbytes}")
    return _native.error(code, handle, asked=nbytes)


# Debugging ----------------------------------------------------------------------------------


def _caller() -> str:
    """Say where in the user's program we are: file and line."""
    frame = sys._getframe(1)
    while frame.f_globals.get("__name__", "").partition(".")[0] in ("ipcheap", "contextlib"):
        if frame.f_back is None:
            break
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _report_at_exit() -> None:
    for record in list(_alive):
        if record._core is not None:
            record._report()


if DEBUG:
    atexit.register(_report_at_exit)
    if not sys.warnoptions:  # else the user has said what to do with warnings
        warnings.filterwarnings("always", "<Record of .* was never freed", ResourceWarning)
