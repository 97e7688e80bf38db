"""Stores: keyed chunks from one writer to many readers, which hold them in place."""

from __future__ import annotations

from . import _arguments
from ._core import ffi, lib
from ._directory import key_of
from ._failures import error, holder_state, holder_text
from ._native import text_of
from ._store_limits import Limited, fill_options, limits_of
from .channel import Channel, HeapMethods
from .chunk import wall_clock
from .store_reader import StoreReader
from .store_writer import StoreWriter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, ClassVar, TypeVar

    from ._arguments import ChannelId, Size
    from ._core import CData
    from ._handle import Handle
    from ._types import Key
    from .heap import Heap
    from .results import Hold, StoreReaderInfo, StoreStatistics

    T = TypeVar("T")

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


class Store(Limited, Channel, kind=lib.IPCHEAP_STORE):
    """Keyed chunks: one writer, any number of readers, each of which holds what it looks at."""

    _noun: ClassVar[str] = "a store"
    _sides: ClassVar[Mapping[int, str]] = {lib.IPCHEAP_WRITER: "writer"}

    def __init__(self, heap: Heap, channel_id: ChannelId, entry: CData) -> None:
        super().__init__(heap, channel_id, entry)
        self._limits = limits_of(heap._directory.handle, channel_id, entry)

    def writer(self, timeout: float | None = 0.0) -> StoreWriter:
        """Claim the writing side for this thread, within `timeout` s; see `Heap.store_writer`.

        ChannelNotFound as soon as this very store has been removed.
        """
        return StoreWriter(*self._claim(lib.IPCHEAP_WRITER, timeout), self)

    def reader(self, timeout: float | None = 0.0) -> StoreReader:
        """Become a reader in this thread, within `timeout` s; see `Heap.store_reader`.

        ChannelNotFound as soon as this very store has been removed.
        """
        return StoreReader(*self._claim(lib.IPCHEAP_READER, timeout), self)

    def statistics(self) -> StoreStatistics:
        """Return what the store contains, and what has happened to its chunks.

        It counts in time proportional to the slots. HeapBusy if the heap lock stays taken.
        """
        from .results import StoreStatistics

        handle, numbers = self._handle(), ffi.new("ipcheap_store_statistics *")
        self._checked(lib.py_store_describe(handle.pointer, self._entry, numbers))
        return StoreStatistics(
            **{name: int(getattr(numbers, name)) for name in StoreStatistics.__match_args__}
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
        now = wall_clock()
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
        fill_options(options, given)
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
        its._limits, wanted._limits = limits_of(handle, channel_id, entry), options
        differ = [name for name in given if getattr(its, name) != getattr(wanted, name)]
        has = _show({name: getattr(its, name) for name in differ})
        return f"with {has}, not {_show({name: given[name] for name in differ})}"


def _show(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in options.items())
