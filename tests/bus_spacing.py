"""Broadcasts at any spacing, as those that lock up maandree/bus: one writer, some listeners.

    python tests/bus_spacing.py --messages 180000 --spacing 0.02

The writer is this process, the listeners are others. Each broadcast has to be released by all
listeners before the next one is due. The listeners check that no message is missing, repeated or
changed. The summary says how long the broadcasts took.
"""

from __future__ import annotations

import argparse
import contextlib
import secrets
import sys
import time
from dataclasses import dataclass

import numpy as np
import peers

import ipcheap

ID = "bus"
STALLED = 10.0  # seconds that no broadcast may take


@dataclass
class Figures:
    """How long each broadcast took, in microseconds, and the whole run in seconds."""

    spacing: float
    listeners: int
    took: np.ndarray[tuple[int], np.dtype[np.float64]]
    seconds: float

    def __str__(self) -> str:
        quantiles = [f"{np.quantile(self.took, q):.0f}" for q in (0.5, 0.99, 0.9999)]
        return (
            f"{len(self.took):,} broadcasts to {self.listeners} listeners, "
            f"{self.spacing * 1e3:g} ms apart, in {self.seconds:.1f} s; each took "
            f"{'/'.join(quantiles)} us (p50/p99/p99.99), at most {self.took.max() / 1e3:.1f} ms"
        )


def hear(heap: ipcheap.Heap, messages: int) -> int:
    """Receive them all, in order; return how often this listener went to sleep."""
    with heap, heap.bus(ID).listen() as listener:
        peers.say("listening")
        for number in range(messages):
            with listener.recv_record(STALLED + 60) as message:
                assert int.from_bytes(message.view, "little") == number == message.position
        assert listener.lost == 0
        peers.say("heard all")
        peers.listen()  # one that closes before the writer looks counts as gone
        return listener.statistics().parks


def measure(name: str, messages: int, spacing: float, listeners: int) -> Figures:
    """Broadcast so many messages, so many seconds apart."""
    took = np.zeros(messages)
    with ipcheap.Heap.create(name, "16MiB") as heap, contextlib.ExitStack() as stack:
        bus = heap.add_bus(ID)
        others = [stack.enter_context(peers.run(hear, heap, messages)) for _ in range(listeners)]
        for other in others:
            assert other.hear() == "listening"
        begin = due = time.perf_counter()
        for number in range(messages):
            before = time.perf_counter()
            report = bus.broadcast(number.to_bytes(8, "little"), STALLED)
            took[number] = (time.perf_counter() - before) * 1e6
            assert (report.position, report.listeners) == (number, listeners)
            assert report.released == listeners, f"number {number}: {report}"
            due += spacing
            time.sleep(max(0.0, due - time.perf_counter()))
        seconds = time.perf_counter() - begin
        for other in others:
            assert other.hear() == "heard all"
            other.tell("end")
        for other in others:
            other.result()
        assert bus.statistics().waiting == 0
        heap.remove_channel(ID)
        assert heap.statistics().in_use == 0
        assert heap.check() == []
    return Figures(spacing, listeners, took, seconds)


def main() -> int:
    """Run as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=180_000)
    parser.add_argument("--spacing", type=float, default=0.02, help="seconds (0.02)")
    parser.add_argument("--listeners", type=int, default=2)
    options = parser.parse_args()
    name = f"spacing.{secrets.token_hex(4)}"
    try:
        print(measure(name, options.messages, options.spacing, options.listeners))
    finally:
        ipcheap.unlink(name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
