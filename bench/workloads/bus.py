"""Buses: rounds to several listeners and back, messages that all of them get, frames, posts."""

from __future__ import annotations

import ctypes
import resource
import statistics
import time
from multiprocessing.sharedctypes import RawArray

from peers import BUSES
from stage import Stage

from workloads.frames import SHAPE
from workloads.records import BATCH, RECORDS
from workloads.throughput import PAGE
from workloads.workload import Counted, Figure, check

FEW = (1, 2, 4, 8)
MANY = (*FEW, 64)
REST = 0.002  # seconds, after which everybody sleeps
MESSAGE = bytes(range(1, 65))  # without a NUL, which would end the message of maandree/bus


def counted(listeners):
    """Return how many listeners that is."""
    return "1 listener" if listeners == 1 else f"{listeners:,} listeners"


def each(scale, key, title, unit, *, more):
    """Return a figure for each number of listeners."""
    return tuple(Figure(f"{key}_{n}", f"{title}{counted(n)}", unit, more=more) for n in scale)


class OnBus(Counted):
    """A writer and its listeners, as many as each step of a scale says."""

    carries = BUSES
    scale = FEW
    nbytes = 64
    depth = 1024
    one_core = False

    def run(self, key, peer, seconds):
        figures = {}
        for listeners in self.scale:
            found = self._measure(peer, listeners, seconds / len(self.scale))
            figures.update((f"{name}_{listeners}", value) for name, value in found.items())
        return figures

    # For the variants ---------------------------------------------------------------------

    def send(self, writer, count):
        """Send so many messages to all listeners, in the writing process."""
        raise NotImplementedError

    def receive(self, listener, part, count):
        """Receive so many messages, in the process of a listener."""
        raise NotImplementedError

    def report(self, count, ns):
        """Return the figures by key; `ns` ends when the last listener has the last message."""
        raise NotImplementedError

    # Inside -------------------------------------------------------------------------------

    def _measure(self, peer, listeners, seconds):
        self.listeners = listeners
        self.received = RawArray(ctypes.c_int64, 1 + listeners)
        self.at = RawArray(ctypes.c_int64, 1 + listeners)
        own = peer(listeners, self.nbytes, self.depth)
        try:
            stage = Stage(own, listeners, threads=False, one_core=self.one_core)
            return stage.play(lambda stage: self._write(stage, seconds), self._listen)
        finally:
            own.close()

    def _write(self, stage, seconds):
        writer = stage.peer.writer()
        stage.meet()  # the listeners open their ends
        stage.meet()
        writer.ready()

        def work(count):
            stage.count.value = count
            begin = stage.phase(0, lambda count: self.send(writer, count))
            return max(stage.ended) - begin

        figures = self.report(*self.timed(work, seconds))
        stage.count.value = 0
        stage.phase(0, None)
        writer.close()
        stage.meet()
        return figures

    def _listen(self, stage, part):
        stage.meet()
        listener = stage.peer.listener(part - 1)
        stage.meet()
        while True:
            listener.enter()
            if not stage.phase(part, lambda count: self.receive(listener, part, count)):
                break
        listener.close()
        stage.meet()


class Rounds(OnBus):
    """A message of 64 B to all listeners, and an acknowledgement of each; then the next one.

    A wait of the writer is a time that it slept, on average of all rounds.
    """

    scale = MANY
    grain = 8
    most = 1 << 18

    def __init__(self, key, title, *, pause=0.0, one_core=False):
        self.key, self.title = key, f"rounds to all listeners and back, 64 B{title}"
        self.pause, self.one_core = pause, one_core
        self.figures = (
            *each(self.scale, "p50_us", "p50, ", "µs", more=False),
            *each(self.scale, "waits", "waits of the writer, ", "", more=False),
        )

    def send(self, writer, count):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
        self.samples = writer.rounds(MESSAGE, count, self.pause)
        waits = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - before
        self.waits = max(0.0, waits / count - (1 if self.pause else 0))

    def receive(self, listener, part, count):
        check(listener.answers(count), MESSAGE)

    def report(self, count, ns):
        return {"p50_us": statistics.median(self.samples) / 1e3, "waits": self.waits}


class Messages(OnBus):
    """64 B, one at a time. Nothing is lost, and the time ends when the last listener has them all.

    Each message is a `bytes` object on both sides and is read completely.
    """

    key = "bus-flow"
    title = "messages to all listeners, 64 B, one at a time"
    figures = each(FEW, "per_second", "messages/s, ", "/s", more=True)

    def send(self, writer, count):
        send = writer.send
        for _ in range(count // BATCH):
            for record in RECORDS:
                send(record)

    def receive(self, listener, part, count):
        recv = listener.recv
        for _ in range(count // BATCH):
            for _ in RECORDS:
                record = recv()
            check(record, RECORDS[-1])

    def report(self, count, ns):
        return {"per_second": count / ns * 1e9}


class Batches(Messages):
    """64 messages per call; each listener receives lists of `bytes`."""

    key = "bus-flow-batch"
    title = "messages to all listeners, 64 B, in batches of 64"
    needs = "batches"

    def send(self, writer, count):
        send_many = writer.send_many
        for _ in range(count // BATCH):
            send_many(RECORDS)

    def receive(self, listener, part, count):
        recv_many = listener.recv_many
        got = 0
        while got < count:
            batch = recv_many(BATCH)
            got += len(batch)
            check(batch[-1], RECORDS[(got - 1) % BATCH])


class Frames(OnBus):
    """The writer fills the whole picture; each listener adds up one byte of each page of it."""

    key = "bus-frames"
    title = "1080p frames to all listeners"
    figures = each(FEW, "per_second", "frames/s, ", "/s", more=True)
    needs = "lends"
    nbytes = SHAPE[0] * SHAPE[1] * SHAPE[2]
    depth = 4
    grain = 4

    def send(self, writer, count):
        for i in range(count):
            picture = writer.loan_array(SHAPE, "u1")
            picture[:] = i & 127
            del picture
            writer.commit_array()

    def receive(self, listener, part, count):
        pages = -(-self.nbytes // PAGE)
        for i in range(count):
            picture = listener.take_array(SHAPE, "u1")
            found = int(picture.reshape(-1)[::PAGE].sum())
            del picture
            listener.done_array()
            check(found, (i & 127) * pages)

    def report(self, count, ns):
        return {"per_second": count / ns * 1e9}


class Posts(OnBus):
    """Bursts of 64 messages of 64 B, to listeners that sleep when a burst begins.

    What counts is the time that the writer spends on its calls, and the time until the last
    listener has the last message, per message.
    """

    key = "bus-post"
    title = "what a post to four listeners costs, 64 B"
    scale = (4,)
    figures = (
        Figure("post_us_4", "time of a post", "µs", more=False),
        Figure("received_us_4", "until all have received it", "µs", more=False),
    )

    def send(self, writer, count):
        send, clock, listeners = writer.send, time.monotonic_ns, slice(1, None)
        goal = min(self.received[listeners])
        posting = passing = 0
        for _ in range(count // BATCH):
            begin = clock()
            for record in RECORDS:
                send(record)
            posting += clock() - begin
            goal += BATCH
            while min(self.received[listeners]) < goal:
                time.sleep(0.0002)
            passing += max(self.at[listeners]) - begin
            time.sleep(0.0002)  # until they sleep
        self.costs = posting / count / 1e3, passing / count / 1e3

    def receive(self, listener, part, count):
        recv, clock = listener.recv, time.monotonic_ns
        for _ in range(count // BATCH):
            for _ in RECORDS:
                record = recv()
            self.at[part] = clock()
            self.received[part] += BATCH
            check(record, RECORDS[-1])

    def report(self, count, ns):
        post_us, received_us = self.costs
        return {"post_us": post_us, "received_us": received_us}


WORKLOADS = (
    Rounds("bus-round", ""),
    Rounds("bus-round-idle", ", after 2 ms of rest", pause=REST),
    Rounds("bus-round-core", ", all on one core", one_core=True),
    Messages(),
    Batches(),
    Frames(),
    Posts(),
)
