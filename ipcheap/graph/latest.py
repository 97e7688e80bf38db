"""Edges of `full="latest"`: a store with one key for each sending worker.

The sender never waits. All workers that read the edge, and all other edges of the same output, see
the same chunk. What is promised after a kill: docs/design/graph.md.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import ipcheap
from ipcheap import ChannelClosed, ChannelNotFound, PeerDied

from .items import send
from .reader import Ended, wait_for_peer

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipcheap import Chunk, Heap, Producer, Record, Store, StoreReader, StoreWriter

    from .here import Here
    from .ledger import Ledger
    from .plan import Edge

KEY = 0  # of the only chunk
_LOOK = 0.1  # seconds between looks for the end of what the calling program sends
_DEAD = 0.02  # seconds between looks at a store whose sender died, while others are waited for


class Newest:
    """The newest item of a sender, as a worker takes it: others may hold it, too."""

    __slots__ = ("_chunk",)

    def __init__(self, chunk: Chunk) -> None:
        self._chunk = chunk

    @property
    def version(self) -> int:
        """The number of the item, from 1 on."""
        return self._chunk.version

    @property
    def form(self) -> str:
        """What it was sent as: "bytes", "array" or "object"."""
        return self._chunk.form

    @property
    def nbytes(self) -> int:
        """Its size."""
        return self._chunk.nbytes

    @property
    def view(self) -> memoryview:
        """Its bytes, read-only."""
        return self._chunk.view

    def array(self) -> Any:
        """Return it as a read-only array, which keeps it."""
        return self._chunk.array()

    def object(self, *, codec: Any) -> Any:
        """Return it as an object."""
        return self._chunk.object(codec=codec)

    def __bytes__(self) -> bytes:
        return bytes(self._chunk)

    def free(self) -> None:
        """Release it; arrays of it stay valid."""
        self._chunk.release()


class LatestReader:
    """Receives the newest item of each sender; it has the interface of a Reader.

    `seen` are the versions that were received last, by channel.
    """

    is_ordered: bool = False
    has_marks: bool = False
    has_turns: bool = False
    most_held: int = 1
    receives: Callable[[], Any] | None = None

    def __init__(
        self,
        heap: Heap,
        channels: list[tuple[Edge, int]],
        worker: int,
        is_closed: Callable[[str], bool],
    ) -> None:
        self.channels = channels
        self.channel: int = 0
        self.taken: int = 0
        self.seen: list[int] = [0] * len(channels)
        self._is_closed = is_closed
        self._patience = _LOOK if channels[0][0].is_fed else None
        self._open = list(range(len(channels)))
        self._next = 0
        self._sides: list[StoreReader] = [
            store_of(heap, edge.channel(sender, worker)).reader(None) for edge, sender in channels
        ]

    @property
    def source(self) -> str:
        """The origin of the last item."""
        return self.channels[self.channel][0].label

    def close(self) -> None:
        """Give the stores back."""
        for side in self._sides:
            side.close()

    def freed(self) -> list[int]:
        """Return the versions that were received last, which count as done."""
        return list(self.seen)

    def resume(self, taken: int, number: int) -> None:
        """Do nothing: where it goes on, `seen` says."""

    def receive(self, channel: int) -> Any:
        """Return the newest item; of which sender, `channel` says."""
        del channel
        return self.next()

    def next(self) -> Any:
        """Return the newest item that was not received yet; Ended if there will be none."""
        while self._open:
            closed = self._patience is not None and self._is_closed(self.channels[0][0].source)
            dead: list[int] = []
            for n in range(len(self._open)):
                at = (self._next + n) % len(self._open)
                channel = self._open[at]
                try:
                    found = self._look(channel)
                except PeerDied:
                    dead.append(channel)
                    continue
                except ChannelClosed:
                    self._open.remove(channel)
                    break
                if found is not None:
                    self._next = at + 1
                    self.channel = channel
                    self.seen[channel] = found.version
                    return found
            else:
                if closed:
                    break
                self._wait(dead)
        raise Ended

    def _look(self, channel: int) -> Newest | None:
        """Return an item that is newer than the last one of a sender, or None."""
        side = self._sides[channel]
        alone = len(self._sides) == 1
        if not alone:
            side.seek()  # what is newer from here on makes it ready
        try:
            patience = self._patience if alone else 0
            return Newest(side.wait_for(KEY, self.seen[channel], patience))
        except TimeoutError:
            return None

    def _wait(self, dead: list[int]) -> None:
        """Wait until a sender has put something, or has ended."""
        living = [self._sides[channel] for channel in self._open if channel not in dead]
        if not living:
            wait_for_peer(self._sides[dead[0]])  # it is started again, or the graph is aborted
        elif len(self._sides) > 1:
            ipcheap.wait(living, _DEAD if dead else self._patience)


class _Putting:
    """The writing side of a store, with the calls of a producer."""

    def __init__(self, writer: StoreWriter) -> None:
        self._writer = writer
        self.allocate_record = writer.allocate_record
        self.allocate_array = writer.allocate_array

    def send(self, data: Any, timeout: float | None) -> None:
        del timeout
        self._writer.put(KEY, data)

    def send_object(self, item: Any, timeout: float | None) -> None:
        del timeout
        self._writer.put_object(KEY, item)

    def send_record(self, record: Record, timeout: float | None = None) -> None:
        del timeout
        self._writer.put_record(KEY, record)


class LatestWriter:
    """Puts the items of one output where all see the newest; it has the interface of a Writer.

    The versions of the store count the items. `is_shared` is for an edge of an output of which
    another edge puts the items: it only counts them.
    """

    direct: Producer | None = None

    def __init__(
        self,
        heap: Heap,
        edge: Edge,
        number: int,
        worker: int,
        ledger: Ledger,
        here: Here,
        *,
        is_shared: bool,
    ) -> None:
        self.edge = edge
        self.ahead: int = 0
        self.lends = True
        self._heap = heap
        self._channel = edge.channel(worker, 0)
        self._number = number
        self._ledger = ledger
        self._here = here
        self._sent = 0
        self._without = 0
        self._writer: StoreWriter | None = None
        self.producers: dict[int, Any] = {}
        if not is_shared:
            self._writer = writer = store_of(heap, self._channel).writer(None)
            self.producers[0] = _Putting(writer)

    def close(self) -> None:
        """End the edge: its readers get the newest item, then an end."""
        if self._writer is not None:
            self._writer.close()

    def resume(self) -> None:
        """Go on where the worker before this one was, by the version of the store."""
        self._sent = version_of(self._heap, self._channel)
        self._without = self._ledger.without(self._number)

    @property
    def position(self) -> int:
        """How many items were sent or left out."""
        return self._sent + self._without

    @property
    def is_read(self) -> bool:
        """Whether a worker that reads it has not ended."""
        board, edge = self._here._board, self.edge
        return not all(board.has_finished(edge.target, v) for v in range(edge.receivers))

    def has_room(self, value: Any, timeout: float | None) -> bool:
        """Return True: it never waits."""
        del value, timeout
        return True

    def put(self, value: Any, turn: int, record: Record | None = None) -> bool:
        """Make an item the newest, by `record` if that holds it already.

        Returns whether that was done: not with one that was before.
        """
        del turn
        if self.ahead:
            self.ahead -= 1
            return False
        self._sent += 1
        if self._writer is None:
            return False
        producer = self.producers[0]
        if record is not None:
            self._here._room(lambda: producer.send_record(record))
        else:
            self._here._room(lambda: send(producer, value, None, self.lends))
        return True

    def nothing(self, turn: int) -> None:
        """Say that an input of an even kernel gave no item."""
        del turn
        if self.ahead:
            self.ahead -= 1
        else:
            self._ledger.pass_by(self._number)
            self._without += 1

    def mark(self, turn: int) -> None:
        """Do nothing: nobody takes turns of such an edge."""


def store_of(heap: Heap, channel: str) -> Store:
    """Return the store of that ID."""
    found: Any = heap.channel(channel)
    return found  # type: ignore[no-any-return]


def version_of(heap: Heap, channel: str) -> int:
    """Return how many items a store has got; 0 if it is gone."""
    try:
        return store_of(heap, channel).statistics().version
    except ChannelNotFound:
        return 0


def counts_of(heap: Heap, edge: Edge) -> tuple[int, int]:
    """Return how many items of an edge were sent, and how many readers hold."""
    sent = held = 0
    for u in range(edge.senders):
        with contextlib.suppress(ChannelNotFound):
            store = store_of(heap, edge.channel(u, 0))
            sent += store.statistics().version
            held += sum(reader.held for reader in store.readers())
    return sent, held
