"""The cost of growth: more channels, more participants, more capacity."""

from __future__ import annotations

import os
import statistics
import threading
import time

from workloads.workload import Figure, Workload

CHUNKS = 7


def cost(work, seconds):
    """Return the microseconds per call: the median of a few chunks in about `seconds`."""
    found = []
    times = 1
    while True:
        begin = time.perf_counter_ns()
        for _ in range(times):
            work()
        ns = time.perf_counter_ns() - begin
        if ns < seconds * 1e9 / CHUNKS / 2 and times < 1 << 20:
            times *= 2
            continue
        found.append(ns / times / 1e3)
        if len(found) == CHUNKS:
            return statistics.median(found)


class Growth(Workload):
    """The same call at the small and at the large end of a scale."""

    peers = ("ipcheap",)

    def __init__(self, key, title, scale, figures, measure):
        self.key, self.title = key, title
        self.scale, self.measure = scale, measure
        self.kinds = figures
        self.figures = tuple(
            Figure(f"{name}_us_{size}", f"{name}, {size}", "µs", more=False)
            for name in figures
            for size in scale
        )

    def run(self, key, peer, seconds):
        import ipcheap

        found = {}
        each = seconds / len(self.figures)
        for label, size in self.scale.items():
            name = f"bench.{os.getpid()}.{size}"
            for kind, us in zip(self.kinds, self.measure(ipcheap, name, size, each), strict=True):
                found[f"{kind}_us_{label}"] = us
        return found


def pair(heap):
    """Return a function that allocates and frees."""
    return lambda: heap.allocate_record(64).free()


def attach(ipcheap, name):
    """Return a function that attaches and closes."""
    return lambda: ipcheap.Heap.attach(name).close()


def channels(ipcheap, name, count, seconds):
    """Measure in a heap with `count` channels."""
    with ipcheap.Heap.create(name, "1GiB") as heap:
        try:
            begin = time.perf_counter_ns()
            for i in range(count):
                heap.add_record_channel(f"channel {i}", 8)
            create = (time.perf_counter_ns() - begin) / count / 1e3
            look = cost(lambda: heap.channel(f"channel {count // 2}"), seconds)
            return create, look, cost(pair(heap), seconds), cost(attach(ipcheap, name), seconds)
        finally:
            heap.unlink()


def participants(ipcheap, name, count, seconds):
    """Measure beside `count - 1` other threads, each a participant that has allocated."""
    go = threading.Event()
    met = threading.Barrier(count)

    def stand_by():
        record = heap.allocate_record(64)
        met.wait(30)
        go.wait(60)
        record.free()

    with ipcheap.Heap.create(name, "64MiB") as heap:
        threads = [threading.Thread(target=stand_by) for _ in range(count - 1)]
        try:
            for thread in threads:
                thread.start()
            heap.allocate_record(64).free()
            met.wait(30)
            return cost(pair(heap), seconds), cost(attach(ipcheap, name), seconds)
        finally:
            met.abort()
            go.set()
            for thread in threads:
                thread.join()
            heap.unlink()


def capacity(ipcheap, name, nbytes, seconds):
    """Measure in a heap of `nbytes`."""

    def create():
        with ipcheap.Heap.create(f"{name}.new", nbytes) as new:
            new.unlink()

    with ipcheap.Heap.create(name, nbytes) as heap:
        try:
            return (
                cost(create, seconds),
                cost(pair(heap), seconds),
                cost(attach(ipcheap, name), seconds),
            )
        finally:
            heap.unlink()


WORKLOADS = (
    Growth(
        "growth-channels",
        "10 to 10,000 channels",
        {"10": 10, "10,000": 10_000},
        ("create", "look up", "allocate + free", "attach"),
        channels,
    ),
    Growth(
        "growth-participants",
        "1 to 64 participants",
        {"1": 1, "64": 64},
        ("allocate + free", "attach"),
        participants,
    ),
    Growth(
        "growth-capacity",
        "1 MiB to 16 GiB of capacity",
        {"1 MiB": 1 << 20, "16 GiB": 16 << 30},
        ("create + unlink", "allocate + free", "attach"),
        capacity,
    ),
)
