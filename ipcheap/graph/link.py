"""A connection between two hosts, as both ends of a bridge use it.

    hello    token, 32 B | length, 1 B | name of the channel              to the receiving host
    answer   count and flags, 8 B                                         from there, at any time
    batch    records, 4 B | extra, 4 B | sizes, 8 B each |                to the receiving host
             extra: lengths, 2 B each, and descriptions | bytes of the records
    end      a batch of 0 records

`count` is how many records the receiving ring has taken since its channel was added. The extra part
is missing if all records of a batch are bytes. A description is what `Record.describe()` returns.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time
from typing import TYPE_CHECKING

from ipcheap import Error

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, TypeAlias

    from ipcheap import Record

    Buffer: TypeAlias = Any  # a record, bytes or a memoryview of bytes

TOKEN_BYTES = 32
MOST_RECORDS = 64  # of a batch
MOST_BYTES = 1 << 20  # of a batch of more than one record
ENDED = 1 << 63  # in an answer: the receiving side has closed its producer
DESERTED = 1 << 62  # in an answer: and did so because its consumer had closed
COUNT = DESERTED - 1

INBOX = 1 << 15
_COPIED = 512  # bytes of records that are copied sooner than named to the kernel one by one
_MOST_DESCRIBED = 2 + (1 << 13)  # bytes of a description, with its length
_HEAD = struct.Struct("<II")
_ANSWER = struct.Struct("<Q")
TICK = 0.25  # seconds, after which a thread that waits looks at what wakes nobody
_SILENCES = struct.Struct("=II")  # of a Linux tcp_info: since data came, since an acknowledgement
_SILENCES_AT = 52
END = _HEAD.pack(0, 0)


class BridgeLost(Error, ConnectionError):
    """A bridge cannot continue: it had no connection for too long, or not to its other end."""


class Broken(Exception):
    """The connection is gone; a new one continues where it stopped."""


class Interrupted(Exception):
    """The bell was rung: a thread that waits returns to see why."""


class Bell:
    """Interrupts a thread that waits, from any thread."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def __del__(self) -> None:
        os.close(self._fd)

    def fileno(self) -> int:
        """Return a descriptor that is readable since `ring()`, until `clear()`."""
        return self._fd

    def ring(self) -> None:
        """Interrupt the thread now, or when it waits next."""
        os.eventfd_write(self._fd, 1)

    def clear(self) -> None:
        """Wait for the next `ring()`."""
        try:
            os.eventfd_read(self._fd)
        except BlockingIOError:
            pass

    def wait(self, seconds: float) -> None:
        """Sleep that long; Interrupted if the bell was rung."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        if poll.poll(max(0.0, seconds) * 1000):
            raise Interrupted


def family_of(address: str) -> socket.AddressFamily:
    """Return the family of an IP address; ValueError for anything else."""
    try:
        found = socket.getaddrinfo(address, 0, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        raise ValueError(f"address must be an IP address, not {address!r}") from None
    return found[0][0]


def answer_once(sock: socket.socket, word: int) -> None:
    """Answer on a connection that has just been made, and close it."""
    with sock:
        try:
            sock.send(_ANSWER.pack(word))
        except OSError:
            pass  # then it asks again


def batch_of(records: Sequence[Record], sizes: Sequence[int]) -> list[Buffer]:
    """Return the buffers of a batch, in which large records are not copied."""
    count = len(records)
    described = [record.describe() for record in records]
    extra = b""
    if any(described):
        lengths = struct.pack(f"<{count}H", *map(len, described))
        extra = b"".join([lengths, *described])
    head = struct.pack(f"<II{count}Q", count, len(extra), *sizes)
    if max(sizes) <= _COPIED:
        return [b"".join([head, extra, *records])]
    return [head, extra, *records] if extra else [head, *records]


class Link:
    """A connection, used by one thread.

    All methods raise Broken if the connection is gone or the other host has been silent for half of
    `patience` seconds, and Interrupted if the bell was rung while they waited. `look` is called
    regularly while they wait.
    """

    def __init__(
        self, sock: socket.socket, bell: Bell, patience: float, look: Callable[[], object]
    ) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # An acknowledged probe is a sign of life, also of a process that is held up.
        interval = max(1, int(patience / 8))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, interval)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, interval)
        self._sock = sock
        self._patience = patience
        self._look = look
        self._bell = bell.fileno()
        self._poll = select.poll()
        self._poll.register(self._bell, select.POLLIN)
        self._spoke = time.monotonic()
        self._is_open = True

    def close(self) -> None:
        """Close the connection."""
        self._sock.close()

    def silence(self) -> float:
        """Return for how many seconds the other host has given no sign of life."""
        size = _SILENCES_AT + _SILENCES.size
        try:
            info = self._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, size)
        except OSError as error:
            raise Broken(str(error)) from None
        data, acknowledged = _SILENCES.unpack_from(info, _SILENCES_AT)
        return float(min(data, acknowledged)) / 1000

    def wait(self, events: int, also: int | None = None, timeout: float | None = None) -> None:
        """Sleep until there are events of the socket, `also` is readable, or time is up."""
        self._poll.register(self._sock, events)
        if also is not None:
            self._poll.register(also, select.POLLIN)
        try:
            deadline = None if timeout is None else time.monotonic() + timeout
            while not self._sleep(events, deadline):
                self._look()
                silence = self.silence() if self._is_open else 0.0
                if silence > self._patience / 2:
                    raise Broken(f"the other host was silent for {silence:.1f} s")
                self._remind()
                if deadline is not None and time.monotonic() >= deadline:
                    return
        finally:
            if also is not None:
                self._poll.unregister(also)

    def _sleep(self, events: int, deadline: float | None) -> bool:
        """Sleep a while at most; return whether there is something to do."""
        step = min(TICK, self._patience / 8)
        if deadline is not None:
            step = min(step, max(0.0, deadline - time.monotonic()))
        ready = dict(self._poll.poll(step * 1000))
        if self._bell in ready:
            raise Interrupted
        what = ready.get(self._sock.fileno(), 0)
        if what & ~events & (select.POLLERR | select.POLLHUP):
            # What can still be read is read before the end is reported.
            code = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code or not what & events:
                raise Broken(os.strerror(code) if code else "it was closed")
        return bool(ready)

    def _remind(self) -> None:
        """Give a sign of life, if this end is the one that does."""

    def send(self, buffers: list[Buffer], meanwhile: Callable[[], object] | None = None) -> None:
        """Send buffers; `meanwhile` is called when something can be read first."""
        left = sum(map(len, buffers))
        events = select.POLLOUT | (select.POLLIN if meanwhile else 0)
        while True:
            try:
                sent = self._sock.sendmsg(buffers)
            except BlockingIOError:
                self.wait(events)
                if meanwhile is not None:
                    meanwhile()
                continue
            except OSError as error:
                raise Broken(str(error)) from None
            left -= sent
            if not left:
                self._spoke = time.monotonic()
                return
            at = 0
            while sent >= len(buffers[at]):
                sent -= len(buffers[at])
                at += 1
            buffers = buffers[at:]
            if sent:
                first = buffers[0]
                buffers[0] = (memoryview(first) if isinstance(first, bytes) else first)[sent:]

    def receive(self, buffer: memoryview) -> int:
        """Receive some bytes; return how many, 0 if there are none now."""
        try:
            count = self._sock.recv_into(buffer)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise Broken(str(error)) from None
        if not count:
            raise Broken("it was closed")
        return count


class Outgoing(Link):
    """The end on the sending host."""

    def __init__(
        self, sock: socket.socket, bell: Bell, patience: float, look: Callable[[], object]
    ) -> None:
        super().__init__(sock, bell, patience, look)
        self._room = memoryview(bytearray(512))
        self._begun = 0  # bytes of an answer that is not complete

    def connect(self, to: tuple[str, int], timeout: float) -> None:
        """Connect; Broken if that takes longer."""
        deadline = time.monotonic() + timeout
        self._is_open = False
        code = self._sock.connect_ex(to)
        while code == errno.EINPROGRESS:
            if time.monotonic() >= deadline:
                raise Broken("it did not accept")
            self.wait(select.POLLOUT, timeout=deadline - time.monotonic())
            code = self._sock.connect_ex(to)
        if code not in (0, errno.EISCONN):
            raise Broken(os.strerror(code))
        self._is_open = True

    def answer(self) -> int | None:
        """Return the newest answer; None if no further one has come."""
        newest = None
        while count := self.receive(self._room[self._begun :]):
            end = self._begun + count
            self._begun = end % _ANSWER.size
            whole = end - self._begun
            if whole:
                (newest,) = _ANSWER.unpack_from(self._room, whole - _ANSWER.size)
                self._room[: self._begun] = bytes(self._room[whole:end])
            if end < len(self._room):
                break
        return newest

    def first_answer(self, timeout: float) -> int:
        """Return the first answer."""
        deadline = time.monotonic() + timeout
        while (word := self.answer()) is None:
            if time.monotonic() >= deadline:
                raise Broken("it was not answered")
            self.wait(select.POLLIN, timeout=deadline - time.monotonic())
        return word


class Incoming(Link):
    """The end on the receiving host."""

    def __init__(
        self, sock: socket.socket, bell: Bell, patience: float, look: Callable[[], object]
    ) -> None:
        super().__init__(sock, bell, patience, look)
        self._answer = b""
        self._inbox = memoryview(bytearray(INBOX))
        self._start = self._end = 0

    def send_answer(self, word: int) -> None:
        """Answer how many records the receiving ring has taken, with flags."""
        self._answer = _ANSWER.pack(word)
        self.send([self._answer])

    def _remind(self) -> None:
        """Repeat the answer now and then: a full ring must not look like a lost host."""
        if self._answer and time.monotonic() - self._spoke > self._patience / 8:
            self.send([self._answer])

    def take(self, nbytes: int) -> memoryview:
        """Receive that many bytes, INBOX at most; they are valid until the next call."""
        if INBOX - self._start < nbytes:
            rest = bytes(self._inbox[self._start : self._end])
            self._start, self._end = 0, len(rest)
            self._inbox[: self._end] = rest
        while self._end - self._start < nbytes:
            count = self.receive(self._inbox[self._end :])
            self._end += count
            if not count:
                self.wait(select.POLLIN)
        start = self._start
        self._start += nbytes
        if self._start == self._end:
            # The bytes stay until the next call.
            self._start = self._end = 0
        return self._inbox[start : start + nbytes]

    def take_into(self, view: memoryview) -> None:
        """Receive as many bytes as a view of bytes has."""
        at = min(self._end - self._start, len(view))
        view[:at] = self._inbox[self._start : self._start + at]
        self._start += at
        while at < len(view):
            count = self.receive(view[at:])
            at += count
            if not count:
                self.wait(select.POLLIN)

    def take_head(self) -> tuple[tuple[int, ...], list[bytes] | None]:
        """Receive the head of a batch; return sizes and, unless all are bytes, descriptions.

        BridgeLost for anything that no bridge sends.
        """
        count, extra = _HEAD.unpack(self.take(_HEAD.size))
        if count > MOST_RECORDS or extra > count * _MOST_DESCRIBED or 0 < extra < 2 * count:
            raise BridgeLost(f"a batch of {count} records and {extra} bytes of descriptions")
        sizes = struct.unpack(f"<{count}Q", self.take(8 * count))
        if not extra:
            return sizes, None
        data = bytearray(extra)
        self.take_into(memoryview(data))
        descriptions: list[bytes] = []
        at = 2 * count
        for length in struct.unpack_from(f"<{count}H", data):
            descriptions.append(bytes(data[at : at + length]))
            at += length
        if at != extra:
            raise BridgeLost(f"descriptions of {at - 2 * count} bytes in {extra}")
        return sizes, descriptions
