"""ipcheap's bus, as docs/bus.md shows it; and record channels, one to each listener."""

import os

import ipcheap
from peers.buses import Buses, Listener, Writer


def heap_for(listeners, nbytes, depth):
    """Return a heap with room for what is in flight; unused capacity costs nothing."""
    capacity = max(1 << 30, 2 * listeners * (depth + 4) * nbytes)
    return ipcheap.Heap.create(f"bench.{os.getpid()}", capacity)


class BusWriter(Writer):
    """`broadcast` waits for the releases, `post` only for room."""

    def __init__(self, bus):
        self.bus = bus
        self.send, self.send_many, self.round = bus.post, bus.post_many, bus.broadcast

    def loan_array(self, shape, dtype):
        self.record = self.bus.allocate_array(shape, dtype)
        return self.record.array()

    def commit_array(self):
        self.bus.post_record(self.record)


class BusListener(Listener):
    """`recv` acknowledges when it has copied, `recv_array` when the array is collected."""

    def __init__(self, listener):
        self.recv = self.answer = listener.recv
        self.recv_many, self.recv_array = listener.recv_many, listener.recv_array
        self.close = listener.close

    def take_array(self, shape, dtype):
        return self.recv_array()


class IpcheapBuses(Buses):
    """One heap with one bus."""

    title = "ipcheap"
    package = "ipcheap"
    batches = True
    lends = True

    def __init__(self, listeners, nbytes, depth):
        self.heap = heap_for(1, nbytes, depth)
        self.bus = self.heap.add_bus("bus", depth)

    def writer(self):
        return BusWriter(self.bus)

    def listener(self, number):
        return BusListener(self.bus.listen())

    def close(self):
        self.heap.unlink()
        self.heap.close()


class ChannelsWriter(Writer):
    """Sends a copy, or a record, to each; there is a channel back from each."""

    def __init__(self, there, back):
        self.there, self.back = there, back

    def round(self, data):
        self.send(data)
        for consumer in self.back:
            consumer.recv()

    def send(self, data):
        for producer in self.there:
            producer.send(data)

    def send_many(self, batch):
        for producer in self.there:
            producer.send_many(batch)

    def loan_array(self, shape, dtype):
        self.record = self.there[0].allocate_array(shape, dtype)
        return self.record.array()

    def commit_array(self):
        first = self.record.array()
        for producer in self.there[1:]:
            record = producer.allocate_array(first.shape, first.dtype)
            record.array()[:] = first
            producer.send_record(record)
        del first
        self.there[0].send_record(self.record)

    def close(self):
        for end in (*self.there, *self.back):
            end.close()


class ChannelsListener(Listener):
    """A consumer, and the producer of the channel back."""

    def __init__(self, there, back):
        self.there, self.back = there, back
        self.recv, self.recv_many = there.recv, there.recv_many

    def answer(self):
        data = self.recv()
        self.back.send(b"")
        return data

    def take_array(self, shape, dtype):
        return self.there.recv_array()

    def close(self):
        self.there.close()
        self.back.close()


class IpcheapChannels(Buses):
    """One heap with two record channels for each listener."""

    title = "ipcheap, n record channels"
    package = "ipcheap"
    batches = True
    lends = True

    def __init__(self, listeners, nbytes, depth):
        self.listeners = listeners
        self.heap = heap_for(listeners, nbytes, depth)
        for number in range(listeners):
            self.heap.add_record_channel(f"there {number}", depth)
            self.heap.add_record_channel(f"back {number}", depth)

    def writer(self):
        numbers = range(self.listeners)
        there = [self.heap.producer(f"there {number}") for number in numbers]
        return ChannelsWriter(there, [self.heap.consumer(f"back {number}") for number in numbers])

    def listener(self, number):
        return ChannelsListener(
            self.heap.consumer(f"there {number}"), self.heap.producer(f"back {number}")
        )

    def close(self):
        self.heap.unlink()
        self.heap.close()
