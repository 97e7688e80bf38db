"""Records: what a user allocates, fills, sends, receives and frees."""

from __future__ import annotations

import atexit
import os
import sys
import warnings
import weakref

from ._core import lib, use_records
from ._failures import error
from ._types import RecordCore
from .array import describe, make_array, read_description
from .errors import CorruptHeap, RecordError
from .objects import decode, pieces_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn, Protocol

    import numpy
    import numpy.typing

    from ._arguments import ChannelId
    from ._handle import Handle
    from ._types import Block
    from .array import Shape
    from .codec import Codec

    class Source(Protocol):
        """Where a record comes from, and what must outlive it: a heap, or what is of a consumer."""

        @property
        def handle(self) -> Handle:  # pyright: ignore[reportReturnType]
            """The heap."""

        @property
        def channel(self) -> ChannelId | None:
            """The channel, if it was received."""


_ARRAY = lib.IPCHEAP_ARRAY

# Report what is legal and yet most often a mistake; what that costs is paid by nobody else.
DEBUG = os.environ.get("IPCHEAP_DEBUG", "") not in ("", "0")
_alive: weakref.WeakSet[_DebugRecord] = weakref.WeakSet()


class Record(RecordCore):
    """A stretch of shared memory that travels by offset.

    A record is writable until it is sent and belongs to whoever received it until it is
    freed. `view` and `array()` alias the shared bytes; the block returns to the heap when
    the record is freed *and* the last of them is gone. One left to the garbage collector is
    freed. After `free()` or a send every further use raises `RecordError`.

    Records come from `allocate_record()` and `recv_record()`; `len(record)` and
    `record.nbytes` are its size in bytes, `bytes(record)` copies it. `record[i]` is a byte,
    `record[i:j]` a view, and what is assigned to either is written there: `record[:] = data`
    fills it with any bytes-like object of its size. It has the buffer protocol, so that whatever
    takes bytes takes a record: `file.write(record)`, `memoryview(record)`. One that
    `allocate_array()` made knows its shape and dtype wherever it is received; to who asks for
    its items it is that array.
    """

    __slots__ = ()

    def array(
        self, dtype: numpy.typing.DTypeLike | None = None, shape: Shape | None = None
    ) -> numpy.typing.NDArray[Any]:
        """Return a NumPy array that aliases it.

        Without a dtype it is the array that was allocated; of a record that was not allocated
        as one, the bytes. `shape` None makes any other dtype one-dimensional; -1 in it is
        worked out. Raises ValueError for a dtype that does not divide the record or a shape
        that is not of its size, TypeError for a dtype that holds Python objects.
        """
        block = self._export()
        layout = self._layout
        if dtype is None and layout is not None:
            array = layout.array(block)
        elif dtype is None and block.form == _ARRAY:
            array = array_of(block, self._source)
        else:
            array = make_array(block, "u1" if dtype is None else dtype)
        return array if shape is None else array.reshape(shape)

    def __bytes__(self) -> bytes:
        return bytes(self.view)

    def __array__(
        self, dtype: numpy.typing.DTypeLike | None = None, copy: bool | None = None
    ) -> numpy.typing.NDArray[Any]:
        """Return the array, for items that the buffer protocol has no name for; NumPy asks."""
        array = self.array()
        if dtype is not None and array.dtype != dtype:
            if copy is False:
                raise ValueError("it is of another dtype: that takes a copy")
            return array.astype(dtype)
        return array.copy() if copy else array

    def __reduce__(self) -> NoReturn:
        raise TypeError("a record does not pickle: send it on a channel, or pickle its bytes")

    def __repr__(self) -> str:
        of = self._where()
        if self._fate in _ENDED:
            return f"<Record of {of}, {self._fate}>"
        return f"<Record of {of}, {self.nbytes} bytes>"

    # Inside -------------------------------------------------------------------------------

    def _typed(self) -> numpy.typing.NDArray[Any]:
        """Return the array, unless its buffer would be of another type."""
        array = self.array()
        if array.dtype.kind == "V" and array.dtype.names is None:
            raise ValueError("items without a type")
        return array

    def _where(self) -> str:
        handle, channel = self._source.handle, self._source.channel
        return str(handle) if channel is None else f"channel {channel!r} of {handle}"

    def _refuse(self, code: int, asked: str) -> NoReturn:
        raise self._refusal(code, asked)

    def _refusal(self, code: int, asked: str) -> Exception:
        """Make the exception for what cannot be done with it."""
        if code == lib.PY_VIEWED:
            return BufferError(
                f"{self!r}, made at {made_at(self)}, has live views: "
                "they would change what has been sent. `del` them first, or fill it in loan()"
            )
        if code != lib.PY_ENDED:
            return error(code, self._source.handle, self._source.channel)
        where = self._where()
        if asked == self._fate:
            return RecordError(f"the record of {where} has been {asked} already: {asked} twice")
        return RecordError(f"the record of {where} has been {self._fate}, it cannot be {asked}")


_ENDED = ("freed", "sent")


def allocate_array(
    handle: Handle, shape: Shape, dtype: numpy.typing.DTypeLike, order: str
) -> Record:
    """Return a new record that knows its shape and dtype."""
    description, nbytes, layout = describe(shape, dtype, order)
    made = handle.allocate_array(description, layout)
    if isinstance(made, int):
        raise handle.allocation_error(made, nbytes)
    return made


def allocate_packed(handle: Handle, pieces: list[Any]) -> Record:
    """Return a new record with copies of bytes-like objects, of the form of an object."""
    made = handle.pack(pieces)
    if isinstance(made, Record):
        return made
    if made == lib.PY_NOT_BYTES:
        for piece in pieces:
            if not memoryview(piece).c_contiguous:
                raise ValueError(f"{type(piece).__name__} of bytes that do not lie in one piece")
        raise BufferError("what was to be sent changed its size meanwhile")
    raise handle.allocation_error(made, sum(memoryview(piece).nbytes for piece in pieces))


def array_of(block: Block, source: Source) -> numpy.typing.NDArray[Any]:
    """Make the array that a record says it is; it keeps the block alive."""
    description = block.description()
    if isinstance(description, int):
        raise error(description, source.handle, source.channel)
    try:
        return read_description(description).array(block)
    except (ValueError, TypeError) as reason:
        raise CorruptHeap(f"{source.handle}: a record that is no array: {reason}") from None


def object_of(block: Block, source: Source, codec: Codec) -> Any:
    """Make a record into its object; it is freed when nothing aliases it."""
    try:
        pieces = pieces_of(memoryview(block))
    except ValueError as reason:
        raise CorruptHeap(f"{source.handle}: a record that is no object: {reason}") from None
    del block
    return decode(codec, pieces)


# Debugging ----------------------------------------------------------------------------------


def _caller() -> str:
    """Say where in the user's program we are: file and line."""
    frame = sys._getframe(1)
    while frame.f_globals.get("__name__", "").partition(".")[0] in ("ipcheap", "contextlib"):
        if frame.f_back is None:
            break
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


class _DebugRecord(Record):
    """A record that knows where it was made, and reports it if it was never freed."""

    __slots__ = ("_made",)

    _made: str

    def __del__(self) -> None:
        _report(self)


def made_at(record: Record) -> str:
    """Say where a record was made, if debugging."""
    return getattr(record, "_made", "elsewhere")


def _note(record: _DebugRecord) -> None:
    record._made = _caller()
    _alive.add(record)


def _report(record: _DebugRecord) -> None:
    if record._fate not in _ENDED:
        text = f"{record!r}, made at {made_at(record)}, was never freed"
        warnings.warn(text, ResourceWarning, stacklevel=2, source=record)


def _report_at_exit() -> None:
    for record in list(_alive):
        _report(record)


def debug(on: bool) -> None:
    """Make the records that are made from now on report what is most often a mistake."""
    use_records(_DebugRecord if on else Record, _note if on else None)


debug(DEBUG)
if DEBUG:
    atexit.register(_report_at_exit)
    if not sys.warnoptions:  # else the user has said what to do with warnings
        warnings.filterwarnings("always", "<Record of .* was never freed", ResourceWarning)
