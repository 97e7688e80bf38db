"""Streams: a ring of bytes or items from one writer to one reader, worked on in place."""

from __future__ import annotations

import sys

from . import _arguments, _timing
from ._core import ffi, lib
from ._directory import key_of
from ._endpoint import FAIR, SidedEndpoint
from ._failures import error
from ._native import address
from ._types import BlocksCore, ReaderCore, WriterCore
from .channel import Channel, HeapMethods
from .errors import ChannelClosed, ChannelTypeError, WindowError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
    from typing import IO, Any, ClassVar, NoReturn, TypeVar

    import numpy
    import numpy.typing

    from ._arguments import ChannelId, Size
    from ._core import CData
    from ._handle import Handle
    from .heap import Heap
    from .results import StreamStatistics

    T = TypeVar("T", bound="StreamEndpoint")

_WOULD_BLOCK = lib.IPCHEAP_WOULD_BLOCK
_TIMED_OUT = lib.IPCHEAP_TIMED_OUT
_ALL = 2**62  # more items than any stream has
_BYTES = b"ara1\x01\x00\x03\x00\x00\x00\0\0\0\0\0\0\x01\0\0\0\0\0\0\0|u1\0"  # of an item "u1"
_LONGEST = 5000  # bytes: more than any description has


class Items:
    """The type of a stream's items; NumPy is imported if it is asked for."""

    __slots__ = ("_dtype", "description", "itemsize", "plain")

    def __init__(self, description: bytes, itemsize: int) -> None:
        self.description: bytes = description
        self.itemsize: int = itemsize
        self.plain: bool = description == _BYTES
        self._dtype: Any = None

    @classmethod
    def of(cls, dtype: Any) -> Items:
        """Return the items of a dtype; ValueError or TypeError if a stream cannot have them."""
        if isinstance(dtype, str) and dtype in ("u1", "|u1", "B", "uint8"):
            return cls(_BYTES, 1)
        from .array import describe

        description, nbytes, _ = describe((), dtype, "C")
        return cls(description, nbytes)

    @property
    def dtype(self) -> numpy.dtype[Any]:
        """The dtype, with the items' own shape."""
        if self._dtype is None:
            from .array import numpy_module, read_description

            layout = read_description(self.description)
            base, shape = layout.dtype, layout.shape
            self._dtype = numpy_module().dtype((base, shape)) if shape else base
        return self._dtype  # type: ignore[no-any-return]

    @property
    def base(self) -> tuple[numpy.dtype[Any], tuple[int, ...]]:
        """The dtype of what an array of items consists of, and the items' own shape."""
        return self.dtype.base, self.dtype.shape

    def empty(self, count: int) -> numpy.typing.NDArray[Any]:
        """Return an array for so many items."""
        from .array import numpy_module

        return numpy_module().empty(count, self.dtype)  # type: ignore[no-any-return]


class Shaped:
    """What a stream and its two sides have in common: its shape."""

    _shape: tuple[int, int, int]  # capacity, backlog, flags
    _items: Items

    @property
    def capacity(self) -> int:
        """How many items can be unread at the same time."""
        return self._shape[0]

    @property
    def backlog(self) -> int:
        """How many items before the reader's position can be read again."""
        return self._shape[1]

    @property
    def overwrite(self) -> bool:
        """Whether the writer never waits, and unread items may be lost."""
        return bool(self._shape[2])

    @property
    def dtype(self) -> numpy.dtype[Any]:
        """The type of an item."""
        return self._items.dtype

    @property
    def itemsize(self) -> int:
        """The size of an item in bytes."""
        return self._items.itemsize


class Stream(Shaped, Channel, kind=lib.IPCHEAP_STREAM):
    """A ring of items from one writer to one reader, in order."""

    _noun: ClassVar[str] = "a stream"
    _sides: ClassVar[Mapping[int, str]] = {
        lib.IPCHEAP_WRITER: "writer",
        lib.IPCHEAP_READER: "reader",
    }

    def __init__(self, heap: Heap, channel_id: ChannelId, entry: CData) -> None:
        super().__init__(heap, channel_id, entry)
        self._shape, self._items = _shape_of(heap._directory.handle, channel_id, entry)

    def writer(
        self,
        timeout: float | None = 0.0,
        *,
        dtype: numpy.typing.DTypeLike | None = None,
        mlock: bool = False,
    ) -> StreamWriter:
        """Claim the writing side for this thread, within `timeout` s; see `Heap.stream_writer`.

        ChannelTypeError if its items are not of `dtype`. ChannelNotFound as soon as this very
        stream has been removed.
        """
        return self._side(StreamWriter, lib.IPCHEAP_WRITER, timeout, dtype, mlock)

    def reader(
        self,
        timeout: float | None = 0.0,
        *,
        dtype: numpy.typing.DTypeLike | None = None,
        mlock: bool = False,
    ) -> StreamReader:
        """Claim the reading side for this thread, within `timeout` s; see `Heap.stream_reader`.

        ChannelTypeError if its items are not of `dtype`. ChannelNotFound as soon as this very
        stream has been removed.
        """
        return self._side(StreamReader, lib.IPCHEAP_READER, timeout, dtype, mlock)

    def __repr__(self) -> str:
        return (
            f"<Stream {self._id!r} of {self._heap.label}, {self.capacity} items of "
            f"{self.itemsize} bytes>"
        )

    # Inside -----------------------------------------------------------------------------------

    def _side(self, kind: type[T], side: int, timeout: float | None, dtype: Any, mlock: bool) -> T:
        self._insist_on(dtype, None if dtype is None else Items.of(dtype).description)
        return _endpoint(kind, self._claim(side, timeout), self, mlock)

    def _insist_on(self, dtype: Any, description: bytes | None) -> None:
        """Raise ChannelTypeError if the items are not of that dtype, or have none here."""
        if description is not None and description != self._items.description:
            its = self._items.dtype
            raise ChannelTypeError(f"{self!r} has items of {its!r}, not of {dtype!r}")
        if not self._items.plain:
            self.dtype  # noqa: B018  # raises before anything is claimed

    @classmethod
    def _describe(cls, entry: CData) -> str:
        return f"a stream of {entry.shape} items"


def _endpoint(
    kind: type[T], claimed: tuple[Handle, ChannelId, CData], stream: Stream, mlock: bool
) -> T:
    endpoint = kind(*claimed, stream)
    if mlock:
        endpoint._lock_pages()
    return endpoint


def _shape_of(
    handle: Handle, channel_id: ChannelId, entry: CData
) -> tuple[tuple[int, int, int], Items]:
    numbers, room = ffi.new("uint64_t[4]"), ffi.new("char[]", _LONGEST)
    length = lib.py_stream_shape(handle.pointer, entry, numbers, room)
    if length < 0:
        raise error(length, handle, channel_id)
    items = Items(bytes(ffi.buffer(room, length)), int(numbers[3]))
    return (int(numbers[0]), int(numbers[1]), int(numbers[2])), items


class StreamMethods(HeapMethods):
    """The methods of `Heap` for streams."""

    def add_stream(
        self,
        id: ChannelId,
        capacity: Size | None = None,
        *,
        dtype: numpy.typing.DTypeLike = "u1",
        backlog: Size = 0,
        overwrite: bool = False,
    ) -> Stream:
        """Add a stream, or return the existing one.

        `capacity` is how many items can be unread at the same time, `backlog` how many that have
        been read stay readable; a string such as "1MiB" is a number of bytes, rounded down to whole
        items. Items are of any `dtype` without Python objects. With `overwrite` the writer never
        waits, and unread items are lost. All memory is taken now: HeapFull if there is none.

        An existing stream must have the same four, else ChannelTypeError. Without `capacity` it is
        taken as it is; ChannelNotFound if there is none.
        """
        channel_id = _arguments.channel_id(id)
        directory, key, entry = self._directory, key_of(channel_id), ffi.new("ipcheap_channel *")
        pointer = directory.handle.pointer
        if capacity is None:
            code = lib.py_add_stream(pointer, key, ffi.NULL, b"", 0, entry)
            directory.check(code, channel_id, wanted="not a stream")
            return Stream(self._this_heap(), channel_id, entry)
        if not isinstance(overwrite, bool):
            raise TypeError(f"overwrite must be a bool, not {type(overwrite).__name__}")
        items = Items.of(dtype)
        wanted = _in_items(capacity, "capacity", items.itemsize, least=1)
        kept = _in_items(backlog, "backlog", items.itemsize, least=0)
        numbers = ffi.new("uint64_t[3]", (min(wanted, _ALL), min(kept, _ALL), int(overwrite)))
        text = items.description
        code = lib.py_add_stream(pointer, key, numbers, text, len(text), entry)
        if code == lib.IPCHEAP_BAD_VALUE:
            raise ValueError(
                f"no stream can have {wanted} items, a backlog of {kept} and items of "
                f"{items.itemsize} bytes whose type is described by {len(text)} characters"
            )
        directory.check(
            code,
            channel_id,
            asked=(wanted + kept) * items.itemsize,
            wanted=f"not a stream of {wanted} items with this dtype, backlog and overwrite",
        )
        return Stream(self._this_heap(), channel_id, entry)

    def stream_writer(
        self,
        id: ChannelId,
        timeout: float | None = 0.0,
        *,
        dtype: numpy.typing.DTypeLike | None = None,
        mlock: bool = False,
    ) -> StreamWriter:
        """Claim the writing side of a stream for this thread, and return its StreamWriter.

        Waits `timeout` seconds for the stream and the side. Then it raises ChannelNotFound, or
        ChannelBusy, whose text names the holder. ChannelTypeError if the channel is no stream, or
        its items are not of `dtype`. With `mlock`, calls on the endpoint fault no page in; OSError
        if the limit forbids it.
        """
        return self._stream_side(StreamWriter, lib.IPCHEAP_WRITER, id, timeout, dtype, mlock)

    def stream_reader(
        self,
        id: ChannelId,
        timeout: float | None = 0.0,
        *,
        dtype: numpy.typing.DTypeLike | None = None,
        mlock: bool = False,
    ) -> StreamReader:
        """Claim the reading side of a stream for this thread, and return its StreamReader.

        Raises as `stream_writer` does, also if the items are not of `dtype`. What a former
        reader had not released is redelivered. Waits `timeout` seconds for the stream and the side.
        """
        return self._stream_side(StreamReader, lib.IPCHEAP_READER, id, timeout, dtype, mlock)

    def _stream_side(
        self,
        kind: type[T],
        side: int,
        id: ChannelId,
        timeout: float | None,
        dtype: Any,
        mlock: bool,
    ) -> T:
        wanted = None if dtype is None else Items.of(dtype).description
        channel_id = _arguments.channel_id(id)
        found: list[Stream] = []

        def accept(entry: CData) -> None:
            stream = Stream(self._this_heap(), channel_id, ffi.new("ipcheap_channel *", entry[0]))
            stream._insist_on(dtype, wanted)
            found[:] = [stream]

        claimed = self._directory.claim(channel_id, lib.IPCHEAP_STREAM, side, timeout, accept)
        return _endpoint(kind, claimed, found[0], mlock)


def _in_items(value: Size, what: str, itemsize: int, least: int) -> int:
    if isinstance(value, str):
        value = _arguments.size(value, what) // itemsize
    return _arguments.count(value, what, least=least)


class StreamEndpoint(Shaped, SidedEndpoint):
    """What a writer and a reader of a stream have in common."""

    _new_window: Any
    _end_window: Any
    _describe: Any
    _ring: Any
    _drop_spares: Any
    _bind: Any

    def __init__(self, handle: Handle, channel: ChannelId, pointer: CData, stream: Stream) -> None:
        super().__init__(handle, channel, pointer)
        self._items = items = stream._items
        self._shape = stream._shape
        self._watermark = 1
        self._awaited: list[int] = []  # what each coroutine waits for
        self._bind(address(pointer), handle, handle)
        if items.plain:
            self._describe(1, b"B", (), None)
        else:
            sample = items.empty(1)
            self._describe(items.itemsize, _buffer_format(sample), sample.shape[1:], sample)

    # Properties -------------------------------------------------------------------------------

    @property
    def watermark(self) -> int:
        """How many items, or room for how many, makes this endpoint ready for `wait` and pollers.

        1 unless it is set; at most what a call may wait for. It affects nothing else.
        """
        return self._watermark

    @watermark.setter
    def watermark(self, items: int) -> None:
        items = _arguments.count(items, "watermark", least=1)
        self._limit(items)
        self._checked(self._want(items))
        self._watermark = items

    @property
    def ring(self) -> memoryview:
        """All of the ring, as bytes: writable for the writer, read-only for the reader.

        Item k, counted since the stream was added, begins at byte `k * itemsize % len(ring)` and
        may continue at the ring's start.
        """
        return memoryview(self._ring())

    def statistics(self) -> StreamStatistics:
        """Return how many items have passed, and how often this side slept and woke the other."""
        from .results import StreamStatistics

        numbers = self._numbers()
        return StreamStatistics(
            capacity=int(numbers.capacity),
            backlog=int(numbers.backlog),
            written=int(numbers.written),
            read=int(numbers.read),
            writes=int(numbers.writes),
            reads=int(numbers.reads),
            lost=int(numbers.lost),
            parks=int(numbers.parks),
            wakes=int(numbers.wakes),
            mirrored=bool(numbers.mirrored),
        )

    def reset(self) -> None:
        """Drop everything written until now, and the backlog. Dropped items are not lost items."""
        self._checked(lib.py_stream_reset(self._pointer))

    def close(self) -> None:
        """Release the side; views of it show indefinitely what is there now."""
        if not self.closed and not self._is_inherited():
            self._drop_spares()
        super().close()

    # Inside -----------------------------------------------------------------------------------

    def _numbers(self) -> CData:
        numbers = ffi.new("ipcheap_stream_statistics *")
        lib.ipcheap_stream_describe(self._pointer, numbers)
        return numbers

    def _most(self) -> int:
        capacity = self._shape[0]
        return capacity if self._shape[2] else (capacity + 1) // 2

    def _limit(self, items: int) -> None:
        if items > self._most():
            half = "its capacity" if self._shape[2] else "half its capacity"
            raise ValueError(
                f"channel {self._channel!r} of {self._handle}: a call waits for at most "
                f"{self._most()} items, {half}, not for {items}: give `at_least`, or make the "
                "stream larger"
            )

    def _portion(self, n: Any, at_least: Any) -> tuple[int, int]:
        """Return the fewest items that a call waits for and the most that it takes."""
        most = _ALL if n is None else _arguments.count(n, "n")
        if at_least is None:
            few = 1 if n is None else most
        else:
            few = _arguments.count(at_least, "at_least", least=1)
            if few > most:
                raise ValueError(f"at_least must be at most n, {most}, not {few}")
        self._limit(few)
        return few, min(most, _ALL)

    def _window(self, n: Any, timeout: Any, at_least: Any, overlap: Any, raw: Any) -> Any:
        few, most = self._portion(n, at_least)
        overlap = _arguments.count(0 if overlap is None else overlap, "overlap")
        if overlap > (0 if self._side == "writer" else self.backlog):
            raise ValueError(f"overlap must be at most the backlog, {self.backlog}, not {overlap}")
        if timeout is not None:
            _arguments.timeout(timeout)
        return self._new_window(few, most, overlap, bool(raw), timeout)

    def _array_of(self, pane: Any, items: int) -> numpy.typing.NDArray[Any]:
        from .array import numpy_module

        base, shape = self._items.base
        return numpy_module().ndarray((items, *shape), base, pane)  # type: ignore[no-any-return]

    def _sleep(self, items: int, deadline: float) -> int:
        """Wait for so many items, or room for them; return 0, TIMED_OUT or an error."""
        if _timing.time_left(deadline) <= 0:
            return _TIMED_OUT
        return _timing.sleep(
            lambda step: int(lib.py_stream_wait(self._pointer, items, step)), deadline
        )

    def _again(self, code: int, items: int, deadline: float) -> None:
        """After a call that found too little: wait, or raise what it returned."""
        if code == _WOULD_BLOCK:
            code = self._sleep(items, deadline)
        if code:
            raise self._error(code, doing=self._stalled)

    def _open_later(self, window: Any, code: int, timeout: float | None, few: int) -> Any:
        deadline = _timing.deadline_of(timeout)
        found: Any = code
        while isinstance(found, int):
            self._again(found, few, deadline)
            found = window._open()
        return found

    async def _aopen(self, window: Any, timeout: float | None, few: int) -> Any:
        return await self._within(timeout, self._eventual(few, window._open))

    async def _nothing(self) -> None:
        """Do nothing, for the end of an `async with`."""

    async def _within(self, timeout: float | None, awaitable: Awaitable[Any]) -> Any:
        import asyncio

        if timeout is None:
            return await awaitable
        try:
            async with asyncio.timeout(_arguments.timeout(timeout)):
                return await awaitable
        except TimeoutError:
            raise self._error(_TIMED_OUT, doing=self._stalled) from None

    async def _take_turns(self) -> None:
        """Let other tasks run, after a few calls that did not have to wait."""
        self._turns += 1
        if self._turns % FAIR == 0:
            await self._give_way()

    async def _eventual(self, items: int, attempt: Callable[[], Any]) -> Any:
        """Try until the result is no error code, waiting for so many items each time."""
        await self._take_turns()
        found = attempt()
        while isinstance(found, int) and found < 0:
            if found != _WOULD_BLOCK:
                raise self._error(found)
            await self._until(items)
            found = attempt()
        return found

    async def _until(self, items: int) -> None:
        """Wait until there may be so many items, or room for them.

        The descriptor obeys the one that waits for the fewest; without any, the watermark.
        """
        await self._until_least(items, self._awaited, lambda: self._want(self._watermark))

    def _want(self, otherwise: int) -> int:
        wanted = min(self._awaited, default=otherwise)
        return int(lib.py_stream_want(self._pointer, wanted))

    def _lock_pages(self) -> None:
        code = lib.py_stream_pin(self._pointer)
        if not code:
            return
        number, reason = ffi.errno, self._error(code)
        self.close()
        if code != lib.IPCHEAP_SYSTEM:
            raise reason
        from . import _limits

        raise OSError(number, f"{reason.args[-1]}: {_limits.of_locked_memory()}")

    def _error(self, code: int, doing: str = "not done", asked: int | None = None) -> Exception:
        if code == lib.IPCHEAP_WINDOW:
            return WindowError(
                f"channel {self._channel!r} of {self._handle}: this {self._side} has a window "
                "open: leave its block first"
            )
        return super()._error(code, doing, asked)

    def _refuse(self, code: int) -> NoReturn:
        raise self._error(code)

    def _end(self, items: Any, doing: str) -> None:
        items = _arguments.count(items, "k")
        code = self._end_window(min(items, _ALL))
        if code == lib.IPCHEAP_WINDOW:
            raise WindowError(
                f"channel {self._channel!r} of {self._handle}: this {self._side} has no window "
                f"open, so there is nothing to {doing}"
            )
        if code == lib.IPCHEAP_BAD_VALUE:
            raise ValueError(f"the window has fewer than {items} items; it is still open")
        self._checked(code)


def _buffer_format(array: Any) -> bytes | None:
    """Return how the buffer of an array describes an item; None if it cannot."""
    try:
        return memoryview(array).format.encode()
    except (ValueError, BufferError):
        return None


class StreamWriter(StreamEndpoint, WriterCore):
    """The writing side of a stream; see `Heap.stream_writer`.

    `write` copies items into the ring, `window` lends a part of the ring to be filled in place.
    `position` counts the items committed since the stream was added, `room` how many fit now.
    """

    _side: ClassVar[str] = "writer"
    _stalled: ClassVar[str] = "there was no room for so many items"

    # write(), try_write() and window() are in C: see _types.py.

    @property
    def position(self) -> int:
        """How many items have been committed since the stream was added."""
        return int(self._numbers().written)

    @property
    def room(self) -> int:
        """How many items can be written now without waiting."""
        return self._checked(lib.py_stream_ready(self._pointer))

    def commit(self, k: int) -> None:
        """Commit the first `k` items of the open window and end it.

        ValueError if the window has fewer, which leaves it open; WindowError if none is open.
        """
        self._end(k, "commit")

    async def awrite(self, data: Any) -> int:
        """Write all of these items as soon as there is room: `write()` for asyncio.

        `position` says how many items were written if the call is cancelled.
        """
        done = 0
        try:
            data = self._items_of(data)
            total = memoryview(data).nbytes // self.itemsize
            await self._take_turns()
            while done < total:
                went = self._write_some(data, done)
                if went == _WOULD_BLOCK:
                    await self._until(1)
                elif went < 0:
                    raise self._error(went)
                else:
                    done += went
        except BaseException as reason:
            reason.done = done  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
            raise
        return total

    def makefile(
        self,
        mode: str = "wb",
        buffering: int = -1,
        *,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> IO[Any]:
        """Return a file that writes to the stream: "wb" for bytes, "w" for text.

        Closing it flushes it and closes this endpoint. TypeError unless items are of one byte.
        """
        from ._files import make

        return make(self, mode, "w", buffering, encoding, errors, newline)

    # Inside -----------------------------------------------------------------------------------

    def _write_on(self, data: Any, done: int, timeout: float | None) -> int:
        """Go on after `done` items, or after an error."""
        code, done = min(done, 0), max(done, 0)
        try:
            if code in _OF_THE_DATA:
                data, code = self._items_of(data), 0
            deadline = _timing.deadline_of(timeout)
            total = memoryview(data).nbytes // self.itemsize
            while True:
                if code:
                    self._again(code, 1, deadline)
                if done >= total:
                    return total
                went = self._write_some(data, done)
                code, done = min(went, 0), done + max(went, 0)
        except BaseException as reason:
            reason.done = done  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
            raise

    def _refused(self, data: Any, code: int) -> int:
        if code not in _OF_THE_DATA:
            raise self._error(code)
        return self.try_write(self._items_of(data))

    def _items_of(self, data: Any) -> Any:
        """Return bytes-like whole items; TypeError or ValueError if that is impossible."""
        size = self.itemsize
        if self._items.plain:
            try:
                view = memoryview(data)
            except TypeError:
                name = type(data).__name__
                raise TypeError(f"a stream of bytes takes bytes-like objects, not {name}") from None
            if not view.c_contiguous:
                raise ValueError(f"the bytes of a {type(data).__name__} are not in one piece")
            return data
        try:
            view = memoryview(data)
        except (TypeError, ValueError, BufferError):
            return self._converted(data, is_array=hasattr(data, "__array__") or type(data) is str)
        if view.itemsize != 1 or view.format not in ("B", "b", "c"):
            return self._converted(data, is_array=True)
        if view.nbytes % size:
            raise ValueError(f"{view.nbytes} bytes are no whole number of items of {size}")
        return view if view.c_contiguous else bytes(view)

    def _converted(self, data: Any, *, is_array: bool) -> Any:
        from .array import numpy_module

        np = numpy_module()
        base, shape = self._items.base
        if is_array:
            array = np.asarray(data)
            if not np.can_cast(array.dtype, base, "same_kind"):
                raise TypeError(f"items of {array.dtype!r} cannot be converted to {base!r}")
            array = array.astype(base, copy=False)
        else:
            array = np.array(data, base)
        inner = len(shape)
        if array.ndim not in (inner, inner + 1) or array.shape[array.ndim - inner :] != shape:
            raise ValueError(
                f"an array of shape {array.shape} is neither items of shape {shape} nor one"
            )
        return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


_OF_THE_DATA = (lib.PY_NOT_BYTES, lib.PY_NOT_WHOLE)


class StreamReader(StreamEndpoint, ReaderCore):
    """The reading side of a stream; see `Heap.stream_reader`.

    `read` and `readinto` copy items and release them, `window` and `blocks` show them in place.
    `position` counts the items released, skipped, dropped and lost since the stream was added,
    `available` those that can be read now.
    """

    _side: ClassVar[str] = "reader"
    _stalled: ClassVar[str] = "not so many items came"

    # read(), readinto() and window() are in C: see _types.py.

    @property
    def position(self) -> int:
        """How many items have been released, skipped, dropped or lost since it was added."""
        return int(self._numbers().read)

    @property
    def available(self) -> int:
        """How many items can be read now without waiting."""
        return self._checked(lib.py_stream_ready(self._pointer))

    @property
    def lost(self) -> int:
        """How many items this reader missed, because the writer had overwritten them."""
        return int(self._numbers().lost)

    def try_read(self, n: int | None = None) -> Any:
        """Return a copy of what is there, at most `n` items; None if there is nothing."""
        most = _ALL if n is None else _arguments.count(n, "n")
        found = self._copied(self._read_some, 1, most) if most else self._no_items()
        if isinstance(found, int):
            if found != _WOULD_BLOCK:
                raise self._error(found)
            return None
        return found

    def peek(
        self, n: int | None = None, timeout: float | None = None, *, at_least: int | None = None
    ) -> Any:
        """Return a copy of `at_least` to `n` items, as `read` does, and release none.

        Waits `timeout` seconds, None indefinitely.
        """
        return self._copy(self._peek_some, n, timeout, at_least)

    def skip(self, n: int | None = None) -> int:
        """Drop what is there, at most `n` items; return how many that were."""
        most = _ALL if n is None else min(_arguments.count(n, "n"), _ALL)
        code = int(lib.py_stream_skip(self._pointer, 1, most))
        if code in (_WOULD_BLOCK, lib.IPCHEAP_CHANNEL_CLOSED, lib.IPCHEAP_PEER_DIED):
            return 0
        return self._checked(code)

    def history(self, n: int | None = None) -> Any:
        """Return a copy of the last `n` items read, or of all that the backlog has.

        Fewer if fewer have been read since the stream was added or reset. ValueError beyond the
        backlog.
        """
        most = self.backlog if n is None else _arguments.count(n, "n")
        if most > self.backlog:
            raise ValueError(f"n must be at most the backlog, {self.backlog}, not {most}")
        count = self._checked(lib.py_stream_kept(self._pointer, most))
        found = self._copied(self._history_some, 0, count) if count else self._no_items()
        return found if not isinstance(found, int) else self._checked(found)

    def release(self, k: int) -> None:
        """Release the first `k` items of the open window and end it.

        ValueError if the window has fewer, which leaves it open; WindowError if none is open.
        """
        self._end(k, "release")

    def blocks(
        self,
        size: int | None = None,
        *,
        hop: int | None = None,
        fill: Any = None,
        timeout: float | None = None,
    ) -> Blocks:
        """Return an iterator of windows of `size` items, each `hop` items after the one before.

        A block is released when the next one is requested. At the end of the stream there is one
        more, shorter block if some items were in none yet; with `fill` it is filled up to `size`.
        Without `size` a block is whatever is there. Works with `for` and `async for`. Waits
        `timeout` seconds for each block, None indefinitely.
        """
        return Blocks(self, size, hop, fill, timeout)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.blocks())

    def __aiter__(self) -> AsyncIterator[Any]:
        return self.blocks().__aiter__()

    async def aread(self, n: int | None = None, *, at_least: int | None = None) -> Any:
        """Return a copy of items as soon as they are there: `read()` for asyncio."""
        few, most = self._portion(n, at_least)
        if most == 0:
            return self._no_items()
        return await self._eventual(few, lambda: self._copied(self._read_some, few, most))

    async def areadinto(self, buffer: Any, *, at_least: int | None = None) -> int:
        """Fill a buffer as soon as the items are there: `readinto()` for asyncio."""
        buffer, count = self._to_fill(buffer)
        few, _ = self._portion(count, at_least)
        return int(await self._eventual(few, lambda: self._read_some(buffer, few)))

    def makefile(
        self,
        mode: str = "rb",
        buffering: int = -1,
        *,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> IO[Any]:
        """Return a file that reads from the stream: "rb" for bytes, "r" for text.

        The end of the stream is the end of the file; if the writer died, reading raises PeerDied.
        Closing the file closes this endpoint. TypeError unless items are of one byte.
        """
        from ._files import make

        return make(self, mode, "r", buffering, encoding, errors, newline)

    # Inside -----------------------------------------------------------------------------------

    def _no_items(self) -> Any:
        """Return the result of a call for 0 items, which raises where another call would."""
        self._checked(int(lib.py_stream_skip(self._pointer, 0, 0)))
        return b"" if self._items.plain else self._items.empty(0)

    def _copied(self, fill: Callable[[Any, int], int], few: int, most: int) -> Any:
        """Return a copy of what is there, or an error code."""
        there = int(lib.py_stream_ready(self._pointer))
        if there < 0:
            return there
        count = max(min(there, most), 1 if few == 0 else min(few, most), 1)
        if fill == self._history_some:
            count = most
        if self._items.plain:
            room: Any = bytearray(count)
            done = fill(room, few)
            return done if done < 0 else bytes(room[:done])
        array = self._items.empty(count)
        done = fill(_flat(array), few)
        if done < 0:
            return done
        return array if done == len(array) else array[:done].copy()  # which owns its data

    def _copy(
        self,
        fill: Callable[[Any, int], int],
        n: int | None,
        timeout: float | None,
        at_least: int | None,
    ) -> Any:
        few, most = self._portion(n, at_least)
        if most == 0:
            return self._no_items()
        deadline = _timing.deadline_of(timeout)
        found = self._copied(fill, few, most)
        while isinstance(found, int):
            self._again(found, few, deadline)
            found = self._copied(fill, few, most)
        return found

    def _read(self, n: int | None, timeout: float | None, at_least: int | None) -> Any:
        return self._copy(self._read_some, n, timeout, at_least)

    def _to_fill(self, buffer: Any) -> tuple[Any, int]:
        """Return a buffer as the core takes it, and how many items it holds."""
        np: Any = sys.modules.get("numpy")
        if np is not None and isinstance(buffer, np.ndarray):
            base, _ = self._items.base
            if buffer.dtype != base:
                raise TypeError(f"an array of {buffer.dtype!r} takes no items of {base!r}")
            if not buffer.flags.writeable:
                raise TypeError("the array is not writable")
            if not buffer.flags.c_contiguous:
                raise ValueError("the array is not contiguous")
            buffer = _flat(buffer)
        try:
            view = memoryview(buffer)
        except TypeError:
            raise TypeError(f"a {type(buffer).__name__} is no buffer") from None
        if view.readonly:
            raise TypeError(f"the {type(buffer).__name__} is not writable")
        if not view.c_contiguous:
            raise ValueError(f"the {type(buffer).__name__} is not contiguous")
        if view.nbytes % self.itemsize:
            raise ValueError(f"{view.nbytes} bytes are no whole number of items of {self.itemsize}")
        return buffer, view.nbytes // self.itemsize

    def _read_into(self, buffer: Any, timeout: float | None, at_least: int | None) -> int:
        buffer, count = self._to_fill(buffer)
        few, _ = self._portion(count, at_least)
        deadline = _timing.deadline_of(timeout)
        while True:
            done = self._read_some(buffer, few)
            if done >= 0:
                return int(done)
            self._again(done, few, deadline)


def _flat(array: Any) -> Any:
    """Return the bytes of a contiguous array, as an array."""
    from .array import numpy_module

    np = numpy_module()
    return array.reshape(-1).view(np.uint8) if array.size else np.empty(0, np.uint8)


class Blocks(BlocksCore):
    """Windows of a stream, one after the other; see `StreamReader.blocks`."""

    # A block that is there and whole is returned in C: see _types.py.

    def __init__(
        self,
        reader: StreamReader,
        size: int | None,
        hop: int | None,
        fill: Any,
        timeout: float | None,
    ) -> None:
        if size is None and (hop is not None or fill is not None):
            raise ValueError("hop and fill need a size")
        if size is not None:
            size = _arguments.count(size, "size", least=1)
        few, most = reader._portion(size, None)
        hop = most if hop is None else _arguments.count(hop, "hop", least=1)
        if hop > most:
            raise ValueError(f"hop must be at most the size, {size}, not {hop}")
        self._reader = reader
        self._size = size
        self._few = few
        self._fill = fill
        self._timeout = timeout
        if timeout is not None:
            _arguments.timeout(timeout)
        self._start(reader._window(size, timeout, None, None, False), hop)

    def close(self) -> None:
        """End the open window and release nothing."""
        self._release(0)
        self._ended = True

    def __aiter__(self) -> Blocks:
        return self

    async def __anext__(self) -> Any:
        while True:
            self._release(self._due)
            if self._ended:
                raise StopAsyncIteration
            try:
                block = await self._window.__aenter__()
            except ChannelClosed:
                self._ended = True
                raise StopAsyncIteration from None
            if self._is_news():
                return self._filled(block)

    # Inside -----------------------------------------------------------------------------------

    def _late(self, code: int) -> Any:
        """Go on after the window was not opened because of `code`."""
        try:
            block = self._reader._open_later(self._window, code, self._timeout, self._few)
        except ChannelClosed:
            self._ended = True
            raise StopIteration from None
        return self._last(block)

    def _last(self, block: Any) -> Any:
        """Return the open block, or the next one if all its items were in one before."""
        return self._filled(block) if self._is_news() else next(self)

    def _is_short(self) -> bool:
        """Return whether the open block is what an ended writer has left."""
        return self._size is not None and self._window.items < self._size

    def _is_news(self) -> bool:
        """Return whether the open block has items that were in none yet; otherwise release it."""
        window = self._window
        self._due = window.items if self._is_short() else self._hop
        end, seen = window.position + window.items, self._seen
        if end <= seen and self._is_short():
            self._release(window.items)
            return False
        self._seen = end
        return True

    def _filled(self, block: Any) -> Any:
        if self._fill is None or self._size is None or not self._is_short():
            return block
        items, there = self._reader._items.empty(self._size), self._window.items
        items[:there] = block
        items[there:] = self._fill
        return items
