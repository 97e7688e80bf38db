"""Bridges: channels of the same name on two hosts, as one.

On the sending host a thread is the consumer of the channel, on the receiving host one is its
producer. One TCP connection connects the two; `link` says what travels on it. A record's position
in the sending ring is its position in the receiving ring. The receiving host answers with the count
of its ring, and a record is freed on the sending host when that count includes it. So the two rings
are all that is needed to continue after a broken connection, or after either process was killed:
the records below the count of the first answer have arrived, and all others are sent.

An answer is given by the thread that fills the ring, and only on the connection that it reads. So
nothing of an older connection is added after the answer.
"""

from __future__ import annotations

import hmac
import select
import socket
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from ipcheap import (
    ChannelBusy,
    ChannelClosed,
    ChannelNotFound,
    EndpointClosed,
    HeapBusy,
    HeapClosed,
    HeapFull,
    PeerDied,
    Record,
    RecordChannel,
    wait,
)

from .link import (
    COUNT,
    DESERTED,
    END,
    ENDED,
    INBOX,
    MOST_BYTES,
    MOST_RECORDS,
    TICK,
    TOKEN_BYTES,
    Bell,
    BridgeLost,
    Broken,
    Incoming,
    Interrupted,
    Outgoing,
    answer_once,
    batch_of,
    family_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeAlias, TypeVar

    from ipcheap import Consumer, Heap, Producer

    Lost: TypeAlias = Callable[[str, BaseException], object]
    Side = TypeVar("Side", Producer, Consumer)

_GONE = (ChannelNotFound, EndpointClosed, HeapClosed)  # the channel was removed: an abort
_PAUSE = 0.05  # seconds, before the next look at a side whose holder has died
_SMALL = INBOX // 4  # bytes of a record that is copied out of the inbox
_MOST_CALLERS = 64  # connections that have not said yet what they are
_HEAP_FULL = 30.0  # seconds to wait for others to free memory


class _End:
    """One end of a bridge: a thread that holds a side of a channel."""

    def __init__(self, heap: Heap, channel_id: str, lost: Lost, patience: float) -> None:
        channel = heap.channel(channel_id)
        if not isinstance(channel, RecordChannel):
            raise TypeError(f"a bridge carries a record channel, not {channel!r}")
        self._heap = heap
        self._id = channel_id
        self._channel = channel
        self._lost = lost
        self._patience = patience
        self._bell = Bell()
        self._closing = False
        self._side: Producer | Consumer | None = None
        self._heard = 0.0  # when there was last a sign of the other host
        self._reason = "nobody has called"  # why there is no connection
        self._thread = threading.Thread(target=self._run, name=f"bridge {channel_id}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._heard = time.monotonic()
        self._thread.start()

    def close(self) -> None:
        """Abort the bridge: if it has not ended by itself, its channel is removed.

        Closing a side would tell the other side that all records have passed.
        """
        self._closing = True
        self._bell.ring()

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the thread; return whether it has ended."""
        self._thread.join(timeout)
        return not self.is_alive()

    def is_alive(self) -> bool:
        """Whether the thread has not ended."""
        return self._thread.is_alive()

    def _run(self) -> None:
        try:
            try:
                self._carry()
            except Interrupted:
                self._remove()
            except _GONE:
                pass
            except BaseException as error:
                self._fail(error)
                self._remove()
        except BaseException as error:
            self._fail(error)
        finally:
            if self._side is not None:
                self._side.close()

    def _carry(self) -> None:
        raise NotImplementedError

    def _fail(self, error: BaseException) -> None:
        self._lost(self._id, error.with_traceback(None))  # a traceback would keep records

    def _claim(self, claim: Callable[[str, float], Side]) -> Side:
        """Claim a side as soon as its former holder has left it."""
        while True:
            if self._closing:
                raise Interrupted
            try:
                self._side = side = claim(self._id, 0.1)
            except ChannelBusy:
                if time.monotonic() > self._heard + self._patience:
                    raise
            else:
                return side

    def _look(self) -> None:
        """Raise ChannelNotFound if the channel has been removed."""
        if self._heap.channel(self._id) != self._channel:
            raise ChannelNotFound(self._id)

    def _remove(self) -> None:
        try:
            self._look()
            self._heap.remove_channel(self._id, force=True)
        except _GONE:
            pass

    def _broke(self, error: Broken, link: Outgoing | Incoming | None) -> None:
        """Note that a connection is gone, and when the other host was last heard."""
        self._reason = str(error)
        if link is not None:
            self._heard = max(self._heard, time.monotonic() - link.silence())

    def _left(self, other: str) -> float:
        """Return for how many seconds a connection may still be missing; BridgeLost if for none."""
        left = self._heard + self._patience - time.monotonic()
        if left <= 0:
            raise BridgeLost(
                f"channel {self._id!r} has had no connection {other} for {self._patience:g} s: "
                f"{self._reason}"
            )
        return left


class Sender(_End):
    """The end of a bridge on the sending host: in a thread of its own, the channel's consumer.

    It connects to a Listener, and again after a break. It ends when the producer of the channel has
    closed, the other end has all records, and has closed its producer. It also ends when the
    consumer on the receiving host has closed: then this side closes, too. If it has no connection
    for `patience` seconds, or its other end cannot be that of this channel, it calls `lost` with
    the channel's ID and a BridgeLost, and then removes the channel. ChannelNotFound if there is no
    such channel; if it is removed later, the thread ends.
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
    ) -> None:
        super().__init__(heap, channel_id, lost, patience)
        name = channel_id.encode()
        self._hello = token + bytes([len(name)]) + name
        self._family = family_of(address)
        self._to = (address, port)
        # A consumer that holds all slots and has a descriptor watches for a record that cannot come,
        # and detaches its oldest record, which would not be redelivered. So with one slot there is
        # no descriptor, and otherwise one slot is left.
        self._window = max(1, self._channel.capacity - 1)
        self._held: deque[Record] = deque()  # received, and not known to be in the other ring
        self._first = 0  # the position of the first of them, or of the next one
        self._count = 0  # how many the other ring has taken
        self._over = 0  # flags of an answer

    def _carry(self) -> None:
        if self._has_ended():
            return
        consumer = self._claim(self._heap.consumer)
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
            try:
                records = self._receive(consumer)
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
                self._wait(consumer, link, alive and not closed, None if alive else _PAUSE)
        self._finish(consumer)

    def _wait(
        self, consumer: Consumer, link: Outgoing, may_come: bool, timeout: float | None
    ) -> None:
        """Sleep until there is an answer, or a record that there is room for."""
        if not may_come or len(self._held) >= self._window:
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
        new = 1
        if room > 1 and consumer.pending:
            more = consumer.recv_records(room - 1, 0)
            self._held.extend(more)
            new += len(more)
        self._free()
        size = len(self._held)
        return [self._held[at] for at in range(max(0, size - new), size)]

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
        """Let go of what nobody will receive, after the other end has closed."""
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


class _Receiver(_End):
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
        if old is not None:
            old.close()
        self._bell.ring()

    def _carry(self) -> None:
        counts = self._channel.counts()
        if counts.producer == "closed":  # a former receiver has got the end
            self._end(counts.sent | ENDED)
            return
        producer = self._claim(self._heap.producer)
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
            self._bell.clear()
            if self._closing:
                raise Interrupted
            with self._lock:
                sock, self._next = self._next, None
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
            link.wait(0, timeout=_PAUSE)

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
                link.wait(0, producer.fileno() if full else None, None if full else _PAUSE)
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


class _Caller:
    """A connection whose other end has not said yet what it is."""

    def __init__(self, sock: socket.socket, patience: float) -> None:
        self.sock = sock
        self.hello = bytearray()
        self.deadline = time.monotonic() + patience


class Listener:
    """The ends on the receiving host of all bridges of a run.

    It listens on an address of this host; the system chooses the `port`. A connection has to begin
    with the token of the run, 32 random bytes, and the ID of a channel that is received here. Every
    other one is closed. `lost` is called with the channel's ID and an exception if a bridge has had
    no connection for `patience` seconds since `receive()`, or cannot continue for another reason;
    then the channel is removed.
    """

    port: int

    def __init__(self, address: str, token: bytes, lost: Lost, patience: float = 20.0) -> None:
        if len(token) != TOKEN_BYTES:
            raise ValueError(f"a token has {TOKEN_BYTES} bytes, not {len(token)}")
        self._server = socket.create_server((address, 0), family=family_of(address), backlog=256)
        self._server.setblocking(False)
        self.port = int(self._server.getsockname()[1])
        self._token = token
        self._lost = lost
        self._patience = patience
        self._receivers: dict[str, _Receiver] = {}
        self._callers: dict[int, _Caller] = {}  # by descriptor, the oldest first
        self._closing = False
        self._bell = Bell()
        self._thread = threading.Thread(
            target=self._run, name=f"bridges at port {self.port}", daemon=True
        )
        self._thread.start()

    def receive(self, heap: Heap, channel_id: str) -> None:
        """Receive the records of a channel, as its producer, in a thread of its own.

        ChannelNotFound if there is no such channel; if it is removed later, the thread ends.
        ValueError if the channel is received already.
        """
        if channel_id in self._receivers:
            raise ValueError(f"channel {channel_id!r} is received already")
        receiver = _Receiver(heap, channel_id, self._lost, self._patience)
        receiver.start()
        self._receivers[channel_id] = receiver

    def close(self) -> None:
        """Abort the bridges that have not ended: their channels are removed. Listen no more."""
        self._closing = True
        self._bell.ring()
        for receiver in list(self._receivers.values()):
            receiver.close()

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the threads of all bridges to end; return whether they have.

        The thread that listens ends with `close()`: before that, an end may have to be confirmed
        once more.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        ends: list[_Receiver | threading.Thread] = list(self._receivers.values())
        if self._closing:
            ends.append(self._thread)
        for end in ends:
            end.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
        return not any(end.is_alive() for end in ends)

    # Inside -------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            with self._server:
                self._listen()
        except BaseException as error:
            self._lost("", error)
        finally:
            for caller in self._callers.values():
                caller.sock.close()

    def _listen(self) -> None:
        poll = select.poll()
        poll.register(self._bell.fileno(), select.POLLIN)
        poll.register(self._server, select.POLLIN)
        while not self._closing:
            ready = [fd for fd, _ in poll.poll(TICK * 1000 if self._callers else None)]
            if self._server.fileno() in ready and (caller := self._accept()) is not None:
                poll.register(caller.sock, select.POLLIN)
            now = time.monotonic()
            for fd, caller in list(self._callers.items()):
                if fd in ready:
                    is_done = self._hear(caller)
                else:
                    is_done = now > caller.deadline or len(self._callers) > _MOST_CALLERS
                    if is_done:
                        caller.sock.close()
                if is_done:
                    poll.unregister(fd)
                    del self._callers[fd]

    def _accept(self) -> _Caller | None:
        try:
            sock, _ = self._server.accept()
        except OSError:  # it is gone again, or there are too many descriptors for now
            time.sleep(0.01)
            return None
        sock.setblocking(False)
        caller = self._callers[sock.fileno()] = _Caller(sock, min(5.0, self._patience))
        return caller

    def _hear(self, caller: _Caller) -> bool:
        """Read on; return True if the connection is handed over or closed."""
        hello, least = caller.hello, TOKEN_BYTES + 1
        wanted = least if len(hello) < least else least + hello[TOKEN_BYTES]
        try:
            data = caller.sock.recv(wanted - len(hello)) if wanted > len(hello) else b""
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        hello += data
        if len(hello) >= TOKEN_BYTES:
            is_right = hmac.compare_digest(bytes(hello[:TOKEN_BYTES]), self._token)
            data = data if is_right else b""
        if not data:
            caller.sock.close()
            return True
        if len(hello) < least or len(hello) < least + hello[TOKEN_BYTES]:
            return False
        receiver = self._receivers.get(hello[least:].decode(errors="replace"))
        if receiver is None or not hello[TOKEN_BYTES]:
            caller.sock.close()
        else:
            receiver.offer(caller.sock)
        return True
