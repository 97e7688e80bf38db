"""The calling program as the sender and the receiver of a graph, in one thread."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import ipcheap
from ipcheap import ChannelClosed, HeapFull, PeerDied

from .here import FULL, PATIENCE
from .items import is_mark, item_of, send
from .reader import Ended
from .worker import acknowledge

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ipcheap import Producer, Record

    from .graph import Node
    from .reader import Reader
    from .runner import Run
    from .writer import Writer

_END = object()
_BURST = 0.0005  # seconds of sending in a row
_LOOK = 0.05  # seconds between looks at a worker that is not there


class Exchange:
    """Sends items while there is room, and receives results while there are any.

    Two threads would do the same, but each would wait for the other to give up the GIL. The input
    is read by one kernel, which gives its results in order.
    """

    def __init__(self, run: Run, fed: Node, node: Node) -> None:
        self._run = run
        self._caller = run._caller
        self._fed = fed
        self._output = self._caller.output(node)
        self._iterator: Iterator[Any] = iter(())
        self._item: Any = None  # the next one, which had no room
        self._more = True
        self._full_since: float | None = None  # the heap, without a result since then
        # Items that are not known to be done, and how many there is room for, if not less.
        self._under_way = self._most = 0

    def results(self, items: Iterable[Any]) -> Iterator[Any]:
        """Yield the results of items, which are requested one by one as there is room for them."""
        run, name = self._run, self._fed.name
        with run._explained():
            writer: Any = self._caller.writer(name)
            reader = self._caller.reader(self._output)
        self._iterator, self._item, self._more = iter(items), None, True
        edge = writer.edge
        self._under_way, self._most = 0, edge.slots * edge.receivers
        record: Record | None = None
        try:
            with run._explained():
                while True:
                    try:
                        record, absent = reader.try_next(), False
                    except Ended:
                        return
                    except PeerDied:
                        absent = True  # until it is started again
                    if record is None:
                        if not self._send_some(writer):
                            self._wait(writer, reader, absent)
                        continue
                    self._under_way -= 1
                    if not reader.has_marks or not is_mark(record):
                        form = record.form
                        yield record.object() if form == "object" else item_of(record, None, True)
                    acknowledge(record)
                    record, self._full_since = None, None
        finally:
            if record is not None:
                acknowledge(record)
            self._caller.leave(reader, self._output)

    def _send_some(self, writer: Writer) -> bool:
        """Send what there is room for, for a short time; return whether anything was sent."""
        sent, until = False, time.monotonic() + _BURST
        while self._more and self._under_way < self._most:
            if self._item is None:
                self._item = next(self._iterator, _END)
                if self._item is None:
                    raise ValueError("None cannot be sent: it means no item")
                if self._item is _END:
                    self._item, self._more = None, False
                    self._run.close_input(self._fed)
                    break
            if not self._send(writer, self._item):
                break
            sent, self._item = True, None
            self._under_way += 1
            if time.monotonic() > until:
                break
        return sent

    def _wait(self, writer: Writer, reader: Reader, absent: bool) -> None:
        """Wait for a result, or for room for the next item."""
        ends: list[Any] = [] if absent else [reader.next_consumer]
        if self._more and self._full_since is None:
            ends.append(writer.next_producer)
        if ends:
            ipcheap.wait(ends, _LOOK if absent or self._more else None)
        else:
            time.sleep(_LOOK)
        if self._under_way >= self._most:
            self._under_way = self._most - 1  # perhaps some gave no result: try it

    def _send(self, writer: Writer, item: Any) -> bool:
        """Send an item if there is room; return whether it is done with."""
        producer: Producer = writer.next_producer
        try:
            send(producer, item, 0)
        except (TimeoutError, PeerDied):
            return False
        except HeapFull as error:
            now = time.monotonic()
            self._full_since = self._full_since or now
            if now - self._full_since > PATIENCE:
                error.add_note(FULL)
                raise
            return False
        except ChannelClosed:
            return True  # its reader has ended, and the results end soon
        self._full_since = None
        writer.count()
        return True
