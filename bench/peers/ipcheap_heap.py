"""ipcheap as its README shows it."""

import os

import ipcheap
from peers.peer import Peer, Receiver, Sender

COPIED = 512  # up to this many bytes, a copy on each side costs less than a record and its view


class HeapSender(Sender):
    """`send` and `send_many`: for bytes that exist already."""

    def __init__(self, producer):
        self.producer = producer
        self.send = producer.send
        self.send_many = producer.send_many
        self.close = producer.close


class RecordSender(HeapSender):
    """Records written in place for larger messages, arrays and objects."""

    def __init__(self, producer):
        super().__init__(producer)
        self.loan, self.commit = producer.allocate_record, producer.send_record
        self.loan_many, self.commit_many = producer.allocate_records, producer.send_records
        self.send_object = producer.send_object

    def loan_array(self, shape, dtype):
        self.record = self.producer.allocate_array(shape, dtype)
        return self.record.array()

    def commit_array(self):
        self.producer.send_record(self.record)


class HeapReceiver(Receiver):
    """`recv` and `recv_many`.

    A blocking call spins briefly before it sleeps, so there is no call that only spins.
    """

    def __init__(self, consumer):
        self.consumer = consumer
        self.recv = self.spin = consumer.recv
        self.recv_many = consumer.recv_many
        self.close = consumer.close


class RecordReceiver(HeapReceiver):
    """Records read in place; arrays and objects free their records when they are collected."""

    def __init__(self, consumer):
        super().__init__(consumer)
        self.take, self.take_many = consumer.recv_record, consumer.recv_records
        self.done = ipcheap.Record.free
        self.recv_object = consumer.recv_object

    def done_many(self, memories):
        for record in memories:
            record.free()

    def take_array(self, shape, dtype):
        return self.consumer.recv_array()

    def done_array(self):
        pass


class IpcheapHeap(Peer):
    """One heap, one record channel per link."""

    title = "ipcheap"
    package = "ipcheap"
    batches = True

    def __init__(self, links, nbytes, depth):
        # Unused capacity costs nothing; up to a sixteenth, at most 64 MiB, stays committed.
        capacity = max(1 << 30, 2 * links * (depth + 4) * nbytes)
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
