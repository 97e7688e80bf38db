"""Event, Barrier and Lock between processes, laid into a static segment.

Each takes `SIZE` bytes at an offset that is a multiple of it, zero to begin with, and has
the methods of its namesake in `threading`. Timeouts are seconds.
"""

from __future__ import annotations

import threading
from functools import partial

from . import _arguments, _timing
from ._core import ffi, lib
from ._failures import error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

    from .static import StaticSegment


class BarrierTimeout(threading.BrokenBarrierError, TimeoutError):
    """A wait at a barrier took longer than it may; the barrier is broken now."""


class _Primitive:
    """Where in which segment it is."""

    SIZE: ClassVar[int] = lib.IPCHEAP_SYNC_BYTES

    def __init__(self, segment: StaticSegment, offset: int) -> None:
        self._segment = segment
        self._offset = offset
        self._handle = segment._handle
        self._at = segment._address(offset, self.SIZE, self.SIZE, f"the {type(self).__name__}")

    def _error(self, code: int) -> Exception:
        return error(code, self._handle, self._segment.id)

    def _where(self) -> str:
        return f"at {self._offset} of {self._segment!r}"


class Event(_Primitive):
    """A flag that processes wait for; like `threading.Event`."""

    def is_set(self) -> bool:
        """Return whether the flag is up."""
        return bool(lib.ipcheap_event_is_set(self._at))

    def set(self) -> None:
        """Put the flag up and wake all who wait for it."""
        lib.ipcheap_event_set(self._at)

    def clear(self) -> None:
        """Take the flag down."""
        lib.ipcheap_event_clear(self._at)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the flag is up; return False if it is not after `timeout` seconds."""
        step = partial(lib.py_event_wait, self._handle.pointer, self._at)
        code = _timing.sleep(step, _timing.deadline_of(timeout))
        if code not in (0, lib.IPCHEAP_TIMED_OUT):
            raise self._error(code)
        return code == 0

    def __repr__(self) -> str:
        return f"<Event {self._where()}, {'set' if self.is_set() else 'not set'}>"


class Barrier(_Primitive):
    """Where so many parties wait for each other; like `threading.Barrier`.

    All of them must give the same number. One that dies while it waits leaves the others
    waiting: give a timeout.
    """

    def __init__(self, segment: StaticSegment, offset: int, parties: int) -> None:
        super().__init__(segment, offset)
        self._parties = _arguments.count(parties, "parties", least=1)

    @property
    def parties(self) -> int:
        """How many it takes."""
        return self._parties

    @property
    def n_waiting(self) -> int:
        """How many wait just now."""
        return int(lib.ipcheap_barrier_waiting(self._at))

    @property
    def broken(self) -> bool:
        """Whether it is broken: aborted, or somebody's time was up."""
        return bool(lib.ipcheap_barrier_broken(self._at))

    def wait(self, timeout: float | None = None) -> int:
        """Wait until all parties are here; return the order of arrival, from 0.

        Raises `threading.BrokenBarrierError` when it is or gets broken or reset meanwhile.
        Who waits longer than `timeout` seconds breaks it and gets a `BarrierTimeout`.
        """
        deadline = _timing.deadline_of(timeout)
        generation = ffi.new("uint32_t *")
        order = lib.ipcheap_barrier_arrive(self._at, self._parties, generation)
        if order == lib.IPCHEAP_BROKEN:
            raise threading.BrokenBarrierError(f"barrier {self._where()} is broken")
        if order < 0:
            raise self._error(order)
        if order == self._parties - 1:
            return int(order)
        step = partial(lib.py_barrier_wait, self._handle.pointer, self._at, generation[0])
        try:
            code = _timing.sleep(step, deadline)
        except BaseException:
            self.abort()
            raise
        if code == 0:
            return int(order)
        if code == lib.IPCHEAP_TIMED_OUT:
            self.abort()
            raise BarrierTimeout(f"not all came to barrier {self._where()} in {timeout} s")
        if code == lib.IPCHEAP_BROKEN:
            raise threading.BrokenBarrierError(f"barrier {self._where()} got broken")
        raise self._error(code)

    def reset(self) -> None:
        """Make it as new; who waits there gets a BrokenBarrierError."""
        lib.ipcheap_barrier_reset(self._at)

    def abort(self) -> None:
        """Break it: who waits, or comes later, gets a BrokenBarrierError."""
        lib.ipcheap_barrier_abort(self._at)

    def __repr__(self) -> str:
        state = ", broken" if self.broken else ""
        return f"<Barrier {self._where()}, {self.n_waiting} of {self._parties} waiting{state}>"


class Lock(_Primitive):
    """A lock between processes; like `threading.Lock`, but robust.

    When its owner dies, the next `acquire()` succeeds and sets `owner_died`: what the lock
    guards may be half-made. It is not reentrant, and only the thread that acquired it may
    release it.
    """

    def __init__(self, segment: StaticSegment, offset: int) -> None:
        super().__init__(segment, offset)
        self._owner_died = False

    @property
    def owner_died(self) -> bool:
        """Whether the last `acquire()` through this object took over from a dead owner."""
        return self._owner_died

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take the lock; return False when it could not be had in `timeout` seconds.

        -1 is for ever. ValueError for a timeout without blocking.
        """
        if not blocking and timeout != -1:
            raise ValueError("can't specify a timeout for a non-blocking call")
        deadline = _timing.deadline_of((None if timeout == -1 else timeout) if blocking else 0.0)
        step = partial(lib.py_lock_acquire, self._handle.pointer, self._at)
        code = _timing.sleep(step, deadline)
        if code == lib.IPCHEAP_TIMED_OUT:
            return False
        if code not in (0, lib.IPCHEAP_OWNER_DIED):
            raise self._error(code)
        self._owner_died = code == lib.IPCHEAP_OWNER_DIED
        return True

    def release(self) -> None:
        """Give the lock up; RuntimeError when it is not this thread's."""
        code = lib.ipcheap_lock_release(self._handle.pointer, self._at)
        if code:
            raise RuntimeError(f"lock {self._where()} is not held by this thread")

    def locked(self) -> bool:
        """Return whether a living participant holds it."""
        holder = ffi.new("ipcheap_holder *")
        held = lib.ipcheap_lock_owner(self._handle.pointer, self._at, holder) == 1
        return held and bool(holder.alive)

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<Lock {self._where()}, {'locked' if self.locked() else 'unlocked'}>"
