"""ipcheap as its README shows it."""

import os

import ipcheap
from peers.peer import Peer, Receiver, Sender

COPIED = 8192  # bytes up to which a copy on either side costs less than a record and its view


class HeapSender(Sender):
    """`send` and `send_many`: what there is for bytes that are there already."""

    def __init__(self, producer):
        self.producer = producer
        self.send = producer.send
        self.send_many = producer.send_many
        self.close = producer.close


class RecordSender(HeapSender):
    """Records written in place, for what is larger; arrays and objects."""

    def loan(self, nbytes):
        self.record = self.producer.allocate_record(nbytes)
        return self.record.view

    def commit(self):
        self.producer.send_record(self.record)

    def loan_array(self, shape, dtype):
        self.record = self.producer.allocate_array(shape, dtype)
        return self.record.array()

    def send_object(self, obj):
        self.producer.send_object(obj)


class HeapReceiver(Receiver):
    """`recv` and `recv_many`.

    A blocking call looks a little before it sleeps, so there is none that spins only.
    """

    def __init__(self, consumer):
        self.consumer = consumer
        self.recv = self.spin = consumer.recv
        self.recv_many = consumer.recv_many
        self.close = consumer.close


class RecordReceiver(HeapReceiver):
    """Records read in place, arrays and objects."""

    record = None

    def take(self):
        self.record = self.consumer.recv_record()
        return self.record.view

    def done(self):
        if self.record is not None:  # an array gives its record back when it dies
            self.record.free()
            self.record = None

    def take_array(self, shape, dtype):
        return self.consumer.recv_array()

    def recv_object(self):
        return self.consumer.recv_object()


class IpcheapHeap(Peer):
    """One heap, one record channel a link."""

    title = "ipcheap"
    package = "ipcheap"
    batches = True

    def __init__(self, links, nbytes, depth):
        capacity = max(256 << 20, 2 * links * (depth + 4) * nbytes)
        self.heap = ipcheap.Heap.create(f"bench.{os.getpid()}", capacity)
        for link in range(links):
            self.heap.add_record_channel(link, depth)
        large = nbytes > COPIED
        self.ends = (RecordSender, RecordReceiver) if large else (HeapSender, HeapReceiver)

    def sender(self, link):
        return self.ends[0](self.heap.producer(link))

    def receiver(self, link):
        return self.ends[1](self.heap.consumer(link))

    def close(self):
        self.heap.unlink()
        self.heap.close()
