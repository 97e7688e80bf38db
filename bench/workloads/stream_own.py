"""What only ipcheap's streams do: overwrite, wait for many items; and what a claim costs."""

from __future__ import annotations

import contextlib
import ctypes
import os
import statistics
import threading
import time
from multiprocessing.sharedctypes import RawArray

from peers import STREAMS

from workloads.stream import RING, SIZES, TITLES, StreamFlow
from workloads.throughput import patterns
from workloads.workload import Figure, Workload

MIB = 1 << 20
READERS = {
    "fast": "a fast reader",
    "slow": "a reader that sleeps 1 ms after each portion",
    "stopped": "a reader that does not read",
    "no": "no reader",
}


class Writing(StreamFlow):
    """What `write` costs the writer, beside a reader of a kind."""

    def __init__(self, portion, reader):
        self.portion, self.reader = portion, reader

    def run(self, key, peer, seconds):
        self.written = RawArray(ctypes.c_int64, 1)  # the writer's position after each phase
        return super().run(key, peer, seconds)

    def transmit(self, senders, receivers, count):
        write = senders[0].write
        payloads = patterns(self.portion, self.grain)
        begin = time.perf_counter_ns()
        for _ in range(count // self.grain):
            for payload in payloads:
                write(payload)
        self.ns = time.perf_counter_ns() - begin
        self.written[0] = senders[0].writer.position

    def absorb(self, receivers, senders, count):
        reader = receivers[0].reader
        if self.reader == "no":
            reader.close()
        if self.reader in ("no", "stopped"):
            return
        self.end += count * self.portion
        buffer = bytearray(self.portion)
        while reader.position < self.end:
            if self.reader == "slow" and self.written[0] >= self.end:
                reader.skip()  # the rest would take it seconds
                continue
            with contextlib.suppress(TimeoutError):
                for _ in range(self.grain):
                    reader.readinto(buffer, 0.01)
                    if self.reader == "slow":
                        time.sleep(0.001)
                        break

    @contextlib.contextmanager
    def around(self):
        self.end = 0  # the position that the reader reaches in this phase
        yield

    def report(self, count, ns, cpu_ns):
        return self.ns / count


class Overwrite(Workload):
    """What `write` costs the writer, if the stream overwrites and if it does not."""

    peers = ("ipcheap",)
    carries = STREAMS
    figures = (
        Figure("blocking_ns", "blocking, a fast reader", "ns", more=False),
        *(
            Figure(f"{key}_ns", f"overwriting, {title}", "ns", more=False)
            for key, title in READERS.items()
        ),
    )

    def __init__(self, size):
        self.key, self.portion = f"stream-overwrite-{size}", SIZES[size]
        self.title = f"a write of {TITLES[size]} to a stream that overwrites"

    def run(self, key, peer, seconds):
        from peers.ipcheap_streams import Overwriting

        each = seconds / len(self.figures)
        figures = {"blocking_ns": Writing(self.portion, "fast").run(key, peer, each)}
        for reader in READERS:
            ns = Writing(self.portion, reader).run(key, Overwriting, each)
            figures[f"{reader}_ns"] = ns
        return figures


class Paced(StreamFlow):
    """Portions at regular times; the reader waits for eight of them in one call."""

    nbytes = 4
    depth = 4096
    dtype = "f4"
    portion = 64
    together = 8
    grain = together
    pause = 0.0005

    def run(self, key, peer, seconds):
        self.seen = RawArray(ctypes.c_int64, 2)  # sleeps and CPU time of the reader
        return super().run(key, peer, seconds)

    def transmit(self, senders, receivers, count):
        import numpy as np

        writer = senders[0].writer
        items = np.ones(self.portion, "f4")
        before = writer.statistics().wakes
        for _ in range(count):
            writer.write(items)
            time.sleep(self.pause)
        self.wakes = writer.statistics().wakes - before

    def absorb(self, receivers, senders, count):
        import numpy as np

        reader = receivers[0].reader
        array = np.zeros(self.portion * self.together, "f4")
        before, cpu = reader.statistics().parks, time.process_time_ns()
        for _ in range(count // self.together):
            reader.readinto(array)
        self.seen[:] = reader.statistics().parks - before, time.process_time_ns() - cpu

    def report(self, count, ns, cpu_ns):
        periods = count / self.together
        return {
            "sleeps": self.seen[0] / periods,
            "wakes": self.wakes / periods,
            "cpu": 100 * self.seen[1] / ns,
        }


class Period(Workload):
    """Portions of 64 items arrive every 0.5 ms, and the reader waits for 512 items."""

    key = "stream-period"
    title = "a reader that waits for 512 items, in portions of 64"
    peers = ("ipcheap",)
    carries = STREAMS
    figures = (
        Figure("sleeps", "sleeps of the reader per 512 items", "", more=False),
        Figure("wakes", "wake-ups by the writer per 512 items", "", more=False),
        Figure("cpu", "CPU of the reader", "% of a core", more=False),
        Figure("idle", "CPU of a reader if nothing arrives", "% of a core", more=False),
    )
    longer = 2  # than other workloads, because a reader that sleeps looks twice a second

    def run(self, key, peer, seconds):
        figures = Paced().run(key, peer, seconds)
        own = peer(1, Paced.nbytes, Paced.depth, Paced.dtype)
        try:
            figures["idle"] = self._idle(own, self.longer * seconds)
        finally:
            own.close()
        return figures

    def _idle(self, own, seconds):
        import numpy as np

        items = np.zeros(Paced.portion * Paced.together, "f4")
        met = threading.Event()

        def read():
            with own.heap.stream_reader(0) as reader:
                met.set()
                reader.readinto(items)

        thread = threading.Thread(target=read)
        with own.heap.stream_writer(0) as writer:
            thread.start()
            met.wait(30)
            time.sleep(0.01)  # until it sleeps
            begin, before = time.monotonic(), time.process_time()
            time.sleep(seconds)
            used, took = time.process_time() - before, time.monotonic() - begin
            writer.write(items)
            thread.join(30)
        return 100 * used / took


class Claim(Workload):
    """The claim of a stream of 1 MiB, which maps its ring twice, and that of a record channel."""

    key = "stream-claim"
    title = "the claim of a stream"
    peers = ("ipcheap",)
    carries = STREAMS
    figures = (
        Figure("over_us", "over a record channel's", "µs", more=False),
        Figure("stream_us", "claim of a stream of 1 MiB", "µs", more=False),
        Figure("record_us", "claim of a record channel", "µs", more=False),
        Figure("close_us", "close of a stream of 1 MiB", "µs", more=False),
    )

    def run(self, key, peer, seconds):
        import ipcheap

        with ipcheap.Heap.create(f"bench.{os.getpid()}", 64 * MIB) as heap:
            try:
                heap.add_stream("stream", RING)
                heap.add_record_channel("records", 64)
                return self._claim(heap, seconds)
            finally:
                heap.unlink()

    def _claim(self, heap, seconds):
        clock = time.perf_counter_ns
        stream, record, close = [], [], []
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            begin = clock()
            writer = heap.stream_writer("stream")
            claimed = clock()
            writer.close()
            closed = clock()
            producer = heap.producer("records")
            record.append(clock() - closed)
            producer.close()
            stream.append(claimed - begin)
            close.append(closed - claimed)
        stream_us, record_us, close_us = (
            statistics.median(each) / 1e3 for each in (stream, record, close)
        )
        return {
            "over_us": stream_us - record_us,
            "stream_us": stream_us,
            "record_us": record_us,
            "close_us": close_us,
        }


WORKLOADS = (Overwrite("256"), Overwrite("4k"), Period(), Claim())
