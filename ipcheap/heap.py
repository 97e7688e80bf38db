"""The heap: one shared-memory segment and what lives in it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from . import _arguments, _native, _segments
from ._core import ffi, lib
from ._native import Handle
from .channel import Channel, RecordChannel, id_of, key_of
from .consumer import Consumer
from .errors import HeapNotFound
from .producer import Producer
from .static import StaticSegment, is_being_initialised

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, Self

    from ._arguments import ChannelId, Size
    from ._core import CData
    from ._segments import Segment
    from .record import Record
    from .results import HeapStatistics, Participant, RecoveryReport

DEFAULT_SLOTS = 1024

# How long to sleep before looking again, unless woken: for a holder that dies wakes nobody.
_LOOK_AGAIN = 0.1

_LONGEST_LOCK_TIMEOUT = 1e9  # seconds; what is longer is as good as that

_MOST_WITNESSED = 4096  # the dead, and channels, that a report of recovery has room for


class _Channels(Mapping["ChannelId", Channel]):
    """The channels of a heap, by ID, as they are when asked for."""

    def __init__(self, heap: Heap) -> None:
        self._heap = heap

    def __getitem__(self, channel_id: ChannelId) -> Channel:
        return self._heap.channel(channel_id)

    def __iter__(self) -> Iterator[ChannelId]:
        handle = self._heap._open_handle()
        cursor, key = ffi.new("uint32_t *"), ffi.new("ipcheap_key *")
        entry = ffi.new("ipcheap_channel *")
        while (code := lib.ipcheap_next_channel(handle.pointer, cursor, key, entry)) == 1:
            if not is_being_initialised(handle, entry):
                yield id_of(key)
        if code < 0:
            raise _native.error(code, handle)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"<channels of {self._heap.label}: {', '.join(map(repr, self))}>"


class Heap:
    """A named shared-memory segment: an allocator for many processes, and their channels.

    Made by `create`, `attach` or `open`. A context manager that closes, and does not unlink.
    It pickles: the other process attaches. After `fork` it works in the child, which is a
    participant of its own. A closed heap raises `HeapClosed`; its records can be freed still.
    """

    def __init__(self, segment: Segment) -> None:
        self._name = segment.name
        self._handle = Handle(segment.fd, segment.shmid, segment.name, segment.path)
        self._file = os.fstat(segment.fd)
        # What only a descriptor leads to is kept open, to be passed on.
        self._fd = os.dup(segment.fd) if segment.name is None else -1
        info = ffi.new("ipcheap_heap_info *")
        code = lib.ipcheap_heap_describe(self._handle.pointer, info)
        if code:
            raise _native.error(code, self._handle)
        self._capacity = int(info.capacity)
        self._identity = int(info.identity)
        self._shm = _native.SHM_KINDS[int(info.shm_kind)]
        self._sem = _native.SEM_KINDS[int(info.sem_kind)]

    # Coming and going -----------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        name: str | None = None,
        capacity: Size = "1GiB",
        *,
        shm: str = "posix",
        sem: str = "futex",
        mode: int = 0o600,
    ) -> Self:
        """Make a heap; HeapExists when there is one of that name.

        `name` is 1 to 200 of A-Z a-z 0-9 . _ -, or a path for shm="file". `capacity` is for
        users' data: bytes, or a string like "64MiB"; memory is taken as it is needed.
        `shm` is "posix", "sysv", "file" or "memfd" (which has no name and travels by pickle);
        `sem`, what waiters for the heap lock sleep on, "futex", "posix" or "sysv". `mode`
        gives the permissions, whatever the umask.

        Also raises HeapFull when the file system has no room for what a new heap needs, which
        for shm="sysv" is all of it, and HeapBusy when somebody else is making or removing one
        of that name and does not get done.
        """
        return cls._make(name, capacity, shm, sem, mode, take_existing=False)

    @classmethod
    def open(
        cls,
        name: str,
        capacity: Size = "1GiB",
        *,
        shm: str = "posix",
        sem: str = "futex",
        mode: int = 0o600,
    ) -> Self:
        """Attach to a heap as it is, or create it if there is none; without a race.

        Capacity, kinds and mode of one that is there are its creator's. Raises as `create` and
        `attach` do, but for HeapExists and HeapNotFound.
        """
        return cls._make(name, capacity, shm, sem, mode, take_existing=True)

    @classmethod
    def attach(cls, name: str, *, timeout: float | None = 0.0) -> Self:
        """Attach to a heap; wait `timeout` seconds for it to appear, then HeapNotFound.

        FormatMismatch for something else of that name, or a heap of another version;
        PermissionError for one that the caller may not write to.
        """
        seconds = _arguments.timeout(timeout)
        return cls._of(_segments.find(_arguments.heap_name(name), seconds))

    @classmethod
    def _make(
        cls,
        name: str | None,
        capacity: Size,
        shm: str,
        sem: str,
        mode: int,
        *,
        take_existing: bool,
    ) -> Self:
        nbytes = _arguments.capacity(capacity)
        if not lib.ipcheap_segment_bytes(min(nbytes, 2**64 - 1)):
            raise ValueError(f"capacity of {nbytes} bytes is more than a heap can have")
        shm = _arguments.choice(shm, "shm", _native.SHM_KINDS)
        sem = _arguments.choice(sem, "sem", _native.SEM_KINDS)
        mode = _arguments.file_mode(mode)
        if shm == "memfd":
            label = "ipcheap" if name is None else _arguments.heap_name(name)
            return cls._of(_segments.create_nameless(label.replace("/", "_"), nbytes, sem))
        name = _arguments.heap_name(name)
        if _arguments.is_path(name) != (shm == "file"):
            raise ValueError(f"a name with '/' is a path and goes with shm='file': {name!r}, {shm}")
        return cls._of(_segments.create(name, nbytes, shm, sem, mode, take_existing=take_existing))

    @classmethod
    def _of(cls, segment: Segment) -> Self:
        try:
            return cls(segment)
        except BaseException:
            if segment.is_new and segment.name is not None:
                _segments.remove(segment.name, only=os.fstat(segment.fd))
            raise
        finally:
            segment.close()

    def close(self) -> None:
        """Close this process's endpoints and leave the heap, which stays for others.

        Views, arrays and records stay valid, and can be freed.
        """
        if not self._handle.closed:
            self._handle.close()
            self._handle = self._handle.left()
            self._close_descriptor()

    def unlink(self) -> None:
        """Remove the heap's name and all its kernel objects; who has it open goes on.

        Does nothing for a memfd heap. HeapNotFound when the name is gone, or another's.
        """
        if self._name is not None:
            _segments.remove(self._name, only=self._file)

    def __enter__(self) -> Self:
        self._open_handle()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            self._close_descriptor()

    def _close_descriptor(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            _segments.leave_nameless(fd)

    def __reduce__(self) -> tuple[Any, ...]:
        self._open_handle()
        if self._name is None:
            from multiprocessing import reduction  # here only, for it takes its time

            return _attach_descriptor, (type(self), reduction.DupFd(self._fd))
        return _attach_same, (type(self), self._name, self._identity)

    def __repr__(self) -> str:
        state = ", closed" if self.closed else ""
        size = _arguments.show_size(self._capacity)
        return f"<Heap {self._name!r}, {size}, shm={self._shm!r}, sem={self._sem!r}{state}>"

    # What it is -----------------------------------------------------------------------------

    @property
    def name(self) -> str | None:
        """Its name or path; None for a memfd heap."""
        return self._name

    @property
    def label(self) -> str:
        """What messages call it."""
        return repr(self._handle)

    @property
    def capacity(self) -> int:
        """Bytes for users' data."""
        return self._capacity

    @property
    def shm(self) -> str:
        """What kind of shared memory it is: "posix", "sysv", "file" or "memfd"."""
        return self._shm

    @property
    def sem(self) -> str:
        """What waiters for its lock sleep on: "futex", "posix" or "sysv"."""
        return self._sem

    @property
    def identity(self) -> int:
        """A random number that no other heap has, also not a later one of that name."""
        return self._identity

    @property
    def closed(self) -> bool:
        """Whether it has been closed here."""
        return self._handle.closed

    def set_lock_timeout(self, timeout: float) -> None:
        """Set after how many seconds this process gives up waiting for the heap lock: HeapBusy.

        10 s unless set. ValueError for None or infinity, because Ctrl-C does not end that wait.
        """
        seconds = _arguments.timeout(timeout)
        if seconds == float("inf"):
            raise ValueError(
                "timeout must be finite: Ctrl-C does not end waiting for the heap lock"
            )
        nanoseconds = int(min(seconds, _LONGEST_LOCK_TIMEOUT) * 1e9)
        lib.ipcheap_set_lock_timeout(self._open_handle().pointer, nanoseconds)

    def statistics(self) -> HeapStatistics:
        """Return how full it is, and of what; HeapBusy if the heap lock cannot be had."""
        numbers = ffi.new("ipcheap_statistics *")
        self._check(lib.py_heap_statistics(self._open_handle().pointer, numbers))
        from .results import HeapStatistics

        return HeapStatistics(
            **{name: int(getattr(numbers, name)) for name in HeapStatistics.__dataclass_fields__}
        )

    def trim(self, keep: Size = 0) -> int:
        """Give free memory beyond `keep` bytes back to the system; return how many bytes went.

        HeapBusy if the heap lock cannot be had.
        """
        keep = _arguments.size(keep, "keep")
        return self._check(lib.py_trim(self._open_handle().pointer, keep))

    def check(self) -> list[str]:
        """Look at every structure in it; return a sentence for each broken invariant.

        The dead who await recovery are none. HeapBusy if the heap lock cannot be had.
        """
        room = 1 << 18
        text = ffi.new("char[]", room)
        count = self._check(lib.py_check(self._open_handle().pointer, text, room))
        lines = _native.text_of(text).splitlines()
        if count > len(lines):
            lines.append(f"and {count - len(lines)} more")
        return lines

    def recover(self) -> RecoveryReport:
        """Clean up after the dead at once, and make all indices of the heap again.

        Else it is done as it is needed: by whoever waits for one who died, or needs what he
        had. HeapBusy if the heap lock cannot be had, CorruptHeap when the heap is beyond
        that.
        """
        report, witness = ffi.new("ipcheap_recovery *"), ffi.new("py_witness *")
        dead = ffi.new("ipcheap_holder[]", _MOST_WITNESSED)
        channels = ffi.new("py_redelivery[]", _MOST_WITNESSED)
        witness.dead, witness.channels = dead, channels
        witness.dead_room = witness.channel_room = _MOST_WITNESSED
        self._check(lib.py_recover(self._open_handle().pointer, report, witness))
        from .results import RecoveryReport

        again: dict[ChannelId, int] = {}
        for n in range(witness.channel_count):
            channel_id = id_of(channels[n].key)
            again[channel_id] = again.get(channel_id, 0) + int(channels[n].records)
        return RecoveryReport(
            participants=int(report.participants),
            endpoints=int(report.endpoints),
            blocks=int(report.blocks),
            bytes=int(report.bytes),
            redelivered=int(report.redelivered),
            dead=tuple(_participant(dead[n]) for n in range(witness.dead_count)),
            channels=again,
        )

    def participants(self) -> list[Participant]:
        """Return who takes part in it, and who has died and awaits recovery."""
        handle = self._open_handle()
        cursor, holder = ffi.new("uint32_t *"), ffi.new("ipcheap_holder *")
        found: list[Participant] = []
        while lib.ipcheap_next_participant(handle.pointer, cursor, holder) == 1:
            found.append(_participant(holder))
        return found

    # Records and channels ---------------------------------------------------------------------

    def allocate_record(self, nbytes: int) -> Record:
        """Return a record of so many bytes, not initialised; HeapFull if there is no room.

        ValueError for a size that no heap can have.
        """
        return self._open_handle().allocate(nbytes)

    def add_record_channel(self, id: ChannelId, capacity: int | None = None) -> RecordChannel:
        """Add a channel of records, or take the one of that shape that is there.

        `capacity`, rounded up to a power of two, bounds the records in flight and held; 1024
        for a new channel. Without it a channel is taken whatever its capacity;
        ChannelTypeError when it differs, or the ID is that of a static segment. HeapFull when
        there is no room for another channel.
        """
        channel_id = _arguments.channel_id(id)
        handle, key, entry = self._open_handle(), key_of(channel_id), ffi.new("ipcheap_channel *")
        # Without a capacity twice more: somebody else may add it meanwhile.
        slots = 0 if capacity is None else _arguments.count(capacity, "capacity", least=1)
        code = lib.py_add_record_channel(handle.pointer, key, min(slots, 2**63), entry)
        for other in (DEFAULT_SLOTS, 0) if capacity is None else ():
            if code in (lib.IPCHEAP_CHANNEL_NOT_FOUND, lib.IPCHEAP_CHANNEL_TYPE):
                code = lib.py_add_record_channel(handle.pointer, key, other, entry)
        if code == lib.IPCHEAP_BAD_VALUE:
            raise ValueError(f"capacity of {capacity} is more slots than a channel can have")
        wanted = (
            "not a record channel" if capacity is None else f"not a record channel of {capacity}"
        )
        self._check(code, channel_id, asked=16 * slots, wanted=f"{wanted} slots")
        return RecordChannel(self, channel_id, entry)

    def add_static_segment(
        self,
        id: ChannelId,
        nbytes: int | None = None,
        init: Callable[[memoryview], object] | None = None,
    ) -> StaticSegment:
        """Add a segment of `nbytes` zero bytes, or take the one of that size that is there.

        `init(view)` runs once, before anybody else gets the segment; if it raises, that
        comes out here and the next one who adds the segment runs theirs. Without `nbytes`
        a segment that is there is taken whatever its size. ChannelTypeError when the size
        differs or the ID is that of a channel, ChannelNotFound when there is none and no size
        is given, HeapFull when there is no room.
        """
        channel_id = _arguments.channel_id(id)
        size = 0 if nbytes is None else _arguments.count(nbytes, "nbytes", least=1)
        handle, key = self._open_handle(), key_of(channel_id)
        entry = ffi.new("ipcheap_channel *")

        def attempt() -> int:
            return int(lib.py_add_static_segment(handle.pointer, key, size, entry))

        code = self._repeat(attempt, (lib.IPCHEAP_WOULD_BLOCK,), float("inf"))
        wanted = "not a static segment" + (f" of {size} bytes" if size else "")
        if self._check(code, channel_id, asked=size, wanted=wanted) == 0:
            return StaticSegment(self, channel_id, entry, handle)
        segment = None
        try:
            segment = StaticSegment(self, channel_id, entry, handle)
            if init is not None:
                init(segment.view)
        except BaseException:
            lib.py_static_ready(handle.pointer, entry, 0)
            raise
        self._check(lib.py_static_ready(handle.pointer, entry, 1), channel_id)
        return segment

    @property
    def channels(self) -> Mapping[ChannelId, Channel]:
        """All channels by ID, as they are whenever the mapping is looked into."""
        return _Channels(self)

    def channel(self, id: ChannelId, timeout: float | None = 0.0) -> Channel:
        """Return a channel; wait `timeout` seconds for it to be added, then ChannelNotFound.

        It is a RecordChannel or a StaticSegment, which is not there until it is initialised.
        """
        channel_id = _arguments.channel_id(id)
        entry, key = ffi.new("ipcheap_channel *"), key_of(channel_id)
        handle = self._open_handle()
        seconds = _arguments.timeout(timeout)

        def attempt() -> int:
            code = lib.ipcheap_find_channel(handle.pointer, key, entry)
            return int(code or is_being_initialised(handle, entry))

        code = self._repeat(attempt, (lib.IPCHEAP_CHANNEL_NOT_FOUND,), seconds)
        self._check(code, channel_id)
        if entry.kind == lib.IPCHEAP_RECORD_CHANNEL:
            return RecordChannel(self, channel_id, entry)
        return StaticSegment(self, channel_id, entry, handle)

    def remove_channel(self, id: ChannelId, force: bool = False) -> None:
        """Remove a channel; what was pending in it is freed, what is held stays.

        ChannelBusy when it has living endpoints, which `force` closes; ChannelNotFound when
        there is none of that ID.
        """
        channel_id = _arguments.channel_id(id)
        handle, key = self._open_handle(), key_of(channel_id)
        code = lib.py_remove_channel(handle.pointer, key, force)
        if code == lib.IPCHEAP_CHANNEL_BUSY:
            entry = ffi.new("ipcheap_channel *")
            if lib.ipcheap_find_channel(handle.pointer, key, entry) == 0:
                raise self._busy(channel_id, entry, (lib.IPCHEAP_PRODUCER, lib.IPCHEAP_CONSUMER))
        self._check(code, channel_id)

    def producer(self, id: ChannelId, timeout: float | None = 0.0) -> Producer:
        """Claim the sending side of a record channel for this thread.

        Waits `timeout` seconds for the channel and the side: then ChannelNotFound, or
        ChannelBusy, naming who holds it. The side of a holder that closed or died is free,
        and goes on where that one stood. ChannelTypeError for a static segment.
        """
        return Producer(*self._claim(id, lib.IPCHEAP_PRODUCER, timeout))

    def consumer(self, id: ChannelId, timeout: float | None = 0.0) -> Consumer:
        """Claim the receiving side of a record channel for this thread.

        Waits `timeout` seconds and raises as `producer` does. What a consumer that died had
        received and not freed comes again.
        """
        return Consumer(*self._claim(id, lib.IPCHEAP_CONSUMER, timeout))

    # Inside -----------------------------------------------------------------------------------

    def _claim(
        self,
        id: ChannelId,
        side: int,
        timeout: float | None,
    ) -> tuple[Handle, ChannelId, CData]:
        channel_id = _arguments.channel_id(id)
        handle, key = self._open_handle(), key_of(channel_id)
        entry, place = ffi.new("ipcheap_channel *"), ffi.new("ipcheap_endpoint **")
        _native.close_at_exit()

        def attempt() -> int:
            code = lib.ipcheap_find_channel(handle.pointer, key, entry)
            return int(code or lib.py_claim(handle.pointer, entry, side, place))

        patient = (lib.IPCHEAP_CHANNEL_NOT_FOUND, lib.IPCHEAP_CHANNEL_BUSY)
        code = self._repeat(attempt, patient, _arguments.timeout(timeout))
        if code == lib.IPCHEAP_CHANNEL_BUSY:
            raise self._busy(channel_id, entry, (side,))
        self._check(code, channel_id, wanted="which has no sides to claim")
        return handle, channel_id, place[0]

    def _busy(self, channel_id: ChannelId, entry: CData, sides: tuple[int, ...]) -> Exception:
        holder = ffi.new("ipcheap_holder *")
        held: list[str] = []
        for side in sides:
            code = lib.ipcheap_side_holder(self._open_handle().pointer, entry, side, holder)
            if code >= 0 and holder.pid:
                name = "producer" if side == lib.IPCHEAP_PRODUCER else "consumer"
                held.append(f"the {name} side is held by {_native.holder_text(holder)}")
        text = " and ".join(held) or "a side is held by a living participant"
        return _native.error(lib.IPCHEAP_CHANNEL_BUSY, self._handle, channel_id, holder=text)

    def _repeat(self, attempt: Callable[[], int], patient: tuple[int, ...], seconds: float) -> int:
        """Try until it says other than these codes, or time is up; return what it said."""
        deadline = time.monotonic() + seconds
        pointer = self._open_handle().pointer
        while True:
            seen = lib.ipcheap_directory_version(pointer)
            code = attempt()
            left = deadline - time.monotonic()
            if code not in patient or left <= 0:
                return code
            waited = lib.py_wait_directory(pointer, seen, int(min(left, _LOOK_AGAIN) * 1e9))
            if waited not in (0, lib.IPCHEAP_TIMED_OUT, lib.IPCHEAP_INTERRUPTED):
                return int(waited)

    def _open_handle(self) -> Handle:
        if self._handle.closed:
            raise _native.error(lib.IPCHEAP_HEAP_CLOSED, self._handle)
        return self._handle

    def _check(
        self,
        code: int,
        channel_id: ChannelId | None = None,
        asked: int | None = None,
        wanted: str = "not that",
    ) -> int:
        """Return what is not an error; `wanted` says what the channel should have been."""
        if code >= 0:
            return int(code)
        is_there = ""
        if code == lib.IPCHEAP_CHANNEL_TYPE and channel_id is not None:
            is_there = f"{self._describe(channel_id)}, {wanted}"
        raise _native.error(code, self._handle, channel_id, asked=asked, holder=is_there)

    def _describe(self, channel_id: ChannelId) -> str:
        entry = ffi.new("ipcheap_channel *")
        if lib.ipcheap_find_channel(self._open_handle().pointer, key_of(channel_id), entry):
            return "of another kind"
        if entry.kind == lib.IPCHEAP_RECORD_CHANNEL:
            return f"a record channel of {entry.shape} slots"
        return f"a static segment of {entry.shape} bytes"


def _participant(holder: CData) -> Participant:
    from .results import Participant

    return Participant(
        name=_native.text_of(holder.name),
        pid=int(holder.pid),
        thread=int(holder.tid),
        state=_native.holder_state(holder),
        elsewhere=bool(holder.elsewhere),
        since=holder.since_ns / 1e9,
    )


def _attach_same(kind: type[Heap], name: str, identity: int) -> Heap:
    heap = kind.attach(name)
    if heap.identity != identity:
        heap.close()
        raise HeapNotFound(f"heap {name!r} is another one by now than the one that was pickled")
    return heap


def _attach_descriptor(kind: type[Heap], descriptor: Any) -> Heap:
    return kind._of(_segments.Segment(descriptor.detach(), -1, None))


def unlink(name: str) -> None:
    """Remove a heap by name or path, with all its kernel objects; HeapNotFound if there is none.

    Who has it open goes on with it. Something else under that name raises FormatMismatch
    and stays untouched.
    """
    _segments.remove(_arguments.heap_name(name))
