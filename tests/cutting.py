"""A TCP proxy for tests, which cuts connections where it is told to."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from typing import Self

FORTH, BACK = 0, 1


class Proxy:
    """Passes connections on to a port of this host; `port` is its own.

    `cuts` says after how many bytes a connection is cut, by its number and a direction. Both ends
    are reset then. The target may be changed while it runs.
    """

    def __init__(self, target: int, cuts: dict[tuple[int, int], int] | None = None) -> None:
        self.target = target
        self.cuts = cuts or {}
        self.connections = 0
        self.passed = [0, 0]  # the bytes of the latest connection
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._users: dict[socket.socket, int] = {}  # how many threads pass on what is there
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.cut_all()
        for thread in self._threads:
            thread.join()

    def cut_all(self) -> None:
        """Cut all connections."""
        with self._lock:
            for sock in self._users:
                self._reset(sock)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                near.close()
                continue
            with self._lock:
                self._users |= {near: 2, far: 2}
            number, self.connections = self.connections, self.connections + 1
            self.passed = [0, 0]
            for direction, (source, sink) in enumerate(((near, far), (far, near))):
                work = threading.Thread(target=self._pass, args=(number, direction, source, sink))
                self._threads.append(work)
                work.start()

    def _pass(
        self, number: int, direction: int, source: socket.socket, sink: socket.socket
    ) -> None:
        left = self.cuts.get((number, direction))
        is_cut = True
        with contextlib.suppress(OSError):
            while left is None or left > 0:
                data = source.recv(65536 if left is None else min(left, 65536))
                if not data:
                    break
                sink.sendall(data)
                self.passed[direction] += len(data)
                left = None if left is None else left - len(data)
            if left != 0:
                sink.shutdown(socket.SHUT_WR)
                is_cut = False
        with self._lock:
            for sock in (source, sink):
                if is_cut:
                    self._reset(sock)
                # Not while the other thread is in a call: a new connection may get the number.
                self._users[sock] -= 1
                if not self._users[sock]:
                    del self._users[sock]
                    sock.close()

    def _reset(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.shutdown(socket.SHUT_RDWR)
