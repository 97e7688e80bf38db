"""pyzmq over ipc://: XPUB and SUB there, PUSH and PULL back."""

import os
import tempfile

import zmq

from peers.buses import Buses, Listener, Writer


class PyzmqWriter(Writer):
    """XPUB, which hears of each subscription, and waits for room if it is told to."""

    def __init__(self, there, back, listeners):
        self.there, self.back, self.listeners = there, back, listeners
        self.send, self.send_many = there.send, there.send_multipart

    def ready(self):
        for _ in range(self.listeners):
            self.there.recv()

    def round(self, data):
        self.send(data)
        recv = self.back.recv
        for _ in range(self.listeners):
            recv()

    def close(self):
        self.there.close(linger=5000)
        self.back.close()


class PyzmqListener(Listener):
    """SUB with an empty prefix."""

    def __init__(self, there, back):
        self.there, self.back = there, back
        self.recv = there.recv

    def answer(self):
        data = self.recv()
        self.back.send(b"")
        return data

    def recv_many(self, limit):
        return self.there.recv_multipart()

    def close(self):
        self.there.close()
        self.back.close(linger=5000)


class PyzmqPub(Buses):
    """The high-water marks allow `depth` messages in flight to each listener."""

    title = "pyzmq PUB/SUB ipc://"
    package = "pyzmq"
    batches = True

    def __init__(self, listeners, nbytes, depth):
        self.folder = tempfile.TemporaryDirectory(prefix=f"bench-{os.getpid()}-")
        self.listeners, self.depth = listeners, depth

    def _socket(self, context, kind):
        socket = context.socket(kind)
        socket.set_hwm(max(1, self.depth // 2))  # half of it on each side
        return socket

    def writer(self):
        context = zmq.Context()
        there, back = self._socket(context, zmq.XPUB), self._socket(context, zmq.PULL)
        there.setsockopt(zmq.XPUB_VERBOSE, 1)  # one notice per listener
        there.setsockopt(zmq.XPUB_NODROP, 1)
        there.bind(f"ipc://{self.folder.name}/there")
        back.bind(f"ipc://{self.folder.name}/back")
        return PyzmqWriter(there, back, self.listeners)

    def listener(self, number):
        context = zmq.Context()
        there, back = self._socket(context, zmq.SUB), self._socket(context, zmq.PUSH)
        there.subscribe(b"")
        there.connect(f"ipc://{self.folder.name}/there")
        back.connect(f"ipc://{self.folder.name}/back")
        return PyzmqListener(there, back)

    def close(self):
        self.folder.cleanup()
