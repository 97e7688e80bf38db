"""Objects with an array in them, beside multiprocessing.Queue: objects a second, CPU an object.

    python bench/objects.py [--repetitions 5] [--shape 1080 1920 3]

One process sends {"frame": uint8 array, "meta": small dict}, another receives it and looks at
one pixel and the metadata. Both ways alternate within one run, so that the ratios hold on a
busy machine; CPU is that of both processes, system time included. The frame is a new object
each time for the receiver, the same memory each time for the sender.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

import ipcheap

if TYPE_CHECKING:
    import queue
    from collections.abc import Callable
    from multiprocessing.connection import Connection

DEPTH = 8  # objects under way at most, both ways
COUNTS = {"ipcheap": 400, "multiprocessing.Queue": 40}
META = {"camera": "left", "number": 0, "exposure": 0.01, "tags": ["a", "b"]}


class Cost(NamedTuple):
    """Of one object: seconds by the clock, and seconds of CPU of both processes."""

    elapsed: float
    cpu: float


def cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system


def look_at(thing: Any, number: int) -> None:
    assert thing["meta"]["number"] == number
    assert thing["frame"][5, 5].all()


def receive(name: str, plain: Any, control: Connection, repetitions: int) -> None:
    """Receive what comes either way; tell the CPU time that it took."""
    with ipcheap.Heap.attach(name) as heap, heap.consumer("frames", timeout=30) as consumer:
        takes: dict[str, Callable[[], Any]] = {
            "ipcheap": consumer.recv_object,
            "multiprocessing.Queue": plain.get,
        }
        for _ in range(repetitions + 1):
            for way, take in takes.items():
                before = cpu_seconds()
                for number in range(COUNTS[way]):
                    look_at(take(), number)
                control.send(cpu_seconds() - before)


def measure(
    heap: ipcheap.Heap,
    plain: queue.Queue[Any],
    control: Connection,
    frame: Any,
    repetitions: int,
) -> dict[str, list[Cost]]:
    """Send both ways in turn; the first turn does not count."""
    found: dict[str, list[Cost]] = {way: [] for way in COUNTS}
    with heap.producer("frames") as producer:
        gives: dict[str, Callable[[Any], None]] = {
            "ipcheap": producer.send_object,
            "multiprocessing.Queue": plain.put,
        }
        producer.wait_peer(30)
        for _ in range(repetitions + 1):
            for way, give in gives.items():
                cpu, begin = cpu_seconds(), time.perf_counter()
                for number in range(COUNTS[way]):
                    give({"frame": frame, "meta": META | {"number": number}})
                theirs = control.recv()
                elapsed = time.perf_counter() - begin
                cost = Cost(elapsed / COUNTS[way], (cpu_seconds() - cpu + theirs) / COUNTS[way])
                found[way].append(cost)
    return {way: costs[1:] for way, costs in found.items()}


def table_of(found: dict[str, list[Cost]], title: str) -> Table:
    table = Table("", "objects/s", "ms of CPU an object", title=title)
    for column in table.columns[1:]:
        column.justify = "right"
    middle = {
        way: Cost(*(statistics.median(each) for each in zip(*costs, strict=True)))
        for way, costs in found.items()
    }
    for way, cost in middle.items():
        table.add_row(way, f"{1 / cost.elapsed:,.0f}", f"{cost.cpu * 1e3:.3f}")
    ours, theirs = middle["ipcheap"], middle["multiprocessing.Queue"]
    table.add_section()
    table.add_row(
        "ratio", f"{theirs.elapsed / ours.elapsed:.1f} x", f"1 / {theirs.cpu / ours.cpu:.1f}"
    )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--shape", type=int, nargs="+", default=[1080, 1920, 3])
    options = parser.parse_args()
    frame = np.ones(options.shape, "u1")
    context = multiprocessing.get_context("spawn")
    name = f"bench.{os.getpid()}"
    with ipcheap.Heap.create(name, 4 * DEPTH * frame.nbytes + (16 << 20)) as heap:
        try:
            heap.add_record_channel("frames", DEPTH)
            plain: Any = context.Queue(DEPTH)
            ours, theirs = context.Pipe()
            args = (name, plain, theirs, options.repetitions)
            peer = context.Process(target=receive, args=args, daemon=True)
            peer.start()
            found = measure(heap, plain, ours, frame, options.repetitions)
            peer.join()
        finally:
            heap.unlink()
    shape = " x ".join(map(str, options.shape))
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    title = f"a {shape} uint8 array and a small dict; {os.cpu_count()} cores, load {load}"
    Console().print(table_of(found, title))


if __name__ == "__main__":
    main()
