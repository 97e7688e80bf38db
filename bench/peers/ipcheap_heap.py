"""ipcheap as its README shows it."""

import os

import ipcheap
from peers.peer import Peer, Receiver, Sender

COPIED = 512  # bytes up to which a copy on either side costs less than a record and its view


class HeapSender(Sender):
    """`send` and `send_many`: what there is for bytes that are there already."""

    def __init__(self, producer):
        self.producer = producer
        self.send = producer.send
        self.send_many = producer.send_many
        self.close = producer.close


class RecordSender(HeapSender):
    """Records written in place, for what is larger; arrays and objects."""

    def __init__(self, producer):
        super().__init__(producer)
        allocate, send, send_all = (
            producer.allocate_record,
            producer.send_record,
            producer.send_records,
        )
        allocate_all, allocate_array = producer.allocate_records, producer.allocate_array
        record = records = None

        def loan(nbytes):
            nonlocal record
            record = allocate(nbytes)
            return record

        def commit():
            send(record)

        def loan_many(nbytes, count):
            nonlocal records
            records = allocate_all(nbytes, count)
            return records

        def commit_many():
            send_all(records)

        def loan_array(shape, dtype):
            nonlocal record
            record = allocate_array(shape, dtype)
            return record.array()

        self.loan, self.commit, self.loan_array = loan, commit, loan_array
        self.loan_many, self.commit_many = loan_many, commit_many
        self.send_object = producer.send_object


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

    def __init__(self, consumer):
        super().__init__(consumer)
        receive, receive_all = consumer.recv_record, consumer.recv_records
        receive_array = consumer.recv_array
        record = None
        records = ()

        def take():
            nonlocal record
            record = receive()
            return record

        def done():
            if record is not None:  # an array gives its record back when it dies
                record.free()

        def take_many(limit):
            nonlocal records
            records = receive_all(limit)
            return records

        def done_many():
            for record in records:
                record.free()

        def take_array(_shape, _dtype):
            return receive_array()

        self.take, self.done, self.take_array = take, done, take_array
        self.take_many, self.done_many = take_many, done_many
        self.recv_object = consumer.recv_object


class IpcheapHeap(Peer):
    """One heap, one record channel a link."""

    title = "ipcheap"
    package = "ipcheap"
    batches = True

    def __init__(self, links, nbytes, depth):
        # What is not used costs nothing, and a sixteenth of it, up to 64 MiB, stays at hand.
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
