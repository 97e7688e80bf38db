"""ipcheap as its README shows it."""

import os

import ipcheap
from peers.peer import Peer, Receiver, Sender


class HeapSender(Sender):
    """`send` and `send_many` for bytes, records written in place for what is larger."""

    def __init__(self, producer):
        self.producer = producer
        self.send = producer.send
        self.send_many = producer.send_many
        self.close = producer.close

    def loan(self, nbytes):
        self.record = self.producer.allocate_record(nbytes)
        return self.record.view

    def commit(self):
        self.producer.send_record(self.record)

    def loan_many(self, nbytes, count):
        self.records = self.producer.allocate_records(nbytes, count)
        return [record.view for record in self.records]

    def commit_many(self):
        self.producer.send_records(self.records)

    def loan_array(self, shape, dtype):
        self.record = self.producer.allocate_array(shape, dtype)
        return self.record.array()

    def send_object(self, obj):
        self.producer.send_object(obj)


class HeapReceiver(Receiver):
    """`recv` and `recv_many` for bytes, records read in place for what is larger.

    A blocking call looks a little before it sleeps, so there is none that spins only.
    """

    def __init__(self, consumer):
        self.consumer = consumer
        self.recv = self.spin = consumer.recv
        self.recv_many = consumer.recv_many
        self.close = consumer.close
        self.record = None

    def take(self):
        self.record = self.consumer.recv_record()
        return self.record.view

    def done(self):
        if self.record is not None:
            self.record.free()
            self.record = None

    def take_many(self, limit):
        self.records = self.consumer.recv_records(limit)
        return [record.view for record in self.records]

    def done_many(self):
        for record in self.records:
            record.free()

    def take_array(self, shape, dtype):
        return self.consumer.recv_array()  # gives its record back when it dies

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

    def sender(self, link):
        return HeapSender(self.heap.producer(link))

    def receiver(self, link):
        return HeapReceiver(self.heap.consumer(link))

    def close(self):
        self.heap.unlink()
        self.heap.close()
