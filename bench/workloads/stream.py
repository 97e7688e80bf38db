"""Streams: bytes in portions, items of an array, windows of the ring, round trips, one epoll."""

from __future__ import annotations

import select
import time

from peers import STREAMS

from workloads.records import RECORDS
from workloads.round_trip import MESSAGE, AfterPause, Spinning
from workloads.throughput import patterns
from workloads.workload import Figure, Flow, check

RING = 1 << 20  # bytes
SIZES = {"64": 64, "256": 256, "4k": 4 << 10, "64k": 64 << 10}
TITLES = {"64": "64 B", "256": "256 B", "4k": "4 KiB", "64k": "64 KiB"}


class StreamFlow(Flow):
    """A flow through a stream: what is counted are calls, each of which moves a portion."""

    carries = STREAMS
    nbytes = 1  # of an item
    depth = RING  # items
    dtype = "u1"
    portion = 1  # items

    def links_of(self, peer, links):
        return peer(links, self.nbytes, self.depth, self.dtype, self.portion)


class StreamRate(StreamFlow):
    """How many portions of a stream pass, and how many bytes that is."""

    def report(self, count, ns, cpu_ns):
        return {
            "per_second": count / ns * 1e9,
            "ns": ns / count,
            "mb_s": count * self.portion * self.nbytes / ns * 1e3,
        }


class Portions(StreamRate):
    """`write` of a `bytes` object and `readinto` a `bytearray`, through a ring of 1 MiB."""

    figures = (
        Figure("per_second", "portions/s", "/s"),
        Figure("ns", "ns per portion", "ns", more=False),
        Figure("mb_s", "MB/s", "MB/s"),
    )

    def __init__(self, size):
        self.key, self.portion = f"stream-{size}", SIZES[size]
        self.title = f"a stream of bytes, {TITLES[size]} at a time"
        self.grain = min(64, max(4, (64 << 10) // self.portion))

    def transmit(self, senders, receivers, count):
        write = senders[0].write
        payloads = patterns(self.portion, self.grain)
        for _ in range(count // self.grain):
            for payload in payloads:
                write(payload)

    def absorb(self, receivers, senders, count):
        readinto = receivers[0].readinto
        payloads = patterns(self.portion, self.grain)
        buffer = bytearray(self.portion)
        for _ in range(count // self.grain):
            for _ in payloads:
                readinto(buffer)
            check(buffer, payloads[-1])


class Items(StreamRate):
    """An array of 64 items is written, and read into an array; `struct` cuts a tuple of `bytes`."""

    key = "stream-items"
    title = "a stream of items of 64 B, 64 at a time, into one array"
    figures = (
        Figure("per_second", "items/s", "/s"),
        Figure("ns", "ns per item", "ns", more=False),
    )
    nbytes = 64
    depth = RING // 64
    dtype = "V64"
    portion = 64
    grain = 16

    def transmit(self, senders, receivers, count):
        import numpy as np

        sender = senders[0]
        batches = [RECORDS[i:] + RECORDS[:i] for i in range(self.grain)]
        if hasattr(sender, "write"):
            write = sender.write
            batches = [np.frombuffer(b"".join(batch), sender.form) for batch in batches]
        else:
            write = sender.send_many
        for _ in range(count // self.grain):
            for batch in batches:
                write(batch)

    def absorb(self, receivers, senders, count):
        import numpy as np

        receiver, grain = receivers[0], range(self.grain)
        last = RECORDS[self.grain - 2]
        if not hasattr(receiver, "readinto"):
            recv_many = receiver.recv_many
            for _ in range(count // self.grain):
                for _ in grain:
                    found = recv_many(self.portion)
                check(found[-1], last)
            return
        readinto = receiver.readinto
        into = np.zeros(self.portion, "V64")
        array = into.view(receiver.form)
        for _ in range(count // self.grain):
            for _ in grain:
                readinto(array)
            check(into[-1].tobytes(), last)

    def report(self, count, ns, cpu_ns):
        return {"per_second": count * self.portion / ns * 1e9, "ns": ns / count / self.portion}


class Windows(StreamRate):
    """Each window is an array in the ring: the writer fills it, and the reader adds it up."""

    key = "stream-window-64k"
    title = "a stream in windows of 64 KiB, filled and added up in place"
    figures = (
        Figure("mb_s", "MB/s", "MB/s"),
        Figure("per_second", "windows/s", "/s"),
    )
    needs = "lends"
    nbytes = 8
    depth = RING // 8
    dtype = "u8"
    portion = (64 << 10) // 8
    grain = 4

    def arrays(self):
        """Return different payloads."""
        import numpy as np

        return [np.full(self.portion, 1 + i, "u8") for i in range(self.grain)]

    def transmit(self, senders, receivers, count):
        sender, payloads, portion = senders[0], self.arrays(), self.portion
        rounds = range(count // self.grain)
        if sender.window:
            open_window = sender.window
            for _ in rounds:
                for payload in payloads:
                    with open_window(portion) as window:
                        window[:] = payload
        else:
            loan, commit = sender.loan, sender.commit
            for _ in rounds:
                for payload in payloads:
                    window = loan()
                    window[:] = payload
                    commit()

    def absorb(self, receivers, senders, count):
        receiver, portion = receivers[0], self.portion
        sums = [int(payload.sum()) for payload in self.arrays()]
        rounds = range(count // self.grain)
        if receiver.window:
            open_window = receiver.window
            for _ in rounds:
                for expected in sums:
                    with open_window(portion) as window:
                        found = window.sum()
                    check(found, expected)
        else:
            take, done = receiver.take, receiver.done
            for _ in rounds:
                for expected in sums:
                    window = take()
                    found = window.sum()
                    done()
                    check(found, expected)


class Blocks(StreamRate):
    """Each window is an array in the ring, of which both sides touch the last item."""

    key = "stream-blocks"
    title = "a stream in windows of 64 float32, touched"
    figures = (
        Figure("per_second", "windows/s", "/s"),
        Figure("ns", "ns per window", "ns", more=False),
    )
    needs = "lends"
    nbytes = 4
    depth = RING // 4
    dtype = "f4"
    portion = 64

    def transmit(self, senders, receivers, count):
        sender, portion = senders[0], self.portion
        numbers = [float(i) for i in range(self.grain)]
        rounds = range(count // self.grain)
        if sender.window:
            open_window = sender.window
            for _ in rounds:
                for number in numbers:
                    with open_window(portion) as window:
                        window[-1] = number
        else:
            loan, commit = sender.loan, sender.commit
            for _ in rounds:
                for number in numbers:
                    loan()[-1] = number
                    commit()

    def absorb(self, receivers, senders, count):
        receiver, portion, grain = receivers[0], self.portion, range(self.grain)
        rounds = range(count // self.grain)
        if receiver.window:
            open_window = receiver.window
            for _ in rounds:
                for _ in grain:
                    with open_window(portion) as window:
                        found = window[-1]
                check(float(found.sum()), self.last())
        else:
            take, done = receiver.take, receiver.done
            for _ in rounds:
                for _ in grain:
                    found = take()[-1].copy()
                    done()
                check(float(found.sum()), self.last())

    def last(self):
        """Return the sum of the last item of the last window."""
        return float(self.grain - 1)


class Frames(Blocks):
    """Each window is an array in the ring, of which both sides touch the last frame."""

    key = "stream-blocks-frames"
    title = "a stream in windows of 64 frames of two float32, touched"
    nbytes = 8
    depth = RING // 8
    dtype = ("f4", (2,))

    def last(self):
        return 2.0 * (self.grain - 1)


class Trip(StreamFlow):
    """64 B there and back, through rings of 64 times as much; or through two record channels."""

    portion = len(MESSAGE)
    depth = 64 * portion

    def transmit(self, senders, receivers, count):
        if not hasattr(senders[0], "write"):
            super().transmit(senders, receivers, count)
            return
        write, readinto = senders[0].write, receivers[0].readinto
        buffer = bytearray(self.portion)
        clock, pause, sleep = time.perf_counter_ns, self.pause, time.sleep
        samples = []
        for _ in range(count):
            if pause:
                sleep(pause)
            begin = clock()
            write(MESSAGE)
            readinto(buffer)
            samples.append(clock() - begin)
        check(buffer, MESSAGE)
        self.samples = samples

    def absorb(self, receivers, senders, count):
        if not hasattr(senders[0], "write"):
            super().absorb(receivers, senders, count)
            return
        write, readinto = senders[0].write, receivers[0].readinto
        buffer = bytearray(self.portion)
        for _ in range(count):
            readinto(buffer)
            write(buffer)


class TripSpinning(Trip, Spinning):
    """Both sides wait without sleeping."""

    key = "stream-trip-spin"
    title = "round trip through two streams, 64 B, spinning"


class TripAfterPause(Trip, AfterPause):
    """Both sides have slept for two milliseconds."""

    key = "stream-trip-idle"
    title = "round trip through two streams, 64 B, after 2 ms of rest"


class Epoll(StreamRate):
    """The reader waits on one epoll for all streams, and takes what the ready ones have."""

    key = "stream-epoll"
    title = "64 streams on one epoll, 64 B to each in turn"
    figures = (
        Figure("per_second", "portions/s", "/s"),
        Figure("ns", "ns per portion", "ns", more=False),
    )
    needs = "polls"
    links = 64
    portion = len(MESSAGE)
    depth = 64 << 10
    grain = 16 * links

    def transmit(self, senders, receivers, count):
        writes = [sender.write for sender in senders]
        for _ in range(count // self.links):
            for write in writes:
                write(MESSAGE)

    def absorb(self, receivers, senders, count):
        with select.epoll() as poller:
            reads = {}
            for receiver in receivers:
                poller.register(receiver.fileno(), select.EPOLLIN)
                reads[receiver.fileno()] = receiver.read_some
            left = count * self.portion
            while left:
                for fd, _ in poller.poll():
                    data = reads[fd]()
                    if data is not None:
                        left -= len(data)
                        last = data
            check(last[-self.portion :], MESSAGE)


WORKLOADS = (
    *(Portions(size) for size in SIZES),
    Items(),
    Windows(),
    Blocks(),
    Frames(),
    TripSpinning(),
    TripAfterPause(),
    Epoll(),
)
