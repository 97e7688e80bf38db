"""Where a kernel runs: what it can ask about itself."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, TypeVar

from ipcheap import HeapFull

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipcheap import Heap, Producer

    from .board import Board
    from .ends import Input

T = TypeVar("T")

PATIENCE = 30.0  # seconds that a worker waits for others to free memory
FULL = (
    "This is the heap of the graph: Graph(capacity=...) makes it larger. Arrays that the calling "
    "program keeps are in it, too: keep copies of them."
)


class Here:
    """The worker that asks, as `here()` returns it inside of a kernel.

    `name` is that of the kernel, `worker` the number of this worker, `workers` how many there are,
    `host` the name of the machine ("" if it is the calling one) and `heap` its heap. `sequence`
    numbers the calls of the kernel: it is unique to the kernel, and the same if an item is worked
    on again after a kill. `source` is where the item comes from: "kernel" or "kernel.port".
    """

    def __init__(self, name: str, worker: int, workers: int, host: str, heap: Heap, board: Board):
        self.name = name
        self.worker = worker
        self.workers = workers
        self.host = host
        self.heap = heap
        self._reader: Input | None = None  # of the item
        self._calls = 0  # before this one
        self._board = board
        self._allocators: list[Producer] = []

    @property
    def source(self) -> str:
        """Where the item comes from: "kernel" or "kernel.port"; empty in a source."""
        return "" if self._reader is None else self._reader.source

    @property
    def sequence(self) -> int:
        """The number of this call."""
        return self._calls * self.workers + self.worker

    @property
    def stopping(self) -> bool:
        """Whether the graph is asked to end."""
        return self._board.state != 0

    def __repr__(self) -> str:
        return f"<worker {self.worker} of kernel {self.name!r}>"

    def _room(self, allocate: Callable[[], T]) -> T:
        """Return what `allocate` returns; wait for others to free memory if there is none."""
        deadline = time.monotonic() + PATIENCE
        pause = 0.001
        while True:
            try:
                return allocate()
            except HeapFull as error:
                if time.monotonic() > deadline or self._board.is_aborted:
                    error.add_note(FULL)
                    raise
                time.sleep(pause)
                pause = min(2 * pause, 0.05)


_threads = threading.local()


def here() -> Here | None:
    """Return the worker that this thread is; None outside of a graph."""
    return getattr(_threads, "here", None)


def settle(worker: Here | None) -> None:
    """Make this thread a worker, or none."""
    _threads.here = worker
