"""Looking at a heap from outside, without taking part in it.

An observer stores nothing, takes no lock and maps no file. It needs read permission only, and works
while the heap is locked, corrupt or full, and while its processes are stopped.
"""

from __future__ import annotations

import os
import stat
import time
from _thread import allocate_lock

from . import _arguments, _kernel, _segments
from ._core import ffi, lib
from ._directory import id_of
from ._failures import error
from ._native import SEM_KINDS, SHM_KINDS, text_of
from .errors import FormatMismatch, HeapNotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Self

    from ._arguments import ChannelId
    from ._core import CData
    from .heap import Heap
    from .results import AnyChannelView, ParticipantView, SideView, Snapshot, Usage

_SIDES: tuple[str, ...] = ("never", "open", "closed", "died")
_STATES: tuple[str, ...] = ("dead", "alive", "unknown")
_HOW: tuple[str, ...] = ("owned", "held", "pending", "static")
_FORMS = {0: "bytes", 1: "array", 2: "object", lib.IPCHEAP_FORM_MIXED: "mixed"}
_FULL = {lib.IPCHEAP_FULL_HELD: "held", lib.IPCHEAP_FULL_PENDING: "pending"}
_LETTERS = {"T": "stopped", "t": "stopped by a debugger"}
_TICKS = os.sysconf("SC_CLK_TCK")
_SHORTEST_INTERVAL = 0.01


def observe(heap: Heap | str) -> Observer:
    """Return an observer of a heap: by name, by path, or of an open Heap.

    A path may be that of a copy of a heap's file. `/proc/PID/fd/N` and "memfd:PID/FD" name a
    descriptor of another process. HeapNotFound if there is none, FormatMismatch for a file that is
    no heap, PermissionError if the caller may not read it.
    """
    if isinstance(heap, str):
        return Observer(*_open_name(heap))
    return Observer(*_open_heap(heap))


# Opening ------------------------------------------------------------------------------------


def _open_name(name: str) -> tuple[int, int | None, str, str]:
    """Return a descriptor for reading, the System V id if it is known, the name and the path."""
    path = _path_of_descriptor(name)
    try:
        if path is not None:
            return _open_descriptor(path, name), None, name, path
        name = _arguments.heap_name(name)
        path = _kernel.path_of(name)
        return _kernel.open_regular(path, os.O_RDONLY, name), None, name, path
    except FileNotFoundError as reason:
        if isinstance(reason, HeapNotFound):
            raise
        raise _segments.not_found(name) from None


def _path_of_descriptor(name: str) -> str | None:
    """Return the path of another process's descriptor, if the name is one."""
    if name.startswith("memfd:"):
        pid, _, fd = name.removeprefix("memfd:").partition("/")
        if pid.isdecimal() and fd.isdecimal():
            return f"/proc/{pid}/fd/{fd}"
    parts = name.split("/")
    is_one = len(parts) == 5 and parts[:2] == ["", "proc"] and parts[3] == "fd"
    return name if is_one and parts[4].isdecimal() else None


def _open_descriptor(path: str, name: str) -> int:
    """Open what a descriptor leads to: a description of its own, for its locks to be seen."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise FormatMismatch(f"{_segments.label_of(name)}: {path} is no regular file")
    return _kernel.high(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))


def _open_heap(heap: Heap) -> tuple[int, int | None, str, str]:
    fd = heap._handle.file()
    path = f"/proc/self/fd/{fd}"
    name = heap.name or f"memfd:{os.getpid()}/{fd}"
    shown = _kernel.path_of(name) if heap.name else path
    try:
        opened = _open_descriptor(path, name)
    except FileNotFoundError:  # no /proc
        if heap.name is None:
            raise
        opened = _kernel.open_regular(shown, os.O_RDONLY, name)
        if not os.path.samestat(os.fstat(opened), os.fstat(fd)):
            os.close(opened)
            raise _segments.not_found(name) from None
    return opened, heap._shmid, name, shown


def _core_of(fd: int, shmid: int | None, name: str) -> CData:
    """Return the core's observer of an open file."""
    place = ffi.new("ipcheap_observer **")
    code = lib.ipcheap_observe(fd, -1 if shmid is None else shmid, place)
    if code == lib.IPCHEAP_FORMAT_MISMATCH and shmid is None:
        objects = _kernel.Objects.read(fd)
        if objects is not None and objects.is_complete() and objects.shm_id >= 0:
            if objects.inode != os.fstat(fd).st_ino:
                raise FormatMismatch(
                    f"{_segments.label_of(name)} was in System V memory, of which there is no copy"
                )
            code = lib.ipcheap_observe(fd, objects.shm_id, place)
    if code == lib.IPCHEAP_FORMAT_MISMATCH:
        found = lib.ipcheap_found_format(fd, -1)
        if found > 0 and found != lib.IPCHEAP_FORMAT:
            raise FormatMismatch(
                f"{_segments.label_of(name)} has format {found}, and this version of ipcheap uses "
                f"format {lib.IPCHEAP_FORMAT}; use the version that created it"
            )
    if code:
        raise error(code, _segments.label_of(name))
    return place[0]


# The observer -------------------------------------------------------------------------------


class Observer:
    """Looks at a heap from outside; `ipcheap.observe` returns one.

    A context manager that closes it. Any thread may use it. It follows the heap that it was made
    for, also if its name is removed or leads to another heap. A closed observer raises ValueError.
    """

    def __init__(self, fd: int, shmid: int | None, name: str, path: str) -> None:
        self._fd = fd
        self._name = name
        self._path = path
        self._lock = allocate_lock()
        self._cpu: dict[str, tuple[int, float]] = {}
        self._core: CData = ffi.NULL
        try:
            self._core = ffi.gc(_core_of(fd, shmid, name), lib.ipcheap_observer_close)
        except BaseException:
            os.close(fd)
            self._fd = -1
            raise

    def close(self) -> None:
        """Close the observer. May be called again."""
        with self._lock:
            core, fd = self._core, self._fd
            self._core, self._fd = ffi.NULL, -1
            if fd >= 0:
                ffi.release(core)
                os.close(fd)

    @property
    def closed(self) -> bool:
        """Whether it has been closed."""
        return self._fd < 0

    @property
    def path(self) -> str:
        """The path of what it looks at."""
        return self._path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            os.close(self._fd)

    def __repr__(self) -> str:
        return f"<Observer of {self._name!r}{', closed' if self.closed else ''}>"

    def snapshot(self, memory: bool = True) -> Snapshot:
        """Look at the heap once.

        Without `memory` the snapshot has participants, channels and waits only, and does not take
        time for each block. MemoryError if what it finds does not fit into this process.
        """
        with self._lock:
            if self.closed:
                raise ValueError(f"{self!r} cannot look any more")
            code = lib.py_observer_look(self._core, lib.IPCHEAP_LOOK_MEMORY if memory else 0)
            if code == lib.IPCHEAP_NO_MEMORY:
                raise MemoryError(f"{self!r}: this process has no memory for a look")
            if code:
                raise error(code, _segments.label_of(self._name))
            return self._told(memory)

    def watch(self, interval: float = 1.0, memory: bool = False) -> Iterator[Snapshot]:
        """Yield a snapshot now, and then one every `interval` seconds, paced by the clock.

        `Snapshot.rates()` compares two of them.
        """
        seconds = max(_arguments.timeout(interval), _SHORTEST_INTERVAL)
        due = time.monotonic()
        while True:
            yield self.snapshot(memory)
            now = time.monotonic()
            due += seconds * max(1, -(-(now - due) // seconds))
            time.sleep(max(0.0, due - now))

    # What the core has found ----------------------------------------------------------------

    def _told(self, memory: bool) -> Snapshot:
        from .results import Holding, LockView, Snapshot

        heap = ffi.new("ipcheap_seen_heap *")
        lib.ipcheap_observer_heap(self._core, heap)
        channels = list(self._each("ipcheap_seen_channel", lib.ipcheap_observer_next_channel))
        parties: dict[int, list[Any]] = {}
        for party in self._each("ipcheap_seen_party", lib.ipcheap_observer_next_party):
            parties.setdefault(party.channel, []).append(party)
        ids: dict[int, ChannelId] = {each.index: id_of(each.key) for each in channels}
        living = [each for each in channels if not each.removed]
        waits = _waits_of(living, parties, ids)
        participants = self._participants(waits)
        states = {each.key: each.state for each in participants}
        holder = _key(heap.lock_holder)
        texts = [text_of(each.text) for each in self._texts()]
        if heap.sentences > len(texts):
            texts.append(f"and {heap.sentences - len(texts)} more")
        status = os.fstat(self._fd)
        return Snapshot(
            name=self._name,
            path=self._path,
            shm=_word(SHM_KINDS, heap.shm_kind),
            sem=_word(SEM_KINDS, heap.sem_kind),
            capacity=int(heap.capacity),
            committed=int(heap.committed),
            mode=stat.S_IMODE(status.st_mode),
            uid=status.st_uid,
            created=heap.created_ns / 1e9,
            identity=int(heap.identity),
            recoveries=int(heap.recoveries),
            taken=heap.taken_ns / 1e9,
            seconds=heap.took_ns / 1e9,
            again=int(heap.again),
            unreadable=tuple(texts),
            saved=None,
            lock=LockView(
                holder=holder,
                state=states.get(holder, "dead") if holder else "dead",
                contended=bool(heap.contended),
            )
            if heap.locked
            else None,
            participants=tuple(participants),
            channels=tuple(_view(each, ids[each.index], parties) for each in living),
            holdings=tuple(
                Holding(
                    how=_HOW[int(each.how)],
                    holder=_key(each.holder),
                    channel=ids[each.channel] if each.has_channel else None,
                    records=int(each.records),
                    nbytes=int(each.nbytes),
                    oldest=None,
                    newest=None,
                    form=_FORMS.get(each.form, "unknown"),
                )
                for each in self._each("ipcheap_seen_holding", lib.ipcheap_observer_next_holding)
            ),
            usage=_usage(heap) if memory else None,
        )

    def _each(self, kind: str, following: Any) -> Iterator[Any]:
        cursor = ffi.new("uint64_t *")
        while True:
            item = ffi.new(f"{kind} *")
            if following(self._core, cursor, item) != 1:
                return
            yield item

    def _texts(self) -> list[Any]:
        return list(self._each("ipcheap_seen_text", lib.ipcheap_observer_next_text))

    def _participants(self, waits: dict[str, list[Any]]) -> list[ParticipantView]:
        from .results import ParticipantView

        found: dict[str, ParticipantView] = {}
        cpu: dict[str, tuple[int, float]] = {}
        for each in self._each("ipcheap_seen_participant", lib.ipcheap_observer_next_participant):
            key = _key(each.key)
            assert key is not None
            state, share = _STATES[int(each.state)], None
            if state == "alive" and not each.elsewhere:
                letter, ticks = _of_proc(each.pid, each.tid)
                state = _LETTERS.get(letter, state)
                if ticks is not None:
                    now = time.monotonic()
                    cpu[key] = ticks, now
                    share = _share(self._cpu.get(key), ticks, now)
            found[key] = ParticipantView(
                key=key,
                label=text_of(each.name),
                pid=int(each.pid),
                thread=int(each.tid),
                elsewhere=bool(each.elsewhere),
                since=each.since_ns / 1e9,
                state=state,
                waits=tuple(waits.get(key, ())),
                cpu=share,
            )
        self._cpu = cpu
        return list(found.values())


# Numbers and words --------------------------------------------------------------------------


def _key(key: int) -> str | None:
    """Return a participant's key as text: its slot and generation."""
    return f"{key & 0xFFF}.{key >> 12 & 0xFFFFFFFF}" if key else None


def _word(words: tuple[str, ...], number: int) -> str:
    """Return the word for a number; in a damaged heap it may be any."""
    return words[number] if number < len(words) else "unknown"


def _of_proc(pid: int, thread: int) -> tuple[str, int | None]:
    """Return the state of a thread as /proc has it, and the ticks of the processor it has used."""
    for path in (f"/proc/{pid}/task/{thread}/stat", f"/proc/{pid}/stat"):
        try:
            with open(path, "rb", buffering=0) as file:
                fields = file.read(4096).rpartition(b")")[2].split()
            return fields[0].decode(), int(fields[11]) + int(fields[12])
        except (OSError, IndexError, ValueError):
            continue
    return "", None


def _share(before: tuple[int, float] | None, ticks: int, now: float) -> float | None:
    if before is None or now <= before[1]:
        return None
    return max(0, ticks - before[0]) / _TICKS / (now - before[1])


def _usage(heap: CData) -> Usage:
    from .results import Usage

    return Usage(
        in_use=int(heap.owned + heap.pending + heap.held + heap.fixed),
        static=int(heap.fixed),
        **{
            name: int(getattr(heap, name))
            for name in Usage.__match_args__
            if name not in ("in_use", "static")
        },
    )


# Waits --------------------------------------------------------------------------------------

_NAMES = {
    lib.IPCHEAP_RECORD_CHANNEL: ("producer", "consumer"),
    lib.IPCHEAP_STREAM: ("writer", "reader"),
}


def _waits_of(
    channels: list[Any], parties: dict[int, list[Any]], ids: dict[int, ChannelId]
) -> dict[str, list[Any]]:
    """Return what each participant waits for, by its key."""
    from .results import Wait

    found: dict[str, list[Any]] = {}
    for each in channels:
        channel_id = ids[each.index]
        for side, name in enumerate(_NAMES.get(each.kind, ())):
            one, other = each.sides[side], each.sides[1 - side]
            key = _key(one.holder)
            if key and one.waiting and not each.poisoned:
                found.setdefault(key, []).append(
                    Wait(channel=channel_id, side=name, since=None, for_=_key(other.holder))
                )
        is_store = each.kind == lib.IPCHEAP_STORE
        for party in parties.get(each.index, ()):
            key = _key(party.holder)
            if key and party.waiting:
                found.setdefault(key, []).append(
                    Wait(
                        channel=channel_id,
                        side="reader" if is_store else "listener",
                        since=None,
                        for_=_key(each.sides[0].holder) if is_store else None,
                    )
                )
    return found


# Channels -----------------------------------------------------------------------------------


def _side(side: CData) -> SideView:
    from .results import SideView

    return SideView(
        state=_SIDES[int(side.state)],
        holder=_key(side.holder),
        since=None,
        waiting=bool(side.waiting),
        parks=int(side.parks),
        wakes=int(side.wakes),
    )


def _view(each: CData, channel_id: ChannelId, parties: dict[int, list[Any]]) -> AnyChannelView:
    if each.kind == lib.IPCHEAP_STATIC_SEGMENT:
        from .results import SegmentView

        return SegmentView(
            id=channel_id,
            kind="static",
            capacity=int(each.capacity),
            nbytes=int(each.nbytes),
            poisoned=bool(each.poisoned),
        )
    if each.kind == lib.IPCHEAP_STREAM:
        return _stream_view(each, channel_id)
    if each.kind == lib.IPCHEAP_STORE:
        return _store_view(each, channel_id, parties.get(each.index, []))
    if each.kind == lib.IPCHEAP_BUS:
        return _bus_view(each, channel_id, parties.get(each.index, []))
    return _record_view(each, channel_id)


def _record_view(each: CData, channel_id: ChannelId) -> AnyChannelView:
    from .results import ChannelView

    producer, consumer = _side(each.sides[0]), _side(each.sides[1])
    return ChannelView(
        id=channel_id,
        kind="record" if each.kind == lib.IPCHEAP_RECORD_CHANNEL else "unknown",
        capacity=int(each.capacity),
        nbytes=int(each.nbytes),
        sent=int(each.sent),
        received=int(each.received),
        pending=int(each.pending),
        held=int(each.held),
        pending_bytes=int(each.pending_bytes),
        held_bytes=int(each.held_bytes),
        oldest_pending=None,
        oldest_held=None,
        producer=producer,
        consumer=consumer,
        blocked=_FULL.get(each.full) if producer.waiting else None,
        traced=bool(each.traced),
        poisoned=bool(each.poisoned),
        mean_nbytes=int(each.mean_nbytes),
    )


def _stream_view(each: CData, channel_id: ChannelId) -> AnyChannelView:
    from .results import StreamView

    return StreamView(
        id=channel_id,
        kind="stream",
        capacity=int(each.capacity),
        nbytes=int(each.nbytes),
        written=int(each.sent),
        read=int(each.received),
        pending=int(each.pending),
        room=int(each.room),
        lost=None,
        writer=_side(each.sides[0]),
        reader=_side(each.sides[1]),
        blocked=_FULL.get(each.full),
        poisoned=bool(each.poisoned),
        mean_nbytes=int(each.mean_nbytes),
    )


def _store_view(each: CData, channel_id: ChannelId, readers: list[Any]) -> AnyChannelView:
    from .results import StoreReaderView, StoreView

    return StoreView(
        id=channel_id,
        kind="store",
        capacity=int(each.capacity),
        nbytes=int(each.nbytes),
        version=int(each.sent),
        chunks=int(each.chunks),
        dead=int(each.dead),
        dead_bytes=int(each.dead_bytes),
        writer=_side(each.sides[0]),
        readers=tuple(
            StoreReaderView(
                holder=_key(reader.holder),
                closed=bool(reader.closed),
                waiting=bool(reader.waiting),
                behind=int(reader.pending),
                held=int(reader.held),
                held_bytes=int(reader.held_bytes),
                dead=int(reader.dead),
                parks=int(reader.parks),
            )
            for reader in readers
        ),
        poisoned=bool(each.poisoned),
        mean_nbytes=int(each.mean_nbytes),
    )


def _bus_view(each: CData, channel_id: ChannelId, listeners: list[Any]) -> AnyChannelView:
    from .results import BusView, ListenerView

    return BusView(
        id=channel_id,
        kind="bus",
        capacity=int(each.capacity),
        nbytes=int(each.nbytes),
        posted=int(each.sent),
        waiting=int(each.pending),
        passed=int(each.passed),
        listeners=tuple(
            ListenerView(
                holder=_key(listener.holder),
                closed=bool(listener.closed),
                waiting=bool(listener.waiting),
                pending=int(listener.pending),
                held=int(listener.held),
                lost=int(listener.lost),
                passed=bool(listener.passed),
                lossy=bool(listener.lossy),
                stalls=bool(listener.stalls),
                parks=int(listener.parks),
            )
            for listener in listeners
        ),
        blocked=_FULL.get(each.full),
        poisoned=bool(each.poisoned),
    )
