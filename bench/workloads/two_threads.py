"""One producing process sends 4 KiB records to two threads of another process in turn."""

from __future__ import annotations

import contextlib
import ctypes
import threading
import time
from multiprocessing.sharedctypes import RawArray, RawValue

from workloads.throughput import look, patterns
from workloads.workload import Figure, Flow, check, percentiles

NBYTES = 4096
BATCH = 64
RECORDS = patterns(NBYTES, BATCH)
SEEN = [look(record) for record in RECORDS]


class TwoThreads(Flow):
    """One link per thread. Both threads share an interpreter and the core of its process."""

    key = "two-threads"
    title = "one process to two threads of another, 4 KiB, one at a time"
    figures = (Figure("per_second", "records/s", "/s"),)
    nbytes = NBYTES
    depth = 256
    consumers = 2
    threads = True
    grain = 2 * BATCH

    def transmit(self, senders, receivers, count):
        ends = [(sender.loan, sender.commit) for sender in senders]
        for _ in range(count // (BATCH * len(ends))):
            for record in RECORDS:
                for loan, commit in ends:
                    memory = loan(NBYTES)
                    memory[:] = record
                    commit(memory)

    def absorb(self, receivers, senders, count):
        take, done = receivers[0].take, receivers[0].done
        for _ in range(count // BATCH):
            for seen in SEEN:
                memory = take()
                check(look(memory), seen)
                done(memory)

    def report(self, count, ns, cpu_ns):
        return {"per_second": count / ns * 1e9}


class TwoThreadsBatches(TwoThreads):
    """64 records per call."""

    key = "two-threads-batch"
    title = "one process to two threads of another, 4 KiB, in batches of 64"
    needs = "batches"

    def transmit(self, senders, receivers, count):
        for _ in range(count // (BATCH * len(senders))):
            for sender in senders:
                lent = sender.loan_many(NBYTES, BATCH)
                for memory, record in zip(lent, RECORDS, strict=True):
                    memory[:] = record
                sender.commit_many(lent)

    def absorb(self, receivers, senders, count):
        take_many, done_many = receivers[0].take_many, receivers[0].done_many
        got = 0
        while got < count:
            batch = take_many(BATCH)
            for memory in batch:
                check(look(memory), SEEN[got % BATCH])
                got += 1
            del memory
            done_many(batch)


@contextlib.contextmanager
def computing():
    """Keep a thread of this interpreter busy."""
    stop = threading.Event()

    def compute():
        while not stop.is_set():
            sum(range(500))

    thread = threading.Thread(target=compute, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


class TwoThreadsComputing(TwoThreads):
    """A third thread of the receiving process computes all the time and competes for the GIL.

    The latencies are those of the receiving calls. A call that gives up the GIL gets it back
    after the switch interval, 5 ms.
    """

    key = "two-threads-computing"
    title = "one process to two threads of another beside a thread that computes, 4 KiB"
    figures = (
        *TwoThreads.figures,
        Figure("p50_us", "p50 of a call", "µs", more=False),
        Figure("p99_us", "p99", "µs", more=False),
        Figure("p999_us", "p99.9", "µs", more=False),
        Figure("slow", "calls over 1 ms", "%", more=False),
    )
    needs = "blocks"
    most = 1 << 20  # samples that there is room for

    def run(self, key, peer, seconds):
        self.lock = threading.Lock()  # between the receiving threads
        self.samples = RawArray(ctypes.c_int64, self.most)
        self.taken = RawValue(ctypes.c_int64, 0)
        return super().run(key, peer, seconds)

    def around(self):
        return computing()

    def transmit(self, senders, receivers, count):
        self.taken.value = 0  # the consumers still wait for the first message
        super().transmit(senders, receivers, count)

    def absorb(self, receivers, senders, count):
        take, done, clock = receivers[0].take, receivers[0].done, time.perf_counter_ns
        samples = []
        for _ in range(count // BATCH):
            for seen in SEEN:
                begin = clock()
                memory = take()
                samples.append(clock() - begin)
                check(look(memory), seen)
                done(memory)
        with self.lock:
            at = self.taken.value
            self.samples[at : at + len(samples)] = samples
            self.taken.value = at + len(samples)

    def report(self, count, ns, cpu_ns):
        samples = self.samples[: self.taken.value]
        slow = sum(sample > 1_000_000 for sample in samples)
        return {
            **super().report(count, ns, cpu_ns),
            **percentiles(samples),
            "slow": 100 * slow / len(samples),
            "samples": len(samples),
        }


WORKLOADS = (TwoThreads(), TwoThreadsBatches(), TwoThreadsComputing())
