"""What all endpoints have in common: a claimed side of a channel."""

from __future__ import annotations

import sys
from _thread import get_ident  # threading is not needed, and slow to import

from . import _timing
from ._core import ffi, lib
from ._failures import error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import ClassVar, NoReturn, Self

    from ._aio import Readiness
    from ._arguments import ChannelId
    from ._core import CData
    from ._handle import Handle
    from .results import EndpointStatistics


def _released(pointer: CData, handle: Handle) -> CData:
    """Return the core's endpoint, which is released when the result is garbage-collected.

    It keeps the heap mapped until then.
    """
    # Without names of this module, which may be gone when an interpreter ends.
    count, end = lib.ipcheap_forks, lib.py_endpoint_release
    forks = count()

    def release(pointer: CData, _: Handle = handle) -> None:
        if forks == count():
            end(pointer)

    return ffi.gc(pointer, release)


FAIR = 64  # after this many awaits in a row that need not wait, other tasks get a turn
_WOULD_BLOCK = lib.IPCHEAP_WOULD_BLOCK


class Endpoint:
    """A side of a channel, claimed by the thread that may use it.

    It is a context manager, and `close()` is idempotent. An endpoint that is dropped without being
    closed is closed with a ResourceWarning. Use from another thread raises `WrongThread`, use in a
    forked child `WrongProcess`.
    """

    _side: ClassVar[str]
    _stalled: ClassVar[str]  # what a TimeoutError says

    def __init__(self, handle: Handle, channel: ChannelId, pointer: CData) -> None:
        self._handle = handle
        self._channel = channel
        self._forks = lib.ipcheap_forks()
        self._thread = get_ident()
        self._pointer = mine = _released(pointer, handle)
        self._closed = False
        self._readiness: Readiness | None = None
        self._is_ready = lambda: int(lib.py_ready(mine))  # without a reference to this endpoint
        self._turns = 0  # awaits so far, to let other tasks run after each FAIR of them

    @property
    def channel(self) -> ChannelId:
        """The ID of the channel."""
        return self._channel

    @property
    def closed(self) -> bool:
        """Whether this endpoint, or its heap, has been closed in this process."""
        return self._closed or self._handle.closed

    def close(self) -> None:
        """Release the side; the other side receives what was sent, then ChannelClosed.

        Chunks of a store that a reader holds stay valid.
        """
        if self._is_inherited():
            raise self._error(lib.IPCHEAP_WRONG_PROCESS)
        if self.closed:
            return
        if self._thread != get_ident():
            code = lib.py_wait(self._pointer, 0)
            if code == lib.IPCHEAP_WRONG_THREAD:  # a thread that ends would have closed it
                raise self._error(code)
        if self._readiness is not None:
            self._readiness.close()
        code = lib.py_endpoint_close(self._pointer)
        if code and code != lib.IPCHEAP_ENDPOINT_CLOSED:
            raise self._error(code)
        self._closed = True

    def fileno(self) -> int:
        """Return a descriptor that is readable while this side has something to do.

        That is, while a call that sends or receives would not have to wait, or would raise
        ChannelClosed or PeerDied. It is for select, poll, epoll, selectors and event loops; do not
        read or close it. The first call creates it, and closing the endpoint closes it. A new
        holder of the other side may make it readable spuriously, once. So follow it with a call
        that does not wait, such as `try_recv_record()` or `try_next()`.
        """
        descriptor = lib.py_endpoint_descriptor(self._pointer)
        if descriptor < 0:
            raise self._error(descriptor)
        return int(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._is_inherited():
            self.close()

    def __del__(self) -> None:
        if getattr(self, "_closed", True) or self._handle.closed or self._is_inherited():
            return
        if self._readiness is not None:
            self._readiness.close()
        import warnings

        warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
        lib.py_endpoint_close(self._pointer)  # in another thread the release closes it

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{self!r} does not pickle: pass its channel, and claim a side in the other process"
        )

    def __repr__(self) -> str:
        state = ", closed" if self.closed else ""
        return f"<{type(self).__name__} of channel {self._channel!r} of {self._handle}{state}>"

    def _is_inherited(self) -> bool:
        """Whether a parent claimed it, and this process is a forked child."""
        return self._forks != lib.ipcheap_forks()

    def _owner(self) -> str:
        """Return the name of the thread that claimed it."""
        threading = sys.modules.get("threading")  # imported if there are other threads
        names = (
            [t.name for t in threading.enumerate() if t.ident == self._thread] if threading else []
        )
        return f"thread {names[0]!r}" if names else "a thread that has ended"

    def _error(self, code: int, doing: str = "not done", asked: int | None = None) -> Exception:
        if code == lib.IPCHEAP_WRONG_THREAD:
            doing = self._owner()
        return error(code, self._handle, self._channel, side=self._side, doing=doing, asked=asked)

    def _checked(self, code: int) -> int:
        if code < 0:
            raise self._error(code)
        return int(code)

    def _insist(self, attempt: Callable[[], int], timeout: float | None) -> None:
        """Wait for the other side and try again until it succeeds; TimeoutError when time is up."""
        deadline = _timing.deadline_of(timeout)
        while True:
            code = self._wait(deadline)
            if code == 0:
                code = attempt()
            if code == 0:
                return
            if code != lib.IPCHEAP_WOULD_BLOCK:
                raise self._error(code, doing=self._stalled)

    async def _eventually(self, attempt: Callable[[], int], code: int = _WOULD_BLOCK) -> None:
        """Wait and try again until it succeeds; `code` is what the first attempt returned."""
        from . import _aio  # imports asyncio

        while code:
            if code != _WOULD_BLOCK:
                raise self._error(code, doing=self._stalled)
            mine = _aio.readiness(self._readiness, self.fileno, self._is_ready)
            if mine is not self._readiness:
                self._readiness = mine
                self._handle.add_poller(mine)
            if self._handle.closed:  # by another thread, which has not reached this endpoint yet
                raise self._error(lib.IPCHEAP_HEAP_CLOSED)
            await mine.wait()
            code = attempt()

    async def _until_least(self, wanted: int, awaited: list[int], obey: Callable[[], int]) -> None:
        """Wait until the descriptor is readable.

        `awaited` is what each coroutine waits for, and `obey` has the descriptor follow the least
        of it, or what holds without any.
        """
        waiting = [True]

        def attempt() -> int:
            if waiting.pop():
                waiting.append(False)
                return _WOULD_BLOCK
            return 0

        awaited.append(wanted)
        try:
            self._checked(obey())
            await self._eventually(attempt, attempt())
        finally:
            awaited.remove(wanted)
            if not self.closed:
                obey()

    async def _give_way(self) -> None:
        """Let other tasks of the loop run, before anything has been sent or received."""
        from . import _aio

        await _aio.give_way()

    def _has_left_over(self) -> bool:
        """Whether records have been received already that no call has returned yet."""
        return False

    def _wait(self, deadline: float) -> int:
        """Sleep until the other side has acted; return 0, TIMED_OUT or an error."""
        if _timing.time_left(deadline) <= 0:
            return lib.IPCHEAP_TIMED_OUT
        return _timing.sleep(lambda step: int(lib.py_wait(self._pointer, step)), deadline)


class SidedEndpoint(Endpoint):
    """One of the two sides of a channel."""

    def wait_peer(self, timeout: float | None = None) -> None:
        """Wait until a living participant holds the other side.

        TimeoutError after `timeout` seconds; None waits indefinitely.
        """
        deadline = _timing.deadline_of(timeout)
        code = _timing.sleep(lambda step: int(lib.py_wait_peer(self._pointer, step)), deadline)
        if code:
            raise self._error(code, doing="no participant claimed the other side")


class RecordEndpoint(SidedEndpoint):
    """One side of a record channel."""

    @property
    def capacity(self) -> int:
        """The number of slots: how many records may be sent and not yet freed."""
        return int(self._numbers().capacity)

    def statistics(self) -> EndpointStatistics:
        """Return how many records have passed, and how often this side slept and woke the other."""
        from .results import EndpointStatistics

        numbers = self._numbers()
        return EndpointStatistics(
            capacity=numbers.capacity,
            sent=numbers.sent,
            received=numbers.received,
            held=numbers.held,
            parks=numbers.parks,
            wakes=numbers.wakes,
            detached=numbers.detached,
            spins=numbers.spins,
            doze=numbers.doze_ns / 1e9,
        )

    def _numbers(self) -> CData:
        numbers = ffi.new("ipcheap_endpoint_statistics *")
        code = lib.ipcheap_endpoint_describe(self._pointer, numbers)
        if code:
            raise self._error(code)
        return numbers
