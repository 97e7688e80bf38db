"""A process's hold on a heap, and its end at exit."""

from __future__ import annotations

import atexit
import sys
import weakref

from ._core import ffi, lib
from ._failures import bad_variable, error
from ._native import address
from ._types import MemoryCore

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn, Protocol

    from ._arguments import ChannelId
    from ._core import CData

    class Poller(Protocol):
        """Uses the descriptor of an endpoint, and must release it before the endpoint closes."""

        def close(self) -> None:
            """Release the descriptor."""


class Handle(MemoryCore):
    """This process's hold on a heap, shared by all objects that use the heap.

    Each object that uses memory of the heap keeps a reference to `pointer`. The heap is unmapped
    when the last of them is gone.
    """

    __slots__ = ("__weakref__", "closed", "ended", "name", "path", "pointer", "pollers")

    name: str | None
    path: str | None
    closed: bool
    ended: bool  # closed because the process ends
    pointer: CData
    pollers: set[weakref.ref[Poller]]

    def __init__(self, fd: int, shmid: int, name: str | None, path: str | None) -> None:
        self.name = name
        self.path = path
        self.closed = self.ended = False
        self.pollers = set()
        place = ffi.new("ipcheap_heap **")
        code = lib.py_attach(fd, shmid, place)  # a participant from now on: the heap is not stale
        if code:
            raise bad_variable() or error(code, self)
        self.pointer = ffi.gc(place[0], lib.py_release)
        self.bind(address(self.pointer))
        _attached.add(self)
        close_at_exit()

    def __repr__(self) -> str:
        return f"heap {self.name!r}" if self.name else "heap without a name"

    def close(self) -> None:
        """Close this process's endpoints; objects that use memory of the heap keep it mapped."""
        self.closed = True
        for reference in list(self.pollers):
            poller = reference()
            if poller is not None:
                poller.close()
        code = lib.py_close(self.pointer)
        if code and code != lib.IPCHEAP_HEAP_CLOSED:
            raise error(code, self)

    def add_poller(self, poller: Poller) -> None:
        """Close that poller, if it still exists, when this handle closes."""
        self.pollers.add(weakref.ref(poller, self.pollers.discard))

    def opened(self) -> Handle:
        """Return this handle; HeapClosed if it has been closed."""
        if self.closed:
            raise error(lib.IPCHEAP_HEAP_CLOSED, self)
        return self

    def file(self) -> int:
        """Return the descriptor of the heap's file, which the handle keeps."""
        return self.check(lib.ipcheap_heap_file(self.opened().pointer))

    def check(self, code: int) -> int:
        """Return `code` if it is not an error; otherwise raise its exception."""
        if code < 0:
            raise error(code, self)
        return int(code)

    def left(self) -> Handle:
        """Return what a closed heap keeps of it: the name, without a hold on the memory."""
        rest = Handle.__new__(Handle)
        rest.name, rest.path = self.name, self.path
        rest.closed, rest.ended = True, self.ended
        rest.pointer, rest.pollers = ffi.NULL, set()
        return rest

    def allocation_error(self, code: int, nbytes: int) -> Exception:
        """Return the exception for a failed allocation of `nbytes` bytes."""
        if code == lib.IPCHEAP_BAD_VALUE:
            return ValueError(f"nbytes must be 0 or more and fit into a heap, not {nbytes}")
        return error(code, self, asked=nbytes)

    def _allocation_failed(self, code: int, nbytes: int) -> NoReturn:
        raise self.allocation_error(code, nbytes)

    # What a Record needs of its source, which is a heap or a consumer.

    channel: ChannelId | None = None

    @property
    def handle(self) -> Handle:
        """This handle."""
        return self


# The end of the process --------------------------------------------------------------------

_attached: weakref.WeakSet[Handle] = weakref.WeakSet()
_finalizer: Any = None  # of multiprocessing
_hooked_at = -1  # the count of forks when it was registered
_LONGEST_END = 1_000_000_000  # ns that the end of the process waits for such a thread
_follows = False  # multiprocessing calls close_at_exit() at the beginning of a child


def _close_all() -> None:
    handles = list(_attached)
    for handle in handles:
        if not handle.closed:
            handle.closed = handle.ended = True
            lib.py_close(handle.pointer)
    for handle in handles:  # daemon threads that were in calls close what they used themselves
        if lib.py_wait_closed(handle.pointer, _LONGEST_END):
            break


def _begin_child(_: object) -> None:
    close_at_exit()


def _end_child() -> None:
    # Threads that are no daemons may use the heap to their end. Python waits for them before it
    # calls what is registered with atexit, but multiprocessing only after its finalizers.
    if sys.modules["multiprocessing.process"].parent_process() is not None:
        sys.modules["threading"]._shutdown()
    _close_all()


def close_at_exit() -> None:
    """Make sure that peers see a normal exit of this process as a close, not as a death."""
    global _finalizer, _hooked_at, _follows  # noqa: PLW0603
    # A child of multiprocessing, or of billiard, which shares its finalizers, may exit without
    # running atexit. What was registered before the child began its work has been forgotten.
    util: Any = sys.modules.get("multiprocessing.util")
    forks = lib.ipcheap_forks()
    if util is None:
        return
    if not _follows:  # so that a child registers before its threads begin, not when they attach
        util.register_after_fork(_end_child, _begin_child)
        _follows = True
    if not forks and not sys.modules["multiprocessing.process"].current_process()._identity:
        return  # no child
    if forks != _hooked_at or not _finalizer.still_active():
        # Two threads may do this at a time. A lock could be left locked in a forked child; both may
        # register it, because what has been closed is not closed again.
        _finalizer = util.Finalize(None, _end_child, exitpriority=-100)
        _hooked_at = forks


atexit.register(_close_all)
close_at_exit()  # a child of multiprocessing imports its work before it begins
