"""A heap with channels of every kind to look at, and peers that hold, wait and hang in it."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import peers

import ipcheap

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path
    from typing import Self


def bytes_of(path: str | Path) -> list[tuple[int, bytes]]:
    """Return all that has memory in a heap's file, and where."""
    found = []
    fd = os.open(path, os.O_RDONLY)
    try:
        at, size = 0, os.fstat(fd).st_size
        while at < size:
            try:
                at = os.lseek(fd, at, os.SEEK_DATA)
            except OSError:
                break
            end = os.lseek(fd, at, os.SEEK_HOLE)
            found.append((at, os.pread(fd, end - at, at)))
            at = end
    finally:
        os.close(fd)
    return found


class World:
    """Does to a heap whatever a list of pairs says; each pair is a step and a number."""

    def __init__(self, heap: ipcheap.Heap) -> None:
        self.heap = heap
        self.owned: list[ipcheap.Record] = []
        self.held: list[ipcheap.Record] = []
        self.chunks: list[ipcheap.Chunk] = []
        self.messages: list[Any] = []
        self.listeners: list[ipcheap.Listener] = []
        self.statics = 0
        heap.add_record_channel("a", 8)
        heap.add_record_channel(7, 4)
        self.producers = [heap.producer("a"), heap.producer(7)]
        self.consumers = [heap.consumer("a"), heap.consumer(7)]
        heap.add_stream("s", 1000)
        self.writer, self.reader = heap.stream_writer("s"), heap.stream_reader("s")
        self.shop = heap.add_store("t", depth=2, hold=6, garbage=2000)
        self.store = heap.store_writer("t")
        self.readers = [heap.store_reader("t"), heap.store_reader("t")]
        self.bus = heap.add_bus("b", 8, history=2)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Close all endpoints; what is held goes with the objects."""
        ends: list[Any] = [self.writer, self.reader, self.store, *self.readers, *self.listeners]
        for end in ends + self.producers + self.consumers:
            end.close()

    def step(self, name: str, number: int) -> None:
        """Do one step; what has no room, or is refused, is left out."""
        try:
            getattr(self, name)(number)
        except (ipcheap.HeapFull, ipcheap.RecordError, TimeoutError):
            pass

    def go(self, choice: random.Random, count: int) -> None:
        """Do so many steps at random."""
        for _ in range(count):
            self.step(choice.choice(STEPS), choice.randrange(10**6))

    def take(self, things: list[Any], number: int) -> Any:
        """Take one thing out of a list; None if it is empty."""
        return things.pop(number % len(things)) if things else None

    def size(self, number: int) -> int:
        """Return a size: most are small, some are extents."""
        return number % 700 if number % 5 else 30_000 + number % 50_000

    # Records ------------------------------------------------------------------------------

    def allocate(self, number: int) -> None:
        self.owned.append(self.heap.allocate_record(self.size(number)))

    def free(self, number: int) -> None:
        record = self.take(self.owned, number)
        if record is not None:
            record.free()

    def send(self, number: int) -> None:
        self.producers[number % 2].send(bytes(self.size(number)), timeout=0)

    def send_record(self, number: int) -> None:
        record = self.take(self.owned, number)
        if record is not None and not self.producers[number % 2].try_send_record(record):
            self.owned.append(record)

    def receive(self, number: int) -> None:
        record = self.consumers[number % 2].try_recv_record()
        if record is not None:
            self.held.append(record)

    def release(self, number: int) -> None:
        record = self.take(self.held, number)
        if record is not None:
            record.free()

    def keep(self, number: int) -> None:
        record = self.take(self.held, number)
        if record is not None:
            record.keep()
            self.owned.append(record)

    def forward(self, number: int) -> None:
        record = self.take(self.held, number)
        if record is not None and not self.producers[number % 2].try_send_record(record):
            self.held.append(record)

    def close_consumer(self, number: int) -> None:
        which = number % 2
        self.consumers[which].close()
        self.consumers[which] = self.heap.consumer(("a", 7)[which])

    def close_producer(self, number: int) -> None:
        which = number % 2
        self.producers[which].close()
        self.producers[which] = self.heap.producer(("a", 7)[which])

    # The other kinds ------------------------------------------------------------------------

    def add_static(self, number: int) -> None:
        self.statics += 1
        self.heap.add_static_segment(f"static {self.statics}", 1 + number % 9000)

    def write(self, number: int) -> None:
        self.writer.try_write(bytes(number % 400))

    def read(self, number: int) -> None:
        self.reader.readinto(bytearray(number % 300 + 1), at_least=1, timeout=0)

    def put(self, number: int) -> None:
        self.store.put(number % 5, bytes(self.size(number)))

    def delete(self, number: int) -> None:
        self.store.delete(number % 5)

    def hold(self, number: int) -> None:
        chunk = self.readers[number % 2].get(number % 5)
        if chunk is not None:
            self.chunks.append(chunk)

    def let_go(self, number: int) -> None:
        chunk = self.take(self.chunks, number)
        if chunk is not None:
            chunk.release()

    def collect(self, _: int) -> None:
        self.store.collect()

    def listen(self, number: int) -> None:
        if len(self.listeners) < 4:
            self.listeners.append(self.bus.listen(history=number % 3))

    def post(self, number: int) -> None:
        self.bus.post(bytes(self.size(number)), timeout=0)

    def hear(self, number: int) -> None:
        if self.listeners:
            message = self.listeners[number % len(self.listeners)].try_recv_record()
            if message is not None:
                self.messages.append(message)

    def forget(self, number: int) -> None:
        message = self.take(self.messages, number)
        if message is not None:
            message.free()

    def close_listener(self, number: int) -> None:
        listener = self.take(self.listeners, number)
        if listener is not None:
            listener.close()


STEPS = [
    name
    for name in vars(World)
    if not name.startswith("_") and name not in ("step", "go", "take", "size")
]


# Peers ----------------------------------------------------------------------------------------


def hold_some(heap: ipcheap.Heap, channel: int | str, count: int) -> None:
    """Receive records, hold them, and wait for a message."""
    with heap, heap.consumer(channel, 10) as consumer:
        records = [consumer.recv_record(peers.PATIENCE) for _ in range(count)]
        peers.say(len(records))
        peers.listen()


def fill(heap: ipcheap.Heap, channel: int | str) -> None:
    """Send without end."""
    with heap, heap.producer(channel, 10) as producer:
        peers.say("begun")
        while True:
            producer.send(b"x" * 100)


def drain(heap: ipcheap.Heap, channel: int | str) -> None:
    """Receive without end."""
    with heap, heap.consumer(channel, 10) as consumer:
        peers.say("begun")
        while True:
            consumer.recv()


def pass_on(heap: ipcheap.Heap, source: str, sink: str) -> None:
    """Receive from one channel and send to another, without end."""
    with heap, heap.producer(sink, 10) as producer, heap.consumer(source, 10) as consumer:
        peers.say("begun")
        while True:
            producer.send(consumer.recv())


def be_busy(heap: ipcheap.Heap, seconds: float) -> dict[str, int]:
    """Send, receive, keep, free and allocate at full speed."""
    channel = f"busy {os.getpid()}"
    heap.add_record_channel(channel, 64)
    end, count, kept = time.monotonic() + seconds, 0, []
    with heap, heap.producer(channel) as producer, heap.consumer(channel) as consumer:
        peers.say("begun")
        while time.monotonic() < end:
            for n in range(50):
                producer.send(bytes(50 + 700 * (n % 7)))
                record = consumer.recv_record()
                if n % 10 == 0:
                    record.keep()
                    kept.append(record)
                else:
                    record.free()
            kept.append(heap.allocate_record(20_000 + 7000 * (count % 30)))
            count += 50
            while len(kept) > 100:
                kept.pop().free()
        for record in kept:
            record.free()
    return {channel: count}


def run_all(function: Callable[..., Any], heap: ipcheap.Heap, count: int, *args: Any) -> list[Any]:
    """Start that many peers."""
    return [peers.run(function, heap, *args) for _ in range(count)]
