"""One producing process sends 4 KiB records to eight consuming processes in turn."""

from __future__ import annotations

from workloads.two_threads import BATCH, TwoThreads


class FanOut(TwoThreads):
    """The consumers share one core. This measures the cost of waking many processes."""

    key = "fan-out"
    title = "one process to eight others, 4 KiB to each in turn"
    consumers = 8
    threads = False
    grain = 8 * BATCH


WORKLOADS = (FanOut(),)
