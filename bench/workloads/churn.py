"""Hours in the life of a heap, compressed: random sizes, most of them short-lived."""

from __future__ import annotations

import os
import random
import time

from workloads.workload import Figure, Workload

MIB = 1 << 20
POINTS = 40  # samples over time
LONGER = 10  # than other workloads, because it measures change over time
LONG = 2000  # records that live long
SHORT = 64  # records that live briefly


def size(dice):
    """Return a size from 16 B to 1 MiB, spread over orders of magnitude, mostly small."""
    return int(2 ** dice.triangular(4, 20, 6))


class Churn(Workload):
    """Committed memory must not grow while memory in use does not."""

    key = "churn"
    title = "heap churn, random sizes and lives"
    peers = ("ipcheap",)
    figures = (
        Figure("per_second", "allocations and frees", "/s"),
        Figure("in_use_mib", "in use at the end", "MiB", more=False),
        Figure("committed_mib", "committed at the end", "MiB", more=False),
        Figure("creep", "committed, second half relative to the first", "×", more=False),
        Figure("scattered", "free memory outside the largest free piece", "%", more=False),
        Figure("left_mib", "committed after everything is freed and trimmed", "MiB", more=False),
    )

    def run(self, key, peer, seconds):
        import ipcheap

        dice = random.Random(1)
        with ipcheap.Heap.create(f"bench.{os.getpid()}", "256MiB") as heap:
            try:
                return self._live(heap, dice, seconds)
            finally:
                heap.unlink()

    def _live(self, heap, dice, seconds):
        short = [heap.allocate_record(size(dice)) for _ in range(SHORT)]
        long = [heap.allocate_record(size(dice)) for _ in range(LONG)]
        series, count, busy = [], 0, 0
        begin = time.monotonic()
        for point in range(POINTS):
            end = begin + LONGER * seconds * (point + 1) / POINTS
            while True:
                start = time.perf_counter_ns()
                for _ in range(200):
                    for lives, rate in ((short, 1.0), (long, 0.1)):
                        if dice.random() < rate:
                            at = dice.randrange(len(lives))
                            lives[at].free()
                            lives[at] = heap.allocate_record(size(dice))
                            count += 1
                busy += time.perf_counter_ns() - start
                if time.monotonic() >= end:
                    break
            now = heap.statistics()
            free = max(1, now.capacity - now.in_use)
            series.append(
                {
                    "operations": count,
                    "in_use": now.in_use,
                    "committed": now.committed,
                    "largest_free": now.largest_free,
                    "scattered": 1 - min(1, now.largest_free / free),
                }
            )
        for record in (*short, *long):
            record.free()
        heap.trim()
        faults = heap.check()
        if faults:
            raise RuntimeError(f"the heap is no longer valid: {faults[0]}")
        half = POINTS // 2
        early = max(point["committed"] for point in series[:half])
        late = max(point["committed"] for point in series[half:])
        return {
            "per_second": count / busy * 1e9,
            "in_use_mib": series[-1]["in_use"] / MIB,
            "committed_mib": series[-1]["committed"] / MIB,
            "creep": late / early,
            "scattered": 100 * series[-1]["scattered"],
            "left_mib": heap.statistics().committed / MIB,
            "series": series,
        }


WORKLOADS = (Churn(),)
