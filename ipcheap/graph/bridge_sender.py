"""The end of a bridge on the sending host."""

from __future__ import annotations

import select
import socket
import time
from collections import deque
from typing import TYPE_CHECKING

from ipcheap import ChannelClosed, PeerDied, wait

from .bridge_end import PAUSE, End
from .link import (
    COUNT,
    DESERTED,
    END,
    MOST_BYTES,
    MOST_RECORDS,
    TICK,
    BridgeLost,
    Broken,
    Interrupted,
    Outgoing,
    batch_of,
    family_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipcheap import Consumer, Heap, Record

    from .bridge_end import Lost

_LOOK = 0.1  # seconds between looks whether the calling program has ended an input


class Sender(End):
    """The end of a bridge on the sending host: in a thread of its own, the channel's consumer.

    It connects to a Listener, and again after a break. It ends when the producer of the channel has
    closed, the other end has all records, and has closed its producer. It also ends when the
    consumer on the receiving host has closed: then this side closes, too. If it has no connection
    for `patience` seconds, or its other end cannot be that of this channel, it calls `lost` with
    the channel's ID and a BridgeLost, and then removes the channel. ChannelNotFound if there is no
    such channel; if it is removed later, the thread ends.

    `is_over` tells that nothing more is sent, although the producer may not close: then the channel
    ends after what was sent before.
    """

    def __init__(
        self,
        heap: Heap,
        channel_id: str,
        address: str,
        port: int,
        token: bytes,
        lost: Lost,
        patience: float = 20.0,
        is_over: Callable[[], bool] | None = None,
    ) -> None:
        super().__init__(heap, channel_id, lost, patience)
        self._is_over = is_over
        name = channel_id.encode()
        self._hello = token + bytes([len(name)]) + name
        self._family = family_of(address)
        self._to = (address, port)
        # A consumer that holds all slots and has a descriptor watches for a record that cannot
        # come, and detaches its oldest record, which would not be redelivered. So with one slot
        # there is no descriptor, and otherwise one slot is left.
        self._window = max(1, self._channel.capacity - 1)
        self._held: deque[Record] = deque()  # received, and not known to be in the other ring
        self._first = 0  # the position of the first of them, or of the next one
        self._count = 0  # how many the other ring has taken
        self._over = 0  # flags of an answer

    def _carry(self) -> None:
        if self._has_ended():
            return
        consumer = self._claim(self._channel.consumer)
        self._first = self._channel.counts().freed
        pause = 0.0
        while True:
            before, link = self._count, None
            try:
                link = self._connect(consumer)
                self._converse(consumer, link)
                return
            except Broken as error:
                self._broke(error, link)
            finally:
                if link is not None:
                    link.close()
            pause = 0.0 if self._count != before else min(0.5, 2 * pause + 0.01)
            self._bell.wait(pause)
            self._look()

    def _has_ended(self) -> bool:
        """Whether a former sender had its end confirmed."""
        counts = self._channel.counts()
        closed = counts.producer == counts.consumer == "closed"
        return closed and counts.freed == counts.sent

    def _connect(self, consumer: Consumer) -> Outgoing:
        """Return a connection on which the first answer has come."""
        left = min(self._left(f"to {self._to[0]} port {self._to[1]}"), self._patience / 2)
        link = Outgoing(
            socket.socket(self._family, socket.SOCK_STREAM), self._bell, self._patience, self._look
        )
        try:
            link.connect(self._to, left)
            link.send([self._hello])
            word = link.first_answer(left)
            self._heard = time.monotonic()
            self._confirm(word, consumer.statistics().sent)
        except BaseException:
            link.close()
            raise
        return link

    def _converse(self, consumer: Consumer, link: Outgoing) -> None:
        """Send until the end; return when the other end has confirmed it."""

        def hear() -> bool:
            word = link.answer()
            if word is not None:
                self._confirm(word, self._first + len(self._held))
            return word is not None

        closed = told = False
        self._send(list(self._held), link, hear)
        while not self._over:
            if self._closing:
                raise Interrupted
            records: list[Record] = []
            alive = True
            is_over = self._is_over is not None and self._is_over()
            try:
                records = self._receive(consumer)
                closed = closed or (is_over and not records and self._has_room)
            except ChannelClosed:
                closed = True
            except PeerDied:  # its successor continues
                alive = False
            if records:
                self._send(records, link, hear)
            if (records and len(self._held) <= self._window // 2) or hear():
                continue
            if closed and not told:
                link.send([END])
                told = True
            elif not records:
                pause = None if alive else PAUSE
                if self._is_over is not None and not closed:
                    pause = pause or _LOOK
                self._wait(consumer, link, alive and not closed, pause)
        self._finish(consumer)

    @property
    def _has_room(self) -> bool:
        """Whether a record may be received beside those that are held."""
        return len(self._held) < self._window

    def _wait(
        self, consumer: Consumer, link: Outgoing, may_come: bool, timeout: float | None
    ) -> None:
        """Sleep until there is an answer, or a record that there is room for."""
        if not may_come or not self._has_room:
            link.wait(select.POLLIN, None, timeout)
        elif self._channel.capacity > 1:
            link.wait(select.POLLIN, consumer.fileno(), timeout)
        else:
            wait([consumer], TICK)
            link.wait(select.POLLIN, None, 0)

    def _receive(self, consumer: Consumer) -> list[Record]:
        """Return the next records that the other ring has not taken; none if there are none."""
        room = min(MOST_RECORDS, self._window - len(self._held))
        if not room or (record := consumer.try_recv_record()) is None:
            return []
        self._held.append(record)
        new = [record]
        if room > 1 and consumer.pending:
            more = consumer.recv_records(room - 1, 0)
            self._held.extend(more)
            new += more
        if self._first < self._count:  # received again, and in the other ring already
            self._free()
            del new[: max(0, len(new) - len(self._held))]
        return new

    def _send(self, records: list[Record], link: Outgoing, hear: Callable[[], bool]) -> None:
        """Send records in batches."""
        sizes = list(map(len, records))
        at = 0
        while at < len(records):
            end, total = at, 0
            while end < len(records) and end - at < MOST_RECORDS:
                total += sizes[end]
                if total > MOST_BYTES and end > at:
                    break
                end += 1
            link.send(batch_of(records[at:end], sizes[at:end]), hear)
            at = end

    def _confirm(self, word: int, most: int) -> None:
        """Free what the other ring has taken."""
        count = word & COUNT
        if not max(self._count, self._first) <= count <= max(self._count, most):
            raise BridgeLost(
                f"channel {self._id!r}: the other end, {self._to[0]} port {self._to[1]}, has "
                f"taken {count} records, which cannot be: it had {self._first} of {most}"
            )
        self._over |= word & ~COUNT
        self._count = count
        self._free()

    def _free(self) -> None:
        while self._held and self._first < self._count:
            self._held.popleft().free()
            self._first += 1

    def _finish(self, consumer: Consumer) -> None:
        """Free what nobody will receive, after the other end has closed."""
        if not self._over & DESERTED:
            try:
                while self._receive(consumer):
                    pass
            except (ChannelClosed, PeerDied):
                pass
            if self._held:
                raise BridgeLost(
                    f"channel {self._id!r}: the other end has ended after {self._count} records, "
                    "and there are more"
                )
        for record in self._held:
            record.free()
