"""Records: memory that a user allocates, fills, sends, receives and frees."""

from __future__ import annotations

import atexit
import os
import sys
import weakref

from ._core import lib, use_records
from ._failures import error
from ._types import RecordCore
from .array import as_numpy_asks, describe, make_array, read_description
from .errors import CorruptHeap, RecordError
from .objects import PICKLE, decode, pieces_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn, Protocol

    import numpy
    import numpy.typing

    from ._arguments import ChannelId
    from ._handle import Handle
    from ._types import Block, Grip
    from .array import Shape
    from .codec import Codec

    class Source(Protocol):
        """The source of a record, which must outlive it: a heap, or a part of a consumer."""

        @property
        def handle(self) -> Handle:  # pyright: ignore[reportReturnType]
            """The heap."""

        @property
        def channel(self) -> ChannelId | None:
            """The channel, if the record was received."""


_ARRAY = lib.IPCHEAP_ARRAY

# Report what is legal but usually a mistake. Programs that do not ask for it pay nothing.
DEBUG = os.environ.get("IPCHEAP_DEBUG", "") not in ("", "0")
_state = {"debugging": DEBUG}
also_debugged: list[Callable[[bool], None]] = []  # for the classes of other modules
_alive: weakref.WeakSet[Any] = weakref.WeakSet()


class Record(RecordCore):
    """A stretch of shared memory that travels by offset.

    A record is writable until it is sent, and belongs to its receiver until it is freed. `view` and
    `array()` alias the shared bytes. The memory returns to the heap when the record is freed *and*
    the last view or array is gone. A record that is garbage-collected is freed. After `free()` or a
    send every further use raises `RecordError`.

    Records come from `allocate_record()` and `recv_record()`. `len(record)` and `record.nbytes` are
    the size in bytes, and `bytes(record)` is a copy. `record[i]` is a byte and `record[i:j]` a
    view; assigning to either writes to the record: `record[:] = data` fills it with any bytes-like
    object of its size. A record supports the buffer protocol, so everything that takes bytes takes
    a record: `file.write(record)`, `memoryview(record)`. A record made by `allocate_array()`
    carries its shape and dtype; NumPy and the buffer protocol see it as that array.
    """

    __slots__ = ()

    def array(
        self, dtype: numpy.typing.DTypeLike | None = None, shape: Shape | None = None
    ) -> numpy.typing.NDArray[Any]:
        """Return a NumPy array that aliases the record.

        Without a dtype it is the array that was allocated, or the bytes if the record was not
        allocated as an array. With another dtype and `shape` None it has one dimension; a length of
        -1 in `shape` is computed. ValueError if the record is no whole number of items of the
        dtype, or if `shape` has another size; TypeError for a dtype that holds Python objects.
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

    def object(self, *, codec: Codec = PICKLE) -> Any:
        """Return the object in it. `codec` must be the one that sent it; unpickling runs code.

        The record stays yours, as it is. Arrays in the object alias it, like its views: `free()`
        gives its slot back, and its memory returns to the heap when the last of them is gone. Drop
        them before you send the record on. RecordError if the record is no object.
        """
        if self.form != "object":
            raise self._other_form()
        return object_of(self._export(), self._source, codec)

    def __array__(
        self, dtype: numpy.typing.DTypeLike | None = None, copy: bool | None = None
    ) -> numpy.typing.NDArray[Any]:
        """Return the array. NumPy calls this for items that the buffer protocol cannot describe."""
        return as_numpy_asks(self.array(), dtype, copy, "record")

    def __reduce__(self) -> NoReturn:
        raise TypeError("a record does not pickle: send it on a channel, or pickle bytes(record)")

    def __repr__(self) -> str:
        of = self._where()
        if self._fate in ENDED:
            return f"<Record of {of}, {self._fate}>"
        return f"<Record of {of}, {self.nbytes} bytes>"

    # Inside -------------------------------------------------------------------------------

    def _typed(self) -> numpy.typing.NDArray[Any]:
        """Return the array; ValueError if its buffer would have another type."""
        array = self.array()
        if array.dtype.kind == "V" and array.dtype.names is None:
            raise ValueError("the items have no type")
        return array

    def _lend(self) -> numpy.typing.NDArray[Any]:
        """Return the array of a loan, with which the record may be sent; an error frees it."""
        self._lent = 1
        try:
            return self.array()
        except BaseException:
            self._done_with()
            raise

    def _other_form(self) -> RecordError:
        if self.form == "array":
            return RecordError(f"{self!r} is an array: array() returns it")
        return RecordError(
            f"{self!r} was not made by send_object() or post_object(): bytes() copies what it holds"
        )

    def _where(self) -> str:
        handle, channel = self._source.handle, self._source.channel
        return str(handle) if channel is None else f"channel {channel!r} of {handle}"

    def _refuse(self, code: int, asked: str) -> NoReturn:
        raise self._refusal(code, asked)

    def _refusal(self, code: int, asked: str) -> Exception:
        """Return the exception for what cannot be done with this record."""
        if code == lib.PY_VIEWED:
            return BufferError(
                f"{self!r}, made at {made_at(self)}, has live views, which could change it after "
                "it was sent. `del` them first, or fill an array in loan()"
            )
        if code == lib.PY_FILLING:
            return RecordError(
                f"{self!r} cannot be {asked} yet: an assignment is writing to it. Send a record "
                "from the thread that fills it, or when that thread is done"
            )
        if code != lib.PY_ENDED:
            return error(code, self._source.handle, self._source.channel)
        where = self._where()
        if asked == self._fate:
            return RecordError(f"the record of {where} has already been {asked}: {asked} twice")
        return RecordError(f"the record of {where} has been {self._fate} and cannot be {asked}")


ENDED = ("freed", "sent")
# What only the record itself explains, by _refusal(), if it cannot be sent.
OF_THE_RECORD = (lib.PY_ENDED, lib.PY_VIEWED, lib.PY_FILLING)


def allocate_array(
    handle: Handle, shape: Shape, dtype: numpy.typing.DTypeLike, order: str
) -> Record:
    """Return a new record that carries its shape and dtype."""
    description, nbytes, layout = describe(shape, dtype, order)
    made = handle.allocate_array(description, layout)
    if isinstance(made, int):
        raise handle.allocation_error(made, nbytes)
    return made


def allocate_described(handle: Handle, description: bytes, nbytes: int) -> Record:
    """Return a new record of the form that `Record.describe` has described."""
    made = handle.allocate_described(description, nbytes)
    if isinstance(made, Record):
        return made
    if made == lib.IPCHEAP_BAD_VALUE:
        raise ValueError(f"the description is not that of a record of {nbytes} bytes")
    raise handle.allocation_error(made, nbytes)


def allocate_packed(handle: Handle, pieces: list[Any]) -> Record:
    """Return a new record, of the form of an object, with copies of bytes-like objects."""
    return packed(handle, handle.pack(pieces), pieces)


def packed(handle: Handle, made: Record | int, pieces: list[Any]) -> Record:
    """Return the record that packing pieces has made; raise for an error."""
    if isinstance(made, Record):
        return made
    if made == lib.PY_OBJECTS:
        raise TypeError(
            "a codec returned a buffer of Python objects, which shared memory cannot hold"
        )
    if made == lib.PY_NOT_BYTES:
        for piece in pieces:
            if not memoryview(piece).c_contiguous:
                raise ValueError(f"the bytes of a {type(piece).__name__} are not in one piece")
        raise BufferError("an object changed its size while it was copied")
    raise handle.allocation_error(made, sum(memoryview(piece).nbytes for piece in pieces))


def array_of(block: Block | Grip, source: Source) -> numpy.typing.NDArray[Any]:
    """Return the array that a record describes; it keeps the block alive."""
    description = block.description()
    if isinstance(description, int):
        raise error(description, source.handle, source.channel)
    try:
        return read_description(description).array(block)
    except (ValueError, TypeError) as reason:
        raise CorruptHeap(f"{source.handle}: a record is no valid array: {reason}") from None


def object_of(block: Block | Grip, source: Source, codec: Codec) -> Any:
    """Return the object in a record; the record is freed when nothing aliases it."""
    # That of a base class goes with the base class's decode().
    if "decode_one" in type(codec).__dict__:
        piece = block.short_piece()
        if piece is not None:
            del block  # the traceback of an error would keep the record
            decode_one: Callable[[bytes], Any] = getattr(codec, "decode_one")  # noqa: B009
            return decode_one(piece)
    try:
        pieces = pieces_of(memoryview(block))
    except ValueError as reason:
        raise CorruptHeap(f"{source.handle}: a record is no valid object: {reason}") from None
    del block
    return decode(codec, pieces)


# Debugging ----------------------------------------------------------------------------------


def _caller() -> str:
    """Return the file and line of the caller outside this package."""
    frame = sys._getframe(1)
    while frame.f_globals.get("__name__", "").partition(".")[0] == "ipcheap":
        if frame.f_back is None:
            break
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


class _DebugRecord(Record):
    """A record that remembers where it was made and reports that it was never freed."""

    __slots__ = ("_made", "_reported")

    _made: str
    _reported: bool

    def __del__(self) -> None:
        report(self)


def made_at(record: Record) -> str:
    """Return the file and line where a record was made, if debugging is on."""
    return getattr(record, "_made", "elsewhere")


def _note(record: Any) -> None:
    record._reported = False
    record._made = _caller()
    _alive.add(record)


def report(record: Any) -> None:
    """Warn of a record that was never freed."""
    if record._fate not in ENDED and not record._reported:
        import warnings

        record._reported = True
        text = f"{record!r}, made at {made_at(record)}, was never freed"
        warnings.warn(text, ResourceWarning, stacklevel=2, source=record)


def _report_at_exit() -> None:
    for record in list(_alive):
        report(record)


def debugging() -> bool:
    """Whether likely mistakes are reported."""
    return _state["debugging"]


def debug(on: bool) -> None:
    """Turn the reports of likely mistakes on or off, for records made from now on."""
    _state["debugging"] = on
    use_records(_DebugRecord if on else Record, _note if on else None)
    for use in also_debugged:
        use(on)


debug(DEBUG)
if DEBUG:
    atexit.register(_report_at_exit)
    if not sys.warnoptions:  # otherwise the user has chosen what happens to warnings
        import warnings

        warnings.filterwarnings("always", "<Record of .* was never freed", ResourceWarning)
