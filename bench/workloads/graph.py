"""Kernels in processes: a chain of a source and a kernel, and a map over two processes."""

from __future__ import annotations

import time

from peers import GRAPHS
from peers.graphs import FUNCTIONS, ITEMS, expected

from workloads.workload import Figure, Workload, check

LEAST = 64  # items, so that the first one does not count much
MOST = 1 << 20


class Runs(Workload):
    """Work that starts processes for each number of items. Their start is not measured."""

    carries = GRAPHS
    figures = (
        Figure("per_second", "items/s", "/s"),
        Figure("us", "time per item", "µs", more=False),
    )

    def run(self, key, peer, seconds):
        own = peer()
        try:
            count, ns = LEAST, self._timed(own, LEAST)
            while ns < seconds * 5e8 and count < MOST:
                count = min(max(2 * count, min(64 * count, int(count * seconds * 1e9 / ns))), MOST)
                ns = self._timed(own, count)
        finally:
            own.close()
        return {"per_second": (count - 1) / ns * 1e9, "us": ns / (count - 1) / 1e3}

    def _timed(self, own, count):
        """Return the nanoseconds from the first result to the last one."""
        begin, number = 0, -1
        for number, result in enumerate(self.results(own, count)):
            if number == 0:
                begin = time.perf_counter_ns()
            self.look(number, result)
        ns = time.perf_counter_ns() - begin
        check(number, count - 1)
        return ns


class Chain(Runs):
    """The source and the kernel have a process each; the calling program takes the results."""

    def __init__(self, size, title):
        self.key, self.size = f"graph-chain-{size}", size
        self.title = f"a source, a kernel and the calling program, {title}"

    def results(self, own, count):
        return own.chain(self.size, count)

    def look(self, number, result):
        check(result, expected(self.size, number))


class Map(Runs):
    """The calling program has the items; two processes call the function; the order is kept."""

    def __init__(self, kind, title):
        self.key, self.kind = f"graph-map-{kind}", kind
        self.title = f"a map over two processes, {title}"
        self.result = FUNCTIONS[kind](ITEMS[kind])

    def results(self, own, count):
        return own.mapped(self.kind, count)

    def look(self, number, result):
        check(result, self.result)

    def is_for(self, key):
        return super().is_for(key) and key not in ("ipcheap-by-hand", "ray-compiled")


WORKLOADS = (
    Chain("64", "64 B"),
    Chain("64k", "arrays of 64 KiB"),
    Chain("frames", "1080p frames"),
    Map("64", "objects of 64 B"),
    Map("1m", "arrays of 1 MiB"),
    Map("frames", "1080p frames"),
)
