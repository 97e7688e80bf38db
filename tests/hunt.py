"""A hunt for lost wake-ups: two processes, two threads each, every way of waiting mixed.

    python tests/hunt.py [--messages N] [--seed S]

Rings of one to eight slots, random pauses on both sides. Records must arrive in order, each
once. Sleepers look around by themselves every half second, which would hide a lost wake-up. So
every wait longer than that counts, whatever ended it, and one of more than a second is a stall.
`native/tests/test_hunt.c` does the same from C, for volume.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import select
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import peers

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Callable

LANES = 2
ROUND = 1000
SUSPICIOUS = 0.49  # seconds
STALL = 1.0
STYLES = ("block", "timeout", "wait", "poll", "asyncio", "try")


@dataclass
class Tally:
    """What a lane has seen."""

    messages: int = 0
    longest: float = 0.0
    suspicious: int = 0
    stalls: int = 0
    styles: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STYLES, 0))

    def took(self, span: float) -> None:
        self.longest = max(self.longest, span)
        self.suspicious += span > SUSPICIOUS
        self.stalls += span > STALL

    def add(self, other: Tally) -> None:
        self.messages += other.messages
        self.longest = max(self.longest, other.longest)
        self.suspicious += other.suspicious
        self.stalls += other.stalls
        for style, count in other.styles.items():
            self.styles[style] += count


class Lane:
    """One thread of a process, on one side of one channel after another."""

    def __init__(self, heap: ipcheap.Heap, number: int, side: str, seed: int) -> None:
        self.heap, self.number, self.side = heap, number, side
        self.chance = random.Random(f"{seed} {number} {side}")
        self.tally = Tally()
        self.loop = asyncio.new_event_loop()

    def run(self, messages: int) -> None:
        self.heap.add_record_channel(f"idle {self.number} {self.side}", 1)
        with contextlib.closing(self.loop), contextlib.ExitStack() as stack:
            idle = stack.enter_context(self.heap.consumer(f"idle {self.number} {self.side}"))
            for number in range(0, messages, ROUND):
                slots = 1 << (number // ROUND + self.number) % 4
                channel = f"{self.number} {slots}"
                self.heap.add_record_channel(channel, slots)
                claim = self.heap.producer if self.side == "producer" else self.heap.consumer
                with claim(channel, timeout=peers.PATIENCE) as endpoint:
                    endpoint.wait_peer(peers.PATIENCE)
                    self.go(endpoint, idle, number)

    def go(self, endpoint: ipcheap.Producer | ipcheap.Consumer, idle: object, first: int) -> None:
        for number in range(first, first + ROUND):
            style = self.chance.choice(STYLES)
            self.tally.styles[style] += 1
            begin = time.monotonic()
            if isinstance(endpoint, ipcheap.Producer):
                self.send(endpoint, style, idle, number.to_bytes(8, "little"))
            else:
                data = self.receive(endpoint, style, idle)
                got = int.from_bytes(data, "little")
                assert got == number, f"{got} came, not {number}"
            self.tally.took(time.monotonic() - begin)
            self.tally.messages += 1
            self.pause()

    def pause(self) -> None:
        kind = self.chance.random()
        if kind > 0.999:
            time.sleep(self.chance.random() * 0.003)
        elif kind > 0.97:
            time.sleep(self.chance.random() * 0.0001)
        elif kind > 0.6:
            for _ in range(self.chance.randrange(200)):
                pass

    def receive(self, consumer: ipcheap.Consumer, style: str, idle: object) -> bytes:
        if style == "block":
            return consumer.recv()
        if style == "asyncio":
            return self.loop.run_until_complete(self.receive_or_cancel(consumer))
        while True:
            if style == "timeout":
                with contextlib.suppress(TimeoutError):
                    return consumer.recv(timeout=self.chance.random() * 0.0005)
            else:
                record = consumer.try_recv_record()
                if record is not None:
                    with record:
                        return bytes(record.view)
                self.wait(consumer, style, idle)

    def send(self, producer: ipcheap.Producer, style: str, idle: object, data: bytes) -> None:
        if style == "block":
            producer.send(data)
        elif style == "asyncio":
            self.loop.run_until_complete(producer.asend(data))
        elif style == "timeout":
            while True:
                with contextlib.suppress(TimeoutError):
                    producer.send(data, timeout=self.chance.random() * 0.0005)
                    return
        else:
            record = producer.allocate_record(len(data))
            record.view[:] = data
            while not producer.try_send_record(record):
                self.wait(producer, style, idle)

    async def receive_or_cancel(self, consumer: ipcheap.Consumer) -> bytes:
        while True:
            task = asyncio.ensure_future(consumer.arecv())
            if self.chance.random() < 0.5:
                return await task
            for _ in range(self.chance.randrange(4)):
                await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                return await task

    def wait(self, endpoint: ipcheap.Producer | ipcheap.Consumer, style: str, idle: object) -> None:
        if style == "wait":
            assert endpoint in ipcheap.wait([idle, endpoint])  # type: ignore[type-var]
        elif style == "poll":
            poll = select.poll()
            poll.register(endpoint.fileno(), select.POLLIN)
            assert poll.poll(peers.PATIENCE * 1000), "the descriptor stays silent"


def work(heap: ipcheap.Heap, process: int, messages: int, seed: int) -> Tally:
    """Run one of the two processes: lane 0 goes one way, lane 1 the other."""
    lanes = [
        Lane(heap, number, ("producer", "consumer")[(number + process) % 2], seed)
        for number in range(LANES)
    ]
    errors: list[BaseException] = []

    def run(lane: Lane) -> None:
        try:
            lane.run(messages // LANES)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(lane,), daemon=True) for lane in lanes]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads) and not errors:
        threads[0].join(0.1)
        threads[1].join(0.1)
    if errors:
        raise errors[0]
    total = Tally()
    for lane in lanes:
        total.add(lane.tally)
    return total


def hunt(messages: int, seed: int, say: Callable[[str], object] = print) -> Tally:
    """Send that many messages; return what both sides of each lane have seen."""
    name = f"hunt.{os.getpid()}"
    begin = time.monotonic()
    with ipcheap.Heap.create(name, "16MiB") as heap:
        try:
            with peers.run(work, heap, 1, messages, seed) as peer:
                total = work(heap, 0, messages, seed)
                total.add(peer.result(peers.PATIENCE + messages / 1000))
            assert heap.check() == []
            assert heap.statistics().records == 0
        finally:
            heap.unlink()
    say(
        f"{total.messages // 2} messages, seed {seed}, {time.monotonic() - begin:.1f} s: longest "
        f"wait {total.longest * 1000:.0f} ms, {total.suspicious} over {SUSPICIOUS} s, "
        f"{total.stalls} over {STALL} s"
    )
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    sys.exit(1 if hunt(options.messages, options.seed).stalls else 0)


if __name__ == "__main__":
    main()
