"""The heap: one shared-memory segment and what lives in it."""

from __future__ import annotations

import os
from collections.abc import Mapping

from . import _arguments, _segments, _timing
from ._core import ffi, lib
from ._directory import KINDS, Directory, id_of
from ._failures import holder_state
from ._handle import Handle
from ._native import SEM_KINDS, SHM_KINDS, text_of
from .channel import Channel
from .errors import HeapNotFound
from .record_channel import RecordMethods
from .static import StaticMethods

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Self

    from ._arguments import ChannelId, Size
    from ._core import CData
    from ._segments import Segment
    from .record import Record
    from .results import HeapStatistics, Participant, RecoveryReport

_LONG_COPY = 16 << 10  # bytes: shorter copies go through the caches

_MOST_WITNESSED = 4096  # the dead, and channels, that a report of recovery has room for


class _Channels(Mapping["ChannelId", Channel]):
    """The channels of a heap, by ID, as they are when asked for."""

    def __init__(self, heap: Heap) -> None:
        self._heap = heap

    def __getitem__(self, channel_id: ChannelId) -> Channel:
        return self._heap.channel(channel_id)

    def __iter__(self) -> Iterator[ChannelId]:
        return iter(self._heap._directory)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"<channels of {self._heap.label}: {', '.join(map(repr, self))}>"


class Heap(RecordMethods, StaticMethods):
    """A named shared-memory segment: an allocator for many processes, and their channels.

    Made by `create`, `attach` or `open`. A context manager that closes, and does not unlink.
    It pickles: the other process attaches. After `fork` it works in the child, which is a
    participant of its own. A closed heap raises `HeapClosed`; its records can be freed still.
    """

    def __init__(self, segment: Segment) -> None:
        self._name = segment.name
        self._handle = Handle(segment.fd, segment.shmid, segment.name, segment.path)
        self._directory = Directory(self._handle)
        self._file = os.fstat(segment.fd)
        # What only a descriptor leads to is kept open, to be passed on.
        self._fd = os.dup(segment.fd) if segment.name is None else -1
        info = ffi.new("ipcheap_heap_info *")
        self._handle.check(lib.ipcheap_heap_describe(self._handle.pointer, info))
        self._capacity = int(info.capacity)
        self._identity = int(info.identity)
        self._shm = SHM_KINDS[int(info.shm_kind)]
        self._sem = SEM_KINDS[int(info.sem_kind)]

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
        deadline = _timing.deadline_of(timeout)
        return cls._of(_segments.find(_arguments.heap_name(name), deadline))

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
        shm = _arguments.choice(shm, "shm", SHM_KINDS)
        sem = _arguments.choice(sem, "sem", SEM_KINDS)
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
            self._directory = Directory(self._handle)
            self._close_descriptor()

    def unlink(self) -> None:
        """Remove the heap's name and all its kernel objects; who has it open goes on.

        Does nothing for a memfd heap. HeapNotFound when the name is gone, or another's.
        """
        if self._name is not None:
            _segments.remove(self._name, only=self._file)

    def __enter__(self) -> Self:
        self._handle.opened()
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
        self._handle.opened()
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
        nanoseconds = _timing.in_nanoseconds(min(seconds, _timing.LONGEST_LOCK_TIMEOUT))
        lib.ipcheap_set_lock_timeout(self._handle.opened().pointer, nanoseconds)

    def statistics(self) -> HeapStatistics:
        """Return how full it is, and of what; HeapBusy if the heap lock cannot be had."""
        handle, numbers = self._handle.opened(), ffi.new("ipcheap_statistics *")
        handle.check(lib.py_heap_statistics(handle.pointer, numbers))
        from .results import HeapStatistics

        return HeapStatistics(
            **{name: int(getattr(numbers, name)) for name in HeapStatistics.__dataclass_fields__}
        )

    def trim(self, keep: Size = 0) -> int:
        """Give free memory beyond `keep` bytes back to the system; return how many bytes went.

        HeapBusy if the heap lock cannot be had.
        """
        keep = _arguments.size(keep, "keep")
        handle = self._handle.opened()
        return handle.check(lib.py_trim(handle.pointer, keep))

    def check(self) -> list[str]:
        """Look at every structure in it; return a sentence for each broken invariant.

        The dead who await recovery are none. HeapBusy if the heap lock cannot be had.
        """
        room = 1 << 18
        handle = self._handle.opened()
        text = ffi.new("char[]", room)
        count = handle.check(lib.py_check(handle.pointer, text, room))
        lines = text_of(text).splitlines()
        if count > len(lines):
            lines.append(f"and {count - len(lines)} more")
        return lines

    def recover(self) -> RecoveryReport:
        """Clean up after the dead at once, and make all indices of the heap again.

        Else it is done as it is needed: by whoever waits for one who died, or needs what he
        had. HeapBusy if the heap lock cannot be had, CorruptHeap when the heap is beyond
        that.
        """
        handle = self._handle.opened()
        report, witness = ffi.new("ipcheap_recovery *"), ffi.new("py_witness *")
        dead = ffi.new("ipcheap_holder[]", _MOST_WITNESSED)
        channels = ffi.new("py_redelivery[]", _MOST_WITNESSED)
        witness.dead, witness.channels = dead, channels
        witness.dead_room = witness.channel_room = _MOST_WITNESSED
        handle.check(lib.py_recover(handle.pointer, report, witness))
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
        handle = self._handle.opened()
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
        return self._handle.opened().allocate(nbytes)

    @property
    def channels(self) -> Mapping[ChannelId, Channel]:
        """All channels by ID, as they are whenever the mapping is looked into."""
        return _Channels(self)

    def channel(self, id: ChannelId, timeout: float | None = 0.0) -> Channel:
        """Return a channel; wait `timeout` seconds for it to be added, then ChannelNotFound.

        It is a RecordChannel or a StaticSegment, which is not there until it is initialised.
        """
        channel_id = _arguments.channel_id(id)
        entry = self._directory.find(channel_id, _timing.deadline_of(timeout))
        return KINDS[entry.kind](self, channel_id, entry)

    def remove_channel(self, id: ChannelId, force: bool = False) -> None:
        """Remove a channel; what was pending in it is freed, what is held stays.

        ChannelBusy when it has living endpoints, which `force` closes; ChannelNotFound when
        there is none of that ID.
        """
        self._directory.remove(id, force)


def _participant(holder: CData) -> Participant:
    from .results import Participant

    return Participant(
        name=text_of(holder.name),
        pid=int(holder.pid),
        thread=int(holder.tid),
        state=holder_state(holder),
        elsewhere=bool(holder.elsewhere),
        since=holder.since_ns / 1e9,
        extents="in-turn" if holder.in_turn else "lowest",
        copies_past=tuple(_LONG_COPY << n for n in range(31) if holder.copies_past >> n & 1),
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
