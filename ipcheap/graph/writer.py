"""One outgoing edge of a worker: its channels, and who gets the next record."""

from __future__ import annotations

import pickle
import time
import zlib
from typing import TYPE_CHECKING, Any

import ipcheap
from ipcheap import ChannelClosed, HeapFull, PeerDied

from .channels import record_channel
from .items import send
from .reader import wait_for_peer

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from ipcheap import Heap, Producer, Record

    from .here import Here
    from .ledger import Ledger
    from .plan import Edge

    Sending: TypeAlias = Callable[[Producer, float | None], None]

_DEAD = 0.02  # seconds between looks at a channel whose reader died, while others are waited for


class Writer:
    """Sends the items of one edge to the workers that are to have them.

    The next `ahead` items and marks are repeated ones, which are not sent again. What has a record
    already is sent by that if the edge `lends`; otherwise other edges get it afterwards.
    """

    def __init__(
        self,
        heap: Heap,
        edge: Edge,
        number: int,
        worker: int,
        ledger: Ledger,
        here: Here,
        key: Callable[[Any], Any] | None,
    ) -> None:
        self.edge = edge
        self.ahead: int = 0
        self.lends = True
        self.is_read: bool = True  # whether anybody receives what is sent
        self._number = number
        self._worker = worker
        self._ledger = ledger
        self._here = here
        self._key = key
        self._sent = 0  # records sent, and those lost because their reader had ended
        self._without = 0  # positions without a record
        self._ready: list[int] = []
        self._next = 0
        self._ended: set[int] = set()
        self.producers: dict[int, Producer] = {
            v: record_channel(heap, edge.channel(worker, v)).producer(None)
            for v in edge.receivers_of(worker)
        }
        self._first = next(iter(self.producers))
        single = len(self.producers) == 1
        self._is_free = edge.deal == "free" and not single
        # Where everything goes, while nothing else needs to be looked at.
        self._only = self.producers[self._first] if single and edge.full == "wait" else None

    def close(self) -> None:
        """End the edge: its readers get what was sent, then an end."""
        for producer in self.producers.values():
            producer.close()

    def resume(self) -> None:
        """Go on where the worker before this one was, by the counts of the rings."""
        sent = sum(producer.statistics().sent for producer in self.producers.values())
        self._sent = sent + self._ledger.lost(self._number)
        self._without = self._ledger.without(self._number)

    @property
    def direct(self) -> Producer | None:
        """Where all items go, if one reader is waited for, and nobody counts them."""
        return None if self.ahead else self._only

    @property
    def position(self) -> int:
        """How many items and marks were sent, dropped, left out or lost."""
        return self._sent + self._without

    def put(self, value: Any, turn: int, record: Record | None = None) -> bool:
        """Send an item of a turn of this worker, by `record` if that holds it already.

        Returns whether it was sent: neither one that was sent before is, nor one that is lost.
        """
        if self.ahead:
            self.ahead -= 1
            return False
        only = self._only
        if only is not None:
            try:
                if record is not None:
                    only.send_record(record)
                else:
                    send(only, value, None, self.lends)
            except (ChannelClosed, PeerDied, HeapFull):
                pass  # and once more
            else:
                self._sent += 1
                return True
        if record is None:
            return self._put(
                lambda producer, timeout: send(producer, value, timeout, self.lends), value, turn
            )
        return self._put(
            lambda producer, timeout: producer.send_record(record, timeout), value, turn
        )

    @property
    def next_producer(self) -> Producer:
        """Where the next record goes, if that does not depend on it."""
        return self.producers[self._receiver(None, self._sent)]

    def count(self) -> None:
        """Count a record that was sent by `next_producer`."""
        self._sent += 1

    def has_room(self, value: Any, timeout: float | None) -> bool:
        """Wait until `put` need not wait; return whether that was within `timeout` seconds."""
        if self.edge.full == "drop":
            return True
        to = None if self._is_free else self._receiver(value, self._sent)
        some = [v for v in self.producers if v not in self._ended and to in (None, v)]
        return not some or bool(ipcheap.wait([self.producers[v] for v in some], timeout))

    def nothing(self, turn: int) -> None:
        """Say that an input of an even kernel gave no item."""
        if self.ahead:
            self.ahead -= 1
        elif self.edge.turns == "one":
            self._put(_send_mark, None, turn)
        else:
            self._ledger.pass_by(self._number)
            self._without += 1

    def mark(self, turn: int) -> None:
        """End a turn."""
        if self.ahead:
            self.ahead -= 1
        else:
            self._put(_send_mark, None, turn)

    # Inside -----------------------------------------------------------------------------------

    def _put(self, sending: Sending, value: Any, turn: int) -> bool:
        if self._is_free:
            return self._put_anywhere(sending)
        return self._put_to(self._receiver(value, turn), sending)

    def _receiver(self, value: Any, turn: int) -> int:
        edge = self.edge
        if len(self.producers) == 1:
            return self._first
        if edge.deal == "key":
            assert self._key is not None
            return worker_of(self._key(value), edge.receivers)
        return edge.receiver_of(self._worker, turn if edge.turns == "many" else self._sent)

    def _put_to(self, to: int, sending: Sending) -> bool:
        if to in self._ended:
            return self._lose()
        producer = self.producers[to]
        try:
            self._here._room(lambda: self._insist(producer, sending))
        except ChannelClosed:
            self._end(to)
            return self._lose()
        except TimeoutError:
            return self._drop()
        self._sent += 1
        return True

    def _insist(self, producer: Producer, sending: Sending) -> None:
        if self.edge.full == "drop":
            try:
                sending(producer, 0)
            except PeerDied:
                raise TimeoutError from None  # there is no room until its worker is back
            return
        while True:
            try:
                sending(producer, None)
            except PeerDied:
                wait_for_peer(producer)
            else:
                return

    def _put_anywhere(self, sending: Sending) -> bool:
        """Send to a worker that has room; wait until one has."""
        dead: set[int] = set()
        while self.is_read:
            if not self._ready:
                self._ready = self._with_room(dead)
                dead.clear()
                if not self._ready and self.edge.full == "drop":
                    return self._drop()
                continue
            to = self._ready.pop(0)
            producer = self.producers[to]
            try:
                self._here._room(lambda producer=producer: sending(producer, 0))  # type: ignore[misc]
            except ChannelClosed:
                self._end(to)
            except (PeerDied, TimeoutError):
                dead.add(to)
            else:
                self._sent += 1
                return True
        return self._lose()

    def _with_room(self, dead: set[int]) -> list[int]:
        """Return the workers that have room, or whose end is not known yet; none if time is up."""
        open_ = [v for v in self.producers if v not in self._ended]
        self._next = (self._next + 1) % len(open_)
        open_ = open_[self._next :] + open_[: self._next]
        living = [v for v in open_ if v not in dead]
        if not living:
            time.sleep(_DEAD)
            living = open_
        patience = 0 if self.edge.full == "drop" else _DEAD if dead else None
        ready = {id(one) for one in ipcheap.wait([self.producers[v] for v in living], patience)}
        return [v for v in living if id(self.producers[v]) in ready]

    def _end(self, to: int) -> None:
        self._ended.add(to)
        self._only = None
        self.is_read = len(self._ended) < len(self.producers)

    def _lose(self) -> bool:
        self._ledger.lose(self._number)
        self._sent += 1
        return False

    def _drop(self) -> bool:
        self._ledger.drop(self._number)
        self._without += 1
        return False


def _send_mark(producer: Producer, timeout: float | None) -> None:
    producer.send(b"", timeout)


def worker_of(key: Any, workers: int) -> int:
    """Return the worker that gets the items of a key: the same in every run."""
    if isinstance(key, int):
        return key % workers
    if isinstance(key, str):
        key = key.encode()
    elif not isinstance(key, bytes):
        key = pickle.dumps(key, 5)
    return zlib.crc32(key) % workers
