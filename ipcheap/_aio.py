"""How coroutines wait for an endpoint: a reader on its descriptor, no thread.

Imported when it is needed first, for it takes asyncio with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import types
from typing import TYPE_CHECKING

from ._core import lib

if TYPE_CHECKING:
    from collections.abc import Callable, Generator


class Readiness:
    """An event loop's view of one endpoint.

    The reader stays with the loop from wait to wait: the descriptor is quiet while there is
    nothing to do. Only when it is not and nobody waits, it is taken out.
    """

    __slots__ = ("__weakref__", "_descriptor", "_home", "_reading", "_ready", "_waiting", "loop")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, descriptor: int, ready: Callable[[], object]
    ) -> None:
        self.loop = loop
        self._home = lib.ipcheap_forks(), threading.get_ident()
        self._descriptor = descriptor
        self._ready = ready
        self._reading = False
        self._waiting: list[asyncio.Future[None]] = []

    async def wait(self) -> None:
        """Return when the endpoint may go on; nothing has been done then."""
        future: asyncio.Future[None] = self.loop.create_future()
        self._waiting.append(future)
        if not self._reading:
            self.loop.add_reader(self._descriptor, self._wake)
            self._reading = True
        try:
            await future
        finally:
            if future in self._waiting:
                self._waiting.remove(future)

    def close(self) -> None:
        """Let go of the descriptor before it is closed; who waits looks again."""
        forks, thread = self._home
        if forks != lib.ipcheap_forks():
            return  # a forked child has the same poller as its parent, who goes on
        if not self.loop.is_closed():
            if self._reading:
                self.loop.remove_reader(self._descriptor)
            self._reading = False
            if thread == threading.get_ident():
                self._let_go()
            else:  # a heap may be closed by any thread
                with contextlib.suppress(RuntimeError):  # the loop has been closed just now
                    self.loop.call_soon_threadsafe(self._let_go)
        self._reading = False

    def _wake(self) -> None:
        if not self._waiting:
            if self._reading:
                self.loop.remove_reader(self._descriptor)
                self._reading = False
        elif self._ready():  # not so when the loop had looked before the last receive
            self._let_go()

    def _let_go(self) -> None:
        for future in self._waiting:
            if not future.done():
                future.set_result(None)


def readiness(
    current: Readiness | None, descriptor: Callable[[], int], ready: Callable[[], object]
) -> Readiness:
    """Return what belongs to the running loop: the current one, if it does."""
    loop = asyncio.get_running_loop()
    if current is not None:
        if current.loop is loop:
            return current
        current.close()
    return Readiness(loop, descriptor(), ready)


@types.coroutine
def give_way() -> Generator[None, None, None]:
    """Let the other tasks of the loop run."""
    yield
