"""pynng over ipc://: Pub0 and Sub0 there, Push0 and Pull0 back."""

import os
import tempfile
import time

import pynng

from peers.buses import Buses, Credit, Debt, Listener, Writer


class PynngWriter(Writer):
    """Pub0 loses what a listener has no room for, so the writer counts."""

    def __init__(self, there, back, listeners, depth):
        self.there, self.back, self.listeners = there, back, listeners
        self.credit = Credit(listeners, depth, self._collect)

    def _collect(self):
        yield int.from_bytes(self.back.recv(), "little")

    def ready(self):
        end = time.monotonic() + 10
        while len(self.there.pipes) < self.listeners and time.monotonic() < end:
            time.sleep(0.005)
        time.sleep(0.05)  # a pipe is listed a little before messages pass

    def round(self, data):
        self.there.send(data)
        recv = self.back.recv
        for _ in range(self.listeners):
            recv()

    def send(self, data):
        self.credit.use()
        self.there.send(data)

    def close(self):
        self.there.close()
        self.back.close()


class PynngListener(Listener):
    """Sub0 with an empty topic."""

    def __init__(self, there, back, number, depth):
        self.there, self.back = there, back
        self.own = number.to_bytes(2, "little")
        self.debt = Debt(depth)

    def answer(self):
        data = self.there.recv()
        self.back.send(self.own)
        return data

    def recv(self):
        data = self.there.recv()
        if self.debt.due():
            self.back.send(self.own)
        return data

    def close(self):
        self.there.close()
        self.back.close()


class PynngPub(Buses):
    """The buffers of both sides have room for `depth` messages, up to the 8192 of the library."""

    title = "pynng Pub0/Sub0 ipc://"
    package = "pynng"

    def __init__(self, listeners, nbytes, depth):
        self.folder = tempfile.TemporaryDirectory(prefix=f"bench-{os.getpid()}-")
        self.listeners, self.depth = listeners, min(depth, 8192)

    def writer(self):
        there = pynng.Pub0(send_buffer_size=self.depth)
        there.listen(f"ipc://{self.folder.name}/there")
        back = pynng.Pull0(recv_buffer_size=self.depth)
        back.listen(f"ipc://{self.folder.name}/back")
        return PynngWriter(there, back, self.listeners, self.depth)

    def listener(self, number):
        there = pynng.Sub0(recv_buffer_size=self.depth)
        there.subscribe(b"")
        there.dial(f"ipc://{self.folder.name}/there", block=True)
        back = pynng.Push0(send_buffer_size=self.depth)
        back.dial(f"ipc://{self.folder.name}/back", block=True)
        return PynngListener(there, back, number, self.depth)

    def close(self):
        self.folder.cleanup()
