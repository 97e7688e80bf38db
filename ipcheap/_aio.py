"""How coroutines wait for an endpoint: by a reader on its descriptor, without a thread.

Imported on first use, because it imports asyncio.
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

    The reader stays registered between waits, because the descriptor is not readable while there
    is nothing to do. If it becomes readable while no coroutine waits, the reader is removed.
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
        """Return when the endpoint may be able to continue; nothing has been sent or received."""
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
        """Release the descriptor before it is closed; coroutines that wait try again."""
        forks, thread = self._home
        if forks != lib.ipcheap_forks():
            return  # a forked child shares its poller with the parent, which still uses it
        if not self.loop.is_closed():
            if self._reading:
                self.loop.remove_reader(self._descriptor)
            self._reading = False
            if thread == threading.get_ident():
                self._release()
            else:  # a heap may be closed by any thread
                with contextlib.suppress(RuntimeError):  # the loop has been closed meanwhile
                    self.loop.call_soon_threadsafe(self._release)
        self._reading = False

    def _wake(self) -> None:
        if not self._waiting:
            if self._reading:
                self.loop.remove_reader(self._descriptor)
                self._reading = False
        elif self._ready():  # false if the loop polled before the last receive
            self._release()

    def _release(self) -> None:
        for future in self._waiting:
            if not future.done():
                future.set_result(None)


def readiness(
    current: Readiness | None, descriptor: Callable[[], int], ready: Callable[[], object]
) -> Readiness:
    """Return a Readiness of the running loop: the current one, if it belongs to that loop."""
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
