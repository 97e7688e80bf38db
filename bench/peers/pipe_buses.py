"""A pipe to each listener and one pipe back, on which each acknowledges with a byte."""

import os

from peers.buses import Buses, Listener, Writer
from peers.os_pipe import OsPipe


class PipesWriter(Writer):
    """One write() per listener; acknowledgements are read as they come."""

    def __init__(self, senders, back):
        self.senders, self.back = senders, back

    def round(self, data):
        self.send(data)
        missing, back = len(self.senders), self.back
        while missing:
            missing -= len(os.read(back, missing))

    def send(self, data):
        for sender in self.senders:
            sender.send(data)

    def send_many(self, batch):
        for sender in self.senders:
            sender.send_many(batch)

    def close(self):
        for sender in self.senders:
            sender.close()


class PipesListener(Listener):
    """Reads as much as there is and splits it."""

    def __init__(self, receiver, back):
        self.back = back
        self.recv, self.recv_many = receiver.recv, receiver.recv_many
        self.close = receiver.close

    def answer(self):
        data = self.recv()
        os.write(self.back, b"+")
        return data


class Pipes(Buses):
    """Pipes as large as the system allows, with messages framed by hand."""

    title = "n os.pipe, one back"
    batches = True

    def __init__(self, listeners, nbytes, depth):
        self.there = OsPipe(listeners, nbytes, depth)
        self.listeners = listeners
        self.back = os.pipe()

    def writer(self):
        return PipesWriter(list(map(self.there.sender, range(self.listeners))), self.back[0])

    def listener(self, number):
        return PipesListener(self.there.receiver(number), self.back[1])

    def close(self):
        self.there.close()
        for fd in self.back:
            os.close(fd)
