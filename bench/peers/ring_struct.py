"""The spinning ring for batches of a fixed number of records of a fixed size.

One `struct.Struct` with a field per record splits a whole batch in C. It fits a single record size
and a single batch size, so it is measured in addition to the general ring.
"""

import struct

from peers import ring
from peers.peer import Peer, Receiver, Sender

BATCH = 64


class StructSender(Sender):
    """Joins a batch and copies it into the ring."""

    def __init__(self, own):
        head_word, tail_word, buffer = own.head, own.tail, own.buffer
        slots, step = own.slots, own.step
        size = BATCH * step
        head, limit = 0, slots

        def send_many(batch):
            nonlocal head, limit
            while limit - head < BATCH:
                limit = tail_word[0] + slots
            at = ring.FIRST + head % slots * step
            buffer[at : at + size] = b"".join(batch)
            head += BATCH
            head_word[0] = head

        self.send_many = send_many


class StructReceiver(Receiver):
    """Splits a batch in place."""

    def __init__(self, own):
        head_word, tail_word, buffer = own.head, own.tail, own.buffer
        slots, step = own.slots, own.step
        unpack = struct.Struct(f"{own.nbytes}s" * BATCH).unpack_from
        tail = limit = 0

        def recv_many(_most):
            nonlocal tail, limit
            while tail == limit:
                limit = head_word[0]
            found = unpack(buffer, ring.FIRST + tail % slots * step)
            tail += BATCH
            tail_word[0] = tail
            return found

        self.recv_many = recv_many


class RingStruct(Peer):
    """One ring per link; whole batches of 64 only."""

    title = "ring by hand, spinning, struct"
    batches = True
    only = ("records-64-batch",)

    def __init__(self, links, nbytes, depth):
        if nbytes % 64:
            raise ValueError("this ring needs records of whole cache lines")
        self.slots, self.nbytes = max(BATCH, ring.power(depth)), nbytes
        self.memories = [ring.make(self.slots, nbytes) for _ in range(links)]

    def sender(self, link):
        return StructSender(ring.Ring(self.memories[link], self.slots, self.nbytes))

    def receiver(self, link):
        return StructReceiver(ring.Ring(self.memories[link], self.slots, self.nbytes))

    def close(self):
        for memory in self.memories:
            ring.remove(memory)
