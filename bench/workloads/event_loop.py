"""Coroutines: a hundred channels on one event loop, and cancelled receives."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time

from workloads.workload import Figure, Flow, Workload, check

MESSAGE = bytes(range(64))
BATCH = 16
CHANNELS = 100


def factory(loop):
    """Return what creates event loops of a kind; ImportError if that is not installed."""
    if loop == "asyncio":
        return asyncio.new_event_loop
    import uvloop

    return uvloop.new_event_loop


class OneLoop(Flow):
    """One coroutine per channel iterates over its consumer, all of them on one loop."""

    links = CHANNELS
    depth = 64
    grain = CHANNELS * BATCH

    def __init__(self, loop, batch):
        self.loop, self.batch = loop, batch

    @contextlib.contextmanager
    def around(self):
        with asyncio.Runner(loop_factory=factory(self.loop)) as self.runner:
            yield

    def transmit(self, senders, receivers, count):
        rounds = range(count // (self.batch * len(senders)))
        if self.batch == 1:
            sends = [sender.send for sender in senders]
            for _ in rounds:
                for send in sends:
                    send(MESSAGE)
        else:
            sends = [sender.send_many for sender in senders]
            batch = [MESSAGE] * self.batch
            for _ in rounds:
                for send_many in sends:
                    send_many(batch)

    def absorb(self, receivers, senders, count):
        self.runner.run(self._all(receivers, count // len(receivers)))

    async def _all(self, receivers, count):
        await asyncio.gather(*(self._one(receiver.consumer, count) for receiver in receivers))

    async def _one(self, consumer, count):
        async with contextlib.aclosing(aiter(consumer)) as records:
            async for record in records:
                count -= 1
                if count == 0:
                    check(bytes(record), MESSAGE)
                    return

    def report(self, count, ns, cpu_ns):
        return count / ns * 1e9


async def cancel_often(heap, seconds):
    """Cancel one receive per record, some of them as it arrives; return microseconds for each."""
    number = 0
    begin = time.monotonic()
    with heap.producer("cancelled") as producer, heap.consumer("cancelled") as consumer:
        while time.monotonic() < begin + seconds:
            data = number.to_bytes(8, "little")
            receive = asyncio.ensure_future(consumer.arecv())
            for _ in range(number % 4):
                await asyncio.sleep(0)
            producer.send(data)
            for _ in range(number // 4 % 4):
                await asyncio.sleep(0)
            receive.cancel()
            found = None
            with contextlib.suppress(asyncio.CancelledError):
                found = await receive
            if found is None:
                found = await consumer.arecv()
            check(found, data)
            number += 1
        return (time.monotonic() - begin) / number * 1e6


class EventLoop(Workload):
    """One coroutine per channel receives. A cancelled receive must not lose a record."""

    peers = ("ipcheap",)
    figures = (
        Figure("per_second", "64 B records/s, one at a time", "/s"),
        Figure("batch_per_second", f"64 B records/s, in batches of {BATCH}", "/s"),
        Figure("cancel_us", "send, cancel a receive, receive", "µs", more=False),
    )

    def __init__(self, loop):
        self.key, self.loop = loop, loop
        self.title = f"{CHANNELS} channels on one event loop, {loop}"

    def unsuited(self, key, peer):
        try:
            factory(self.loop)
        except ImportError:
            return f"{self.loop} is not installed"
        return super().unsuited(key, peer)

    def run(self, key, peer, seconds):
        import ipcheap

        figures = {
            "per_second": OneLoop(self.loop, 1).run(key, peer, seconds),
            "batch_per_second": OneLoop(self.loop, BATCH).run(key, peer, seconds),
        }
        with ipcheap.Heap.create(f"bench.{os.getpid()}.cancel", "16MiB") as heap:
            try:
                heap.add_record_channel("cancelled", 8)
                with asyncio.Runner(loop_factory=factory(self.loop)) as runner:
                    figures["cancel_us"] = runner.run(cancel_often(heap, seconds))
            finally:
                heap.unlink()
        return figures


WORKLOADS = (EventLoop("asyncio"), EventLoop("uvloop"))
