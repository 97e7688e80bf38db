"""The calling program as a worker: it feeds inputs of the graph, and receives outputs."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any

import ipcheap
from ipcheap import ChannelClosed, EndpointClosed, HeapClosed, PeerDied

from .ends import writers_for
from .errors import GraphError, GraphStopped
from .here import Here
from .items import is_mark, item_of
from .ledger import Ledger
from .plan import CALLING
from .reader import Ended, Reader
from .worker import acknowledge

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ipcheap import Heap

    from .board import Board
    from .ends import Output
    from .graph import Port
    from .plan import Plan


class Caller:
    """The endpoints of the calling program; the thread that uses one first claims it."""

    def __init__(self, plan: Plan, heap: Heap, board: Board, notes: memoryview) -> None:
        self._plan = plan
        self._heap = heap
        self._board = board
        self._notes = notes
        self._writers: dict[str, tuple[int, list[Output]]] = {}
        self._fed: set[str] = set()
        self.unread: set[str] = {
            kernel.name for kernel in plan.kernels.values() if kernel.form == "output"
        }

    def input(self, node: Port) -> str:
        """Return the name of an input; GraphError if it is none of this graph."""
        kernel = self._plan.kernels.get(getattr(node, "kernel", ""))
        if kernel is None or kernel.form != "input":
            raise GraphError(f"{node!r} is no input of this graph")
        return kernel.name

    def feed(self, node: Port) -> None:
        """Note that an input is fed; GraphError if it is already, or none of this graph."""
        name = self.input(node)
        if name in self._fed:
            raise GraphError(f"the input {name!r} is fed already: join the iterables into one")
        self._fed.add(name)

    def output(self, port: Port) -> str:
        """Return the name of what receives a port; GraphError if nothing does."""
        ref = getattr(port, "kernel", ""), getattr(port, "port", "")
        for kernel in self._plan.kernels.values():
            if kernel.form == "output" and kernel.inputs[0][0] == ref:
                return kernel.name
        raise GraphError(f"{port!r} is no output of this graph: declare it by output() before")

    def send(self, name: str, value: Any, timeout: float | None) -> None:
        """Send an item to an input, to all that read it or to none."""
        if self._board.is_closed(name):
            self._close_writers(name)
            raise GraphStopped(f"the input {name!r} is closed")
        writers = self._claimed(name)
        deadline = None if timeout is None else time.monotonic() + timeout
        for writer in writers:
            left = None if deadline is None else max(deadline - time.monotonic(), 0)
            if not writer.has_room(value, left):
                raise TimeoutError(f"the input {name!r} had no room within {timeout} s")
        for writer in writers:
            writer.put(value, 0)

    def close_input(self, name: str) -> None:
        """End an input, from any thread."""
        self._board.close_input(name)
        self._close_writers(name)

    def close_inputs(self) -> None:
        """End all inputs."""
        for kernel in self._plan.kernels.values():
            if kernel.form == "input":
                self.close_input(kernel.name)

    def results(self, name: str) -> Iterator[Any]:
        """Yield the items of an output; each is acknowledged when the next one is requested."""
        reader, record = self.reader(name), None
        has_marks, receive = reader.has_marks, reader.receives
        try:
            while True:
                try:
                    record = receive() if receive is not None else reader.next()
                except Ended:
                    return
                except (ChannelClosed, PeerDied):
                    receive = None
                    continue
                form = "" if has_marks else record.form
                if form == "bytes":
                    yield bytes(record)
                elif form == "object":
                    yield record.object()
                elif not has_marks or not is_mark(record):
                    yield item_of(record, None, True)
                acknowledge(record)
                record = None
        finally:
            if record is not None:
                acknowledge(record)
            self.leave(reader, name)

    def writer(self, name: str) -> Output:
        """Claim an input that one kernel reads."""
        (writer,) = self._claimed(name)
        return writer

    def reader(self, name: str) -> Reader:
        """Claim an output."""
        channels = self._plan.channels_into(name, 0)[0]
        return Reader(self._heap, channels, 0, lambda _: False)

    def leave(self, reader: Reader, name: str) -> None:
        """Give an output back."""
        self.unread.discard(name)
        with contextlib.suppress(EndpointClosed, HeapClosed, ipcheap.WrongThread):
            reader.close()

    def _claimed(self, name: str) -> list[Output]:
        """Return the writers of an input, which the first thread that sends claims."""
        thread = threading.get_ident()
        owner, writers = self._writers.get(name, (thread, []))
        if owner != thread:
            raise ipcheap.WrongThread(
                f"the input {name!r} belongs to another thread, which uses it"
            )
        if name not in self._writers:
            plan, kernel = self._plan, self._plan.kernels[name]
            at, _ = plan.areas[name, 0]
            ledger = Ledger(self._notes, at, plan.shape(name, 0))
            here = Here(name, 0, 1, CALLING, self._heap, self._board)
            edges = plan.out_of[kernel.name]
            keys = [plan.kernels[edge.target].key for edge in edges]
            writers = writers_for(self._heap, edges, keys, 0, ledger, here)
            self._writers[name] = thread, writers
        return writers

    def _close_writers(self, name: str) -> None:
        owner, writers = self._writers.get(name, (0, []))
        if owner == threading.get_ident():
            with contextlib.suppress(EndpointClosed, HeapClosed):
                for writer in writers:
                    writer.close()
