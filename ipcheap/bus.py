"""Buses: every listener hears every message, in one order."""

from __future__ import annotations

import math

from . import _arguments, _timing
from ._core import ffi, lib
from ._directory import key_of
from ._failures import error, holder_state, holder_text
from ._participants import participant_of
from ._types import BusCore
from .channel import Channel, HeapMethods
from .errors import ChannelBusy, ChannelClosed, RecordError
from .objects import PICKLE, encode
from .producer import Loan, no_bytes
from .record import OF_THE_RECORD, Record, allocate_array, allocate_packed

TYPE_CHECKING = False
if TYPE_CHECKING:
    import contextlib
    from collections.abc import Callable
    from typing import Any, ClassVar, NoReturn

    import numpy.typing

    from ._arguments import ChannelId
    from ._core import CData
    from ._handle import Handle
    from .array import Shape
    from .codec import Codec
    from .heap import Heap
    from .listener import Listener
    from .producer import BytesLike
    from .results import BroadcastReport, BusStatistics, ListenerInfo, Participant

_WOULD_BLOCK = lib.IPCHEAP_WOULD_BLOCK
_FOREVER = math.inf
_NOWHERE = 2**64 - 1
_MOST_LISTENERS = 4  # that an error names


class Bus(Channel, BusCore, kind=lib.IPCHEAP_BUS):
    """A channel that every listener hears: any number of writers, one order, no copies.

    `post` publishes a message and goes on; `broadcast` waits until every listener has released it.
    A bus needs no registration of writers, has no end of stream, and outlives all its users. Any
    thread may use it, also in a forked child.
    """

    _noun: ClassVar[str] = "a bus"

    def __init__(self, heap: Heap, channel_id: ChannelId, entry: CData) -> None:
        super().__init__(heap, channel_id, entry)
        handle = heap._directory.handle
        self._bind(handle, entry.index, entry.incarnation, entry.kind, entry.shape)
        self._options = ffi.new("ipcheap_bus_options *")
        lib.ipcheap_bus_options_of(entry, self._options)

    @property
    def capacity(self) -> int:
        """How many messages a listener may be behind, a power of two."""
        return int(self._options.capacity)

    @property
    def history(self) -> int:
        """How many of the last messages are kept for listeners that come later."""
        return int(self._options.history)

    @property
    def patience(self) -> float:
        """How many seconds a listener may be in a writer's way; infinity for any time."""
        return _patience_of(self._options)

    # Posting: allocate_record(), post(), post_record() and post_many() are in C: see _types.py. ---

    def post_object(self, obj: Any, timeout: float | None = None, *, codec: Codec = PICKLE) -> int:
        """Post an object, encoded by `codec`, by default as a pickle; return its position.

        The buffers of arrays in the object are copied once, directly into the record. Waits
        `timeout` seconds for room, None indefinitely, and raises as `post` does. An exception of
        the codec propagates, with a note of the bus.
        """
        record = self._encoded(obj, codec)
        try:
            return self.post_record(record, timeout)
        finally:
            record._done_with()

    def allocate_array(
        self, shape: Shape, dtype: numpy.typing.DTypeLike, *, order: str = "C"
    ) -> Record:
        """Return a new record whose `array()` has this `shape` and dtype, also for its receivers.

        The items are not initialised. `order` is "C" or "F". Raises as `Producer.allocate_array`.
        """
        return allocate_array(self._handle(), shape, dtype, order)

    def loan(
        self,
        shape: Shape,
        dtype: numpy.typing.DTypeLike,
        timeout: float | None = None,
        *,
        order: str = "C",
    ) -> contextlib.AbstractContextManager[numpy.typing.NDArray[Any]]:
        """Return a context manager that yields an array, and posts it when the block ends.

        The array has this `shape` and dtype, and its items are not initialised. If the block
        raises, it is freed instead. Posting waits `timeout` seconds for room, None indefinitely,
        and raises as `post_record` does.
        """
        what = (shape, dtype, order)
        return Loan(self._handle(), what, lambda record: self.post_record(record, timeout))

    async def apost(self, data: BytesLike) -> int:
        """Post a copy of a bytes-like object: `post()` for asyncio.

        A call that is cancelled while it waits for room has posted nothing.
        """
        return await self._soon(lambda: self._try_bytes(data))

    async def apost_record(self, record: Record) -> int:
        """Post a record: `post_record()` for asyncio."""
        return await self._soon(lambda: self._try(record))

    async def apost_object(self, obj: Any, *, codec: Codec = PICKLE) -> int:
        """Post an object: `post_object()` for asyncio."""
        record = self._encoded(obj, codec)
        try:
            return await self.apost_record(record)
        finally:
            record._done_with()

    # Broadcasting ------------------------------------------------------------------------------

    def broadcast(
        self, data: BytesLike, timeout: float | None = None, *, nowait: bool = False
    ) -> BroadcastReport:
        """Post a copy of a bytes-like object, and wait until all listeners have released it.

        While one broadcast waits, no other is posted; posts may come in between. The call waits
        `timeout` seconds in all, None indefinitely. If that passes before the message is posted,
        TimeoutError says who is in the way, and nothing was posted. If it passes afterwards, the
        report names the slow listeners, which get the message later, in its place. With `nowait`,
        ChannelBusy is raised instead of waiting for the turn or for room. Listeners of this thread
        are not waited for. ChannelClosed if the bus is removed meanwhile.
        """
        return self._broadcast(data, False, timeout, nowait)

    def broadcast_record(
        self, record: Record, timeout: float | None = None, *, nowait: bool = False
    ) -> BroadcastReport:
        """Broadcast a record, not a copy; afterwards it is dead.

        `timeout`, in seconds, and `nowait` are as for `broadcast`. After an exception before it
        was posted, the record is still the caller's.
        """
        return self._broadcast(record, True, timeout, nowait)

    def broadcast_object(
        self,
        obj: Any,
        timeout: float | None = None,
        *,
        nowait: bool = False,
        codec: Codec = PICKLE,
    ) -> BroadcastReport:
        """Broadcast an object, encoded by `codec`.

        `timeout`, in seconds, and `nowait` are as for `broadcast`.
        """
        record = self._encoded(obj, codec)
        try:
            return self._broadcast(record, True, timeout, nowait)
        finally:
            record._done_with()

    def drain(self, timeout: float | None = None) -> BroadcastReport:
        """Wait until all listeners have released what was posted before the call.

        Waits `timeout` seconds, None indefinitely; then the report names the slow listeners.
        """
        deadline = _timing.deadline_of(timeout)
        handle, broadcast = self._begin()
        try:
            self._checked(lib.py_drain_begin(broadcast))
            return self._await(handle, broadcast, deadline)
        finally:
            lib.py_broadcast_end(broadcast)

    async def abroadcast(self, data: BytesLike) -> BroadcastReport:
        """Broadcast a copy of a bytes-like object: `broadcast()` for asyncio.

        If it is cancelled before it was posted, nothing was posted; afterwards it only stops
        waiting. `asyncio.timeout()` limits the wait.
        """
        return await self._abroadcast(data, False)

    async def abroadcast_record(self, record: Record) -> BroadcastReport:
        """Broadcast a record: `broadcast_record()` for asyncio."""
        return await self._abroadcast(record, True)

    async def abroadcast_object(self, obj: Any, *, codec: Codec = PICKLE) -> BroadcastReport:
        """Broadcast an object: `broadcast_object()` for asyncio."""
        record = self._encoded(obj, codec)
        try:
            return await self._abroadcast(record, True)
        finally:
            record._done_with()

    async def adrain(self) -> BroadcastReport:
        """Wait until all have released what was posted before: `drain()` for asyncio."""
        handle, broadcast = self._begin()
        try:
            self._checked(lib.py_drain_begin(broadcast))
            await self._in_thread(broadcast, lib.py_await_releases)
            return _report(handle, broadcast)
        finally:
            lib.py_broadcast_end(broadcast)

    # Listening ---------------------------------------------------------------------------------

    def listen(self, *, history: int = 0, lossy: bool = False) -> Listener:
        """Register a listener of this thread: it misses nothing from here on.

        With `history` it begins with as many of the messages that the bus has kept; ValueError if
        that is more than the bus's history. With `lossy` it never makes a writer wait, and loses
        what it does not receive in time. ChannelBusy if the bus has 4,096 listeners.
        """
        from .listener import Listener

        handle = self._handle()
        options = ffi.new("ipcheap_listen_options *")
        options.history = min(_arguments.count(history, "history"), _NOWHERE)
        options.flags = lib.IPCHEAP_LOSSY if lossy else 0
        place = ffi.new("ipcheap_endpoint **")
        self._directory_ready()
        code = lib.py_listen(handle.pointer, self._entry, options, place)
        if code == lib.IPCHEAP_BAD_VALUE:
            raise ValueError(
                f"{self!r} keeps a history of {self.history} messages, and {history} were asked for"
            )
        if code == lib.IPCHEAP_CHANNEL_BUSY:
            raise error(code, handle, self._id, holder="it has 4096 listeners, the most of a bus")
        self._checked(code)
        return Listener(handle, self._id, place[0])

    def wait_listeners(self, count: int = 1, timeout: float | None = None) -> None:
        """Wait until the bus has `count` listeners; TimeoutError after `timeout` seconds.

        None waits indefinitely.
        """
        wanted = _arguments.count(count, "count")
        deadline = _timing.deadline_of(timeout)

        def attempt() -> int:
            there = sum(1 for each in self.listeners() if each.participant.state != "dead")
            return 0 if there >= wanted else _WOULD_BLOCK

        def limited() -> int:
            return self._limited(deadline, attempt)

        code = self._heap._directory.repeat(limited, (_WOULD_BLOCK,), deadline)
        if code == _WOULD_BLOCK:
            code = lib.IPCHEAP_TIMED_OUT
        if code:
            noun = "listener" if wanted == 1 else "listeners"
            raise error(code, self._handle(), self._id, doing=f"there were not {wanted} {noun}")

    def listeners(self) -> list[ListenerInfo]:
        """Return the listeners, in no particular order. HeapBusy if the heap lock stays taken."""
        from .results import ListenerInfo

        return [
            ListenerInfo(
                participant=participant_of(info.holder),
                joined=int(info.joined),
                pending=int(info.pending),
                held=int(info.held),
                lossy=bool(info.lossy),
                lost=int(info.lost),
            )
            for info in _each_listener(self._handle(), self._entry, self._id)
            if not info.closed
        ]

    def statistics(self) -> BusStatistics:
        """Return what was posted, and who listens."""
        from .results import BusStatistics

        numbers = ffi.new("ipcheap_bus_statistics *")
        self._checked(lib.py_bus_describe(self._handle().pointer, self._entry, numbers))
        return BusStatistics(
            **{name: int(getattr(numbers, name)) for name in BusStatistics.__match_args__}
        )

    def __repr__(self) -> str:
        return f"<Bus {self._id!r} of {self._heap.label}, {self.capacity} messages>"

    # Inside -------------------------------------------------------------------------------------

    @classmethod
    def _describe(cls, entry: CData) -> str:
        options = ffi.new("ipcheap_bus_options *")
        lib.ipcheap_bus_options_of(entry, options)
        return f"a bus with {_show(_options_of(options))}"

    @classmethod
    def _others(cls, handle: Handle, entry: CData) -> list[str]:
        names = [
            holder_text(info.holder) for info in _each_listener(handle, entry) if not info.closed
        ]
        if not names:
            return []
        more = f" and {len(names) - _MOST_LISTENERS} more" if len(names) > _MOST_LISTENERS else ""
        verb = "listens" if len(names) == 1 else "listen"
        return [f"{', '.join(names[:_MOST_LISTENERS])}{more} {verb} to it"]

    def _handle(self) -> Handle:
        return self._heap._directory.handle

    def _directory_ready(self) -> None:
        from ._handle import close_at_exit

        close_at_exit()

    def _checked(self, code: int) -> int:
        if code < 0:
            raise self._error(code)
        return int(code)

    def _error(self, code: int, doing: str = "not done", asked: int | None = None) -> Exception:
        return error(code, self._handle(), self._id, side="bus", doing=doing, asked=asked)

    def _encoded(self, obj: Any, codec: Codec) -> Record:
        return allocate_packed(self._handle(), encode(codec, obj, "posted on", self))

    # Waiting for room, and for the turn.

    def _blocker(self, broadcast: bool) -> str:
        """Return who is in the way, as a sentence."""
        holder = ffi.new("ipcheap_holder *")
        code = lib.py_bus_blocker(self._handle().pointer, self._entry, broadcast, holder)
        if code <= 0:
            return "there was no room in the log"
        state = holder_state(holder)
        who = holder_text(holder) + (f", {state}" if state.startswith("stopped") else "")
        if code == 2:
            return f"it is still the turn of a broadcast of {who}"
        return f"the listener {who} is {self.capacity} messages behind"

    def _timed_out(self, broadcast: bool) -> Exception:
        blocker = self._blocker(broadcast)
        return TimeoutError(
            f"channel {self._id!r} of {self._handle()}: nothing was posted within the timeout, "
            f"because {blocker}"
        )

    def _wait_room(self, deadline: float) -> None:
        """Wait until there may be room; TimeoutError at the deadline."""
        handle, code = self._handle(), int(lib.IPCHEAP_TIMED_OUT)
        if _timing.time_left(deadline) > 0:
            code = self._own_first(deadline) or _timing.sleep(
                lambda ns: int(lib.py_wait_room(handle.pointer, self._entry, ns)), deadline
            )
        if code == lib.IPCHEAP_TIMED_OUT:
            raise self._timed_out(False)
        self._checked(code)

    def _own_first(self, deadline: float) -> int:
        """Return OWN_LISTENER if the call would wait indefinitely for this thread itself."""
        if deadline != _FOREVER:
            return 0
        code = int(lib.py_own_listener(self._handle().pointer, self._entry))
        return min(code, 0)

    def _post_later(self, code: int, data: BytesLike, timeout: float | None) -> int:
        return self._insist(code, lambda: self._try_bytes(data), data, timeout)

    def _post_record_later(self, code: int, record: Record, timeout: float | None) -> int:
        return self._insist(code, lambda: self._try(record), record, timeout)

    def _insist(
        self, code: int, attempt: Callable[[], int], what: Any, timeout: float | None
    ) -> int:
        deadline = _timing.deadline_of(timeout)
        if code != _WOULD_BLOCK:
            raise self._not_posted(code, what)
        while True:
            self._wait_room(deadline)
            code = self._limited(deadline, attempt)
            if code != _WOULD_BLOCK:
                return code

    @staticmethod
    def _limited(deadline: float, attempt: Callable[[], int]) -> int:
        """Make an attempt that waits for the heap lock until shortly after a deadline at most."""
        lib.ipcheap_limit_lock(_span(deadline))
        try:
            return attempt()
        finally:
            lib.ipcheap_limit_lock(-1)

    def _await_room(
        self, code: int, data: BytesLike, timeout: float | None, deadline: float | None
    ) -> float:
        """Wait until there may be room; return the deadline, which the first wait sets."""
        if deadline is None:
            deadline = _timing.deadline_of(timeout)
        if code != _WOULD_BLOCK:
            raise self._not_posted(code, data)
        self._wait_room(deadline)
        return deadline

    def _try(self, record: Record) -> int:
        """Return a position, or WOULD_BLOCK; raise anything else."""
        return self._position(self._attempt(record), record)

    def _try_bytes(self, data: BytesLike) -> int:
        return self._position(self._attempt_bytes(data), data)

    def _position(self, code: int, what: Any) -> int:
        if code < 0 and code != _WOULD_BLOCK:
            raise self._not_posted(code, what)
        return code

    def _not_posted(self, code: int, what: Any) -> Exception:
        if isinstance(what, Record):
            if code in OF_THE_RECORD:
                return what._refusal(code, "posted")
            if code == lib.IPCHEAP_RECORD and what._source.handle is not self._handle():
                return RecordError(
                    f"{what!r} cannot be posted in another heap, {self._handle()}: post its bytes"
                )
            if code not in (lib.PY_NOT_BYTES, lib.PY_OBJECTS):
                return error(code, self._handle(), self._id)
        if code == lib.PY_NOT_A_RECORD:
            return TypeError(f"this call posts a Record, not {type(what).__name__}")
        refused = no_bytes(code, what, "post")
        if refused is not None:
            return refused
        asked = None
        if code in (lib.IPCHEAP_HEAP_FULL, lib.IPCHEAP_MEMORY_FULL, lib.IPCHEAP_NO_MEMORY):
            asked = memoryview(what).nbytes
        return self._error(code, asked=asked)

    async def _soon(self, attempt: Callable[[], int]) -> int:
        code = attempt()
        while code == _WOULD_BLOCK:
            await self._room_in_thread()
            code = attempt()
        return code

    async def _room_in_thread(self) -> None:
        """Wait for room in another thread, while other tasks of this one may receive."""
        import asyncio

        handle = self._handle()
        stopped = False

        def wait() -> int:
            code = int(lib.IPCHEAP_TIMED_OUT)
            while code == lib.IPCHEAP_TIMED_OUT and not stopped:
                span = _timing.in_nanoseconds(_timing.LOOK_AGAIN)
                code = int(lib.py_wait_room(handle.pointer, self._entry, span))
            return code

        try:
            code = await asyncio.to_thread(wait)
        finally:
            stopped = True
        if code not in (0, lib.IPCHEAP_INTERRUPTED, lib.IPCHEAP_TIMED_OUT):
            raise self._error(code)

    # Broadcasts.

    def _broadcast(
        self, what: Any, is_record: bool, timeout: float | None, nowait: bool
    ) -> BroadcastReport:
        if timeout is None:
            code = self._broadcast_now(what, is_record)
            if not isinstance(code, int):
                return code
            if code > 0:  # its address: it has posted, and the wait is over
                broadcast = ffi.cast("ipcheap_broadcast *", code)
                try:
                    return self._await(self._handle(), broadcast, _FOREVER)
                finally:
                    lib.py_broadcast_end(broadcast)
            if code != _WOULD_BLOCK:
                raise self._not_posted(code, what)
        deadline = _timing.deadline_of(timeout)
        handle, broadcast = self._begin()
        try:
            self._post_in_turn(broadcast, what, is_record, deadline, nowait)
            return self._await(handle, broadcast, deadline)
        finally:
            lib.py_broadcast_end(broadcast)

    def _begin(self) -> tuple[Handle, CData]:
        handle, place = self._handle(), ffi.new("ipcheap_broadcast **")
        self._checked(lib.py_broadcast_begin(handle.pointer, self._entry, place))
        return handle, place[0]

    def _post_in_turn(
        self, broadcast: CData, what: Any, is_record: bool, deadline: float, nowait: bool
    ) -> None:
        """Wait for the turn and for room, and post."""
        address = int(ffi.cast("uintptr_t", broadcast))
        while True:
            code = self._try_broadcast(address, what, is_record, _span(deadline))
            if code == 0:
                return
            if code != _WOULD_BLOCK:
                raise self._not_posted(code, what)
            if nowait:
                raise self._busy()
            own = self._own_first(deadline)
            if own:
                raise self._error(own)
            code = lib.IPCHEAP_TIMED_OUT
            if _timing.time_left(deadline) > 0:
                code = _timing.sleep(lambda ns: int(lib.py_wait_turn(broadcast, ns)), deadline)
            if code == lib.IPCHEAP_TIMED_OUT:
                raise self._timed_out(True)
            self._checked(code)

    def _busy(self) -> Exception:
        return ChannelBusy(
            f"channel {self._id!r} of {self._handle()}: nothing was posted, because "
            f"{self._blocker(True)}"
        )

    def _await(self, handle: Handle, broadcast: CData, deadline: float) -> BroadcastReport:
        """Wait until all have released the message, or the deadline."""
        code = _timing.sleep(lambda ns: int(lib.py_await_releases(broadcast, ns)), deadline)
        if code not in (0, lib.IPCHEAP_TIMED_OUT):
            raise self._removed(code)
        return _report(handle, broadcast)

    def _removed(self, code: int) -> Exception:
        if code != lib.IPCHEAP_CHANNEL_NOT_FOUND:
            return self._error(code)
        return ChannelClosed(
            f"channel {self._id!r} of {self._handle()}: it was removed while a broadcast waited"
        )

    async def _abroadcast(self, what: Any, is_record: bool) -> BroadcastReport:
        handle, broadcast = self._begin()
        address = int(ffi.cast("uintptr_t", broadcast))
        try:
            while True:
                code = self._try_broadcast(address, what, is_record, -1)
                if code == 0:
                    break
                if code != _WOULD_BLOCK:
                    raise self._not_posted(code, what)
                await self._in_thread(broadcast, lib.py_wait_turn)
            await self._in_thread(broadcast, lib.py_await_releases)
            return _report(handle, broadcast)
        finally:
            lib.py_broadcast_end(broadcast)

    async def _in_thread(self, broadcast: CData, wait: Callable[[CData, int], int]) -> None:
        """Have another thread wait, and stay until it has stopped, also if this is cancelled."""
        import asyncio

        def work() -> int:
            code = int(lib.IPCHEAP_TIMED_OUT)
            span = _timing.in_nanoseconds(_timing.LONGEST_SLEEP)
            while code == lib.IPCHEAP_TIMED_OUT:
                code = int(wait(broadcast, span))
            return code

        working = asyncio.ensure_future(asyncio.to_thread(work))
        try:
            code = await asyncio.shield(working)
        except asyncio.CancelledError:
            lib.ipcheap_broadcast_cancel(broadcast)
            while not working.done():
                await asyncio.wait([working])
            raise
        if code not in (0, lib.IPCHEAP_INTERRUPTED):
            raise self._removed(code)

    def _refuse(self, code: int, what: Any) -> NoReturn:
        raise self._not_posted(code, what)


def _span(deadline: float) -> int:
    """Return the nanoseconds until a deadline; -1 for none."""
    return -1 if deadline == _FOREVER else _timing.in_nanoseconds(_timing.time_left(deadline))


def _report(handle: Handle, broadcast: CData) -> BroadcastReport:
    """Return what became of a broadcast, as of the last look."""
    from .results import BroadcastReport

    numbers = ffi.new("ipcheap_broadcast_report *")
    lib.ipcheap_broadcast_describe(broadcast, numbers)
    cursor, holder = ffi.new("uint64_t *"), ffi.new("ipcheap_holder *")
    slow: list[Participant] = []
    while lib.ipcheap_next_slow(broadcast, cursor, holder) == 1:
        slow.append(participant_of(holder))
    del handle
    position = int(numbers.position)
    return BroadcastReport(
        position=-1 if position == _NOWHERE else position,
        listeners=int(numbers.listeners),
        released=int(numbers.released),
        gone=int(numbers.gone),
        slow=tuple(slow),
    )


def _each_listener(handle: Handle, entry: CData, channel: ChannelId | None = None) -> list[CData]:
    cursor = ffi.new("uint32_t *")
    found: list[CData] = []
    while True:
        info = ffi.new("ipcheap_listener_info *")
        code = lib.py_next_listener(handle.pointer, entry, cursor, info)
        if code < 0:
            raise error(code, handle, channel)
        if code != 1:
            return found
        found.append(info)


def _patience_of(options: CData) -> float:
    return _FOREVER if options.patience_ns < 0 else options.patience_ns / 1e9


def _options_of(options: CData) -> dict[str, Any]:
    return {
        "capacity": int(options.capacity),
        "history": int(options.history),
        "patience": _patience_of(options),
    }


def _show(options: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in options.items())


def _patience(value: float) -> int:
    """Return nanoseconds, -1 for infinity; ValueError if negative or no number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"patience must be seconds, not {type(value).__name__}")
    if not value >= 0:
        raise ValueError(f"patience must be seconds, at least 0, not {value!r}")
    return -1 if value > 4e6 else int(value * 1e9)


class BusMethods(HeapMethods):
    """The methods of `Heap` for buses."""

    def add_bus(
        self,
        id: ChannelId,
        capacity: int | None = None,
        *,
        history: int | None = None,
        patience: float | None = None,
        exclusive: bool = False,
    ) -> Bus:
        """Add a bus, or return the existing one.

        `capacity`, rounded up to a power of two, is how many messages a listener may be behind
        before writers wait; 256 for a new bus. The last `history` messages, at most the capacity,
        are kept for listeners that come later. A listener that is in a writer's way for `patience`
        seconds without receiving anything is passed: it loses messages. The default waits
        for any time, and 0 makes all listeners lossy.

        What is passed must be so in an existing bus, else ChannelTypeError; what is not passed may
        be anything there. With `exclusive`, ChannelExists if there is a channel of that ID.
        HeapFull if there is no room for another channel.
        """
        channel_id = _arguments.channel_id(id)
        directory, entry = self._directory, ffi.new("ipcheap_channel *")
        options = ffi.new("ipcheap_bus_options *")
        options.flags = lib.IPCHEAP_EXCLUSIVE if exclusive else 0
        if capacity is not None:
            options.given |= lib.IPCHEAP_BUS_CAPACITY
            options.capacity = min(_arguments.count(capacity, "capacity", least=1), _NOWHERE)
        if history is not None:
            options.given |= lib.IPCHEAP_BUS_HISTORY
            options.history = min(_arguments.count(history, "history"), _NOWHERE)
        if patience is not None:
            options.given |= lib.IPCHEAP_BUS_PATIENCE
            options.patience_ns = _patience(patience)
        code = lib.py_add_bus(directory.handle.pointer, key_of(channel_id), options, entry)
        given = {"capacity": capacity, "history": history, "patience": patience}
        shown = _show({name: value for name, value in given.items() if value is not None})
        if code == lib.IPCHEAP_BAD_VALUE:
            raise ValueError(
                f"no bus can have {shown}: the history is at most the capacity, and that is at "
                "most 2**24 messages"
            )
        wanted = f"not a bus with {shown}" if shown else "not a bus"
        directory.check(code, channel_id, wanted=wanted)
        return Bus(self._this_heap(), channel_id, entry)

    def bus(self, id: ChannelId, timeout: float | None = 0.0) -> Bus:
        """Return the bus of that ID; ChannelNotFound if none is there within `timeout` seconds.

        ChannelTypeError for a channel of another kind.
        """
        channel_id = _arguments.channel_id(id)
        entry = self._directory.find(channel_id, _timing.deadline_of(timeout))
        if entry.kind != lib.IPCHEAP_BUS:
            self._directory.check(lib.IPCHEAP_CHANNEL_TYPE, channel_id, wanted="not a bus")
        return Bus(self._this_heap(), channel_id, entry)
