"""Stores: keyed chunks from one writer to many readers, which hold them in place."""

from __future__ import annotations

from . import _arguments, _timing
from ._core import ffi, lib, use_chunks
from ._directory import key_of
from ._endpoint import FAIR, Endpoint
from ._failures import error, holder_state, holder_text
from ._native import address, text_of
from ._types import ChunkCore, FollowCore, StoreReaderCore, StoreWriterCore
from .array import as_numpy_asks, describe, make_array
from .channel import Channel, HeapMethods
from .errors import ChannelClosed, HeapFull, RecordError
from .objects import PICKLE
from .record import OF_THE_RECORD, Record, allocate_array, allocate_packed, array_of, object_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    import contextlib
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
    from typing import Any, ClassVar, NoReturn, TypeAlias, TypeVar

    import numpy.typing

    from ._arguments import ChannelId, Size
    from ._core import CData
    from ._handle import Handle
    from .array import Shape
    from .codec import Codec
    from .heap import Heap
    from .producer import BytesLike
    from .results import (
        Hold,
        StoreReaderInfo,
        StoreReaderStatistics,
        StoreStatistics,
        StoreWriterStatistics,
    )

    Key: TypeAlias = int | str | bytes
    T = TypeVar("T")

_WOULD_BLOCK = lib.IPCHEAP_WOULD_BLOCK
_TIMED_OUT = lib.IPCHEAP_TIMED_OUT
_ARRAY, _OBJECT = lib.IPCHEAP_ARRAY, lib.IPCHEAP_OBJECT
_NEVER = float("inf")
_MOST = 2**63 - 1
_LAST = 2**64 - 1
_LONGEST_KEY = lib.IPCHEAP_STORE_KEY_MAX
_MOST_READERS = 4  # that an error names


class _Default:
    """The default of an option, as help() shows it. Being passed means something else."""

    __slots__ = ("_shown",)

    def __init__(self, shown: str) -> None:
        self._shown = shown

    def __repr__(self) -> str:
        return self._shown


_1: Any = _Default("1")
_NONE: Any = _Default("None")
_FALSE: Any = _Default("False")
_1_MIB: Any = _Default("'1MiB'")
_1024: Any = _Default("1024")

_OPTIONS = ("depth", "ttl", "max_chunks", "max_bytes", "evict", "garbage", "hold")
_GIVEN = {
    "depth": lib.IPCHEAP_GIVEN_DEPTH,
    "ttl": lib.IPCHEAP_GIVEN_TTL,
    "max_chunks": lib.IPCHEAP_GIVEN_MAX_CHUNKS,
    "max_bytes": lib.IPCHEAP_GIVEN_MAX_BYTES,
    "evict": lib.IPCHEAP_GIVEN_FLAGS,
    "garbage": lib.IPCHEAP_GIVEN_GARBAGE,
    "hold": lib.IPCHEAP_GIVEN_HOLD,
}


class Limited:
    """What a store and its two sides have in common: its limits."""

    _limits: CData

    @property
    def depth(self) -> int:
        """How many chunks of a key are live at the same time."""
        return int(self._limits.depth)

    @property
    def ttl(self) -> float | None:
        """How many seconds a chunk lives whose put says nothing else; None if it never expires."""
        return self._limits.ttl_ns / 1e9 if self._limits.ttl_ns > 0 else None

    @property
    def max_chunks(self) -> int | None:
        """How many chunks may be live; None for as many as the heap has room for."""
        return int(self._limits.max_chunks) or None

    @property
    def max_bytes(self) -> int | None:
        """How many bytes the live chunks may have; None for as many as the heap has room for."""
        return int(self._limits.max_bytes) or None

    @property
    def evict(self) -> bool:
        """Whether the oldest chunks make way for new ones when a limit is reached."""
        return bool(self._limits.flags & lib.IPCHEAP_EVICT)

    @property
    def garbage(self) -> int:
        """How many bytes of dead chunks that no reader holds a put leaves uncollected."""
        return int(self._limits.garbage)

    @property
    def hold(self) -> int:
        """How many chunks a reader may hold."""
        return int(self._limits.hold)


class Store(Limited, Channel, kind=lib.IPCHEAP_STORE):
    """Keyed chunks: one writer, any number of readers, each of which holds what it looks at."""

    _noun: ClassVar[str] = "a store"
    _sides: ClassVar[Mapping[int, str]] = {lib.IPCHEAP_WRITER: "writer"}

    def __init__(self, heap: Heap, channel_id: ChannelId, entry: CData) -> None:
        super().__init__(heap, channel_id, entry)
        self._limits = _limits_of(heap._directory.handle, channel_id, entry)

    def writer(self, timeout: float | None = 0.0) -> StoreWriter:
        """Claim the writing side for this thread, within `timeout` s; see `Heap.store_writer`."""
        return self._heap.store_writer(self._id, timeout)

    def reader(self, timeout: float | None = 0.0) -> StoreReader:
        """Become a reader in this thread, within `timeout` s; see `Heap.store_reader`."""
        return self._heap.store_reader(self._id, timeout)

    def statistics(self) -> StoreStatistics:
        """Return what the store contains, and what has happened to its chunks.

        It counts in time proportional to the slots. HeapBusy if the heap lock stays taken.
        """
        from .results import StoreStatistics

        handle, numbers = self._handle(), ffi.new("ipcheap_store_statistics *")
        self._checked(lib.py_store_describe(handle.pointer, self._entry, numbers))
        return StoreStatistics(
            **{name: int(getattr(numbers, name)) for name in StoreStatistics.__dataclass_fields__}
        )

    def readers(self) -> list[StoreReaderInfo]:
        """Return the readers, and closed ones that still hold chunks; each with what it holds.

        HeapBusy if the heap lock stays taken.
        """
        handle = self._handle()
        cursor, info = ffi.new("uint32_t *"), ffi.new("ipcheap_store_reader_info *")
        found: list[StoreReaderInfo] = []
        while (
            self._checked(lib.py_store_next_reader(handle.pointer, self._entry, cursor, info)) == 1
        ):
            found.append(_reader_info(info, self._holds_of(handle, info)))
        return found

    def __repr__(self) -> str:
        return f"<Store {self._id!r} of {self._heap.label}, depth {self.depth}>"

    # Inside -----------------------------------------------------------------------------------

    @classmethod
    def _describe(cls, entry: CData) -> str:
        del entry
        return "a store"

    @classmethod
    def _others(cls, handle: Handle, entry: CData) -> list[str]:
        cursor, info = ffi.new("uint32_t *"), ffi.new("ipcheap_store_reader_info *")
        names: list[str] = []
        while lib.py_store_next_reader(handle.pointer, entry, cursor, info) == 1:
            if not info.closed:
                names.append(holder_text(info.holder))
        if not names:
            return []
        more = f" and {len(names) - _MOST_READERS} more" if len(names) > _MOST_READERS else ""
        return [f"it is read by {', '.join(names[:_MOST_READERS])}{more}"]

    def _handle(self) -> Handle:
        return self._heap._directory.handle

    def _checked(self, code: int) -> int:
        if code < 0:
            raise error(code, self._handle(), self._id, side="store")
        return int(code)

    def _holds_of(self, handle: Handle, info: CData) -> tuple[Hold, ...]:
        from .results import Hold

        room = int(info.held)
        if not room:
            return ()
        holds = ffi.new("ipcheap_store_hold[]", room)
        pointer, number = handle.pointer, info.number
        count = self._checked(lib.py_store_holds(pointer, self._entry, number, holds, room))
        now = _wall_clock()
        return tuple(
            Hold(
                key=_key_from(each.key),
                version=int(each.version),
                nbytes=int(each.nbytes),
                live=bool(each.live),
                since=now - each.since_ns / 1e9,
            )
            for each in holds[0 : min(count, room)]
        )


def _wall_clock() -> float:
    import time

    return time.time()


def _key_from(key: CData) -> Key | None:
    """Return what a key of the core stands for."""
    raw = bytes(ffi.buffer(key.bytes, key.length))
    if key.kind == lib.IPCHEAP_KEY_TEXT:
        return raw.decode(errors="replace")
    if key.kind == lib.IPCHEAP_KEY_INT:
        return int.from_bytes(raw, "little")
    return raw if key.kind == lib.IPCHEAP_KEY_BYTES else None


def _reader_info(info: CData, holds: tuple[Hold, ...]) -> StoreReaderInfo:
    from .results import StoreReaderInfo

    holder = info.holder
    return StoreReaderInfo(
        name=text_of(holder.name),
        pid=int(holder.pid),
        thread=int(holder.tid),
        state="closed" if info.closed else holder_state(holder),
        elsewhere=bool(holder.elsewhere),
        since=info.since_ns / 1e9,
        position=int(info.position),
        behind=int(info.behind),
        held=int(info.held),
        held_bytes=int(info.held_bytes),
        dead_bytes=int(info.dead_bytes),
        holds=holds,
    )


def _limits_of(handle: Handle, channel_id: ChannelId, entry: CData) -> CData:
    limits = ffi.new("ipcheap_store_options *")
    code = lib.ipcheap_store_options_of(handle.pointer, entry, limits)
    if code:
        raise error(code, handle, channel_id)
    return limits


def _nanoseconds(ttl: Any, never: int) -> int:
    """Return a time to live as the core takes it; ValueError or TypeError if it is none."""
    if isinstance(ttl, bool) or not hasattr(ttl, "__float__"):
        raise TypeError(f"ttl must be seconds or None, not {type(ttl).__name__}")
    seconds = float(ttl)
    if not seconds > 0:
        raise ValueError(f"ttl must be seconds, more than 0, not {ttl!r}")
    return never if seconds == _NEVER else max(int(min(seconds * 1e9, _MOST // 2)), 1)


def _fill_options(options: CData, given: dict[str, Any]) -> None:
    """Check the options that were passed, and fill them in."""
    for name, value in given.items():
        options.given |= _GIVEN[name]
        if name == "ttl":
            options.ttl_ns = 0 if value is None else _nanoseconds(value, never=0)
        elif name == "evict":
            if not isinstance(value, bool):
                raise TypeError(f"evict must be a bool, not {type(value).__name__}")
            options.flags = lib.IPCHEAP_EVICT if value else 0
        elif name in ("max_chunks", "max_bytes") and value is None:
            setattr(options, name, 0)
        elif name in ("max_bytes", "garbage"):
            size = _arguments.size(value, name)
            if name == "max_bytes" and size < 1:
                raise ValueError(f"max_bytes must be at least 1, or None, not {size}")
            setattr(options, name, min(size, _MOST))
        else:
            number = _arguments.count(value, name, least=1)
            if name == "hold" and number > lib.IPCHEAP_MOST_HOLDS:
                raise ValueError(f"hold must be at most {lib.IPCHEAP_MOST_HOLDS}, not {number}")
            setattr(options, name, min(number, _MOST))


class StoreMethods(HeapMethods):
    """The methods of `Heap` for stores."""

    def add_store(
        self,
        id: ChannelId,
        *,
        depth: int = _1,
        ttl: float | None = _NONE,
        max_chunks: int | None = _NONE,
        max_bytes: Size | None = _NONE,
        evict: bool = _FALSE,
        garbage: Size = _1_MIB,
        hold: int = _1024,
    ) -> Store:
        """Add a store, or return the existing one.

        `depth` is how many chunks of a key are live at the same time, and `ttl` how many seconds a
        chunk lives, None if it never expires. At most `max_chunks` chunks, of `max_bytes` bytes in
        all, are live, None for as many as the heap has room for. With `evict` the oldest ones make
        way when a limit is reached; without it a put raises HeapFull. `garbage` bytes of dead
        chunks that no reader holds are left uncollected. A reader holds at most `hold` chunks, up
        to 65,536. HeapFull if there is no room for another store.

        What is passed must be so in an existing store, also if it is the default, else
        ChannelTypeError. What is not passed may be anything there.
        """
        channel_id = _arguments.channel_id(id)
        directory, key, entry = self._directory, key_of(channel_id), ffi.new("ipcheap_channel *")
        asked: dict[str, Any] = {
            "depth": depth,
            "ttl": ttl,
            "max_chunks": max_chunks,
            "max_bytes": max_bytes,
            "evict": evict,
            "garbage": garbage,
            "hold": hold,
        }
        given = {n: value for n, value in asked.items() if not isinstance(value, _Default)}
        options = ffi.new("ipcheap_store_options *")
        _fill_options(options, given)
        code = lib.py_add_store(directory.handle.pointer, key, options, entry)
        if code == lib.IPCHEAP_BAD_VALUE:
            raise ValueError(f"no store can have {_show(given)}")
        wanted = f"not a store with {_show(given)}" if given else "not a store"
        if code == lib.IPCHEAP_CHANNEL_TYPE:
            wanted = self._difference(channel_id, given, options) or wanted
        directory.check(code, channel_id, wanted=wanted)
        return Store(self._this_heap(), channel_id, entry)

    def store_writer(self, id: ChannelId, timeout: float | None = 0.0) -> StoreWriter:
        """Claim the writing side of a store for this thread, and return its StoreWriter.

        Waits `timeout` seconds for the store and the side. Then it raises ChannelNotFound, or
        ChannelBusy, whose text names the holder. The side of a holder that closed or died is free,
        and the new writer continues where the old one stopped. ChannelTypeError for a channel of
        another kind.
        """
        return self._store_side(StoreWriter, lib.IPCHEAP_WRITER, id, timeout)

    def store_reader(self, id: ChannelId, timeout: float | None = 0.0) -> StoreReader:
        """Become a reader of a store in this thread, and return its StoreReader.

        A store has up to 4,096 readers; a thread may have several. Waits `timeout` seconds for the
        store, and raises as `store_writer` does.
        """
        return self._store_side(StoreReader, lib.IPCHEAP_READER, id, timeout)

    def _store_side(self, kind: type[T], side: int, id: ChannelId, timeout: float | None) -> T:
        channel_id = _arguments.channel_id(id)
        found: list[Store] = []

        def accept(entry: CData) -> None:
            copy = ffi.new("ipcheap_channel *", entry[0])
            found[:] = [Store(self._this_heap(), channel_id, copy)]

        handle, channel, pointer = self._directory.claim(
            channel_id, lib.IPCHEAP_STORE, side, timeout, accept
        )
        return kind(handle, channel, pointer, found[0])  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]

    def _difference(
        self, channel_id: ChannelId, given: dict[str, Any], options: CData
    ) -> str | None:
        """Return in which of the options that were passed an existing store differs."""
        entry, handle = ffi.new("ipcheap_channel *"), self._directory.handle
        if lib.ipcheap_find_channel(handle.pointer, key_of(channel_id), entry):
            return None
        if entry.kind != lib.IPCHEAP_STORE:
            return None
        its, wanted = Limited(), Limited()
        its._limits, wanted._limits = _limits_of(handle, channel_id, entry), options
        differ = [name for name in given if getattr(its, name) != getattr(wanted, name)]
        has = _show({name: getattr(its, name) for name in differ})
        return f"with {has}, not {_show({name: given[name] for name in differ})}"


def _show(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in options.items())


class _Home:
    """What the chunks that a reader was given keep alive."""

    __slots__ = ("channel", "handle")

    def __init__(self, handle: Handle, channel: ChannelId) -> None:
        self.handle = handle
        self.channel = channel


class Chunk(ChunkCore):
    """A committed value of a store, which a reader holds: its bytes do not change while it does.

    The hold ends when the chunk was released, by `release()`, the end of its `with` block or
    garbage collection, *and* the last view or array on it is gone. All of them are read-only.
    After its release, `key`, `version` and `nbytes` can still be used; anything else raises
    RecordError.

    `len(chunk)` and `chunk.nbytes` are the size in bytes, `bytes(chunk)` is a copy, `chunk[i]` a
    byte, `chunk[i:j]` a view. A chunk supports the buffer protocol. One that was put as an array
    carries its shape and dtype; NumPy and the buffer protocol see it as that array. Chunks cannot
    be sent or put: others may hold them, too.
    """

    __slots__ = ()

    def array(
        self, dtype: numpy.typing.DTypeLike | None = None, shape: Shape | None = None
    ) -> numpy.typing.NDArray[Any]:
        """Return a read-only NumPy array that aliases the chunk, and keeps the hold.

        Without a dtype it is the array that was put, or the bytes if none was. With another dtype
        and `shape` None it has one dimension; a length of -1 in `shape` is computed. ValueError if
        the chunk is no whole number of items of the dtype, or if `shape` has another size;
        TypeError for a dtype that holds Python objects.
        """
        grip = self._export()
        if dtype is None and grip.form == _ARRAY:
            array = array_of(grip, self._source)
        else:
            array = make_array(grip, "u1" if dtype is None else dtype)
        return array if shape is None else array.reshape(shape)

    def object(self, *, codec: Codec = PICKLE) -> Any:
        """Return the object that `put_object` put. `codec` must be the same; unpickling runs code.

        Arrays in the object alias the chunk, are read-only, and keep the hold. RecordError if the
        chunk is no object.
        """
        grip = self._export()
        if grip.form != _OBJECT:
            raise RecordError(f"{self!r} was not put by put_object()")
        return object_of(grip, self._source, codec)

    @property
    def age(self) -> float:
        """How many seconds ago it was committed, by a clock that counts suspended time."""
        return self._describe()[0] / 1e9

    @property
    def time(self) -> float:
        """When it was committed, in seconds since the epoch: the wall clock now minus its age."""
        return _wall_clock() - self.age

    @property
    def expires_in(self) -> float:
        """In how many seconds it expires; infinity if never, 0 or less if it has."""
        left = self._describe()[1]
        return _NEVER if left is None else left / 1e9

    @property
    def live(self) -> bool:
        """Whether it is neither replaced, nor deleted, evicted or expired."""
        return self._describe()[2]

    def __bytes__(self) -> bytes:
        return bytes(self.view)

    def __array__(
        self, dtype: numpy.typing.DTypeLike | None = None, copy: bool | None = None
    ) -> numpy.typing.NDArray[Any]:
        """Return the array. NumPy calls this for items that the buffer protocol cannot describe."""
        return as_numpy_asks(self.array(), dtype, copy, "chunk")

    def __reduce__(self) -> NoReturn:
        raise TypeError("a chunk does not pickle: get it in the other process, or pickle its bytes")

    def __repr__(self) -> str:
        state = f"{self.nbytes} bytes" if self._is_held else "released"
        return f"<Chunk version {self.version} of {self._where()}, {state}>"

    # Inside -----------------------------------------------------------------------------------

    def _typed(self) -> numpy.typing.NDArray[Any]:
        """Return the array; ValueError if its buffer would have another type."""
        array = self.array()
        if array.dtype.kind == "V" and array.dtype.names is None:
            raise ValueError("the items have no type")
        return array

    def _where(self) -> str:
        return f"channel {self._source.channel!r} of {self._source.handle}"

    def _refuse(self, code: int, asked: str) -> NoReturn:
        if code != lib.PY_ENDED:
            raise error(code, self._source.handle, self._source.channel, side="chunk")
        twice = "twice" if asked == "released" else f"and cannot be {asked}"
        raise RecordError(f"the chunk of {self._where()} has been released {twice}")


use_chunks(Chunk)


class StoreEndpoint(Limited, Endpoint):
    """What a writer and a reader of a store have in common."""

    def __init__(self, handle: Handle, channel: ChannelId, pointer: CData, store: Store) -> None:
        super().__init__(handle, channel, pointer)
        self._entry = store._entry
        self._limits = store._limits

    @property
    def version(self) -> int:
        """The version of the newest commit; 0 if there is none."""
        return self._number(lib.ipcheap_store_version)

    # Inside -----------------------------------------------------------------------------------

    def _number(self, of: Callable[[CData], int]) -> int:
        self._insist_open()
        return int(of(self._pointer))

    def _insist_open(self) -> None:
        """Raise HeapClosed or EndpointClosed if that is so."""
        if self._handle.closed:
            raise self._error(lib.IPCHEAP_HEAP_CLOSED)
        if self.closed:
            raise self._error(lib.IPCHEAP_ENDPOINT_CLOSED)

    def _numbers(self) -> CData:
        numbers = ffi.new("ipcheap_store_endpoint_statistics *")
        self._checked(lib.ipcheap_store_endpoint_describe(self._pointer, numbers))
        return numbers

    def _refuse(self, code: int) -> NoReturn:
        raise self._error(code)

    def _plain_key(self, key: Any) -> Key:
        """Return an int, str or bytes for what stands for one; or raise what is wrong with it."""
        if isinstance(key, str):
            key = str(key)
            length = len(key.encode())
        elif isinstance(key, bytes):
            key = bytes(key)
            length = len(key)
        elif isinstance(key, bool) or not hasattr(key, "__index__"):
            raise TypeError(f"a key must be an int, a str or bytes, not {type(key).__name__}")
        else:
            number = _arguments.whole_number(key, "a key")
            if not 0 <= number <= _LAST:
                raise ValueError(f"key {number} must be 0 to 2**64 - 1")
            return number
        if not 1 <= length <= _LONGEST_KEY:
            raise ValueError(f"key {key!r} must be 1 to {_LONGEST_KEY} bytes, not {length}")
        return key  # type: ignore[no-any-return]


class StoreWriter(StoreEndpoint, StoreWriterCore):
    """The writing side of a store; see `Heap.store_writer`.

    Once `put` has returned, every reader sees its result. The writer never waits for a reader. A
    put either commits and returns a version, or raises and changes nothing: HeapFull, whose text
    names the limit, and the reader that holds the most dead bytes.
    """

    _side: ClassVar[str] = "writer"
    _stalled: ClassVar[str] = "not done"

    def __init__(self, handle: Handle, channel: ChannelId, pointer: CData, store: Store) -> None:
        super().__init__(handle, channel, pointer, store)
        self._pending: list[tuple[Record, bool]] = []  # of a transaction, and whether lent
        self._most_bytes = min(store.heap.capacity, self.max_bytes or _MOST)
        self._bind(address(pointer), handle, handle)

    # put(), append(), put_record(), delete() and collect() are in C: see _types.py.

    def put_many(
        self,
        items: Mapping[Any, BytesLike] | Iterable[tuple[Any, BytesLike]],
        ttl: float | None = None,
    ) -> int:
        """Put copies of several bytes-like objects, a mapping or pairs, as one commit.

        Returns the newest version. All are put or none: if it raises, nothing has changed, and the
        exception has `done`, 0. Inside a transaction they are part of it, all or none. `ttl`, in
        seconds, and errors are those of `put`.
        """
        try:
            given: Any = items
            pairs = list(given.items() if hasattr(given, "items") else given)
            names = [key for key, _ in pairs]
            return self._put_many(names, [data for _, data in pairs], ttl)
        except BaseException as reason:
            reason.done = 0  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
            raise

    def put_object(
        self, key: Key | None, obj: Any, ttl: float | None = None, *, codec: Codec = PICKLE
    ) -> int:
        """Put an object, encoded by `codec`: by default as a pickle. Return its version.

        The buffers of arrays in the object are copied once, directly into the chunk. An exception
        of the codec propagates, with a note of the store. `ttl` and errors are those of `put`.
        """
        try:
            pieces = codec.encode(obj)
        except Exception as reason:
            reason.add_note(f"The object was to be put by {self!r}.")
            raise
        nbytes = sum(memoryview(piece).nbytes for piece in pieces)
        record = self._make(nbytes, lambda: allocate_packed(self._handle, pieces))
        return self._put_own(key, record, ttl)

    def allocate_record(self, nbytes: int) -> Record:
        """Return a new record of `nbytes` bytes, not initialised, for `put_record`.

        HeapFull if there is no room.
        """
        return self._make(nbytes, lambda: self._handle.allocate(nbytes))

    def allocate_array(
        self, shape: Shape, dtype: numpy.typing.DTypeLike, *, order: str = "C"
    ) -> Record:
        """Return a new record whose `array()` has this shape and dtype, also as a chunk.

        The items are not initialised. `order` is "C" or "F". HeapFull if there is no room,
        ValueError for a `shape` or dtype that no array can have, TypeError for a dtype that holds
        Python objects.
        """
        _, nbytes, _ = describe(shape, dtype, order)
        return self._make(nbytes, lambda: allocate_array(self._handle, shape, dtype, order))

    def loan(
        self,
        key: Key | None,
        shape: Shape,
        dtype: numpy.typing.DTypeLike,
        ttl: float | None = None,
        *,
        order: str = "C",
    ) -> contextlib.AbstractContextManager[numpy.typing.NDArray[Any]]:
        """Return a context manager that yields an array, and puts it when the block ends.

        The array has this `shape` and dtype, and its items are not initialised. It becomes
        read-only when it is put. If the block or the put raises, the array is freed instead. Inside
        a transaction it is committed with it. `ttl` and errors are those of `put`; an array that
        could never fit is HeapFull immediately.
        """
        _, nbytes, _ = describe(shape, dtype, order)
        if nbytes > (self.max_bytes or _MOST):
            raise HeapFull(self._limit(nbytes))
        return _Loan(self, key, (shape, dtype, order), ttl)

    def transaction(self) -> contextlib.AbstractContextManager[None]:
        """Return a context manager whose puts and deletions are one commit.

        No reader sees any of them before the block ends, and each sees all or none. The last change
        of a key counts. An exception that leaves the block undoes all of them. ValueError inside
        another transaction.
        """
        return _Transaction(self)

    def statistics(self) -> StoreWriterStatistics:
        """Return how many versions this writer has committed, and the newest one of the store."""
        from .results import StoreWriterStatistics

        version = int(lib.ipcheap_store_version(self._pointer))
        return StoreWriterStatistics(version=version, committed=int(self._numbers().given))

    # Inside -----------------------------------------------------------------------------------

    def _make(self, nbytes: int, make: Callable[[], Record]) -> Record:
        """Allocate; the oldest chunks make way if the store says so and it may help."""
        while True:
            try:
                return make()
            except HeapFull as reason:
                fits = nbytes <= self._most_bytes
                if not fits or not self.evict or self._evict(nbytes) <= 0:
                    raise HeapFull(self._with_blocker(str(reason))) from None

    def _put_own(self, key: Any, record: Record, ttl: float | None) -> int:
        """Put a record that nobody else has; it is freed if that fails."""
        try:
            version = self.put_record(key, record, ttl)
        except BaseException:
            record._done_with()
            raise
        if self._pending and self._pending[-1][0] is record:
            self._pending[-1] = record, True
        return version

    def _nanoseconds(self, ttl: Any) -> int:
        return _nanoseconds(ttl, never=-1)

    def _in_transaction(self, record: Record) -> None:
        self._pending.append((record, False))

    def _end(self, end: Callable[[], int], *, commits: bool) -> None:
        """End the transaction, and with it what becomes of its records."""
        code = end()
        pending, self._pending = self._pending, []
        for record, lent in pending:
            self._settle(record, commits and code == 0)
            if lent and not (commits and code == 0):
                record._done_with()
        if code and commits:
            raise self._full(code, None)

    def _put_refused(self, code: int, data: Any) -> NoReturn:
        if code == lib.PY_OBJECTS:
            raise TypeError(
                f"the {type(data).__name__} holds Python objects, whose addresses mean nothing to "
                "another process: try put_object()"
            )
        if code != lib.PY_NOT_BYTES:
            raise self._full(code, data)
        try:
            memoryview(data)
        except TypeError:
            name = type(data).__name__
            raise TypeError(
                f"this call puts bytes-like objects, not {name}: try put_object()"
            ) from None
        raise ValueError(f"the bytes of a {type(data).__name__} are not in one piece: put a copy")

    def _record_refused(self, code: int, record: Any) -> NoReturn:
        if code == lib.PY_NOT_A_RECORD:
            raise TypeError(f"this call puts a Record, not {type(record).__name__}")
        if code in OF_THE_RECORD:
            raise record._refusal(code, "put")
        if code == lib.IPCHEAP_RECORD and record._source.handle is not self._handle:
            raise RecordError(
                f"{record!r} cannot be put in another heap, {self._handle}: put its bytes"
            )
        raise self._full(code, record)

    def _full(self, code: int, data: Any) -> Exception:
        """Return the exception for a put that failed."""
        asked = None if data is None else memoryview(data).nbytes
        if code == lib.IPCHEAP_STORE_FULL:
            return HeapFull(self._with_blocker(self._limit(asked)))
        reason = self._error(code, asked=asked)
        if isinstance(reason, HeapFull):
            return HeapFull(self._with_blocker(str(reason)))
        return reason

    def _limit(self, asked: int | None) -> str:
        """Return which limit a put has reached, and the way out."""
        it = f"channel {self._channel!r} of {self._handle}"
        most, most_bytes = self.max_chunks, self.max_bytes
        if most_bytes is not None and asked is not None and asked > most_bytes:
            return f"{it}: {asked} bytes can never fit, because max_bytes is {most_bytes}"
        limits = " and ".join(
            f"{name}={limit}"
            for name, limit in (("max_chunks", most), ("max_bytes", most_bytes))
            if limit is not None
        )
        if self.evict:
            return f"{it}: one commit would have more than {limits} allows; put less by one commit"
        return (
            f"{it} has as many live chunks or bytes as {limits} allows; delete some, let them "
            "expire, or add it with evict=True"
        )

    def _with_blocker(self, text: str) -> str:
        """Return a text, with the reader that holds the most dead bytes."""
        info = ffi.new("ipcheap_store_reader_info *")
        if lib.py_store_blocker(self._handle.pointer, self._entry, info) != 1:
            return text
        since = _timing_text(info.oldest_ns / 1e9)
        return (
            f"{text}. The reader that holds the most dead bytes is {holder_text(info.holder)}: "
            f"{info.dead} chunks of {_arguments.show_size(int(info.dead_bytes))}, the oldest for "
            f"{since}"
        )


def _timing_text(seconds: float) -> str:
    return f"{seconds:.0f} s"


class _Transaction:
    """Puts and deletions that are one commit; see `StoreWriter.transaction`."""

    __slots__ = ("_writer",)

    def __init__(self, writer: StoreWriter) -> None:
        self._writer = writer

    def __enter__(self) -> None:
        code = self._writer._begin()
        if code == lib.IPCHEAP_TRANSACTION:
            raise ValueError(f"{self._writer!r} has a transaction open already; leave its block")
        if code:
            raise self._writer._error(code)

    def __exit__(self, kind: object, *_: object) -> None:
        writer = self._writer
        if kind is None:
            writer._end(writer._commit, commits=True)
        else:
            writer._end(writer._abort, commits=False)


class _Loan:
    """An array that a writer puts when a block ends; see `StoreWriter.loan`."""

    __slots__ = ("_array", "_key", "_record", "_ttl", "_what", "_writer")

    _array: numpy.typing.NDArray[Any]
    _record: Record

    def __init__(
        self,
        writer: StoreWriter,
        key: Any,
        what: tuple[Shape, numpy.typing.DTypeLike, str],
        ttl: float | None,
    ) -> None:
        self._writer = writer
        self._key = key if key is None else writer._plain_key(key)
        self._what = what
        self._ttl = ttl
        if ttl is not None:
            writer._nanoseconds(ttl)

    def __enter__(self) -> numpy.typing.NDArray[Any]:
        shape, dtype, order = self._what
        self._record = record = self._writer.allocate_array(shape, dtype, order=order)
        record._lent = 1
        try:
            self._array = record.array()
        except BaseException:
            record._done_with()
            raise
        return self._array

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self._writer._put_own(self._key, self._record, self._ttl)
                self._array.flags.writeable = False
            else:
                self._record._done_with()
        finally:
            del self._array


class Follow(FollowCore):
    """A reader's next chunks, one after the other; see `StoreReader.follow`."""

    # A chunk that is there is returned in C: see _types.py.

    def __init__(self, reader: StoreReader) -> None:
        self._reader = reader
        self._start(reader)

    def close(self) -> None:
        """Release the chunk that was returned last."""
        self._release()

    def __aiter__(self) -> AsyncIterator[Chunk]:
        return self

    async def __anext__(self) -> Chunk:
        self._release()
        try:
            return self._give(await self._reader.anext())
        except ChannelClosed:
            raise StopAsyncIteration from None

    def _late(self, code: int) -> Chunk:
        try:
            return self._reader._next_later(code, None)
        except ChannelClosed:
            raise StopIteration from None


class StoreReader(StoreEndpoint, StoreReaderCore):
    """A reader of a store; see `Heap.store_reader`.

    It looks up the newest chunk of a key by `get` and its forms, and follows all chunks, in order,
    by `next`, which moves its position. What `get`, `get_many`, `history`, `next` and `wait_for`
    return is held until it is released. A reader never slows the writer or other readers.

    `key in reader`, `len(reader)`, `reader[key]` and iteration are those of a mapping. Iterating
    goes by ascending version.
    """

    _side: ClassVar[str] = "reader"
    _stalled: ClassVar[str] = "nothing came"

    def __init__(self, handle: Handle, channel: ChannelId, pointer: CData, store: Store) -> None:
        super().__init__(handle, channel, pointer, store)
        self._source = _Home(handle, channel)
        self._awaited: list[int] = []  # up to which version each coroutine has looked
        self._bind(address(pointer), handle, self._source)

    # get(), get_bytes(), get_many(), keys(), next(), try_next() and wait_for() are in C: see
    # _types.py.

    def get_array(self, key: Key, default: Any = None) -> Any:
        """Return the newest chunk of a key as the array it was put as, without a copy.

        The array is read-only; the hold lasts as long as it and its views. `default` if there is no
        chunk. RecordError if that was not put by `loan`, or as a record of `allocate_array`.
        """
        grip = self._grip(key, _ARRAY)
        if grip is None:
            return default
        return array_of(self._found(grip), self._source)

    def get_object(self, key: Key, default: Any = None, *, codec: Codec = PICKLE) -> Any:
        """Return the newest chunk of a key as the object that `put_object` put.

        `codec` must be the one that put it; unpickling runs code. Arrays in the object alias the
        chunk, and keep the hold; without any it is released immediately. `default` if there is no
        chunk, RecordError if it is no object. An exception of the codec propagates, with a note.
        """
        grip = self._grip(key, _OBJECT)
        if grip is None:
            return default
        grip = self._found(grip)
        try:
            return object_of(grip, self._source, codec)
        except Exception as reason:
            reason.add_note(f"The object was got by {self!r}.")
            raise
        finally:
            del grip  # a traceback would keep it alive

    def history(self, key: Key) -> list[Chunk]:
        """Return the live chunks of a key, up to the store's depth, oldest first.

        TimeoutError and RecordError as `get_many`; then none is held.
        """
        return self._history(key, min(self.depth, lib.IPCHEAP_MOST_HOLDS))

    def items(self) -> Iterator[tuple[Key, Chunk]]:
        """Iterate over keys and their newest chunks, by ascending version.

        Each chunk is released when the next one is requested; `get_many` holds several. Keys that
        have no chunk by then are left out.
        """
        for key in self.keys():
            chunk = self.get(key)
            if chunk is not None:
                yield key, chunk
                chunk._done_with()

    def values(self) -> Iterator[Chunk]:
        """Iterate over the newest chunks of all keys; see `items`."""
        for key in self.keys():
            chunk = self.get(key)
            if chunk is not None:
                yield chunk
                chunk._done_with()

    def follow(self) -> Follow:
        """Return an iterator over the chunks above the position, for `for` and `async for`.

        Each is released when the next one is requested. After everything that was put, it ends if
        the writer has closed, and raises PeerDied if the writer has died.
        """
        return Follow(self)

    def seek(self, version: int | None = None) -> int:
        """Continue after a version: 0 starts again, None moves behind the newest one.

        Returns the position, which is at most the version of the newest commit.
        """
        position = ffi.new("uint64_t *")
        target = _LAST if version is None else self._plain_version(version)
        self._checked(lib.py_store_seek(self._pointer, target, position))
        return int(position[0])

    @property
    def position(self) -> int:
        """The version after which `next` continues; 0 at first."""
        return self._number(lib.ipcheap_store_position)

    def statistics(self) -> StoreReaderStatistics:
        """Return how many chunks this reader was given and missed, and how many it holds."""
        from .results import StoreReaderStatistics

        numbers = self._numbers()
        return StoreReaderStatistics(
            given=int(numbers.given),
            skipped=int(numbers.skipped),
            held=int(numbers.held),
            parks=int(numbers.parks),
        )

    def __iter__(self) -> Iterator[Key]:
        return iter(self.keys())

    # asyncio ----------------------------------------------------------------------------------

    async def anext(self) -> Chunk:
        """Return the next chunk: `next()` for asyncio.

        A call that is cancelled has taken nothing. `asyncio.timeout()` limits the wait.
        """
        return await self._eventual(self._attempt, lambda: int(self.position))

    async def await_for(self, key: Key, newer_than: int = 0) -> Chunk:
        """Return the newest chunk of a key above `newer_than`: `wait_for()` for asyncio.

        A call that is cancelled has taken nothing. Several coroutines may wait with one reader.
        """
        version = self._plain_version(newer_than)

        def attempt() -> Chunk | int:
            found = self._wait_for(key, version, 0)
            return _WOULD_BLOCK if isinstance(found, int) and found == _TIMED_OUT else found

        return await self._eventual(attempt, lambda: self.version)

    # Inside -----------------------------------------------------------------------------------

    def _found(self, grip: Any) -> Any:
        if isinstance(grip, int):
            raise self._error(grip)
        return grip

    def _plain_version(self, version: Any) -> int:
        return min(_arguments.count(version, "a version"), _LAST)

    def _wait_for_later(self, key: Key, newer_than: int, timeout: float | None) -> Chunk:
        deadline = _timing.deadline_of(timeout)
        found: Any = None

        def step(nanoseconds: int) -> int:
            nonlocal found
            found = self._wait_for(key, newer_than, nanoseconds)
            return found if isinstance(found, int) else 0

        code = _timing.sleep(step, deadline)
        if code:
            raise self._error(code, doing=self._stalled)
        return found  # type: ignore[no-any-return]

    def _next_later(self, code: int, timeout: float | None) -> Chunk:
        deadline = _timing.deadline_of(timeout)
        while True:
            if code == _WOULD_BLOCK:
                code = self._wait(deadline)
            if code:
                raise self._error(code, doing=self._stalled)
            found = self._attempt()
            if not isinstance(found, int):
                return found
            code = found

    async def _eventual(
        self, attempt: Callable[[], Chunk | int], looked: Callable[[], int]
    ) -> Chunk:
        """Try until the result is a chunk; wait for versions above what `looked` returns."""
        self._turns += 1
        if self._turns % FAIR == 0:
            await self._give_way()
        while True:
            self._insist_open()
            seen = looked()
            found = attempt()
            if not isinstance(found, int):
                return found
            if found != _WOULD_BLOCK:
                raise self._error(found, doing=self._stalled)
            await self._until_above(seen)

    async def _until_above(self, version: int) -> None:
        """Wait until there is a version above that. The descriptor obeys the lowest one."""
        await self._until_least(version, self._awaited, self._notice)

    def _notice(self) -> int:
        return int(lib.py_store_notice(self._pointer, min(self._awaited, default=0)))

    def _error(self, code: int, doing: str = "", asked: int | None = None) -> Exception:
        if code == lib.PY_OTHER_FORM:
            return RecordError(
                f"the chunk of channel {self._channel!r} of {self._handle} is of another kind: "
                "get_array() takes arrays of loan() and allocate_array(), get_object() takes "
                "objects of put_object(), get() and get_bytes() take any"
            )
        if code == _TIMED_OUT and not doing:  # of a call that does not wait
            return TimeoutError(
                f"channel {self._channel!r} of {self._handle}: collections intervened in each of "
                "1,000 attempts; try again, or get fewer keys at a time"
            )
        if code == lib.IPCHEAP_HOLDS:
            doing = f"hold={self.hold}"
        return super()._error(code, doing or "not done", asked)
