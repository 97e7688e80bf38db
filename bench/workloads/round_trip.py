"""Round trips: 64 bytes to another process and back, one at a time."""

from __future__ import annotations

import time

from workloads.workload import Figure, Flow, check, percentiles

MESSAGE = bytes(range(64))


class RoundTrip(Flow):
    """Both sides wait with the blocking call of the peer, which may spin before it sleeps."""

    key = "round-trip"
    title = "round trip, 64 B, blocking"
    figures = (
        Figure("p50_us", "p50", "µs", more=False),
        Figure("p99_us", "p99", "µs", more=False),
        Figure("p999_us", "p99.9", "µs", more=False),
        Figure("max_us", "max", "µs", more=False),
    )
    needs = "blocks"
    replies = True
    depth = 64
    grain = 8
    most = 1 << 20
    pause = 0.0
    spinning = False

    def transmit(self, senders, receivers, count):
        send = senders[0].send
        recv = receivers[0].spin if self.spinning else receivers[0].recv
        clock, pause, sleep = time.perf_counter_ns, self.pause, time.sleep
        samples = []
        for _ in range(count):
            if pause:
                sleep(pause)
            begin = clock()
            send(MESSAGE)
            reply = recv()
            samples.append(clock() - begin)
        check(reply, MESSAGE)
        self.samples = samples

    def absorb(self, receivers, senders, count):
        send = senders[0].send
        recv = receivers[0].spin if self.spinning else receivers[0].recv
        for _ in range(count):
            send(recv())

    def report(self, count, ns, cpu_ns):
        return {
            **percentiles(self.samples),
            "max_us": max(self.samples) / 1e3,
            "samples": len(self.samples),
        }


class AfterPause(RoundTrip):
    """Both sides have slept for two milliseconds."""

    key = "round-trip-idle"
    title = "round trip, 64 B, blocking, after 2 ms of rest"
    pause = 0.002


class Spinning(RoundTrip):
    """Both sides wait without sleeping."""

    key = "round-trip-spin"
    title = "round trip, 64 B, spinning"
    needs = "spins"
    spinning = True


WORKLOADS = (RoundTrip(), AfterPause(), Spinning())
