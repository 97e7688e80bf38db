"""Small records: 64 bytes, one at a time and in batches."""

from __future__ import annotations

from workloads.workload import Figure, Flow, check

NBYTES = 64
BATCH = 64

# Created beforehand; all are different, and the consumer knows their order.
RECORDS = [bytes([i]) * NBYTES for i in range(BATCH)]


class Records(Flow):
    """Each record is a `bytes` object on both sides and is read completely."""

    key = "records-64"
    title = "64 B records, one at a time"
    figures = (
        Figure("per_second", "records/s", "/s"),
        Figure("ns", "ns per record", "ns", more=False),
    )
    nbytes = NBYTES

    def transmit(self, senders, receivers, count):
        send = senders[0].send
        for _ in range(count // BATCH):
            for record in RECORDS:
                send(record)

    def absorb(self, receivers, senders, count):
        recv = receivers[0].recv
        for _ in range(count // BATCH):
            for _ in RECORDS:
                record = recv()
            check(record, RECORDS[-1])

    def report(self, count, ns, cpu_ns):
        return {"per_second": count / ns * 1e9, "ns": ns / count}


class Batches(Records):
    """64 records per call; the consumer receives a list of `bytes`."""

    key = "records-64-batch"
    title = "64 B records, in batches of 64"
    needs = "batches"

    def transmit(self, senders, receivers, count):
        send_many = senders[0].send_many
        for _ in range(count // BATCH):
            send_many(RECORDS)

    def absorb(self, receivers, senders, count):
        recv_many = receivers[0].recv_many
        got = 0
        while got < count:
            batch = recv_many(BATCH)
            got += len(batch)
            check(batch[-1], RECORDS[(got - 1) % BATCH])


WORKLOADS = (Records(), Batches())
