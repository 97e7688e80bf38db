"""The two ends of an edge, of whatever kind it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from .latest import LatestReader, LatestWriter
from .reader import Reader
from .windows import WindowReader, WindowWriter
from .writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ipcheap import Heap, Producer

    from .board import Board
    from .here import Here
    from .ledger import Ledger
    from .plan import Edge


class Input(Protocol):
    """One input of a worker; see `Reader`. What it gives are records, or like them."""

    channels: list[tuple[Edge, int]]
    channel: int
    taken: int
    most_held: int

    @property
    def is_ordered(self) -> bool:
        """Whether it takes turns in rotation."""
        ...

    @property
    def has_marks(self) -> bool:
        """Whether there are marks among the records."""
        ...

    @property
    def has_turns(self) -> bool:
        """Whether a turn is any number of records and a mark."""
        ...

    @property
    def receives(self) -> Callable[[], Any] | None:
        """What receives everything, if nothing needs to be counted."""
        ...

    @property
    def source(self) -> str:
        """The origin of the last record."""
        ...

    def next(self) -> Any:
        """Return the next record; Ended if there is none."""
        ...

    def receive(self, channel: int, /) -> Any:
        """Return the next record of a channel."""
        ...

    def freed(self) -> list[int]:
        """Return how many records of each channel are done."""
        ...

    def resume(self, taken: int, number: int, /) -> None:
        """Go on where the worker before this one was."""
        ...

    def close(self) -> None:
        """Give the channels back."""
        ...


class Output(Protocol):
    """One outgoing edge of a worker; see `Writer`."""

    edge: Edge
    ahead: int
    lends: bool
    producers: dict[int, Any]

    @property
    def direct(self) -> Producer | None:
        """Where all items go, if nothing else needs to be looked at."""
        ...

    @property
    def position(self) -> int:
        """How far it is."""
        ...

    @property
    def is_read(self) -> bool:
        """Whether anybody receives what is sent."""
        ...

    def put(self, value: Any, turn: int, record: Any = None) -> bool:
        """Send an item."""
        ...

    def has_room(self, value: Any, timeout: float | None) -> bool:
        """Wait until `put` need not wait."""
        ...

    def nothing(self, turn: int) -> None:
        """Say that an input of an even kernel gave no item."""
        ...

    def mark(self, turn: int) -> None:
        """End a turn."""
        ...

    def resume(self) -> None:
        """Go on where the worker before this one was."""
        ...

    def close(self) -> None:
        """End the edge."""
        ...


def reader_for(
    heap: Heap,
    channels: list[tuple[Edge, int]],
    worker: int,
    board: Board,
    is_closed: Callable[[str], bool],
    ledger: Ledger | None = None,
    entry: int = 0,
) -> Input:
    """Claim the receiving end of an input; `is_closed` is that of a Reader."""
    edge = channels[0][0]
    if edge.is_latest:
        return LatestReader(heap, channels, worker, board.is_closed)
    if edge.window:
        return WindowReader(heap, channels, worker, board)
    return Reader(heap, channels, worker, is_closed, ledger, entry)


def writers_for(
    heap: Heap,
    edges: Sequence[Edge],
    keys: Sequence[Callable[[Any], Any] | None],
    worker: int,
    ledger: Ledger,
    here: Here,
) -> list[Output]:
    """Claim the sending ends of all edges of a worker."""
    # Of the edges that share a store, the last one puts: it may get the original.
    putting = {edge.channel(worker, 0): edge for edge in edges if edge.is_latest}
    found: list[Output] = []
    for number, edge in enumerate(edges):
        if edge.is_latest:
            shared = putting[edge.channel(worker, 0)] is not edge
            found.append(LatestWriter(heap, edge, number, worker, ledger, here, is_shared=shared))
        elif edge.window:
            found.append(WindowWriter(heap, edge, number, worker, ledger, here))
        else:
            found.append(Writer(heap, edge, number, worker, ledger, here, keys[number]))
    last = {edge.port: number for number, edge in enumerate(edges)}
    for number, writer in enumerate(found):
        writer.lends = last[writer.edge.port] == number  # the others get copies before it
    return found
