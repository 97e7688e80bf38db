"""Event, Barrier and Lock between processes, in a static segment.

Each takes `SIZE` bytes, which are zero at first, at an offset that is a multiple of `SIZE`. It has
the methods of the class of the same name in `threading`. Timeouts are in seconds. A call that would
have to wait raises ChannelNotFound once the segment has been removed.
"""

from __future__ import annotations

import threading
from functools import partial

from . import _arguments, _timing
from ._core import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

    from .static import StaticSegment


class BarrierTimeout(threading.BrokenBarrierError, TimeoutError):
    """A wait at a barrier timed out; the barrier is now broken."""


class _Primitive:
    """A place in a segment."""

    SIZE: ClassVar[int] = lib.IPCHEAP_SYNC_BYTES

    def __init__(self, segment: StaticSegment, offset: int) -> None:
        self._segment = segment
        self._offset = offset
        self._handle = segment._handle
        self._at = segment._address(offset, self.SIZE, self.SIZE, f"the {type(self).__name__}")

    def _error(self, code: int) -> Exception:
        return self._segment._wait_error(code)

    def _where(self) -> str:
        return f"at {self._offset} of {self._segment!r}"


class Event(_Primitive):
    """A flag that processes wait for, like `threading.Event`."""

    def __init__(self, segment: StaticSegment, offset: int) -> None:
        super().__init__(segment, offset)
        self._step = segment._while_there(
            partial(lib.py_event_wait, self._handle.pointer, self._at)
        )

    def is_set(self) -> bool:
        """Return whether the flag is set."""
        return bool(lib.ipcheap_event_is_set(self._at))

    def set(self) -> None:
        """Set the flag and wake all waiters."""
        lib.ipcheap_event_set(self._at)

    def clear(self) -> None:
        """Clear the flag."""
        lib.ipcheap_event_clear(self._at)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the flag is set; return False if it is not set within `timeout` seconds."""
        code = _timing.sleep(self._step, _timing.deadline_of(timeout))
        if code not in (0, lib.IPCHEAP_TIMED_OUT):
            raise self._error(code)
        return code == 0

    def __repr__(self) -> str:
        return f"<Event {self._where()}, {'set' if self.is_set() else 'not set'}>"


class Barrier(_Primitive):
    """A point where a number of parties wait for each other, like `threading.Barrier`.

    All parties must pass the same number. If a party dies while it waits, the others keep waiting:
    use a timeout.
    """

    def __init__(self, segment: StaticSegment, offset: int, parties: int) -> None:
        super().__init__(segment, offset)
        self._parties = _arguments.count(parties, "parties", least=1)

    @property
    def parties(self) -> int:
        """The number of parties that must arrive."""
        return self._parties

    @property
    def n_waiting(self) -> int:
        """The number of parties that wait now."""
        return int(lib.ipcheap_barrier_waiting(self._at))

    @property
    def broken(self) -> bool:
        """Whether the barrier is broken: by `abort()`, or because a wait timed out."""
        return bool(lib.ipcheap_barrier_broken(self._at))

    def wait(self, timeout: float | None = None) -> int:
        """Wait until all parties have arrived; return the order of arrival, from 0.

        `threading.BrokenBarrierError` if the barrier is broken, or is broken or reset meanwhile. A
        wait of more than `timeout` seconds breaks the barrier and raises `BarrierTimeout`.
        """
        deadline = _timing.deadline_of(timeout)
        generation = ffi.new("uint32_t *")
        order = lib.ipcheap_barrier_arrive(self._at, self._parties, generation)
        if order == lib.IPCHEAP_BROKEN:
            raise threading.BrokenBarrierError(
                f"barrier {self._where()} is broken; reset() makes it usable again"
            )
        if order < 0:
            raise self._error(order)
        if order == self._parties - 1:
            return int(order)
        step = self._segment._while_there(
            partial(lib.py_barrier_wait, self._handle.pointer, self._at, generation[0])
        )
        try:
            code = _timing.sleep(step, deadline)
        except BaseException:
            self.abort()
            raise
        if code == 0:
            return int(order)
        if code == lib.IPCHEAP_TIMED_OUT:
            self.abort()
            raise BarrierTimeout(
                f"not all parties arrived at barrier {self._where()} within {timeout} s"
            )
        if code == lib.IPCHEAP_BROKEN:
            raise threading.BrokenBarrierError(
                f"barrier {self._where()} was broken or reset meanwhile"
            )
        raise self._error(code)

    def reset(self) -> None:
        """Return the barrier to its initial state; waiters get a BrokenBarrierError."""
        lib.ipcheap_barrier_reset(self._at)

    def abort(self) -> None:
        """Break the barrier: present and later waiters get a BrokenBarrierError."""
        lib.ipcheap_barrier_abort(self._at)

    def __repr__(self) -> str:
        state = ", broken" if self.broken else ""
        return f"<Barrier {self._where()}, {self.n_waiting} of {self._parties} waiting{state}>"


class Lock(_Primitive):
    """A lock between processes, like `threading.Lock`, but robust.

    If its owner dies, the next `acquire()` succeeds and sets `owner_died`: the data that the lock
    guards may be half-written. The lock is not reentrant, and only the thread that acquired it may
    release it.
    """

    def __init__(self, segment: StaticSegment, offset: int) -> None:
        super().__init__(segment, offset)
        self._owner_died = False
        self._step = segment._while_there(
            partial(lib.py_lock_acquire, self._handle.pointer, self._at)
        )

    @property
    def owner_died(self) -> bool:
        """Whether the last `acquire()` through this object took over from a dead owner."""
        return self._owner_died

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Acquire the lock; return False if it stays taken for `timeout` seconds.

        A timeout of -1 waits indefinitely. ValueError for a timeout without `blocking`.
        """
        if not blocking and timeout != -1:
            raise ValueError("can't specify a timeout for a non-blocking call")
        deadline = _timing.deadline_of((None if timeout == -1 else timeout) if blocking else 0.0)
        code = _timing.sleep(self._step, deadline)
        if code == lib.IPCHEAP_TIMED_OUT:
            return False
        if code not in (0, lib.IPCHEAP_OWNER_DIED):
            raise self._error(code)
        self._owner_died = code == lib.IPCHEAP_OWNER_DIED
        return True

    def release(self) -> None:
        """Release the lock; RuntimeError if this thread does not hold it."""
        code = lib.ipcheap_lock_release(self._handle.pointer, self._at)
        if code:
            raise RuntimeError(f"lock {self._where()} is not held by this thread")

    def locked(self) -> bool:
        """Return whether a living participant holds the lock."""
        holder = ffi.new("ipcheap_holder *")
        held = lib.ipcheap_lock_owner(self._handle.pointer, self._at, holder) == 1
        return held and bool(holder.alive)

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<Lock {self._where()}, {'locked' if self.locked() else 'unlocked'}>"
