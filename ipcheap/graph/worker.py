"""A worker: one thread of one process that runs a kernel.

What is stored when, and what the next worker concludes after a kill: docs/design/graph.md.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any, cast

from ipcheap import ChannelNotFound, EndpointClosed, HeapClosed, RecordError

from . import kernels as forms
from .ends import reader_for, writers_for
from .here import Here, settle
from .ledger import Ledger
from .plan import CALLING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ipcheap import Heap, Record

    from .board import Board
    from .ends import Input, Output
    from .plan import Kernel, Plan

_log = logging.getLogger("ipcheap.graph")
_READ_ONLY = "read-only"


class Aborted(Exception):
    """The graph ends without working off what is under way."""


class Worker:
    """One worker of a run, in the thread that runs it.

    `again` says that another one ran before it, and `skip` that the call which that one had begun
    is to be left out.
    """

    def __init__(
        self,
        plan: Plan,
        kernel: Kernel,
        worker: int,
        heap: Heap,
        board: Board,
        notes: memoryview,
        *,
        again: bool = False,
        skip: bool = False,
    ) -> None:
        self._kernel = kernel
        self._worker = worker
        self._heap = heap
        self._board = board
        self._again = again
        at, _ = plan.areas[kernel.name, worker]
        self._shape = plan.shape(kernel.name, worker)
        self._ledger = Ledger(notes, at, self._shape)
        # The call that was begun last, counted from 1, if that is to be left out.
        self._poison = self._ledger.begun if skip else 0
        host = plan.host_of(kernel.name, worker)
        self._here = Here(kernel.name, worker, kernel.workers, host, heap, board)
        self._channels = plan.channels_into(kernel.name, worker)
        self._edges = plan.out_of[kernel.name]
        # The numbers of the edges of each output, in the order of outputs.
        self._by_port: dict[str, list[int]] = {port: [] for port in kernel.outputs or ("",)}
        for number, edge in enumerate(self._edges):
            self._by_port[edge.port].append(number)
        self._keys = [plan.kernels[edge.target].key for edge in self._edges]
        self._readers: list[Input] = []
        self._writers: list[Output] = []
        self._object: Any = None
        self._made = False
        hints = forms.input_hints(kernel.call, len(kernel.inputs))
        self._wanted = [forms.wanted(hint) for hint in hints]

    # From the beginning to the end --------------------------------------------------------------

    def claim(self) -> None:
        """Claim the channels; Aborted if the graph has ended."""
        # Elsewhere the bridge knows, after it has brought all that was sent.
        is_closed = self._board.is_closed if self._here.host == CALLING else _never
        with aborting(self._board):
            for entry, channels in enumerate(self._channels):
                reader = reader_for(
                    self._heap, channels, self._worker, self._board, is_closed, self._ledger, entry
                )
                self._readers.append(reader)
                self._here._reader = self._readers[0]
            self._writers = writers_for(
                self._heap, self._edges, self._keys, self._worker, self._ledger, self._here
            )
        for writer in self._writers:
            self._here._allocators.extend(writer.producers.values())

    def run(self) -> None:
        """Work until the input ends; Aborted if the graph does first."""
        settle(self._here)
        try:
            with aborting(self._board), self._explaining():
                self._work()
        finally:
            try:
                self._tear_down()
            finally:
                settle(None)

    def close(self) -> None:
        """End: readers of this worker get what was sent, then an end."""
        with contextlib.suppress(EndpointClosed, HeapClosed):
            self._close()
        self._board.finish(self._kernel.name, self._worker)
        self._ledger.close()

    def leave(self) -> None:
        """Give up what is claimed, after an abort."""
        with contextlib.suppress(EndpointClosed, HeapClosed):
            self._close()

    def _close(self) -> None:
        for writer in self._writers:
            writer.close()
        for reader in self._readers:
            reader.close()

    def check_aborted(self) -> None:
        """Raise Aborted if the graph was: an end may be that of a sender that has left."""
        if self._board.is_aborted:
            raise Aborted

    def _work(self) -> None:
        raise NotImplementedError

    @contextlib.contextmanager
    def _explaining(self) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            if _READ_ONLY in str(error) and not self._kernel.inplace:
                error.add_note(
                    "Items are read-only, because that of a killed worker is delivered again. "
                    "inplace=True in add() lets a kernel change what it receives."
                )
            raise

    def _set_up(self) -> Any:
        """Return what is called for each item."""
        kernel = self._kernel
        if kernel.form != "object":
            call = kernel.call
            if not kernel.params:
                return call
            params = kernel.params

            def bound(*items: Any) -> Any:
                return call(*items, **params)

            return bound
        made = kernel.call(**kernel.params) if isinstance(kernel.call, type) else kernel.call
        self._object = made
        self._made = True
        if hasattr(made, "setup"):
            made.setup()
        return made.process

    def _tear_down(self) -> None:
        if self._made and hasattr(self._object, "teardown"):
            self._object.teardown()
        self._object = None

    def _freed(self, entry: int) -> list[int]:
        """Return how many records of each channel of an input are done."""
        return self._readers[entry].freed()

    # Outputs ----------------------------------------------------------------------------------

    def _outputs(self, value: Any) -> Iterator[tuple[int, Any, bool]]:
        """Yield which edges get what, and whether it is the last one."""
        by_port = self._by_port
        if not self._kernel.outputs:
            numbers = by_port[""]
            for n, number in enumerate(numbers, 1):
                yield number, value, n == len(numbers)
            return
        if not isinstance(value, dict):
            raise TypeError(
                f"kernel {self._kernel.name!r} has several outputs: it gives dicts of them, not "
                f"{type(value).__name__}"
            )
        given = cast("dict[str, Any]", value)
        if unknown := given.keys() - by_port.keys():
            raise KeyError(f"kernel {self._kernel.name!r} has no output {unknown.pop()!r}")
        found = [
            (number, given[port])
            for port, numbers in by_port.items()
            if given.get(port) is not None
            for number in numbers
        ]
        for n, (number, one) in enumerate(found, 1):
            yield number, one, n == len(found)

    # Errors -----------------------------------------------------------------------------------

    def _leave_out(self, error: Exception) -> None:
        _log.warning(
            "kernel %r, worker %d: an item is left out after %r",
            self._kernel.name,
            self._worker,
            error,
            exc_info=error,
        )
        self._count_skipped()

    def _begins(self, call: int) -> bool:
        """Note that a call begins, if one may be left out; return whether this one is."""
        self._ledger.begun = call + 1
        return self._poison == call + 1

    def _count_skipped(self) -> None:
        self._ledger.skip()


def _never(_: str) -> bool:
    return False


def acknowledge(record: Record) -> None:
    """Acknowledge a record; a kernel that takes records may have freed or sent it itself."""
    try:
        record.free()
    except RecordError:
        pass


@contextlib.contextmanager
def aborting(board: Board) -> Iterator[None]:
    """Turn the errors of removed channels into Aborted, if the graph was aborted."""
    try:
        yield
    except (EndpointClosed, ChannelNotFound, HeapClosed):
        if board.is_aborted:
            raise Aborted from None
        raise
