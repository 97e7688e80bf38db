"""One producing process, two consuming threads of another, 4 KiB records to each in turn."""

from __future__ import annotations

from workloads.throughput import look, patterns
from workloads.workload import Figure, Flow, check

NBYTES = 4096
BATCH = 64
RECORDS = patterns(NBYTES, BATCH)
SEEN = [look(record) for record in RECORDS]


class TwoThreads(Flow):
    """A link a thread; both threads share an interpreter, and the core of its process."""

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

    def absorb(self, receiver, sender, count):
        take, done = receiver.take, receiver.done
        for _ in range(count // BATCH):
            for seen in SEEN:
                memory = take()
                check(look(memory), seen)
                done(memory)

    def report(self, count, ns, cpu_ns):
        return {"per_second": count / ns * 1e9}


class TwoThreadsBatches(TwoThreads):
    """64 records in one call."""

    key = "two-threads-batch"
    title = "one process to two threads of another, 4 KiB, in batches of 64"

    def unsuited(self, key, peer):
        return super().unsuited(key, peer) or (None if peer.batches else "has no batches")

    def transmit(self, senders, receivers, count):
        for _ in range(count // (BATCH * len(senders))):
            for sender in senders:
                lent = sender.loan_many(NBYTES, BATCH)
                for memory, record in zip(lent, RECORDS, strict=True):
                    memory[:] = record
                sender.commit_many(lent)

    def absorb(self, receiver, sender, count):
        take_many, done_many = receiver.take_many, receiver.done_many
        got = 0
        while got < count:
            batch = take_many(BATCH)
            for memory in batch:
                check(look(memory), SEEN[got % BATCH])
                got += 1
            del memory
            done_many(batch)


WORKLOADS = (TwoThreads(), TwoThreadsBatches())
