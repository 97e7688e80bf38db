"""One input of a worker: its channels, and whose record is next."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import ipcheap
from ipcheap import ChannelClosed, PeerDied

from .channels import record_channel
from .items import is_mark

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from ipcheap import Consumer, Heap, Producer, Record, StoreReader, StreamReader, StreamWriter

    from .ledger import Ledger
    from .plan import Edge

    SidedEndpoint: TypeAlias = Consumer | Producer | StoreReader | StreamReader | StreamWriter

_LOOK = 0.1  # seconds between looks for the end of what the calling program sends
_DEAD = 0.02  # seconds between looks at a channel whose sender died, while others are waited for


class Ended(Exception):
    """There are no more items."""


def wait_for_peer(endpoint: SidedEndpoint, patience: float = _LOOK) -> None:
    """Wait for the worker that is started again on the other side, or that the graph is aborted.

    That worker may end before this one looks, so it is not waited for indefinitely.
    """
    with contextlib.suppress(TimeoutError):
        endpoint.wait_peer(patience)


class Reader:
    """Receives the records of one input in the order in which the worker takes them.

    `channels` are (edge, sender), and `channel` the number of the one that was read last.
    `is_closed` tells that the calling program sends no more on an
    input. `taken` counts the turns that have been received completely.
    """

    def __init__(
        self,
        heap: Heap,
        channels: list[tuple[Edge, int]],
        worker: int,
        is_closed: Callable[[str], bool],
        ledger: Ledger | None = None,
        entry: int = 0,
    ) -> None:
        edge = channels[0][0]
        self.channels = channels
        self.channel: int = 0
        self.taken: int = 0
        self.number: int = 0  # of the next record; counted if choices are logged
        self.is_ordered: bool = edge.deal == "order"
        self.has_marks: bool = edge.turns != "item"
        self.has_turns: bool = edge.turns == "many"
        # Records of a channel that are never detached.
        self.most_held: int = max(edge.slots // 2, 1)
        self._heap = heap
        self._edge = edge
        self._worker = worker
        self._is_closed = is_closed
        self._ledger = ledger if ledger is not None and ledger.has_log(entry) else None
        self._entry = entry
        self._at = {sender: n for n, (_, sender) in enumerate(channels)}
        self._patience = [_LOOK if of.is_fed else None for of, _ in channels]
        self._open = list(range(len(channels)))
        self._next = 0
        self._script: list[int] = []
        self.consumers: list[Consumer] = [
            record_channel(heap, of.channel(sender, worker)).consumer(None)
            for of, sender in channels
        ]
        # Where everything comes from, if nothing needs to be counted.
        self._only = self.consumers[0].recv_record if len(channels) == 1 else None
        # The same, if nothing needs to be looked at either.
        self.receives: Callable[[], Record] | None = (
            self._only if self._patience[0] is None else None
        )

    @property
    def source(self) -> str:
        """The origin of the last record."""
        return self.channels[self.channel][0].label

    def freed(self) -> list[int]:
        """Return how many records of each channel are done."""
        return [
            record_channel(self._heap, edge.channel(sender, self._worker)).counts().freed
            for edge, sender in self.channels
        ]

    def close(self) -> None:
        """Give the channels back; what is pending in them stays."""
        for consumer in self.consumers:
            consumer.close()

    def resume(self, taken: int, number: int) -> None:
        """Go on where the worker before this one was: turns taken, and records done."""
        self.taken = taken
        self.number = number
        if self._ledger is not None:
            self._script = self._ledger.picks(self._entry, number)

    @property
    def next_consumer(self) -> Consumer:
        """Where the next record comes from, of an input in rotation."""
        if len(self.consumers) == 1:
            return self.consumers[0]
        return self.consumers[self._at[self._edge.sender_of(self._worker, self.taken)]]

    def try_next(self) -> Record | None:
        """Return the next record of an input in rotation; None if it is not there yet."""
        try:
            record = self.next_consumer.try_recv_record()
        except ChannelClosed:
            raise Ended from None
        if record is not None and (not self.has_turns or is_mark(record)):
            self.taken += 1
        return record

    def next(self) -> Record:
        """Return the next record; `channel` is where it comes from. Ended if there is none."""
        only = self._only
        if only is not None:
            try:
                return only(self._patience[0])
            except (ChannelClosed, PeerDied, TimeoutError):
                return self.receive(0)
        if self.is_ordered:
            self.channel = channel = self._at[self._edge.sender_of(self._worker, self.taken)]
            record = self.receive(channel)
            if not self.has_turns or is_mark(record):
                self.taken += 1
            return record
        if self._script:
            self.channel = channel = self._script.pop(0)
            record = self.receive(channel)
        else:
            channel, record = self._first()
            self.channel = channel
            if self._ledger is not None:
                self._ledger.pick(self._entry, self.number, channel)
        self.number += 1
        return record

    def receive(self, channel: int) -> Record:
        """Return the next record of a channel; Ended if there is none."""
        consumer, patience = self.consumers[channel], self._patience[channel]
        while True:
            try:
                return consumer.recv_record(patience)
            except ChannelClosed:
                raise Ended from None
            except PeerDied:
                wait_for_peer(consumer)
            except TimeoutError:
                if self._is_closed(self.channels[channel][0].source):
                    record = consumer.try_recv_record()
                    if record is None:
                        raise Ended from None
                    return record

    def _first(self) -> tuple[int, Record]:
        """Return the number of a channel that has a record, and the record."""
        while self._open:
            dead: list[int] = []
            looking = False
            for n in range(len(self._open)):
                at = (self._next + n) % len(self._open)
                channel = self._open[at]
                over = self._patience[channel] is not None and self._is_closed(
                    self.channels[channel][0].source
                )
                try:
                    record = self.consumers[channel].try_recv_record()
                except PeerDied:
                    dead.append(channel)
                except ChannelClosed:
                    over = True
                    record = None
                else:
                    if record is not None:
                        self._next = at + 1
                        return channel, record
                if over:
                    del self._open[at]
                    self._next = at
                    break
                looking = looking or self._patience[channel] is not None
            else:
                patience = _DEAD if dead else _LOOK if looking else None
                living = [self.consumers[c] for c in self._open if c not in dead]
                if living:
                    ipcheap.wait(living, patience)
                else:
                    wait_for_peer(self.consumers[dead[0]])
        raise Ended
