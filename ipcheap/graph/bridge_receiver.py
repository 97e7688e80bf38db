"""The end of a bridge on the receiving host."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from ipcheap import ChannelClosed, HeapBusy, HeapFull, PeerDied, Record

from .bridge_end import PAUSE, End
from .link import (
    DESERTED,
    ENDED,
    INBOX,
    TICK,
    BridgeLost,
    Broken,
    Incoming,
    Interrupted,
    answer_once,
)

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from typing import Any

    from ipcheap import Heap, Producer

    from .bridge_end import Lost

_SMALL = INBOX // 4  # bytes of a record that is copied out of the inbox
_HEAP_FULL = 30.0  # seconds to wait for others to free memory


class Receiver(End):
    """The end of a bridge on the receiving host: in a thread of its own, the channel's producer."""

    def __init__(self, heap: Heap, channel_id: str, lost: Lost, patience: float) -> None:
        super().__init__(heap, channel_id, lost, patience)
        self._lock = threading.Lock()
        self._next: socket.socket | None = None  # a connection that the thread is to use
        self._sent = 0  # how many records the ring has taken
        self._last = 0  # the answer after the end

    def offer(self, sock: socket.socket) -> None:
        """Use another connection from now on."""
        with self._lock:
            if self._last:
                answer_once(sock, self._last)
                return
            old, self._next = self._next, sock
            self._bell.ring()
        if old is not None:
            old.close()

    def _carry(self) -> None:
        counts = self._channel.counts()
        if counts.producer == "closed":  # a former receiver has got the end
            self._end(counts.sent | ENDED)
            return
        producer = self._claim(self._channel.producer)
        self._sent = producer.statistics().sent
        link: Incoming | None = None
        while not self._last:
            try:
                link = Incoming(self._called(), self._bell, self._patience, self._look)
                link.send_answer(self._sent)
                self._converse(producer, link)
            except Broken as error:
                self._broke(error, link)
            except Interrupted:
                if self._closing:
                    raise
            finally:
                if link is not None:
                    link.close()
                    link = None

    def _called(self) -> socket.socket:
        """Return the next connection; BridgeLost if none is made in time."""
        while True:
            with self._lock:  # the bell of a connection must not interrupt its own use
                self._bell.clear()
                sock, self._next = self._next, None
            if self._closing:
                if sock is not None:
                    sock.close()
                raise Interrupted
            if sock is not None:
                return sock
            self._look()
            try:
                self._bell.wait(min(TICK, self._left("from the sending host")))
            except Interrupted:
                pass

    def _converse(self, producer: Producer, link: Incoming) -> None:
        """Receive until the end."""
        try:
            while not self._closing:
                sizes, descriptions = link.take_head()
                if not sizes:
                    break
                self._take(producer, link, sizes, descriptions)
                link.send_answer(self._sent)
            else:
                raise Interrupted
            last = self._sent | ENDED
        except ChannelClosed:
            last = self._sent | ENDED | DESERTED
        producer.close()
        self._end(last)
        link.send_answer(last)

    def _end(self, last: int) -> None:
        with self._lock:
            self._last = last
            sock, self._next = self._next, None
        if sock is not None:
            answer_once(sock, last)

    def _take(
        self,
        producer: Producer,
        link: Incoming,
        sizes: tuple[int, ...],
        descriptions: list[bytes] | None,
    ) -> None:
        """Move the records of a batch into the ring."""
        described = descriptions or [b""] * len(sizes)
        if max(sizes) > self._heap.capacity:
            raise BridgeLost(
                f"channel {self._id!r}: a record of {max(sizes)} bytes, in {self._heap}"
            )
        at = 0
        while at < len(sizes):
            end, total = at, 0
            while end < len(sizes) and sizes[end] <= _SMALL and total + sizes[end] <= INBOX:
                total += sizes[end]
                end += 1
            if end > at:
                self._take_small(producer, link, sizes[at:end], described[at:end], total)
                at = end
                continue
            record = self._allocate(producer, link, described[at], sizes[at])
            with record.view as view:
                link.take_into(view)
            self._put(producer.send_records, [record], producer, link)
            at += 1

    def _take_small(
        self,
        producer: Producer,
        link: Incoming,
        sizes: tuple[int, ...],
        described: list[bytes],
        total: int,
    ) -> None:
        """Move records into the ring that are received together."""
        data, at = link.take(total), 0
        parts: list[memoryview] = []
        for size in sizes:
            parts.append(data[at : at + size])
            at += size
        if not any(described):
            self._put(producer.send_many, parts, producer, link)
            return
        records: list[Record] = []
        for description, part in zip(described, parts, strict=True):
            record = self._allocate(producer, link, description, len(part))
            record[:] = part
            records.append(record)
        self._put(producer.send_records, records, producer, link)

    def _allocate(
        self, producer: Producer, link: Incoming, description: bytes, nbytes: int
    ) -> Record:
        """Allocate a record, and wait for others to free memory if there is none."""
        deadline = time.monotonic() + _HEAP_FULL
        while True:
            try:
                return producer.allocate_described(description, nbytes)
            except ValueError as error:
                raise BridgeLost(f"channel {self._id!r}: {error}") from None
            except (HeapFull, HeapBusy):
                if time.monotonic() > deadline:
                    raise
            link.wait(0, timeout=PAUSE)

    def _put(
        self,
        send: Callable[[list[Any], float], int],
        things: list[Any],
        producer: Producer,
        link: Incoming,
    ) -> None:
        """Send all records, or bytes, and wait for room; a full ring stops the sending host."""
        deadline = time.monotonic() + _HEAP_FULL
        try:
            while True:
                done, error = _attempt(send, things)
                self._sent += done
                things = things[done:]
                if error is None:
                    return
                if isinstance(error, ChannelClosed):
                    raise error
                if done:
                    link.send_answer(self._sent)
                    deadline = time.monotonic() + _HEAP_FULL
                elif isinstance(error, HeapFull) and time.monotonic() > deadline:
                    raise error
                full = type(error) is TimeoutError
                link.wait(0, producer.fileno() if full else None, None if full else PAUSE)
        finally:
            for thing in things:
                if isinstance(thing, Record):
                    thing.free()


def _attempt(
    send: Callable[[list[Any], float], int], things: list[Any]
) -> tuple[int, Exception | None]:
    """Send what there is room for; return how many, and why not all."""
    try:
        return send(things, 0.0), None
    except (TimeoutError, PeerDied, HeapFull, ChannelClosed) as error:
        return getattr(error, "done", 0), error
