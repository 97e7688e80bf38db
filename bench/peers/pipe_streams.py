"""Streams of the system: os.pipe and a pair of sockets, without frames."""

import contextlib
import fcntl
import io
import os
import socket

from peers.streams import Reader, Streams, Writer

ROOM = 1 << 20  # the largest pipe that an unprivileged process can have
CHUNK = 1 << 16  # bytes that read_some() asks for


class PipeWriter(Writer):
    """A blocking write() returns when all of the data is in the pipe."""

    def __init__(self, fd):
        self.file = io.FileIO(fd, "wb")
        self.write, self.close = self.file.write, self.file.close


class PipeReader(Reader):
    """Reads directly into the buffer, again if less was there."""

    def __init__(self, fd):
        self.file = file = io.FileIO(fd, "rb")
        self.close, self.fileno = file.close, file.fileno
        some = file.readinto

        def readinto(buffer):
            got = some(buffer)
            if got == len(buffer):
                return
            rest = memoryview(buffer)[got:]
            while len(rest):
                got = some(rest)
                if not got:
                    raise EOFError("the other end has closed")
                rest = rest[got:]

        self.readinto = readinto
        self.read_some = lambda: os.read(fd, CHUNK)


class Pipe(Streams):
    """One pipe per link, as large as the system allows."""

    title = "os.pipe"
    polls = True

    def __init__(self, links, itemsize, capacity, dtype="u1", portion=1):
        self.ends = [os.pipe() for _ in range(links)]
        for _, fd in self.ends:
            with contextlib.suppress(OSError):
                fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, ROOM)

    def sender(self, link):
        return PipeWriter(self.ends[link][1])

    def receiver(self, link):
        return PipeReader(self.ends[link][0])


class SocketWriter(Writer):
    """Sends all of the data."""

    def __init__(self, end):
        self.write, self.close = end.sendall, end.close


class SocketReader(Reader):
    """Receives until the buffer is full."""

    def __init__(self, end):
        self.close, self.fileno = end.close, end.fileno
        receive = end.recv_into
        everything = socket.MSG_WAITALL
        self.readinto = lambda buffer: receive(buffer, 0, everything)
        self.read_some = lambda: end.recv(CHUNK)


class SocketPair(Streams):
    """One pair of stream sockets per link, with buffers as large as the system allows."""

    title = "socketpair"
    polls = True

    def __init__(self, links, itemsize, capacity, dtype="u1", portion=1):
        self.ends = [socket.socketpair() for _ in range(links)]
        for pair in self.ends:
            for end, buffer in zip(pair, (socket.SO_SNDBUF, socket.SO_RCVBUF), strict=True):
                end.setsockopt(socket.SOL_SOCKET, buffer, ROOM)

    def sender(self, link):
        return SocketWriter(self.ends[link][0])

    def receiver(self, link):
        return SocketReader(self.ends[link][1])
