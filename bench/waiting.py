"""What waiting costs: idle, round trips, two threads beside a third, asyncio.

    python bench/waiting.py [--seconds S] [--json FILE] [SECTION ...]

Sections: idle, trip, threads, asyncio; all of them unless some are named. Each figure stands
beside what it is to be compared with, measured in the same run, a pipe or a ring written by
hand over shared memory that spins or sleeps on POSIX semaphores.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import mmap
import multiprocessing
import os
import statistics
import struct
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import posix_ipc
from rich.console import Console
from rich.table import Table

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MESSAGE = bytes(64)
PAGE = bytes(4096)
THREAD_SLOTS = 256  # of the rings that two threads receive from
CONTEXT: Any = multiprocessing.get_context("spawn")


@dataclass
class Line:
    section: str
    what: str
    figure: str
    beside: str = ""


def percentiles(spans: list[int]) -> tuple[float, float, float]:
    """Return p50, p99 and p99.9 in microseconds."""
    spans = sorted(spans)
    p50, p99, p999 = (
        spans[min(len(spans) - 1, int(len(spans) * p))] / 1e3 for p in (0.5, 0.99, 0.999)
    )
    return p50, p99, p999


@contextlib.contextmanager
def helper(function: Callable[..., None], *args: Any) -> Iterator[Any]:
    """Run a function in another process; it must end by itself."""
    process = CONTEXT.Process(target=function, args=args, daemon=True)
    process.start()
    try:
        yield process
        process.join(30)
    finally:
        process.kill()
        process.join()


@contextlib.contextmanager
def pinned(core: int) -> Iterator[None]:
    """Stay on one core, if there are several: or the scheduler may put both sides on one."""
    cores = os.sched_getaffinity(0)
    if len(cores) > 1:
        os.sched_setaffinity(0, {sorted(cores)[core]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


# Rings written by hand ------------------------------------------------------------------------


class Ring:
    """Fixed slots of `nbytes` in shared memory; one producer, one consumer; it spins."""

    def __init__(self, name: str, nbytes: int, slots: int = 64, *, create: bool = False) -> None:
        size = 128 + slots * nbytes
        flags = posix_ipc.O_CREX if create else 0
        self.shared = posix_ipc.SharedMemory(f"/{name}", flags, size=size if create else 0)
        self.buf = memoryview(mmap.mmap(self.shared.fd, size))
        self.shared.close_fd()
        self.counts = self.buf.cast("Q")
        self.nbytes, self.slots = nbytes, slots
        self.mine = 0

    def send(self, data: bytes) -> None:
        while self.mine - self.counts[8] >= self.slots:
            pass
        at = 128 + self.mine % self.slots * self.nbytes
        self.buf[at : at + self.nbytes] = data
        self.mine += 1
        self.counts[0] = self.mine

    def recv(self) -> bytes:
        while self.counts[0] == self.mine:
            pass
        at = 128 + self.mine % self.slots * self.nbytes
        data = bytes(self.buf[at : at + self.nbytes])
        self.mine += 1
        self.counts[8] = self.mine
        return data

    def close(self, *, unlink: bool = False) -> None:
        self.counts.release()
        self.buf.release()
        if unlink:
            self.shared.unlink()


class SemaphoreRing(Ring):
    """The same, sleeping on two counting semaphores."""

    def __init__(self, name: str, nbytes: int, slots: int = 64, *, create: bool = False) -> None:
        super().__init__(name, nbytes, slots, create=create)
        flags = posix_ipc.O_CREX if create else 0
        self.full = posix_ipc.Semaphore(f"/{name}.full", flags, initial_value=0)
        self.room = posix_ipc.Semaphore(f"/{name}.room", flags, initial_value=slots)

    def send(self, data: bytes) -> None:
        self.room.acquire()
        at = 128 + self.mine % self.slots * self.nbytes
        self.buf[at : at + self.nbytes] = data
        self.mine += 1
        self.full.release()

    def recv(self) -> bytes:
        self.full.acquire()
        at = 128 + self.mine % self.slots * self.nbytes
        data = bytes(self.buf[at : at + self.nbytes])
        self.mine += 1
        self.room.release()
        return data

    def close(self, *, unlink: bool = False) -> None:
        if unlink:
            self.full.unlink()
            self.room.unlink()
        self.full.close()
        self.room.close()
        super().close(unlink=unlink)


# Idle -----------------------------------------------------------------------------------------


def idle(name: str, seconds: float) -> list[Line]:
    """200 channels waited on from one thread, and a blocking thread for each of 20 more."""
    with ipcheap.Heap.create(name, "16MiB") as heap:
        done = threading.Event()
        started = threading.Barrier(22)

        def block(number: int) -> None:
            with heap.consumer(number) as consumer:
                started.wait()
                with contextlib.suppress(ipcheap.Error):
                    consumer.recv()

        def wait_for_many() -> None:
            many = [heap.consumer(number) for number in range(200)]
            started.wait()
            ready = ipcheap.wait(many)
            assert ready
            for consumer in many:
                consumer.close()

        for number in range(220):
            heap.add_record_channel(number, 8)
        threads = [threading.Thread(target=block, args=(200 + n,)) for n in range(20)]
        threads.append(threading.Thread(target=wait_for_many))
        for thread in threads:
            thread.start()
        started.wait()
        before = time.process_time()
        done.wait(seconds)
        used = (time.process_time() - before) / seconds
        for number in (0, *range(200, 220)):
            with heap.producer(number) as producer:
                producer.send(b"")
        for thread in threads:
            thread.join()
        heap.unlink()
    what = "200 channels waited on by one thread, 20 more by a thread each"
    return [Line("idle", what, f"{100 * used:.2f} % of a core", "to be < 1 %")]


# Round trips ----------------------------------------------------------------------------------


def answer(name: str, trips: int, pipes: tuple[Any, Any], slow: int) -> None:
    """Send back what comes, by each way in turn."""
    with pinned(1), ipcheap.Heap.attach(name, timeout=10) as heap:
        with heap.consumer("there", timeout=10) as inbox, heap.producer("back") as outbox:
            for _ in range(trips + slow):
                outbox.send(inbox.recv())
        with heap.consumer("there2", timeout=10) as inbox, heap.producer("back2") as outbox:
            for _ in range(trips):
                record = inbox.try_recv_record()
                while record is None:
                    record = inbox.try_recv_record()
                outbox.send_record(record)
    with pinned(1):
        there, back = Ring(f"{name}.a", 64), Ring(f"{name}.b", 64)
        for _ in range(trips):
            back.send(there.recv())
        there.close()
        back.close()
        ins, outs = pipes
        for _ in range(trips // 10 + slow):
            outs.send_bytes(ins.recv_bytes())


def measure(trips: int, trip: Callable[[], object], pause: float = 0.0) -> tuple[list[int], float]:
    spans = []
    before, begin = time.process_time(), time.perf_counter()
    for _ in range(trips):
        if pause:
            time.sleep(pause)
        start = time.perf_counter_ns()
        trip()
        spans.append(time.perf_counter_ns() - start)
    return spans, (time.process_time() - before) / (time.perf_counter() - begin)


def trip(name: str, seconds: float) -> list[Line]:
    trips, slow, pause = int(8000 * seconds), int(50 * seconds), 0.005
    rings = [Ring(f"{name}.{letter}", 64, create=True) for letter in "ab"]
    in_read, in_write = CONTEXT.Pipe(duplex=False)
    out_read, out_write = CONTEXT.Pipe(duplex=False)
    found: dict[str, tuple[list[int], float]] = {}
    with ipcheap.Heap.create(name, "16MiB") as heap:
        for channel in ("there", "back", "there2", "back2"):
            heap.add_record_channel(channel, 64)
        with (
            helper(answer, name, trips, (in_read, out_write), slow),
            contextlib.ExitStack() as stack,
        ):
            stack.enter_context(pinned(0))
            with heap.producer("there") as there, heap.consumer("back") as back:
                there.wait_peer(10)

                def ours() -> None:
                    there.send(MESSAGE)
                    back.recv()

                found["blocking calls"] = measure(trips, ours)
                found["after a pause of 5 ms"] = measure(slow, ours, pause)
            with heap.producer("there2") as there2, heap.consumer("back2") as back2:
                there2.wait_peer(10)

                def polling() -> None:
                    there2.send(MESSAGE)
                    record = back2.try_recv_record()
                    while record is None:
                        record = back2.try_recv_record()
                    record.free()

                found["polling with try_recv_record()"] = measure(trips, polling)

            def spinning() -> None:
                rings[0].send(MESSAGE)
                rings[1].recv()

            found["ring by hand, spinning"] = measure(trips, spinning)

            def piped() -> None:
                in_write.send_bytes(MESSAGE)
                out_read.recv_bytes()

            found["multiprocessing.Pipe"] = measure(trips // 10, piped)
            found["multiprocessing.Pipe after a pause of 5 ms"] = measure(slow, piped, pause)
        heap.unlink()
    for ring in rings:
        ring.close(unlink=True)
    lines = []
    for what, (spans, cpu) in found.items():
        p50, p99, p999 = percentiles(spans)
        figure = f"p50 {p50:.2f}, p99 {p99:.1f}, p99.9 {p999:.1f} us; {100 * cpu:.0f} % CPU"
        lines.append(Line("trip", f"round trip, 64 B: {what}", figure))

    def p50(what: str) -> float:
        return percentiles(found[what][0])[0]

    ratio = p50("blocking calls") / p50("ring by hand, spinning")
    lines[0].beside = f"{ratio:.2f} x the ring by hand, to be <= 2"
    ratio = p50("after a pause of 5 ms") / p50("multiprocessing.Pipe after a pause of 5 ms")
    lines[1].beside = f"{ratio:.2f} x the pipe, to be <= 1"
    return lines


# Two threads of a consumer, and a third that computes ------------------------------------------


def feed(name: str, count: int, batch: int) -> None:
    with ipcheap.Heap.attach(name, timeout=10) as heap:
        outs = [heap.producer(n, timeout=10) for n in range(2)]
        if batch > 1:
            for _ in range(count // (2 * batch)):
                for out in outs:
                    records = out.allocate_records(len(PAGE), batch)
                    for record in records:
                        record[:] = PAGE
                    out.send_records(records)
        else:
            for _ in range(count // 2):
                for out in outs:
                    record = out.allocate_record(len(PAGE))
                    record[:] = PAGE
                    out.send_record(record)
        for out in outs:
            out.close()


def feed_ring(name: str, count: int) -> None:
    rings = [SemaphoreRing(f"{name}.{n}", len(PAGE), THREAD_SLOTS) for n in range(2)]
    for _ in range(count // 2):
        for ring in rings:
            ring.send(PAGE)
    for ring in rings:
        ring.close()


def in_threads(receive: Callable[[int, list[int], list[int]], None]) -> tuple[float, list[int]]:
    """Run one for each of two threads; return seconds, and how long each call took.

    Time runs from the first of the moments that they note down: until then the producer's
    interpreter starts.
    """
    spans: list[list[int]] = [[], []]
    begin: list[int] = []
    threads = [threading.Thread(target=receive, args=(n, spans[n], begin)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return (time.perf_counter_ns() - min(begin)) / 1e9, spans[0] + spans[1]


def receive_ours(name: str, count: int, batch: int) -> tuple[float, list[int]]:
    with ipcheap.Heap.create(name, "64MiB") as heap:
        heap.add_record_channel(0, THREAD_SLOTS)
        heap.add_record_channel(1, THREAD_SLOTS)
        clock = time.perf_counter_ns

        def receive(number: int, spans: list[int], first: list[int]) -> None:
            with heap.consumer(number) as consumer, contextlib.suppress(ipcheap.ChannelClosed):
                consumer.wait_peer(30)
                consumer.recv_record().free()
                first.append(clock())
                while True:
                    begin = clock()
                    if batch > 1:
                        records = consumer.recv_records(batch)
                        spans.append(clock() - begin)
                        for record in records:
                            assert record[0] == 0
                            record.free()
                    else:
                        record = consumer.recv_record()
                        spans.append(clock() - begin)
                        assert record[0] == 0
                        record.free()

        with helper(feed, name, count, batch):
            result = in_threads(receive)
        heap.unlink()
        return result


def receive_ring(name: str, count: int) -> tuple[float, list[int]]:
    rings = [SemaphoreRing(f"{name}.{n}", len(PAGE), THREAD_SLOTS, create=True) for n in range(2)]
    clock = time.perf_counter_ns

    def receive(number: int, spans: list[int], first: list[int]) -> None:
        ring = rings[number]
        ring.recv()
        first.append(clock())
        for _ in range(count // 2 - 1):
            begin = clock()
            data = ring.recv()
            spans.append(clock() - begin)
            assert data[0] == 0

    with helper(feed_ring, name, count):
        result = in_threads(receive)
    for ring in rings:
        ring.close(unlink=True)
    return result


@contextlib.contextmanager
def computing() -> Iterator[None]:
    """Keep a Python thread busy."""
    stop = threading.Event()

    def compute() -> None:
        while not stop.is_set():
            sum(range(500))

    thread = threading.Thread(target=compute)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def threads(name: str, seconds: float) -> list[Line]:
    count = int(20_000 * seconds) // 128 * 128
    ring_times, ours_times, batch_times = [], [], []
    ours: list[int] = []
    for _ in range(5):  # interleaved, for the machine is not always the same
        ring_times.append(receive_ring(name, count)[0])
        ours_time, spans = receive_ours(name, count, 1)
        ours_times.append(ours_time)
        ours += spans
        batch_times.append(receive_ours(name, count, 64)[0])
    ring_time, ours_time, batch_time = map(statistics.median, (ring_times, ours_times, batch_times))
    with computing():
        busy_time, busy = receive_ours(name, count // 20, 1)
    slow = sum(span > 1_000_000 for span in busy)
    alone = sum(span > 1_000_000 for span in ours)
    rate = count / ring_time
    p50, p99, p999 = percentiles(busy)
    what = "one producer, two consumer threads, 4 KiB"
    return [
        Line("threads", f"{what}: ring by hand, semaphores", f"{rate / 1e3:.0f} k records/s"),
        Line(
            "threads",
            f"{what}: blocking calls",
            f"{count / ours_time / 1e3:.0f} k records/s; {alone} of {len(ours)} calls over 1 ms",
            f"{count / ours_time / rate:.2f} x the ring by hand, to be >= 1.5",
        ),
        Line(
            "threads",
            f"{what}: in batches of 64",
            f"{count / batch_time / 1e3:.0f} k records/s",
            f"{count / batch_time / rate:.2f} x the ring by hand, to be >= 3",
        ),
        Line(
            "threads",
            f"{what}, beside a thread that computes",
            f"{count // 20 / busy_time / 1e3:.1f} k records/s; "
            f"p50 {p50:.1f}, p99 {p99:.0f}, p99.9 {p999:.0f} us",
            f"{slow} of {len(busy)} calls over 1 ms; the switch interval is 5 ms",
        ),
    ]


# asyncio --------------------------------------------------------------------------------------


def feed_many(name: str, channels: int, count: int) -> None:
    with ipcheap.Heap.attach(name, timeout=10) as heap:
        outs = [heap.producer(n, timeout=10) for n in range(channels)]
        for out in outs:
            out.wait_peer(30)
        batch = [MESSAGE] * 16
        for _ in range(count // (len(batch) * channels)):
            for out in outs:
                out.send_many(batch)
        for out in outs:
            out.close()


def feed_one_by_one(name: str, channels: int, count: int) -> None:
    with ipcheap.Heap.attach(name, timeout=10) as heap:
        outs = [heap.producer(n, timeout=10) for n in range(channels)]
        for out in outs:
            out.wait_peer(30)
        for _ in range(count // channels):
            for out in outs:
                out.send(MESSAGE)
        for out in outs:
            out.close()


async def take_all(heap: ipcheap.Heap, channels: int) -> float:
    """Receive all there is; return records a second, from the first one on."""
    begin: list[float] = []

    async def take(number: int) -> int:
        seen = 0
        with heap.consumer(number) as consumer:
            async for _ in consumer:
                if not begin:
                    begin.append(time.perf_counter())
                seen += 1
        return seen

    seen = sum(await asyncio.gather(*(take(n) for n in range(channels))))
    return seen / (time.perf_counter() - begin[0])


def many_on_one_loop(
    name: str, count: int, feeder: Callable[..., None], run: Callable[..., Any]
) -> float:
    channels = 100
    with ipcheap.Heap.create(name, "64MiB") as heap:
        for number in range(channels):
            heap.add_record_channel(number, 64)
        with helper(feeder, name, channels, count):
            while heap.statistics().participants < 2:
                time.sleep(0.01)
            rate = run(take_all(heap, channels))
        heap.unlink()
    return float(rate)


async def cancel_often(heap: ipcheap.Heap, count: int) -> int:
    """Cancel as many receives as there are records, some of them as one comes."""
    seen = 0
    with heap.producer("c") as producer, heap.consumer("c") as consumer:
        for number in range(count):
            waiting = asyncio.ensure_future(consumer.arecv())
            for _ in range(number % 4):
                await asyncio.sleep(0)
            producer.send(struct.pack("<Q", number))
            for _ in range(number // 4 % 4):
                await asyncio.sleep(0)
            waiting.cancel()
            data = None
            with contextlib.suppress(asyncio.CancelledError):
                data = await waiting
            if data is None:
                data = await consumer.arecv()
            assert struct.unpack("<Q", data) == (number,)
            seen += 1
    return seen


def on_asyncio(name: str, seconds: float) -> list[Line]:
    count = int(200_000 * seconds) // 1600 * 1600
    loops: dict[str, Callable[..., Any]] = {"asyncio": asyncio.run}
    with contextlib.suppress(ImportError):
        import uvloop

        loops["uvloop"] = uvloop.run
    lines = []
    for (loop, run), (how, feeder) in itertools.product(
        loops.items(), (("one at a time", feed_one_by_one), ("in batches of 16", feed_many))
    ):
        rate = many_on_one_loop(name, count, feeder, run)
        what = f"100 channels on one loop, {loop}, sent {how}"
        beside = "to be >= 200 k"
        lines.append(Line("asyncio", what, f"{rate / 1e3:.0f} k records/s", beside))
    with ipcheap.Heap.create(name, "16MiB") as heap:
        heap.add_record_channel("c", 8)
        begin = time.perf_counter()
        seen = asyncio.run(cancel_often(heap, 10_000))
        span = time.perf_counter() - begin
        heap.unlink()
    figure = f"{seen} of 10000 records received, {span / seen * 1e6:.0f} us each"
    lines.append(Line("asyncio", "10,000 cancelled receives", figure, "nothing lost"))
    return lines


SECTIONS = {"idle": idle, "trip": trip, "threads": threads, "asyncio": on_asyncio}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--seconds", type=float, default=10.0, help="about how long for each")
    parser.add_argument("--json", help="write the figures to this file")
    options = parser.parse_args()
    chosen = options.sections or list(SECTIONS)
    if unknown := set(chosen) - set(SECTIONS):
        parser.error(f"no section {', '.join(sorted(unknown))}")
    table = Table(title=f"waiting, {os.cpu_count()} cores, {os.uname().release}")
    for head in ("section", "what", "figure", "beside"):
        table.add_column(head)
    lines = []
    for section in chosen:
        for line in SECTIONS[section](f"bench-{os.getpid()}-{section}", options.seconds):
            lines.append(line)
            table.add_row(line.section, line.what, line.figure, line.beside)
    Console(width=160).print(table)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump([vars(line) for line in lines], file, indent=1)


if __name__ == "__main__":
    main()
