"""pyzmq over ipc://, PUSH and PULL."""

import os
import tempfile

import zmq

from peers.peer import Peer, Receiver, Sender

COPY_FROM = 1 << 16  # from this many bytes, its documentation advises not to copy


class PyzmqSender(Sender):
    """Copies small messages and hands over large ones, each in its own memory."""

    def __init__(self, socket):
        self.socket = socket
        self.send_many = socket.send_multipart

    def send(self, data):
        self.socket.send(data, copy=True)

    def loan(self, nbytes):
        if nbytes < COPY_FROM:
            return super().loan(nbytes)
        return bytearray(nbytes)  # the context reads it later, so it cannot be reused

    def commit(self, memory):
        self.socket.send(memory, copy=len(memory) < COPY_FROM)

    def send_object(self, obj):
        import pickle

        buffers = []
        head = pickle.dumps(obj, 5, buffer_callback=buffers.append)
        self.socket.send_multipart([head, *(buffer.raw() for buffer in buffers)], copy=False)

    def close(self):
        self.socket.close(linger=5000)


class PyzmqReceiver(Receiver):
    """Copies small messages and reads large ones in place, in their frame."""

    def __init__(self, socket):
        self.socket = socket
        self.recv = socket.recv
        self.close = socket.close

    def try_recv(self):
        try:
            return self.socket.recv(zmq.NOBLOCK)
        except zmq.Again:
            return None

    def recv_many(self, limit):
        return self.socket.recv_multipart()

    def take(self):
        return self.socket.recv(copy=False).buffer

    def recv_object(self):
        import pickle

        head, *buffers = self.socket.recv_multipart(copy=False)
        return pickle.loads(head.buffer, buffers=[frame.buffer for frame in buffers])


class PyzmqIpc(Peer):
    """One socket pair per link; the high-water marks allow `depth` messages in flight."""

    title = "pyzmq ipc://"
    package = "pyzmq"
    batches = True

    def __init__(self, links, nbytes, depth):
        self.folder = tempfile.TemporaryDirectory(prefix=f"bench-{os.getpid()}-")
        self.depth = depth
        self.context = None

    def _socket(self, kind):
        self.context = self.context or zmq.Context()
        socket = self.context.socket(kind)
        socket.set_hwm(max(1, self.depth // 2))  # half of it on each side
        return socket

    def sender(self, link):
        socket = self._socket(zmq.PUSH)
        socket.connect(f"ipc://{self.folder.name}/{link}")
        return PyzmqSender(socket)

    def receiver(self, link):
        socket = self._socket(zmq.PULL)
        socket.bind(f"ipc://{self.folder.name}/{link}")
        return PyzmqReceiver(socket)

    def close(self):
        self.folder.cleanup()
