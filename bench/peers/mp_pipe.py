"""multiprocessing.Pipe, one-way."""

import multiprocessing

from peers.peer import Peer, Receiver, Sender


class PipeSender(Sender):
    """`send_bytes` for bytes, `send` for objects."""

    def __init__(self, connection):
        self.send = connection.send_bytes
        self.send_object = connection.send
        self.close = connection.close


class PipeReceiver(Receiver):
    """`recv_bytes`, after `poll(0)` for calls that must not sleep."""

    def __init__(self, connection):
        self.connection = connection
        self.recv = connection.recv_bytes
        self.recv_object = connection.recv
        self.close = connection.close

    def try_recv(self):
        return self.connection.recv_bytes() if self.connection.poll(0) else None


class MpPipe(Peer):
    """One pair of connections per link."""

    title = "multiprocessing.Pipe"

    def __init__(self, links, nbytes, depth):
        self.ends = [multiprocessing.Pipe(duplex=False) for _ in range(links)]

    def sender(self, link):
        return PipeSender(self.ends[link][1])

    def receiver(self, link):
        return PipeReceiver(self.ends[link][0])
