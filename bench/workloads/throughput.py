"""Larger payloads: written completely, then read completely or one byte per page."""

from __future__ import annotations

from workloads.workload import Figure, Flow, check

PAGE = 4096


def patterns(nbytes, count):
    """Return `count` different payloads, which the consumer can tell apart."""
    return [bytes([1 + i]) * nbytes for i in range(count)]


def look(memory):
    """Return one byte of each page."""
    return bytes(memory[::PAGE])


class Throughput(Flow):
    """The payload is written into memory lent by the peer, or into private memory and then sent."""

    figures = (
        Figure("mb_s", "MB/s", "MB/s"),
        Figure("per_second", "messages/s", "/s"),
    )
    grain = 4

    def __init__(self, key, title, nbytes, depth):
        self.key, self.title = key, title
        self.nbytes, self.depth = nbytes, depth

    def transmit(self, senders, receivers, count):
        loan, commit, nbytes = senders[0].loan, senders[0].commit, self.nbytes
        payloads = patterns(nbytes, self.grain)
        for _ in range(count // self.grain):
            for payload in payloads:
                memory = loan(nbytes)
                memory[:] = payload
                commit(memory)

    def reader(self):
        """Return the function that reads a payload."""
        return look

    def absorb(self, receivers, senders, count):
        take, done, read = receivers[0].take, receivers[0].done, self.reader()
        expected = [read(payload) for payload in patterns(self.nbytes, self.grain)]
        for _ in range(count // self.grain):
            for each in expected:
                memory = take()
                check(read(memory), each)
                done(memory)

    def report(self, count, ns, cpu_ns):
        return {"mb_s": count * self.nbytes / ns * 1e3, "per_second": count / ns * 1e9}


class Whole(Throughput):
    """The same, but the consumer adds up the whole payload."""

    def reader(self):
        import numpy as np

        return lambda memory: int(np.frombuffer(memory, "u8").sum())


WORKLOADS = (
    Throughput("throughput-4k", "4 KiB, one at a time", 4 << 10, 256),
    Throughput("throughput-64k", "64 KiB, one at a time", 64 << 10, 16),
    Throughput("throughput-1m", "1 MiB, one at a time", 1 << 20, 8),
    Throughput("throughput-8m", "8 MiB, one at a time", 8 << 20, 4),
    Whole("throughput-64k-whole", "64 KiB, one at a time, read completely", 64 << 10, 16),
    Whole("throughput-1m-whole", "1 MiB, one at a time, read completely", 1 << 20, 8),
)
