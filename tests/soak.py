"""Mixed use for any length of time; memory, descriptors and threads must stay flat.

    python tests/soak.py --seconds 600

Two lasting processes pass plain records, arrays and objects back and forth and keep views of
some for a while; threads drop views; heaps are attached and closed, channels added and removed;
short-lived processes join, and every second one is killed while it holds something. Everything is
measured once a second, and at the end the last third is compared with the middle one.
"""

from __future__ import annotations

import argparse
import collections
import gc
import itertools
import os
import random
import signal
import sys
import threading
import time
from dataclasses import dataclass, fields
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Callable

NAME = f"soak.{os.getpid()}"
KEPT = 6  # views that are kept; fewer than a ring has slots
SLOTS = 32


# The other processes ---------------------------------------------------------------------


def relay(name: str) -> None:
    """Forward plain records, double arrays and return objects, until killed."""
    kept: collections.deque[Any] = collections.deque(maxlen=KEPT)
    with (
        ipcheap.Heap.attach(name) as heap,
        heap.consumer("there", timeout=30) as inbox,
        heap.producer("back", timeout=30) as outbox,
    ):
        for turn in itertools.count():
            kind = turn % 3
            try:
                if kind == 0:
                    outbox.send_record(inbox.recv_record(timeout=60), timeout=60)
                elif kind == 1:
                    array = inbox.recv_array(timeout=60)
                    with outbox.loan(array.shape, array.dtype, timeout=60) as answer:
                        np.add(array, array, out=answer)
                    kept.append(array[1:])
                else:
                    outbox.send_object(inbox.recv_object(timeout=60), timeout=60)
            except ipcheap.ChannelClosed:
                return


def visit(name: str, number: int) -> None:
    """Join for a moment, leave a record behind, hold others, and end in some way."""
    heap = ipcheap.Heap.attach(name)
    with heap.producer("visits", timeout=30) as producer, heap.consumer("visits") as consumer:
        for n in range(8):
            producer.send_object({"visitor": number, "frame": np.full(50_000, n)}, timeout=30)
        held = [consumer.recv_object(timeout=30) for _ in range(4)]
        mine = [heap.allocate_record(10_000).view for _ in range(10)]
        if number % 2:
            os.kill(os.getpid(), signal.SIGKILL)
        del held, mine


# What is measured ------------------------------------------------------------------------


@dataclass
class Measure:
    """Sizes in bytes, and counts, of all lasting processes together."""

    private: int
    committed: int
    in_use: int
    descriptors: int
    threads: int
    participants: int


# How much more than the middle third the last third may have at its maximum.
SLACK = Measure(3 << 20, 8 << 20, 4 << 20, 2, 1, 2)


def measure(heap: ipcheap.Heap, pids: list[int]) -> Measure:
    """Measure the lasting processes and the heap."""
    processes = [psutil.Process(pid) for pid in pids]
    memory = [process.memory_info() for process in processes]
    statistics = heap.statistics()
    return Measure(
        private=sum(each.rss - each.shared for each in memory),
        committed=statistics.committed,
        in_use=statistics.in_use,
        descriptors=sum(process.num_fds() for process in processes),
        threads=sum(process.num_threads() for process in processes),
        participants=statistics.participants,
    )


def growth(seen: list[Measure]) -> list[str]:
    """Describe what has grown from the middle third to the last."""
    third = len(seen) // 3
    found = []
    for name in (field.name for field in fields(Measure)):
        middle = max(getattr(each, name) for each in seen[third : 2 * third])
        last = max(getattr(each, name) for each in seen[2 * third :])
        if last > middle + getattr(SLACK, name):
            found.append(f"{name} went from {middle} to {last}")
    return found


# The use ---------------------------------------------------------------------------------


class User:
    """The process in the middle: each round does some of everything."""

    def __init__(self, heap: ipcheap.Heap, seed: int) -> None:
        self.heap = heap
        self.random = random.Random(seed)
        self.outbox, self.inbox = heap.producer("there"), heap.consumer("back")
        self.kept: collections.deque[Any] = collections.deque(maxlen=KEPT)
        self.rounds = self.messages = 0

    def exchange(self) -> None:
        """Send one of each kind, and check what comes back."""
        n = self.random.choice([1, 10, 1000, 10_000, 100_000])
        self.outbox.send(bytes([n % 251]) * n, timeout=60)
        with self.outbox.loan((2, n), "u4", timeout=60) as lent:
            lent[:] = n
        self.outbox.send_object({"n": n, "frame": np.full(n, 7, "u1")}, timeout=60)
        with self.inbox.recv_record(timeout=60) as record:
            assert record.view[-1] == n % 251
            self.kept.append(record.view[n // 2 :])
        array = self.inbox.recv_array(timeout=60)
        assert (array == 2 * n).all()
        got = self.inbox.recv_object(timeout=60)
        assert got["n"] == n == len(got["frame"])
        self.kept.append(array[:, n // 2 :] if n % 20 else got["frame"])
        self.messages += 6

    def attach_again(self) -> None:
        """Attach a second time, and close with a view alive."""
        heap = ipcheap.Heap.attach(str(self.heap.name))
        view = heap.allocate_record(5000).array("f4")
        view[:] = 3
        heap.close()
        assert (view == 3).all()

    def add_and_remove(self) -> None:
        """Make a channel and a static segment, use them, and remove them."""
        key = f"passing {self.rounds % 5}"
        channel = self.heap.add_record_channel(key, 4)
        with channel.producer() as producer, channel.consumer() as consumer:
            producer.send_object([key])
            assert consumer.recv_object() == [key]
            producer.send(b"left behind")
        self.heap.remove_channel(key)
        segment = self.heap.add_static_segment("counted", 64)
        segment.atomic(0).fetch_add(1)
        del segment
        self.heap.remove_channel("counted")

    def drop_in_threads(self) -> None:
        """Give threads views, and records of their own."""

        def drop() -> None:
            views.pop().sum()
            with self.heap.allocate_record(300) as record:
                record.view[:] = bytes(300)

        views = [self.heap.allocate_record(2000).array("u1") for _ in range(4)]
        threads = [threading.Thread(target=drop) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def leave_to_the_collector(self) -> None:
        """Leave records and arrays in cycles."""
        ring: list[Any] = [self.heap.allocate_record(3000), self.heap.allocate_record(9).view]
        ring.append(ring)

    def round(self) -> None:
        """Do some of everything."""
        for _ in range(20):
            self.exchange()
        self.random.choice(
            [
                self.attach_again,
                self.add_and_remove,
                self.drop_in_threads,
                self.leave_to_the_collector,
            ]
        )()
        self.rounds += 1

    def close(self) -> None:
        """Give everything back."""
        self.kept.clear()
        self.outbox.close()
        self.inbox.close()


def soak(name: str, seconds: float, say: Callable[[str], object], seed: int = 1) -> list[str]:
    """Use a new heap of that name for that long; return what has grown or is wrong."""
    context = get_context("spawn")
    seen: list[Measure] = []
    with ipcheap.Heap.create(name, "64MiB") as heap:
        for channel in ("there", "back", "visits"):
            heap.add_record_channel(channel, SLOTS)
        other = context.Process(target=relay, args=(name,), daemon=True)
        other.start()
        user = User(heap, seed)
        end, measured, visitor = time.monotonic() + seconds, 0.0, None
        visits = 0
        while time.monotonic() < end:
            user.round()
            if visitor is None:
                visitor = context.Process(target=visit, args=(name, visits), daemon=True)
                visitor.start()
            elif visitor.exitcode is not None:
                assert visitor.exitcode == (-signal.SIGKILL if visits % 2 else 0)
                visitor.close()
                visitor, visits = None, visits + 1
                with heap.consumer("visits", timeout=30) as consumer:
                    while consumer.pending:
                        consumer.recv_record(timeout=5).free()
            if time.monotonic() - measured >= min(1.0, seconds / 12):
                measured = time.monotonic()
                gc.collect()
                seen.append(measure(heap, [os.getpid(), other.pid or 0]))
                say(f"{user.messages} messages, {visits} visits, {seen[-1]}")
        if visitor is not None:
            visitor.join(60)
            visitor.close()
        user.close()
        other.join(60)
        faults = growth(seen)
        if other.exitcode != 0:
            faults.append(f"the other process ended with {other.exitcode}")
        heap.recover()
        heap.remove_channel("visits")
        gc.collect()
        faults += heap.check()
        if heap.statistics().in_use:
            faults.append(f"left in use: {heap.statistics()}")
        say(
            f"{user.messages} messages in {user.rounds} rounds, {visits} visits: {faults or 'flat'}"
        )
    return faults


def main() -> int:
    """Run as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    try:
        return int(bool(soak(NAME, options.seconds, print, options.seed)))
    finally:
        ipcheap.unlink(NAME)


if __name__ == "__main__":
    sys.exit(main())
