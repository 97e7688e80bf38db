"""Pictures: 1080 lines of 1920 points of three bytes each."""

from __future__ import annotations

from workloads.workload import Figure, Flow, check

SHAPE = (1080, 1920, 3)
NBYTES = 1080 * 1920 * 3
SPARSE = 17 * 30 * 3  # the bytes that sparse_sum() reads


def sparse_sum(picture):
    """Return the sum over every 64th point of every 64th line."""
    return int(picture[::64, ::64].sum())


class Frames(Flow):
    """The producer fills the whole picture; the consumer adds up a sparse sample of it."""

    key = "frames"
    title = "1080p frames"
    figures = (
        Figure("per_second", "frames/s", "/s"),
        Figure("cpu_ms", "CPU per frame, both processes", "ms", more=False),
    )
    nbytes = NBYTES
    depth = 4
    grain = 4

    def transmit(self, senders, receivers, count):
        sender = senders[0]
        for i in range(count):
            picture = sender.loan_array(SHAPE, "u1")
            picture[:] = i & 127
            del picture
            sender.commit_array()

    def absorb(self, receivers, senders, count):
        receiver = receivers[0]
        for i in range(count):
            picture = receiver.take_array(SHAPE, "u1")
            found = sparse_sum(picture)
            del picture
            receiver.done_array()
            check(found, (i & 127) * SPARSE)

    def report(self, count, ns, cpu_ns):
        return {"per_second": count / ns * 1e9, "cpu_ms": cpu_ns / count / 1e6}


WORKLOADS = (Frames(),)
