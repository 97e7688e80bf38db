"""Many threads on one heap, with or without a GIL: nothing breaks, and each error is a clean one.

Without a GIL the threads are inside the bindings at the same time. With one, they still meet where
a call releases it.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import random
import subprocess
import sys
import sysconfig
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import peers
import pytest

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Callable

WORKERS = 6
ROUNDS = 200
LONG = 300 << 10  # bytes: copies of so many release the GIL
SLOW = 64 << 20  # bytes: a copy of so many takes many milliseconds


WITHOUT_A_GIL = """
import asyncio, sys
import numpy as np
import ipcheap

async def talk(producer, consumer):
    await producer.asend(b"later")
    assert await consumer.arecv() == b"later"

with ipcheap.Heap.create(sys.argv[1], "8MiB") as heap:
    heap.add_record_channel("records")
    with heap.producer("records") as producer, heap.consumer("records") as consumer:
        producer.send(b"first")
        assert consumer.recv() == b"first"
        with producer.loan(3, "i4") as array:
            array[:] = 7
        assert consumer.recv_array().tolist() == [7, 7, 7]
        producer.send_object({"array": np.arange(3)})
        assert consumer.recv_object()["array"].tolist() == [0, 1, 2]
        asyncio.run(talk(producer, consumer))
    segment = heap.add_static_segment("state", 256)
    segment.atomic(0).fetch_add(1)
    ipcheap.Lock(segment, 64).acquire()
    stream = heap.add_stream("stream", 1000, dtype="f8")
    with stream.writer() as writer, stream.reader() as reader:
        writer.write(np.ones(10))
        with reader.window(10) as window:
            assert window.sum() == 10
    heap.statistics(), heap.check(), heap.recover(), ipcheap.heaps()
    heap.unlink()
with ipcheap.Heap.create(None, "1MiB", shm="memfd") as heap:
    heap.allocate_record(100).free()
print(sys._is_gil_enabled())
"""


@pytest.mark.skipif(
    not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this Python is built with a GIL"
)
def test_a_heap_of_the_default_kind_does_without_the_gil(heap_name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-W", "error", "-c", WITHOUT_A_GIL, heap_name],
        stdout=subprocess.PIPE,
        text=True,
        timeout=peers.PATIENCE,
        check=True,
    )
    assert done.stdout.split() == ["False"]


def how_many(end: Callable[[ipcheap.Record], object], records: list[ipcheap.Record]) -> int:
    """End all records; return how many were not ended already."""
    count = 0
    for record in records:
        with contextlib.suppress(ipcheap.RecordError):
            end(record)
            count += 1
    return count


@pytest.mark.parametrize("nbytes", [64, LONG])
def test_a_record_ends_once_however_many_threads_end_it(nbytes: int) -> None:
    """They go through the same records in the same order, and meet at each."""
    count = 4096 if nbytes == 64 else 64
    with ipcheap.Heap.create(None, "64MiB", shm="memfd") as heap:
        heap.add_record_channel("out", count)
        for turn in range(4):
            records = [heap.allocate_record(nbytes) for _ in range(count)]
            viewed: list[object] = [record.view for record in records[turn::4]]
            viewed += [record.array() for record in records[::3]]
            start = threading.Barrier(3)

            def free(records: list[ipcheap.Record], start: threading.Barrier) -> int:
                start.wait(peers.PATIENCE)
                return how_many(ipcheap.Record.free, records)

            def send(records: list[ipcheap.Record], start: threading.Barrier) -> int:
                with heap.producer("out") as producer:
                    start.wait(peers.PATIENCE)
                    return how_many(producer.send_record, records)

            with ThreadPoolExecutor(3) as pool:
                ended = [pool.submit(end, records, start) for end in (free, send, free)]
                assert sum(end.result() for end in ended) == count
            del viewed
            gc.collect()
            with heap.consumer("out") as consumer:
                assert consumer.pending == ended[1].result()
                for record in consumer.recv_records(count, 0) if consumer.pending else ():
                    record.free()
            assert heap.statistics().records == 0
        assert heap.check() == []


def test_every_view_of_a_record_is_counted() -> None:
    """If one were forgotten, the memory would go too early, or never."""
    with ipcheap.Heap.create(None, "1MiB", shm="memfd") as heap:
        record = heap.allocate_record(64)
        start = threading.Barrier(4)

        def look() -> None:
            start.wait(peers.PATIENCE)
            for _ in range(100_000):
                record[:8]
                assert len(record.view) == 64

        with ThreadPoolExecutor(4) as pool:
            for one in [pool.submit(look) for _ in range(4)]:
                one.result()
        last = record.view
        record.free()
        assert heap.statistics().records == 1
        del last
        assert heap.statistics().records == 0


def test_a_record_is_not_sent_while_another_thread_fills_it() -> None:
    """If it were, the rest of the bytes would be written to memory that others may use by then."""
    whole = b"x" * SLOW
    early = 0  # how often the assignment had begun, and had not ended
    with ipcheap.Heap.create(None, 3 * SLOW, shm="memfd") as heap, ThreadPoolExecutor(1) as pool:
        heap.add_record_channel("out")
        with heap.producer("out") as producer, heap.consumer("out") as consumer:

            def send(record: ipcheap.Record) -> None:
                producer.send_record(record, 0)

            def send_as_list(record: ipcheap.Record) -> None:
                producer.send_records([record], 0)

            def fill(record: ipcheap.Record) -> None:
                record[:] = whole

            for number in range(8):
                record = heap.allocate_record(SLOW)
                record[0] = record[-1] = 0
                filled = pool.submit(fill, record)
                while record[0] == 0:
                    pass
                try:
                    (send if number % 2 else send_as_list)(record)
                except ipcheap.RecordError:
                    early += 1
                    assert consumer.pending == 0
                    filled.result(peers.PATIENCE)
                    send(record)
                with consumer.recv_record(0) as received:
                    assert bytes(received) == whole
                filled.result(peers.PATIENCE)
    assert early > 0


def test_a_record_is_not_sent_by_what_is_assigned_to_it() -> None:
    with ipcheap.Heap.create(None, "1MiB", shm="memfd") as heap:
        heap.add_record_channel("out")
        store = heap.add_store("store")
        with heap.producer("out") as producer, store.writer() as writer:
            record = heap.allocate_record(64)

            class Sends:
                def __index__(self) -> int:
                    with pytest.raises(ipcheap.RecordError, match="cannot be sent yet"):
                        producer.send_record(record)
                    with pytest.raises(ipcheap.RecordError, match="cannot be put yet"):
                        writer.put_record("key", record)
                    return 7

            record[0] = Sends()
            record[Sends()] = 8  # type: ignore[index]
            assert (record[0], record[7]) == (7, 8)
            producer.send_record(record)
            assert heap.check() == []


def test_a_received_record_ends_once_while_its_consumer_is_closed() -> None:
    """The consumer's own thread frees what another thread, by closing the heap, keeps."""
    for number in range(ROUNDS):
        heap = ipcheap.Heap.create(None, "1MiB", shm="memfd")
        heap.add_record_channel("a", 16)
        producer = heap.producer("a")
        start = threading.Barrier(2)

        def receive(heap: ipcheap.Heap = heap, start: threading.Barrier = start) -> None:
            with heap.consumer("a") as consumer:
                records = consumer.recv_records(8)
                start.wait(peers.PATIENCE)
                for record in records[::2]:
                    record.free()
                for record in records[1::2]:
                    record.keep()

        producer.send_many([bytes([number % 256]) * 64] * 8)
        with ThreadPoolExecutor(1) as pool:
            work = pool.submit(receive)
            start.wait(peers.PATIENCE)
            heap.close()
            work.result()


CLEAN = (
    ipcheap.HeapClosed,
    ipcheap.EndpointClosed,
    ipcheap.ChannelClosed,
    ipcheap.ChannelBusy,
    ipcheap.RecordError,
    ipcheap.WindowError,
    ipcheap.WrongThread,
    ipcheap.HeapFull,
    TimeoutError,
)


def how(found: bytes, right: bytes) -> str:
    """Return how received bytes differ from what was sent."""
    if len(found) != len(right):
        return f"{len(found)} bytes, not a multiple of 8"
    wrong = [at for at, (one, other) in enumerate(zip(found, right, strict=True)) if one != other]
    first, last = wrong[0], wrong[-1]
    return (
        f"{len(wrong)} of {len(found)} bytes are wrong, from {first} to {last}, "
        f"{found[first : first + 24].hex()} instead of {right[first : first + 24].hex()}"
    )


class Torture:
    """Threads that use one heap in all ways, until it is closed under them."""

    def __init__(self, heap: ipcheap.Heap, seed: int) -> None:
        self.heap = heap
        self.seed = seed
        self.shared: list[ipcheap.Record | None] = [None] * 8  # only the first four are sent
        self.borrowed: list[object] = [None] * 5  # endpoints and windows of other threads
        self.over = threading.Event()
        self.counts = [0] * 6 * WORKERS

    def produce(self, me: int) -> None:
        dice = random.Random(self.seed + me)
        with self.heap.producer(f"records {me}", None) as producer:
            self.borrowed[0] = producer
            for number in itertools.count():
                data = number.to_bytes(8, "little") * dice.choice([1, 8, 100, LONG // 8 + 1])
                way = dice.randrange(4)
                if way == 0:
                    producer.send(data)
                elif way == 1:
                    record = producer.allocate_record(len(data))
                    record[:] = data
                    producer.send_record(record)
                elif way == 2:
                    record = producer.allocate_array(len(data), "u1")
                    record.array()[:] = np.frombuffer(data, "u1")
                    producer.send_records([record])
                else:
                    producer.send_many([data])
                self.counts[me] += 1

    def consume(self, me: int) -> None:
        dice = random.Random(-self.seed - me)
        expected = 0
        with self.heap.consumer(f"records {me}", None) as consumer:
            self.borrowed[1] = consumer
            while True:
                way = dice.randrange(4)
                if way == 0:
                    received: list[object] = [consumer.recv()]
                elif way == 1:
                    received = list(consumer.recv_many(8))
                else:
                    received = list(consumer.recv_records(8))
                for data in received:
                    found = bytes(data)  # type: ignore[call-overload]
                    right = expected.to_bytes(8, "little") * (len(found) // 8)
                    assert found == right, f"way {way}, message {expected}: {how(found, right)}"
                    expected += 1
                    self.counts[WORKERS + me] += 1
                    if isinstance(data, ipcheap.Record) and way == 2:
                        self.shared[dice.randrange(8)] = data  # and another thread ends it
                    elif isinstance(data, ipcheap.Record) and dice.random() < 0.5:
                        data.free()

    def share(self, me: int) -> None:
        """Do to other threads' records what one can do to records.

        Nothing writes through the views of a record that another thread may send: what it writes
        could be in the next message to use that memory.
        """
        dice = random.Random(self.seed * 7 + me)
        with self.heap.producer(f"shared {me}", None) as producer:
            for number in itertools.count():
                at = dice.randrange(8)
                record, is_sent = self.shared[at], at < 4
                # TypeError: messages of a bus are read-only
                with contextlib.suppress(ipcheap.RecordError, BufferError, TypeError):
                    if record is None or number % 16 == 0:
                        self.shared[at] = self.heap.allocate_record(dice.choice([64, 4096, LONG]))
                        continue
                    way = dice.randrange(8)
                    if way == 0:
                        record.free()
                    elif way == 1:
                        record.keep()
                    elif way == 2 and is_sent:
                        producer.try_send_record(record)
                    elif way == 3:
                        record[: len(record)] = bytes(len(record))
                    elif way == 4:
                        view, array = record.view, record.array("u1")
                        del record
                        assert len(view) == len(array)
                    elif way == 5:
                        record[dice.randrange(8)] = record[0]
                    elif way == 6:
                        with record:
                            view = memoryview(record)
                            if not is_sent:
                                view.cast("B")[:8] = b"12345678"
                            assert len(bytes(view)) == view.nbytes
                    elif is_sent:
                        producer.send_records([record, self.heap.allocate_record(64)], 0.01)
                self.counts[2 * WORKERS + me] += 1

    def drain(self, me: int) -> None:
        with self.heap.consumer(f"shared {me}", None) as consumer:
            for record in consumer:
                del record
                self.counts[3 * WORKERS + me] += 1

    def stream(self, me: int) -> None:
        """Write to a stream, and read from the one of another thread."""
        dice = random.Random(self.seed * 3 + me)
        writes = me % 2 == 0
        stream = self.heap.channel(f"stream {me // 2}")
        assert isinstance(stream, ipcheap.Stream)
        with stream.writer(None) if writes else stream.reader(None) as side:
            self.borrowed[2] = side
            for number in itertools.count():
                items = dice.choice([1, 100, 40_000])
                window = side.window(items, 0.01)
                with contextlib.suppress(TimeoutError):
                    if number % 3:
                        with window as array:
                            self.borrowed[3] = window
                            if writes:
                                array[:] = number
                            else:
                                assert len(array) == items
                    elif isinstance(side, ipcheap.StreamWriter):
                        side.write(np.full(items, number, "i8"), 0.01)
                    else:
                        side.read(items, 0.01)
                self.counts[4 * WORKERS + me] += 1

    def hear(self, me: int) -> None:
        """Post on a bus, and listen to it; another thread ends what is heard."""
        dice = random.Random(self.seed * 5 + me)
        bus = self.heap.bus("bus", None)
        with bus.listen(lossy=me % 2 == 1) as listener:
            self.borrowed[4] = listener
            for number in itertools.count():
                with contextlib.suppress(TimeoutError, ipcheap.HeapFull):
                    data = number.to_bytes(8, "little") * dice.choice([1, 8, 100, LONG // 8 + 1])
                    way = dice.randrange(4)
                    if way == 0:
                        bus.post_many([data, data], 0.01)
                    elif way == 1:
                        bus.broadcast(data, 0.01)
                    else:
                        bus.post(data, 0)
                with contextlib.suppress(TimeoutError):
                    for message in listener.recv_records(8, 0):
                        found = bytes(message)
                        assert found == found[:8] * (len(found) // 8)
                        if dice.random() < 0.1:
                            self.shared[dice.randrange(8)] = message
                        elif dice.random() < 0.5:
                            message.free()
                self.counts[5 * WORKERS + me] += 1

    def misuse(self) -> None:
        """Use what belongs to other threads: each call is refused, or does no harm."""
        dice = random.Random(self.seed * 11)
        segment = self.heap.channel("state")
        assert isinstance(segment, ipcheap.StaticSegment)
        atomic = segment.atomic(0)
        while not self.over.is_set():
            producer, consumer, side, window, listener = self.borrowed
            atomic.fetch_add(1)
            for call in (
                lambda producer=producer: producer.try_send_record(self.shared[0]),
                lambda producer=producer: producer.send(bytes(LONG)),
                lambda consumer=consumer: consumer.try_recv_record(),
                lambda consumer=consumer: consumer.statistics(),
                lambda consumer=consumer: consumer.close(),
                lambda side=side: side.window(5).__enter__(),
                lambda side=side: side.statistics(),
                lambda side=side: side.close(),
                lambda window=window: window.__enter__(),
                lambda window=window: window.__exit__(None, None, None),
                lambda window=window: window.items,
                lambda listener=listener: listener.try_recv_record(),
                lambda listener=listener: listener.statistics(),
                lambda listener=listener: listener.close(),
                lambda: self.heap.bus("bus").listeners(),
                lambda: self.heap.bus("bus").drain(0),
                self.heap.statistics,
                self.heap.participants,
            ):
                with contextlib.suppress(*CLEAN, TypeError, AttributeError):
                    call()
            if dice.random() < 0.1:
                gc.collect()

    def run(self, seconds: float) -> None:
        """Let all threads work, then close the heap; raise what is no clean error."""
        heap = self.heap
        for n in range(WORKERS):
            heap.add_record_channel(f"records {n}", 32)
            heap.add_record_channel(f"shared {n}", 16)
        for n in range(WORKERS // 2):
            heap.add_stream(f"stream {n}", 100_000, dtype="i8", backlog=0)
        heap.add_static_segment("state", 64)
        heap.add_bus("bus", 32, history=4)
        work: list[Callable[[], None]] = [self.misuse]
        for n in range(WORKERS):
            roles = (self.produce, self.consume, self.share, self.drain, self.stream, self.hear)
            for role in roles:
                work.append(lambda role=role, n=n: role(n))  # type: ignore[misc]

        def until_closed(call: Callable[[], None]) -> None:
            with contextlib.suppress(*CLEAN):
                call()

        with ThreadPoolExecutor(len(work)) as pool:
            running = [pool.submit(until_closed, call) for call in work]
            time.sleep(seconds)
            heap.close()
            self.over.set()
            for one in running:
                one.result(peers.PATIENCE)
        self.shared.clear()
        self.borrowed.clear()


def torture(name: str, seed: int) -> list[str]:
    """Return what is wrong with the heap afterwards."""
    with ipcheap.Heap.create(name, "64MiB") as keeper:
        one = Torture(ipcheap.Heap.attach(name), seed)
        one.run(1.5)
        counts = one.counts
        assert all(counts[role * WORKERS] for role in (0, 1, 2, 5)), counts
        one.heap = keeper
        gc.collect()
        for channel in list(keeper.channels):
            keeper.remove_channel(channel, force=True)
        keeper.recover()
        statistics = keeper.statistics()
        left = [f"{statistics.records} records are left"] if statistics.records else []
        return keeper.check() + left


@pytest.mark.parametrize("seed", range(3))
def test_a_heap_is_closed_while_many_threads_use_it(heap_name: str, seed: int) -> None:
    """In a process of its own: what crashes is seen, and its threads end with it."""
    assert peers.call(torture, heap_name, seed) == []
