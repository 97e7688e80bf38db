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
from typing import TYPE_CHECKING

from .bridge_receiver import Receiver
from .bridge_sender import Sender
from .link import TICK, TOKEN_BYTES, Bell, BridgeLost, family_of

if TYPE_CHECKING:
    from ipcheap import Heap

    from .bridge_end import Lost

__all__ = ["BridgeLost", "Listener", "Sender"]

_MOST_CALLERS = 64  # connections that have not said yet what they are


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
        self._receivers: dict[str, Receiver] = {}
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
        receiver = Receiver(heap, channel_id, self._lost, self._patience)
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
        ends: list[Receiver | threading.Thread] = list(self._receivers.values())
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
