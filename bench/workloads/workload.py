"""The base classes of workloads, and how a stream of messages is timed."""

from __future__ import annotations

import contextlib
import time

from peers import MESSAGES
from stage import Stage

NOT_FOR_IT = "not for this peer"  # the peer is then not in the table

# What a workload may need of a peer, and the reason that a peer without it is omitted.
LACKS = {
    "blocks": "does not sleep",
    "spins": "does not spin",
    "batches": "has no batches",
    "lends": "lends no memory",
    "polls": "cannot be polled",
    "together": "has no transactions",
}


class Figure:
    """A column of the report."""

    def __init__(self, key, title, unit, more=True):
        self.key = key
        self.title = title
        self.unit = unit
        self.more = more  # whether more is better


class Workload:
    """Work that any peer, or some peers, can do."""

    key = ""
    title = ""
    figures = ()  # plots show the first one
    peers = None  # the keys of the peers it is for, None for all
    needs = None  # the attribute of a peer that must be true: a key of LACKS
    carries = MESSAGES  # where its peers are

    def is_for(self, key):
        """Return whether this is work for a peer, as far as its key says."""
        return key in self.carries and (self.peers is None or key in self.peers)

    def unsuited(self, key, peer):
        """Return why a peer cannot do this work, None if it can."""
        if peer.only and self.key not in peer.only:
            return NOT_FOR_IT
        if self.needs and not getattr(peer, self.needs):
            return LACKS[self.needs]
        return None

    def run(self, key, peer, seconds):
        """Work for about `seconds` and return the figures by key."""
        raise NotImplementedError


class Counted(Workload):
    """Work whose number of messages is found by a pilot and a rehearsal in the same processes."""

    grain = 64  # counts are multiples of this
    most = 1 << 24

    def timed(self, work, seconds):
        """Call `work` with counts until one took about `seconds`; return that count and the ns."""
        count = self.grain
        while (ns := work(count)) < seconds * 1e8 and count < self.most:
            faster = min(16.0, max(2.0, seconds * 1.5e8 / max(ns, 1)))
            count = self._even(count * faster)
        for part in (0.5, 1.0):  # a rehearsal, and the measurement
            count = self._even(count * part * seconds * 1e9 / ns)
            ns = work(count)
        return count, ns

    def _even(self, count):
        return max(self.grain, min(int(count), self.most) // self.grain * self.grain)


class Flow(Counted):
    """A stream of messages from one producing process to one or more consumers.

    A pilot and a rehearsal half as long in the same processes determine the count. They also
    warm up the processes. The time runs from the producer's first message to the last
    consumer's last message.
    """

    nbytes = 64
    depth = 1024
    consumers = 1
    links = 1  # from the producer to each consumer
    threads = False
    replies = False  # whether each consumer has a link back

    def unsuited(self, key, peer):
        if peer.largest is not None and self.nbytes > peer.largest:
            return f"messages of up to {peer.largest} bytes"
        return super().unsuited(key, peer)

    def run(self, key, peer, seconds):
        own = self.links_of(peer, self.consumers * (self.links + self.replies))
        try:
            stage = Stage(own, self.consumers, self.threads)
            return stage.play(
                lambda stage: self._produce(stage, seconds),
                self._consume,
            )
        finally:
            own.close()

    # For the variants ---------------------------------------------------------------------

    def links_of(self, peer, links):
        """Return the peer with its links."""
        return peer(links, self.nbytes, self.depth)

    def transmit(self, senders, receivers, count):
        """Send `count` messages in total, in the producing process."""
        raise NotImplementedError

    def absorb(self, receivers, senders, count):
        """Receive `count` messages, the share of one consumer."""
        raise NotImplementedError

    def around(self):
        """Return a context manager that the first consumer holds during the whole run."""
        return contextlib.nullcontext()

    def report(self, count, ns, cpu_ns):
        """Return the figures by key."""
        raise NotImplementedError

    # Inside -------------------------------------------------------------------------------

    def _produce(self, stage, seconds):
        peer, there = stage.peer, self.consumers * self.links
        back = range(there, there + self.consumers * self.replies)
        receivers = [peer.receiver(link) for link in back]
        stage.meet()
        senders = [peer.sender(link) for link in range(there)]
        _until_ready(senders)
        stage.meet()

        def timed(count):
            stage.count.value = count
            begin = stage.phase(0, lambda count: self.transmit(senders, receivers, count))
            return max(stage.ended) - begin

        count, ns = self.timed(timed, seconds)
        figures = self.report(count, ns, sum(stage.cpu))
        stage.count.value = 0
        stage.phase(0, None)
        for end in (*senders, *receivers):
            end.close()
        stage.meet()
        return figures

    def _consume(self, stage, part):
        with self.around() if part == 1 else contextlib.nullcontext():
            peer, there = stage.peer, range((part - 1) * self.links, part * self.links)
            receivers = [peer.receiver(link) for link in there]
            stage.meet()
            back = [self.consumers * self.links + part - 1] if self.replies else []
            senders = [peer.sender(link) for link in back]
            _until_ready(senders)
            stage.meet()

            def share(count):
                self.absorb(receivers, senders, count // self.consumers)

            while stage.phase(part, share):
                pass
            for end in (*senders, *receivers):
                end.close()
            stage.meet()


def _until_ready(senders):
    end = time.monotonic() + 10
    while not all(sender.ready() for sender in senders):
        if time.monotonic() > end:
            raise TimeoutError("the receiver was not found within 10 s")
        time.sleep(0.005)


def check(found, expected):
    """Raise RuntimeError unless what was received is what was sent."""
    if found != expected:
        raise RuntimeError(f"received {found!r} instead of {expected!r}"[:300])


def percentiles(samples):
    """Return p50, p99 and p99.9 of nanoseconds as figures in microseconds."""
    ordered = sorted(samples)

    def at(part):
        return ordered[min(len(ordered) - 1, int(part * len(ordered)))] / 1e3

    return {"p50_us": at(0.5), "p99_us": at(0.99), "p999_us": at(0.999)}
