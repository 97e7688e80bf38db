"""The heap: one shared-memory segment and everything in it."""

from __future__ import annotations

from . import _arguments, _kernel, _segments, _timing
from ._core import ffi, lib
from ._directory import KINDS, Directory, id_of
from ._handle import Handle
from ._native import SEM_KINDS, SHM_KINDS, text_of
from ._participants import participant_of
from .bus import BusMethods
from .errors import HeapNotFound
from .record_channel import RecordMethods
from .static import StaticMethods
from .store import StoreMethods
from .stream import StreamMethods

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Self

    from ._arguments import ChannelId, Size
    from ._segments import Segment
    from .channel import Channel
    from .record import Record
    from .results import HeapStatistics, Participant, RecoveryReport, Snapshot

_MOST_WITNESSED = 4096  # how many dead participants and channels a report of recovery has room for


class Heap(RecordMethods, StaticMethods, StreamMethods, StoreMethods, BusMethods):
    """A named shared-memory segment: an allocator for many processes, and their channels.

    `create`, `attach` or `open` return one. It is a context manager that closes the heap and does
    not unlink it. Heaps pickle: the other process attaches. After `fork` a heap works in the child,
    which becomes a participant of its own. A closed heap raises `HeapClosed`, but its records can
    still be freed.
    """

    def __init__(self, segment: Segment) -> None:
        self._name = segment.name
        self._handle = Handle(segment.fd, segment.shmid, segment.name, segment.path)
        self._directory = Directory(self._handle)
        self._file = segment.file
        info = ffi.new("ipcheap_heap_info *")
        self._handle.check(lib.ipcheap_heap_describe(self._handle.pointer, info))
        self._shmid, self._info = segment.shmid, info
        self._capacity = int(info.capacity)
        self._identity = int(info.identity)
        self._shm = SHM_KINDS[int(info.shm_kind)]
        self._sem = SEM_KINDS[int(info.sem_kind)]

    # Open and close ---------------------------------------------------------------------------

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
        """Create a heap and attach to it; HeapExists if there is one of that name.

        `name` is 1 to 200 characters from A-Z a-z 0-9 . _ -, or a path for shm="file". `capacity`
        is the size for users' data, in bytes or as a string like "64MiB"; memory is committed as it
        is needed. `shm` is "posix", "sysv", "file" or "memfd", which has no name and reaches other
        processes by pickle. `sem` is "futex", "posix" or "sysv": what waiters for the heap lock
        sleep on. `mode` gives the permissions, independent of the umask.

        Raises HeapFull if the file system has no room for a new heap: for its metadata, and with
        shm="sysv" for its whole capacity. Raises HeapBusy if another process is creating or
        removing a heap of that name and does not finish.
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
        """Attach to a heap, or create it if there is none; without a race.

        An existing heap keeps its capacity, kinds and mode. Arguments and errors are those of
        `create` and `attach`, except that HeapExists and HeapNotFound are not raised.
        """
        return cls._make(name, capacity, shm, sem, mode, take_existing=True)

    @classmethod
    def attach(cls, name: str, *, timeout: float | None = 0.0) -> Self:
        """Attach to a heap; HeapNotFound if it does not appear within `timeout` seconds.

        FormatMismatch if the file of that name is no heap, or a heap of another format;
        PermissionError if the caller may not write to it.
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
            raise ValueError(
                f"capacity must be less than {nbytes} bytes: a heap cannot be so large"
            )
        shm = _arguments.choice(shm, "shm", SHM_KINDS)
        sem = _arguments.choice(sem, "sem", SEM_KINDS)
        mode = _arguments.file_mode(mode)
        if shm == "memfd":
            label = "ipcheap" if name is None else _arguments.heap_name(name)
            return cls._of(_segments.create_nameless(label.replace("/", "_"), nbytes, sem))
        name = _arguments.heap_name(name)
        if _arguments.is_path(name) != (shm == "file"):
            raise ValueError(
                f"a name with '/' is a path, for shm='file' only: {name!r} with {shm!r}"
            )
        return cls._of(_segments.create(name, nbytes, shm, sem, mode, take_existing=take_existing))

    @classmethod
    def _of(cls, segment: Segment) -> Self:
        try:
            return cls(segment)
        except BaseException:
            if segment.is_new:
                _segments.abandon(segment)
            raise
        finally:
            segment.close()

    def close(self) -> None:
        """Close this process's endpoints and leave the heap, which stays for others.

        Views, arrays and records stay valid, and records can still be freed.
        """
        if not self._handle.closed:
            handle = self._handle
            handle.close()
            self._handle = handle.left()
            self._directory = Directory(self._handle)
            if self._name is None and self._sem == "sysv":
                _segments.leave_nameless(handle.pointer, self._file)

    def unlink(self) -> None:
        """Remove the heap's name and all its kernel objects.

        Processes that have the heap open can still use it. Does nothing for a memfd heap.
        HeapNotFound if the name is gone, or belongs to another heap.
        """
        if self._name is None:
            return
        try:
            _segments.remove(self._name, only=self._file)
        except HeapNotFound:
            path = _kernel.path_of(self._name)
            _segments.remove_rest(path, self._file, self._shmid, self._info)
            raise

    def chmod(self, mode: int) -> None:
        """Give all kernel objects of this heap that mode; its participants keep their access.

        `mode` is what `create` takes. PermissionError for all except the owner of the heap and
        root. HeapNotFound if the name is gone, or belongs to another heap. See `ipcheap.chmod`.
        """
        from . import _permissions  # most programs never need it

        _permissions.chmod_open(self._name, self._file, self._handle.file(), self._info, mode)

    def chown(self, user: int | str | None = None, group: int | str | None = None) -> None:
        """Give all kernel objects of this heap to a user, a group or both, by name or number.

        None leaves one as it is. Only root may change the user. The owner may change the group to
        one that it belongs to. HeapNotFound if the name is gone, or belongs to another heap. See
        `ipcheap.chown`.
        """
        from . import _permissions

        fd = self._handle.file()
        self._file = _permissions.chown_open(self._name, self._file, fd, self._info, user, group)

    def __enter__(self) -> Self:
        self._handle.opened()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        self._handle.opened()
        if self._name is None:
            from multiprocessing import reduction  # here only, because its import is slow

            # Only the descriptor leads to a heap without a name.
            return _attach_descriptor, (type(self), reduction.DupFd(self._handle.file()))
        return _attach_same, (type(self), self._name, self._identity)

    def __repr__(self) -> str:
        state = ", closed" if self.closed else ""
        size = _arguments.show_size(self._capacity)
        return f"<Heap {self._name!r}, {size}, shm={self._shm!r}, sem={self._sem!r}{state}>"

    # Properties -------------------------------------------------------------------------------

    @property
    def name(self) -> str | None:
        """The name or path; None for a memfd heap."""
        return self._name

    @property
    def label(self) -> str:
        """The words by which error texts name this heap."""
        return repr(self._handle)

    @property
    def capacity(self) -> int:
        """The size for users' data, in bytes."""
        return self._capacity

    @property
    def shm(self) -> str:
        """The kind of shared memory: "posix", "sysv", "file" or "memfd"."""
        return self._shm

    @property
    def sem(self) -> str:
        """What waiters for the heap lock sleep on: "futex", "posix" or "sysv"."""
        return self._sem

    @property
    def identity(self) -> int:
        """A random number that identifies this heap; a later heap of the same name has another."""
        return self._identity

    @property
    def closed(self) -> bool:
        """Whether this object has been closed."""
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
        """Return how much memory is in use, and by what; HeapBusy if the heap lock stays taken."""
        handle, numbers = self._handle.opened(), ffi.new("ipcheap_statistics *")
        handle.check(lib.py_heap_statistics(handle.pointer, numbers))
        from .results import HeapStatistics

        return HeapStatistics(
            **{name: int(getattr(numbers, name)) for name in HeapStatistics.__match_args__}
        )

    def snapshot(self, memory: bool = True) -> Snapshot:
        """Look at this heap as an observer does; MemoryError if this process has no memory for it.

        See `ipcheap.observe`. Without `memory` it does not take time for each block.
        """
        from .observer import observe

        with observe(self) as observer:
            return observer.snapshot(memory)

    def trim(self, keep: Size = 0) -> int:
        """Return free memory beyond `keep` bytes to the system; return how many bytes that were.

        HeapBusy if the heap lock stays taken.
        """
        keep = _arguments.size(keep, "keep")
        handle = self._handle.opened()
        return handle.check(lib.py_trim(handle.pointer, keep))

    def check(self) -> list[str]:
        """Check every structure of the heap; return a sentence for each broken invariant.

        Dead participants that await recovery do not count as broken. HeapBusy if the heap lock
        stays taken.
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
        """Recover dead participants now and rebuild all indices; return what was done.

        Otherwise this happens on demand, when a participant waits for a dead one or needs what it
        held. HeapBusy if the heap lock stays taken, CorruptHeap if the heap cannot be repaired.
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
            dead=tuple(participant_of(dead[n]) for n in range(witness.dead_count)),
            channels=again,
        )

    def participants(self) -> list[Participant]:
        """Return the participants: the living, and the dead that await recovery."""
        handle = self._handle.opened()
        cursor, holder = ffi.new("uint32_t *"), ffi.new("ipcheap_holder *")
        found: list[Participant] = []
        while lib.ipcheap_next_participant(handle.pointer, cursor, holder) == 1:
            found.append(participant_of(holder))
        return found

    # Records and channels ---------------------------------------------------------------------

    def allocate_record(self, nbytes: int) -> Record:
        """Return a new record of `nbytes` bytes, not initialised; HeapFull if there is no room.

        ValueError for a negative size, or one that no heap has room for.
        """
        return self._handle.opened().allocate(nbytes)

    @property
    def channels(self) -> Mapping[ChannelId, Channel]:
        """All channels by ID. The mapping is live: each look-up sees the current channels."""
        from ._channels import Channels

        return Channels(self)

    def channel(self, id: ChannelId, timeout: float | None = 0.0) -> Channel:
        """Return a channel; ChannelNotFound if it is not added within `timeout` seconds.

        The result is a RecordChannel or a StaticSegment. A static segment counts as added when it
        has been initialised; HeapBusy if the heap lock stays taken when this process begins to use
        it.
        """
        channel_id = _arguments.channel_id(id)
        entry = self._directory.find(channel_id, _timing.deadline_of(timeout))
        return KINDS[entry.kind](self, channel_id, entry)

    def remove_channel(self, id: ChannelId, force: bool = False) -> None:
        """Remove a channel and free its pending records; held records stay with their holders.

        ChannelBusy if it has living endpoints, or is a static segment that another process uses,
        unless `force` is true: then endpoints are closed, and the memory of a segment stays until
        its last user is gone. ChannelNotFound if there is no channel of that ID.
        """
        self._directory.remove(id, force)


def _attach_same(kind: type[Heap], name: str, identity: int) -> Heap:
    heap = kind.attach(name)
    if heap.identity != identity:
        heap.close()
        raise HeapNotFound(f"heap {name!r} is not the one that was pickled: that has been removed")
    return heap


def _attach_descriptor(kind: type[Heap], descriptor: Any) -> Heap:
    return kind._of(_segments.Segment(_kernel.high(descriptor.detach()), -1, None))


def unlink(name: str) -> None:
    """Remove a heap by name or path, with all its kernel objects; HeapNotFound if there is none.

    Processes that have the heap open can still use it. If the file of that name is no heap, it is
    left untouched, and FormatMismatch is raised.
    """
    _segments.remove(_arguments.heap_name(name))
