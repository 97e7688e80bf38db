"""What a 64-byte message costs from Python, beside a pipe: two processes, medians.

    python bench/records.py [repetitions]

The figures and their floor alternate within one run, so that the ratios hold on a noisy
machine. A pipe carries the same messages, framed by their fixed size.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import sys
import time
from typing import TYPE_CHECKING

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Callable

MESSAGE = bytes(64)
COUNT = 200_000
TRIPS = 20_000
BATCH = 64


def clock(work: Callable[[], None], times: int) -> float:
    """Return nanoseconds for each of so many."""
    begin = time.perf_counter_ns()
    work()
    return (time.perf_counter_ns() - begin) / times


# The other process ------------------------------------------------------------------------


def pin(core: int) -> None:
    if (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, {core})


def serve(name: str, pipes: tuple[int, int], repetitions: int) -> None:
    pin(1)
    with (
        ipcheap.Heap.attach(name) as heap,
        heap.consumer("there", timeout=10) as inbox,
        heap.producer("back", timeout=10) as outbox,
    ):
        for _ in range(repetitions):
            for _ in range(COUNT):
                inbox.recv()
            outbox.send(MESSAGE)
            left = COUNT
            while left:
                left -= len(inbox.recv_many(left))
            outbox.send(MESSAGE)
            for _ in range(TRIPS):
                outbox.send(inbox.recv())
            for _ in range(COUNT):
                os.read(pipes[0], 64)
            os.write(pipes[1], MESSAGE)
            for _ in range(TRIPS):
                os.write(pipes[1], os.read(pipes[0], 64))


# This one ---------------------------------------------------------------------------------


def measure(name: str, pipes: tuple[int, int], repetitions: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    batch = [MESSAGE] * BATCH
    with (
        ipcheap.Heap.attach(name) as heap,
        heap.producer("there") as outbox,
        heap.consumer("back") as inbox,
    ):
        outbox.wait_peer(10)
        inbox.wait_peer(10)

        def one_by_one() -> None:
            for _ in range(COUNT):
                outbox.send(MESSAGE)
            inbox.recv()

        def in_batches() -> None:
            for _ in range(COUNT // BATCH):
                outbox.send_many(batch)
            outbox.send_many(batch[: COUNT % BATCH])
            inbox.recv()

        def round_trips() -> None:
            for _ in range(TRIPS):
                outbox.send(MESSAGE)
                inbox.recv()

        def through_a_pipe() -> None:
            for _ in range(COUNT):
                os.write(pipes[1], MESSAGE)
            os.read(pipes[0], 64)

        def pipe_round_trips() -> None:
            for _ in range(TRIPS):
                os.write(pipes[1], MESSAGE)
                os.read(pipes[0], 64)

        for _ in range(repetitions):
            for work, times in (
                (one_by_one, COUNT),
                (in_batches, COUNT),
                (round_trips, TRIPS),
                (through_a_pipe, COUNT),
                (pipe_round_trips, TRIPS),
            ):
                found.setdefault(work.__name__, []).append(clock(work, times))
    return found


def main() -> None:
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    name = f"bench.{os.getpid()}"
    there, back = os.pipe(), os.pipe()
    for fd in (*there, *back):
        os.set_inheritable(fd, True)
    heap = ipcheap.Heap.create(name, "16MiB")
    try:
        heap.add_record_channel("there", 1024)
        heap.add_record_channel("back", 1024)
        context = multiprocessing.get_context("fork")
        peer = context.Process(target=serve, args=(name, (there[0], back[1]), repetitions))
        peer.start()
        pin(0)
        found = measure(name, (back[0], there[1]), repetitions)
        peer.join()
    finally:
        heap.unlink()
        heap.close()
    middle = {work: statistics.median(times) for work, times in found.items()}
    pipe, trip = middle["through_a_pipe"], middle["pipe_round_trips"]
    print(f"send / recv, 64 B, one at a time   {middle['one_by_one']:9.0f} ns a record")
    print(f"                                   {pipe / middle['one_by_one']:9.2f} x os.pipe")
    print(f"the same in batches of {BATCH}          {middle['in_batches']:9.0f} ns a record")
    print(f"                                   {pipe / middle['in_batches']:9.2f} x os.pipe")
    print(f"round trip, blocking calls         {middle['round_trips']:9.0f} ns")
    print(f"                                   {trip / middle['round_trips']:9.2f} x os.pipe")
    print(f"os.pipe, one at a time             {pipe:9.0f} ns")
    print(f"os.pipe, round trip                {trip:9.0f} ns")


if __name__ == "__main__":
    main()
